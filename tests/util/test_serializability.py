"""``inspect_serializability`` finds what cannot be pickled, wherever it is."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asyncray.runtime.culprits import find_culprit
from asyncray.runtime.serialization import serialize
from asyncray.util import inspect_serializability

LOCK = threading.Lock()


class Refuses:
    def __reduce__(self) -> Any:
        raise LookupError("no")


def uses_a_global() -> Any:
    return LOCK


def names(value: object, **options: Any) -> set[str]:
    """Where the culprits are."""
    fine, failures = inspect_serializability(value, "it", print_file=io.StringIO(), **options)
    assert fine == (not failures)
    return {failure.name for failure in failures}


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """As if it came from ``__main__``: else it is pickled by its name."""
    function.__module__ = "__main__"
    return function


def make_class() -> type:
    class Local:
        shared = LOCK

        def method(self) -> Any:
            return LOCK

        @property
        def fine(self) -> int:
            return 1

    return Local


def make_closure(*, assigned: bool) -> Callable[[], Any]:
    def uses() -> Any:
        return late, LOCK

    if assigned:
        late = LOCK
    return uses


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, set()),
        ([{"a": (1, 2)}, print, make_closure], set()),
        (LOCK, {"it"}),
        ([1, LOCK], {"it[1]"}),
        ({"a": {"b": LOCK}}, {"it['a']['b']"}),
        ({Refuses()}, {"it (an element)"}),
        ([LOCK, Refuses()], {"it[0]", "it[1]"}),
        ([LOCK, LOCK], {"it[0]"}),
        (by_value(make_closure(assigned=False)), {"it (the global 'LOCK')"}),
        (by_value(make_closure(assigned=True)), {"it (its variable 'late')"}),
        (make_class(), {"it.shared"}),
        (make_class()(), {"it"}),
    ],
    ids=repr,
)
def test_culprits(value: object, found: set[str]) -> None:
    assert names(value) == found


def test_attributes() -> None:
    holder = threading.local()
    found = names(type("Holder", (), {"__module__": "__main__"}))
    assert found == set()
    error = ValueError()
    error.lock, error.deep = LOCK, [holder]  # type: ignore[attr-defined]  # any object with attributes
    assert names(error) == {"it.lock", "it.deep[0]"}


def test_depth() -> None:
    deep = [[[[[LOCK]]]]]
    assert names(deep) == {"it[0][0][0]"}
    assert names(deep, depth=0) == {"it"}
    assert names(deep, depth=10) == {"it[0][0][0][0][0]"}


def test_cycles_end() -> None:
    cycle: list[Any] = [LOCK]
    cycle.append(cycle)
    assert names(cycle, depth=100) == {"it[0]"}


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
    assert inspect_serializability(uses_a_global) == (True, set())  # by its name
    assert "FAIL" not in capsys.readouterr().out


def test_the_first_culprit_is_what_errors_name() -> None:
    place, part, error = find_culprit({"a": [1, LOCK, Refuses()]}, "x", serialize)
    assert (place, part) == ("x['a'][1]", LOCK)
    assert isinstance(error, TypeError)
    with pytest.raises(AssertionError, match="x can be pickled"):
        find_culprit(1, "x", serialize)
