"""Finds the part of a value that cannot be pickled, for errors.

The pickler knows at which part it failed; ``explain`` and ``explain_function`` look for that part among the elements
and attributes of the value and the variables that a function uses, and name the way to it. They compare identities, so
nothing is pickled again and no code of the user's runs but ``repr`` of the part. The search ends after ``_LIMIT`` parts
(0.3 s); then, or where a reducer made the part, the error names the part without the way.

``find_culprits`` finds all such parts. It pickles the value once, and goes on behind what fails.
"""

from __future__ import annotations

import copyreg
import functools
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple

from asyncray.runtime.reducers import is_importable
from asyncray.runtime.serialization import Pickler, PicklingFailed, is_registered


class Culprit(NamedTuple):
    """A part that cannot be pickled: where it is, what it is, the error, and what it is a part of (or None)."""

    place: str
    part: object
    error: BaseException
    parent: object


class Step(NamedTuple):
    """One step on the way from a value to a part of it: how to call it, the key or name in it, and where it leads."""

    label: str
    key: object
    part: object


_LIMIT = 500_000
_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None), CodeType})


def explain(values: dict[str, object], owner: str, advice: str, failure: PicklingFailed) -> Exception:
    """The exception to raise for values that cannot be pickled: a TypeError that names the culprit.

    Args:
        values: by what to call them: "argument x".
        owner: follows the name: " of f", or nothing.
        advice: what to do instead; a sentence.
        failure: how pickling failed. Its error itself is returned where a serializer of the user's raised it.
    """
    part = failure.part
    if is_registered(type(part)):
        return failure.error
    way = find_way(values, part)
    name = next(iter(values)) if len(values) == 1 else "arguments"
    if way:
        name = f"{way[0].key}{''.join(step.label for step in way[1:])}"
    cause = f"({failure})" if _has_no_culprit(failure) else f"{_describe(part)} cannot be pickled ({failure})"
    error = TypeError(f"Could not serialize the {name}{owner}: {cause}. {advice}")
    error.__cause__ = failure.error
    return error


def _has_no_culprit(failure: PicklingFailed) -> bool:
    """True if it failed at built-in values, or because all of it is nested too deeply."""
    return failure.part is None or isinstance(failure.error, RecursionError)


def explain_function(function: object, what: str, failure: PicklingFailed) -> TypeError:
    """The same for a remote function or the class of an actor, which fails because of what it uses.

    Args:
        what: "remote function f" or "actor C".
    """
    part = failure.part
    if part is function or _has_no_culprit(failure):
        text = f"The {what} cannot be pickled: {failure}. Look at the global names and closure variables it uses."
    else:
        place = "".join(step.label for step in find_way(function, part)).strip()
        name = what.rpartition(" ")[2]
        cause = (
            place[1:].replace(")", "", 1) if place.startswith("(") else f"{name}{place}" if place else "what it uses"
        )
        text = (
            f"The {what} cannot be pickled because of {cause}: {_describe(part)} ({failure}). "
            "Make it inside, or pass what it is made from as an argument."
        )
    error = TypeError(text)
    error.__cause__ = failure.error
    return error


def find_culprits(value: object, name: str, depth: int) -> Iterator[Culprit]:
    """All parts that cannot be pickled, each once.

    Args:
        name: of the value.
        depth: how many levels below the value to name; a culprit that is deeper is named by what contains it.
    """
    named: set[int] = set()
    for part, error in _Inspector().failures_of(value):
        way = find_way(value, part)[:depth]
        found = way[-1].part if way else value
        if id(found) not in named:
            named.add(id(found))
            parent = None if not way else way[-2].part if len(way) > 1 else value
            yield Culprit(name + "".join(step.label for step in way), found, error, parent)


class _Inspector(Pickler):
    """Pickles a value to nowhere. It notes the parts that fail, and pickles None in their place."""

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        super().__init__(self, 5, buffer_callback=lambda buffer: None)
        self._failures: list[tuple[object, Exception]] = []

    def write(self, chunk: object) -> None:
        """Called by the pickler, whose file this is."""

    def failures_of(self, value: object) -> list[tuple[object, Exception]]:
        """The parts that failed, with their errors."""
        try:
            self.dump(value)
        except Exception as error:  # deep recursion, or a name that is not found
            part = value if self.part is None or isinstance(error, RecursionError) else self.part
            self._failures.append((part, error))
        return self._failures

    def reducer_override(self, value: Any) -> Any:
        try:
            reduced = super().reducer_override(value)
            if reduced is NotImplemented and type(value) is not FunctionType and not issubclass(type(value), type):
                reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
                reduced = value.__reduce_ex__(5) if reduce is None else reduce(value)
        except Exception as error:  # the user's reducers may raise anything
            self._failures.append((value, error))
            return type(None), ()
        return reduced


def _describe(part: object) -> str:
    try:
        text = repr(part)
    except Exception:  # the user's __repr__
        text = "?"
    return f"{type(part).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def find_way(value: object, part: object) -> list[Step]:
    """The shortest way from the value to the part. No steps if the part is the value, or if no way is found."""
    try:
        return [] if part is value else _search(value, part)
    except RuntimeError:  # another thread has changed a container meanwhile
        return []


def _search(value: object, part: object) -> list[Step]:
    # The items to search, in order; how to call each in its container; and the number of that container. Lists of their
    # own, because a tuple for each item would keep the garbage collector busy for seconds.
    items, labels, containers = [value], [""], [0]
    keys: list[object] = [None]
    seen = {id(value)}
    left = _LIMIT
    for number, container in enumerate(items):  # which grows meanwhile
        for label, key, item in _parts(container):
            left -= 1
            if item is part:
                way = [Step(label.format(key), key, item)]
                while number:
                    way.append(Step(labels[number].format(keys[number]), keys[number], items[number]))
                    number = containers[number]
                return way[::-1]
            if left <= 0:
                return []
            if type(item) not in _ATOMS and id(item) not in seen:
                seen.add(id(item))
                items.append(item)
                labels.append(label)
                keys.append(key)
                containers.append(number)
    return []


Part = tuple[str, object, object]
"""How to call it (a format for what follows), its key or name, and the part."""


def _parts(value: Any) -> Iterator[Part]:
    kind = type(value)
    if is_registered(kind):
        return  # what its serializer makes of it is not known
    if issubclass(kind, dict):
        yield from (("[{!r}]", key, item) for key, item in dict.items(value))
        yield from ((" (a key)", None, key) for key in dict.keys(value))
    elif issubclass(kind, (list, tuple, deque)):
        base: Any = list if issubclass(kind, list) else tuple if issubclass(kind, tuple) else deque
        # Not by iter(): the user's class may define __iter__.
        yield from (("[{}]", index, item) for index, item in enumerate(base.__iter__(value)))
    elif issubclass(kind, (set, frozenset)):
        base = set if issubclass(kind, set) else frozenset
        yield from ((" (an element)", None, item) for item in base.__iter__(value))
    elif kind is FunctionType:
        if not is_importable(value, value.__qualname__):
            yield from _variables(value)
    elif issubclass(kind, type):
        if not is_importable(value, value.__qualname__):
            yield from _class_parts(value)
        return
    yield from _wrapped(value, kind)
    yield from _attributes(value, kind)


def _attributes(value: object, kind: type) -> Iterator[Part]:
    try:
        attributes = object.__getattribute__(value, "__dict__")  # past any __getattr__ of the user's
    except AttributeError:
        attributes = {}
    if kind is ModuleType or not isinstance(attributes, dict):
        return
    yield from ((".{}", name, item) for name, item in attributes.items())
    for cls in kind.__mro__:
        for name, descriptor in vars(cls).items():
            if type(descriptor) is MemberDescriptorType:
                try:
                    yield ".{}", name, descriptor.__get__(value, kind)
                except (AttributeError, TypeError):  # never set
                    pass
    if not is_importable(kind, kind.__qualname__):
        yield " (its class {})", kind.__qualname__, kind


def _class_parts(cls: type) -> Iterator[Part]:
    yield from ((".{}", name, item) for name, item in vars(cls).items() if not _is_machinery(name, item))
    yield from ((" (its base {})", base.__qualname__, base) for base in cls.__bases__)


def _is_machinery(name: str, item: object) -> bool:
    """True for what Python puts into a class, and pickling a class leaves out."""
    if isinstance(item, FunctionType):
        return False
    return name.startswith(("__", "_abc_")) or isinstance(item, (GetSetDescriptorType, MemberDescriptorType))


def _wrapped(value: Any, kind: type) -> Iterator[Part]:
    """The contents of wrappers of the standard library that are no attributes of their own."""
    if kind is property:
        yield from (("{}", "", part) for part in (value.fget, value.fset, value.fdel))
    elif kind in (staticmethod, classmethod, MethodType):
        yield "{}", "", value.__func__
        yield ".{}", "__self__", getattr(value, "__self__", None)
    elif kind is functools.partial:
        yield ".{}", "func", value.func
        yield from ((" (argument {})", number, argument) for number, argument in enumerate(value.args))
        yield from ((" (argument {})", name, argument) for name, argument in value.keywords.items())


def _variables(function: FunctionType) -> Iterator[Part]:
    """The variables that a function takes from around it: its closure, the globals that it uses, and default values."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield " (its variable {!r})", name, cell.cell_contents
        except ValueError:
            pass  # not assigned yet
    known = function.__globals__
    yield from ((" (the global {!r})", name, known[name]) for name in _globals(function.__code__) if name in known)
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    yield from ((" (a default value)", None, value) for value in defaults)


def _globals(code: CodeType) -> dict[str, None]:
    """The names that the code looks up as globals, in order; also in functions inside it. Attributes are none."""
    import dis  # start-up cost, for a path that ends in an error

    names = dict.fromkeys(step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_globals(constant))
    return names
