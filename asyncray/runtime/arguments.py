"""Arguments of a call to bytes and back.

Refs that are arguments themselves become dependencies: they are taken out, and put back as values where the call runs.
The bytes are a pickled tuple ``(args, kwargs)``, or ``(args, kwargs, places)`` with places as (position or name,
number of the dependency).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncray.runtime.culprits import find_culprit
from asyncray.runtime.current import over
from asyncray.runtime.references import References
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import Serialized, is_registered, serialize

NO_ARGUMENTS = serialize(((), {})).pickled

Place = tuple[int | str, int]


def pack(
    args: tuple[Any, ...], kwargs: dict[str, Any], callee: str, home: References
) -> tuple[Serialized, list[bytes] | None]:
    """The pickled arguments, and the IDs of the objects among them.

    Args:
        home: the session's references.

    Raises:
        TypeError: an argument cannot be pickled; tells which part of which argument.
        OwnerDiedError: a ref that is an argument itself is of a session that is over.
        Exception: what a registered serializer raised.
    """
    dependencies: list[bytes] | None = None
    content: tuple[Any, ...] = (args, kwargs)
    for argument in (*args, *kwargs.values()) if kwargs else args:
        if type(argument) is ObjectRef:
            content, dependencies = _take_out(args, kwargs, home)
            break
    try:
        return serialize(content), dependencies
    except Exception as error:  # pickling runs user code: anything may come
        explained = _explain(args, kwargs, callee, error)
        if explained is error:
            raise
        raise explained from error


def _take_out(args: tuple[Any, ...], kwargs: dict[str, Any], home: References) -> tuple[tuple[Any, ...], list[bytes]]:
    numbers: dict[bytes, int] = {}
    places: list[Place] = []
    plain_args = list(args)
    plain_kwargs = dict(kwargs)
    for index, argument in enumerate(args):
        if type(argument) is ObjectRef:
            plain_args[index] = None
            places.append((index, numbers.setdefault(_id_of(argument, home), len(numbers))))
    for name, argument in kwargs.items():
        if type(argument) is ObjectRef:
            plain_kwargs[name] = None
            places.append((name, numbers.setdefault(_id_of(argument, home), len(numbers))))
    return (tuple(plain_args), plain_kwargs, places), list(numbers)


def _id_of(ref: ObjectRef[Any], home: References) -> bytes:
    local = ref._local
    if local.home is not home:
        raise over(local)
    return local.id


def _explain(args: tuple[Any, ...], kwargs: dict[str, Any], callee: str, error: Exception) -> Exception:
    for name, argument in (*((f"number {i}", a) for i, a in enumerate(args)), *kwargs.items()):
        if type(argument) is ObjectRef:
            continue
        try:
            serialize(argument)
        except Exception:
            place, part, reason = find_culprit(argument, name, serialize)
            if is_registered(type(part)):
                return error  # it is that of the user's serializer
            return TypeError(
                f"Could not serialize the argument {place} of {callee}: {type(part).__name__} {_short(part)} cannot be "
                f"pickled ({reason}). Make it inside the remote function, pass what it is made from, or give its class "
                f"a __reduce__ method."
            )
    return TypeError(f"Could not serialize the arguments of {callee}: {error}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # the user's __repr__
        text = "?"
    return text if len(text) <= 80 else text[:77] + "..."


def unpack(content: tuple[Any, ...], values: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments, with the dependencies' values in their places."""
    args, kwargs = content[0], content[1]
    if len(content) == 3:
        args = list(args)
        for place, number in content[2]:
            if isinstance(place, int):
                args[place] = values[number]
            else:
                kwargs[place] = values[number]
    return args, kwargs
