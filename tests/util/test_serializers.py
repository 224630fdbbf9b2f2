"""``inspect_serializability`` prints what cannot be pickled and returns it."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from asyncray.util import inspect_serializability

LOCK = threading.Lock()


def uses_a_global() -> Any:
    return LOCK


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    fine, failures = inspect_serializability({"lock": LOCK})
    assert not fine
    (failure,) = failures
    assert failure.obj is LOCK
    assert failure.parent == {"lock": LOCK}
    printed = capsys.readouterr().out
    assert "Checking Serializability of {'lock': <unlocked _thread.lock" in printed
    assert "!!! FAIL serialization of dict['lock']: cannot pickle '_thread.lock' object" in printed
    assert "FailTuple(dict['lock'] [obj=<unlocked" in printed
    assert "was found to be non-serializable" in printed
    deep = [[[[LOCK]]]]
    assert inspect_serializability(deep, "it", depth=2, print_file=io.StringIO())[1].pop().name == "it[0][0]"
    capsys.readouterr()
    assert inspect_serializability(uses_a_global) == (True, set())  # by its name
    assert "FAIL" not in capsys.readouterr().out
