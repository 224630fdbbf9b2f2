"""Values to bytes and back.

Pickle protocol 5 with buffers out of band; plain ``pickle`` first (0.4 us for small things), ``cloudpickle`` for what
plain pickle cannot do or would do by a name that only exists in this process (``__main__``: 2.2 us). Refs that are met
on the way are collected: the message that carries the bytes names them.

In shared memory a value is laid out as: number of parts, length of each part (8 bytes each, little endian), the
pickle bytes, and the buffers, each aligned to 64 bytes.
"""

from __future__ import annotations

import functools
import io
import pickle
import threading
from collections import ChainMap
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

ALIGNMENT = 64

_local = threading.local()
"""``refs``: the list that collects refs while this thread pickles; ``None`` or absent outside."""


class Serialized:
    """A pickled value: its bytes, the buffers beside it and the refs inside it (kept alive until it was sent)."""

    __slots__ = ("buffers", "pickled", "refs", "size")

    def __init__(self, pickled: bytes, buffers: list[memoryview], refs: list[Any]) -> None:
        self.pickled = pickled
        self.buffers = buffers
        self.refs = refs
        self.size = len(pickled) + sum(buffer.nbytes for buffer in buffers) if buffers else len(pickled)

    def __repr__(self) -> str:
        return f"<Serialized {self.size} bytes, {len(self.buffers)} buffers, {len(self.refs)} refs>"


def collecting_refs() -> list[Any] | None:
    """The list that refs add themselves to while this thread pickles for us."""
    return getattr(_local, "refs", None)


def serialize(value: object) -> Serialized:
    """Pickles a value.

    Raises:
        Exception: whatever the value's own pickling raises.
    """
    outer = getattr(_local, "refs", None)
    refs: list[Any] = []
    buffers: list[pickle.PickleBuffer] = []
    _local.refs = refs
    try:
        try:
            pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
            by_value = b"__main__" in pickled
        except Exception:  # user code pickles: any error may come, and cloudpickle may know better
            by_value = True
        if by_value:
            refs.clear()
            buffers.clear()
            pickled = _dump_by_value(value, buffers.append)
    finally:
        _local.refs = outer
    return Serialized(pickled, [buffer.raw() for buffer in buffers], refs)


def _dump_by_value(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    file = io.BytesIO()
    _cloud_pickler()(file, 5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


@functools.cache
def _cloud_pickler() -> type[pickle.Pickler]:
    """cloudpickle's pickler, but code keeps the name of its file.

    cloudpickle 3.1.3 writes "<dynamic-code>" there, so that equal cells of notebooks pickle equally. Then tracebacks do
    not tell which line of which file failed.
    """
    import cloudpickle  # start-up cost: 40 ms, and many programs never need it

    reduce_code = cloudpickle.CloudPickler.dispatch_table[CodeType]

    def reduce_with_file(code: CodeType) -> tuple[Any, ...]:
        make, fields = reduce_code(code)
        return make, tuple(code.co_filename if field == "<dynamic-code>" else field for field in fields)

    table = ChainMap({CodeType: reduce_with_file}, cloudpickle.CloudPickler.dispatch_table)
    return type("FilePickler", (cloudpickle.CloudPickler,), {"dispatch_table": table})


def serialize_function(function: object) -> Serialized:
    """Pickles a function or class by value where it must. No buffers: workers keep it, and share nothing."""
    outer = getattr(_local, "refs", None)
    refs: list[Any] = []
    _local.refs = refs
    try:
        return Serialized(_dump_by_value(function), [], refs)
    finally:
        _local.refs = outer


def deserialize(pickled: bytes | memoryview, buffers: Sequence[bytes | memoryview] = ()) -> Any:
    """The inverse of ``serialize``, for bytes from this session's own processes."""
    return pickle.loads(pickled, buffers=buffers) if buffers else pickle.loads(pickled)


def layout(value: Serialized) -> tuple[int, list[bytes | memoryview]]:
    """The size and the consecutive parts of a value in shared memory."""
    lengths = [len(value.pickled), *(buffer.nbytes for buffer in value.buffers)]
    header = b"".join(length.to_bytes(8, "little") for length in (len(lengths), *lengths))
    parts: list[bytes | memoryview] = [header, value.pickled]
    size = len(header) + len(value.pickled)
    for buffer in value.buffers:
        padding = -size % ALIGNMENT
        parts += (b"\0" * padding, buffer)
        size += padding + buffer.nbytes
    return size, parts


def parse(view: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The pickle bytes and the buffers of a value in shared memory."""
    count = int.from_bytes(view[:8], "little")
    lengths = [int.from_bytes(view[8 + 8 * i : 16 + 8 * i], "little") for i in range(count)]
    start = 8 + 8 * count
    pickled = view[start : start + lengths[0]]
    start += lengths[0]
    buffers = []
    for length in lengths[1:]:
        start += -start % ALIGNMENT
        buffers.append(view[start : start + length])
        start += length
    return pickled, buffers


def find_culprit(
    value: object, name: str, dumps: Callable[[object], object], depth: int = 4
) -> tuple[str, object, BaseException]:
    """The smallest part of a value that cannot be pickled: (where it is, the part, the error)."""
    try:
        dumps(value)
    except Exception as error:  # the user's pickling code may raise anything
        if depth:
            for label, part in _parts(value):
                try:
                    dumps(part)
                except Exception:
                    return find_culprit(part, f"{name}{label}", dumps, depth - 1)
        return name, value, error
    raise AssertionError(f"{name} can be pickled")


def _parts(value: object) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = []
    if isinstance(value, dict):
        parts = [(f"[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        parts = [(" (an element)", item) for item in value]
    closure = getattr(value, "__closure__", None)
    if closure:
        names = value.__code__.co_freevars  # type: ignore[attr-defined]  # what has a closure has code
        parts += [(f" (its variable {key!r})", cell.cell_contents) for key, cell in zip(names, closure, strict=True)]
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, type):
        parts += [(f".{key}", item) for key, item in attributes.items()]
    return parts
