"""Serializers for values that cannot be pickled, and a tool that finds such values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

from asyncray.runtime import serialization
from asyncray.runtime.culprits import find_culprits

T = TypeVar("T")

_LINE = "=" * 80


def register_serializer(cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], Any]) -> None:
    """Pickles instances of a class in a way of your own: in arguments, results, ``put``, errors, at any depth.

    The registration holds for the process that calls this, also before ``init``, and ends with the session. Other
    processes unpickle such values without a registration, because each value carries its deserializer. But a worker
    pickles the results of its tasks, so register in the task as well.

    Args:
        cls: instances of exactly this class, not of subclasses. Built-in values (``dict``, ``str``, ...) are pickled as
            ever.
        serializer: turns an instance into something that can be pickled. ``.remote()``, ``put`` or, for results,
            ``get`` raise its exceptions.
        deserializer: turns that into an instance again. Pickled now, together with the present values of the globals
            that it uses.

    Raises:
        TypeError: not a class, not functions, or a deserializer that cannot be pickled.

    Example::

        ray.util.register_serializer(
            Connection, serializer=lambda c: c.address, deserializer=lambda address: Connection(address)
        )
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, not {type(cls).__name__}.")
    functions: tuple[object, ...] = serializer, deserializer
    if not all(map(callable, functions)):
        raise TypeError("The serializer and the deserializer must be functions.")
    serialization.register(cls, serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Undoes ``register_serializer``. Does nothing if the class has no serializer."""
    serialization.deregister(cls)


class FailureTuple:
    """A part that cannot be pickled.

    Attributes:
        obj: the part.
        name: its place, beginning with the name of the whole.
        parent: the value that contains it; None if it is the whole.
    """

    def __init__(self, obj: object, name: str, parent: object) -> None:
        self.obj = obj
        self.name = name
        self.parent = parent

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={self.obj!r}, parent={self.parent!r}])"


def inspect_serializability(
    base_obj: object, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Finds the parts of a value that cannot be pickled: elements, attributes, variables that a function uses.

    It pickles the value once, so that iterators and the like in it may be consumed afterwards.

    Args:
        base_obj: the value.
        name: how to call it.
        depth: how many levels below it to look at.
        print_file: the findings are printed there; standard output if None.

    Returns:
        Whether it can be pickled, and the smallest parts that cannot.

    Example::

        lock = threading.Lock()
        inspect_serializability(lambda: lock)  # -> (False, {FailTuple(<lambda> (its variable 'lock') [...])})
    """
    name = name or str(getattr(base_obj, "__name__", type(base_obj).__name__))
    lines = [_LINE, f"Checking Serializability of {base_obj!r}", _LINE]
    failures = set()
    for place, part, error, parent in find_culprits(base_obj, name, depth):
        lines.append(f"!!! FAIL serialization of {place}: {error}")
        failures.add(FailureTuple(part, place, parent))
    if failures:
        found = "\n\t".join(map(repr, failures))
        lines.append(f"{_LINE}\nVariable:\n\n\t{found}\n\nwas found to be non-serializable. There may be others.")
        lines.append("Make it inside the remote function, or pass what it is made from.")
        lines.append(_LINE)
    (print_file or sys.stdout).write("\n".join(lines) + "\n")
    return not failures, failures
