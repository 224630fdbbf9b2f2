"""Arguments of a call to bytes and back.

Refs that are arguments themselves become dependencies: ``pack`` takes them out, and ``unpack`` puts their values in
their places where the call runs. The bytes are a pickled tuple ``(args, kwargs)``, or ``(args, kwargs, places)`` with
places as (position or name, number of the dependency).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncray.runtime.current import session_ended_error
from asyncray.runtime.references import References
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import PicklingFailed, Serialized, serialize

_ADVICE = "Make it inside the remote function, pass what it is made from, or give its class a __reduce__ method."

NO_ARGUMENTS = b""
"""Stands for the pickled ``((), {})``. The interpreter has it once; other bytes take 48 bytes in each waiting task."""

Place = tuple[int | str, int]


def pack(
    args: tuple[Any, ...], kwargs: dict[str, Any], callee: str, references: References
) -> tuple[Serialized, list[bytes] | None]:
    """The pickled arguments, and the IDs of the objects among them.

    Args:
        references: the session's references.

    Raises:
        TypeError: an argument cannot be pickled; names the part and the argument.
        OwnerDiedError: a ref that is an argument itself belongs to a session that has ended.
        Exception: a registered serializer raised it.
    """
    dependencies: list[bytes] | None = None
    content: tuple[Any, ...] = (args, kwargs)
    for argument in (*args, *kwargs.values()) if kwargs else args:
        if type(argument) is ObjectRef:
            content, dependencies = _take_out(args, kwargs, references)
            break
    try:
        return serialize(content), dependencies
    except PicklingFailed as failure:
        from asyncray.runtime.culprits import explain  # start-up cost: most arguments can be pickled

        arguments = {f"argument number {index}": argument for index, argument in enumerate(args)}
        arguments.update((f"argument {name}", argument) for name, argument in kwargs.items())
        error = explain(arguments, f" of {callee}", _ADVICE, failure)
    raise error


def _take_out(
    args: tuple[Any, ...], kwargs: dict[str, Any], references: References
) -> tuple[tuple[Any, ...], list[bytes]]:
    numbers: dict[bytes, int] = {}
    places: list[Place] = []
    plain_args = list(args)
    plain_kwargs = dict(kwargs)
    for index, argument in enumerate(args):
        if type(argument) is ObjectRef:
            plain_args[index] = None
            places.append((index, numbers.setdefault(_id_of(argument, references), len(numbers))))
    for name, argument in kwargs.items():
        if type(argument) is ObjectRef:
            plain_kwargs[name] = None
            places.append((name, numbers.setdefault(_id_of(argument, references), len(numbers))))
    return (tuple(plain_args), plain_kwargs, places), list(numbers)


def _id_of(ref: ObjectRef[Any], references: References) -> bytes:
    local = ref._local
    if local.table is not references:
        raise session_ended_error(local)
    return local.id


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
