"""``inspect_serializability`` finds what cannot be pickled, wherever it is."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asyncray.runtime.culprits import explain, explain_function
from asyncray.util import inspect_serializability

LOCK = threading.Lock()
TABLE = {"k": threading.Lock()}


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
    ids=[
        "a number", "functions", "a lock", "in a list", "in dicts", "in a set", "two", "the same twice",
        "a global", "a variable", "a class", "an instance",
    ],
)  # fmt: skip
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
    reason = ValueError()
    error = explain({"a": [1, LOCK, Refuses()]}, "argument x", " of f", "Do not.", reason)
    assert re.fullmatch(
        r"Could not serialize the argument x\['a'\]\[1\] of f: lock <unlocked .*> cannot be pickled "
        r"\(cannot pickle '_thread.lock' object\)\. Do not\.",
        str(error),
    )
    assert explain(1, "argument x", " of f", "", reason) is reason  # it has changed meanwhile


def test_functions_are_refused_for_what_they_use() -> None:
    def has_a_default(lock: Any = LOCK) -> Any:
        return lock

    def uses_an_attribute(it: Any) -> Any:
        return it.LOCK, TABLE

    def uses_it_inside() -> Any:
        return [LOCK for _ in range(3)], lambda: LOCK

    class Holder:
        def read(self) -> Any:
            return LOCK

    for function, cause in (
        (uses_a_global, "the global 'LOCK': lock <"),
        (has_a_default, "a default value: lock <"),
        (uses_an_attribute, "the global 'TABLE'['k']: lock <"),
        (uses_it_inside, "the global 'LOCK': lock <"),
        (Holder, "f.read (the global 'LOCK'): lock <"),
    ):
        function.__module__ = "__main__"
        told = str(explain_function(function, "remote function f", ValueError("no")))
        assert told.startswith(f"The remote function f cannot be pickled because of {cause}")
    told = str(explain_function(Refuses(), "remote function f", ValueError("no")))
    assert told.startswith("The remote function f cannot be pickled: no. Look at")
