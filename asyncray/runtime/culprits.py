"""Which part of a value cannot be pickled.

Descends from the value to what it is made of (elements, attributes, the variables that a function uses) as long as a
part fails by itself, and says so in errors. ``find_culprits`` does not pickle: that is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import NamedTuple

from asyncray.runtime.serialization import is_registered, serialize, serialize_function


class Culprit(NamedTuple):
    """A part that cannot be pickled: where it is, what it is, the error, and what it is a part of (or None)."""

    place: str
    part: object
    error: BaseException
    parent: object


_DEPTH = 4
"""Levels that are searched for messages. Every level pickles its parts anew."""


def explain(value: object, name: str, owner: str, advice: str, error: Exception) -> Exception:
    """What to raise for a value that cannot be pickled: a TypeError that names the first of the smallest such parts.

    Args:
        name: of the value, to which the way to the part is added: "argument x".
        owner: what comes behind that: " of f", or nothing.
        advice: what to do instead; a sentence.
        error: the one that pickling raised. It is returned itself where it is that of a user's serializer.
    """
    for place, part, reason, _ in find_culprits(value, name, serialize, _DEPTH):
        if is_registered(type(part)):
            break
        return TypeError(
            f"Could not serialize the {place}{owner}: {type(part).__name__} {_short(part)} cannot be pickled "
            f"({reason}). {advice}"
        )
    return error


def explain_function(function: object, what: str, error: Exception) -> TypeError:
    """The same for a remote function or the class of an actor, which fails because of what it uses.

    Args:
        what: "remote function f" or "actor C".
    """
    for place, part, reason, _ in find_culprits(function, "", serialize_function, _DEPTH):
        if part is not function:
            at = place.strip()
            cause = at[1:].replace(")", "", 1) if at.startswith("(") else f"{what.rpartition(' ')[2]}{place}"
            return TypeError(
                f"The {what} cannot be pickled because of {cause}: {type(part).__name__} {_short(part)} ({reason}). "
                "Make it inside, or pass what it is made from as an argument."
            )
    return TypeError(f"The {what} cannot be pickled: {error}. Look at the global names and closure variables it uses.")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # the user's __repr__
        text = "?"
    return text if len(text) <= 80 else text[:77] + "..."


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
    """What a function takes from around it: its closure, the globals that it uses, and the defaults of parameters."""
    found: list[tuple[str, object]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((f" (its variable {name!r})", cell.cell_contents))
        except ValueError:
            pass  # not assigned yet
    known = function.__globals__
    found += [(f" (the global {name!r})", known[name]) for name in _globals(function.__code__) if name in known]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return found + [(" (a default value)", value) for value in defaults]


def _globals(code: CodeType) -> dict[str, None]:
    """The names that the code looks up as globals, in order; also in functions inside it. Attributes are none."""
    import dis  # start-up cost, for a path that ends in an error

    names = dict.fromkeys(step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_globals(constant))
    return names
