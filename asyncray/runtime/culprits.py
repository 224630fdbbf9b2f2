"""Which part of a value cannot be pickled.

Descends from the value to what it is made of (elements, attributes, the variables that a function uses) as long as a
part fails by itself. Does not pickle: that is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import NamedTuple

from asyncray.runtime.serialization import is_registered


class Culprit(NamedTuple):
    """A part that cannot be pickled: where it is, what it is, the error, and what it is a part of (or None)."""

    place: str
    part: object
    error: BaseException
    parent: object


def find_culprit(
    value: object, name: str, dumps: Callable[[object], object], depth: int = 4
) -> tuple[str, object, BaseException]:
    """The first of the smallest parts that cannot be pickled: (where it is, the part, the error)."""
    for culprit in find_culprits(value, name, dumps, depth):
        return culprit[:3]
    raise AssertionError(f"{name} can be pickled")


def find_culprits(value: object, name: str, dumps: Callable[[object], object], depth: int) -> Iterator[Culprit]:
    """All of them, each once.

    Args:
        depth: how many levels below the value to look at.
    """
    return _search(value, name, dumps, depth, None, set())


def _search(
    value: object, name: str, dumps: Callable[[object], object], depth: int, parent: object, seen: set[int]
) -> Iterator[Culprit]:
    seen.add(id(value))
    try:
        dumps(value)
    except Exception as error:  # the user's pickling code may raise anything
        is_smallest = True
        if depth:
            for label, part in _parts(value):
                if _fails(part, dumps):
                    is_smallest = False
                    if id(part) not in seen:
                        yield from _search(part, f"{name}{label}", dumps, depth - 1, value, seen)
        if is_smallest:
            yield Culprit(name, value, error, parent)


def _fails(part: object, dumps: Callable[[object], object]) -> bool:
    try:
        dumps(part)
    except Exception:  # as above
        return True
    return False


def _parts(value: object) -> list[tuple[str, object]]:
    if is_registered(type(value)):
        return []  # what its serializer makes of it is not ours to know
    parts: list[tuple[str, object]] = []
    if isinstance(value, dict):
        parts = [(f"[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        parts = [(" (an element)", item) for item in value]
    elif isinstance(value, FunctionType):
        parts = _variables(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, type):
        parts = [(f".{key}", item) for key, item in vars(value).items() if not _is_machinery(key, item)]
    elif isinstance(attributes, dict):
        parts += [(f".{key}", item) for key, item in attributes.items()]
    return parts


def _is_machinery(name: str, item: object) -> bool:
    """True for what Python puts into a class, and pickling a class leaves out."""
    if isinstance(item, FunctionType):
        return False
    return name.startswith(("__", "_abc_")) or isinstance(item, (GetSetDescriptorType, MemberDescriptorType))


def _variables(function: FunctionType) -> list[tuple[str, object]]:
    """What a function takes from around it: its closure, and the globals that it names."""
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((f" (its variable {name!r})", cell.cell_contents))
        except ValueError:
            pass  # not assigned yet
    names = function.__code__.co_names
    found += [(f" (the global {name!r})", function.__globals__[name]) for name in names if name in function.__globals__]
    return found
