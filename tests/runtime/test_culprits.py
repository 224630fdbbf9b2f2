"""The search for the part of a value that cannot be pickled. It pickles no part twice."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from asyncray.runtime import culprits
from asyncray.runtime.culprits import explain, explain_function, find_culprits
from asyncray.runtime.serialization import PicklingFailed, serialize, serialize_in_band

LOCK = threading.Lock()
TABLE = {"k": threading.Lock()}


class Refuses:
    def __reduce__(self) -> Any:
        raise LookupError("no")


def uses_a_global() -> Any:
    return LOCK


def names(value: object, depth: int = 3) -> set[str]:
    """Where the culprits are."""
    return {culprit.place for culprit in find_culprits(value, "it", depth)}


def failure_of(value: object) -> PicklingFailed:
    with pytest.raises(PicklingFailed) as caught:
        serialize_in_band(value)
    return caught.value


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes it look defined in ``__main__``. Otherwise it would be pickled by its name."""
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
        (make_class()(), {"it (its class make_class.<locals>.Local).shared"}),
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


def told(value: object, **others: object) -> str:
    """The text of the error about the value as an argument."""
    values = {"argument x": value, **others}
    with pytest.raises(PicklingFailed) as caught:
        serialize(tuple(values.values()))
    error = explain(values, " of f", "Do not.", caught.value)
    assert type(error) is TypeError
    assert error.__cause__ is caught.value.error
    return str(error)


def test_the_first_culprit_is_what_errors_name() -> None:
    assert re.fullmatch(
        r"Could not serialize the argument x\['a'\]\[1\] of f: lock <unlocked .*> cannot be pickled "
        r"\(cannot pickle '_thread.lock' object\)\. Do not\.",
        told({"a": [1, LOCK, Refuses()]}),
    )
    assert told(1, y=[LOCK]).startswith("Could not serialize the y[0] of f: lock <")
    assert "Refuses <" in told([Refuses()])


class Slotted:
    __slots__ = ("lock", "never")

    def __init__(self) -> None:
        self.lock = LOCK


class Hides:
    def __init__(self) -> None:
        self.lock = LOCK

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is asked for")

    def __iter__(self) -> Any:
        raise AssertionError("iterated")


def test_ways_through_classes_and_wrappers() -> None:
    class Local:
        deep: ClassVar[dict[str, Any]] = {"a": [LOCK]}

        def method(self) -> Any:
            return 1

    class Base:
        @property
        def uses(self) -> Any:
            return LOCK

    class Derived(Base): ...

    place = "test_ways_through_classes_and_wrappers.<locals>."
    for value, way in (
        (Local(), f"x (its class {place}Local).deep['a'][0]"),
        ([Local], "x[0].deep['a'][0]"),
        (Derived(), f"x (its class {place}Derived) (its base {place}Base).uses (the global 'LOCK')"),
        (Slotted(), "x.lock"),
        (Hides(), "x.lock"),
        (functools.partial(print, LOCK), "x (argument 0)"),
        ({Hides: by_value(uses_a_global_as_well)}, f"x[{Hides!r}] (the global 'LOCK')"),
    ):
        assert f"the argument {way} of f: lock <" in told(value)


def uses_a_global_as_well() -> Any:
    return LOCK


def test_parts_that_a_reducer_makes_have_no_way() -> None:
    class Makes:
        def __reduce__(self) -> Any:
            return list, ([threading.Lock()],)

    assert told(Makes()).startswith("Could not serialize the argument x of f: lock <")
    assert told(Makes(), y=1).startswith("Could not serialize the arguments of f: lock <")


def test_values_that_are_nested_too_deeply() -> None:
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    assert re.match(r"Could not serialize the argument x of f: \(.*recursion", told(deep))
    while deep:  # not by the interpreter, which would go as deep
        deep = deep[0]


def test_explaining_runs_nothing_of_the_users() -> None:
    times = []

    class Once:
        def __reduce__(self) -> Any:
            times.append(1)
            return int, ()

    once = Once()
    assert "argument x[1] of f" in told([once, LOCK])
    assert len(times) == 1
    assert "argument x[0] of f" in told([LOCK, once])
    assert len(times) == 1
    assert names([LOCK, once, LOCK]) == {"it[0]"}
    assert len(times) == 2


def test_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "argument x[50000] of f" in told([*range(50_000), LOCK])
    monkeypatch.setattr(culprits, "_LIMIT", 1000)
    assert "argument x of f: lock <" in told([*range(50_000), LOCK])


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
        text = str(explain_function(function, "remote function f", failure_of(function)))
        assert text.startswith(f"The remote function f cannot be pickled because of {cause}")
    refuses = Refuses()
    text = str(explain_function(refuses, "remote function f", failure_of(refuses)))
    assert text.startswith("The remote function f cannot be pickled: no. Look at")
