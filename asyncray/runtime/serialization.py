"""Values to bytes and back.

Pickle protocol 5 with buffers out of band; plain ``pickle`` first (0.4 us for small things), ``cloudpickle`` for what
plain pickle cannot do or would do by a name that only exists in this process (``__main__``: 2.2 us). Refs that are met
on the way are collected: the message that carries the bytes names them. Serializers that users register are used by
both; what they make carries its deserializer, so only the process that pickles must know them.

In shared memory a value is laid out as: number of parts, length of each part (8 bytes each, little endian), the
pickle bytes, and the buffers, each aligned to 64 bytes.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import threading
from collections import ChainMap
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from asyncray.config import ALIGNMENT

Reducer = Callable[[Any], tuple[Any, ...]]

_reducers: dict[type, Reducer] = {}
"""What users have registered. Never changed but replaced, as other threads may be pickling."""

_dumps: Callable[..., bytes] = pickle.dumps
"""What values are pickled with first. Only another function while something is registered: the others pay nothing."""

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
            pickled = _dumps(value, 5, buffer_callback=buffers.append)
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


def serialize_whole(value: object) -> Serialized:
    """The same, but no buffers beside it: for what travels as plain bytes."""
    outer = getattr(_local, "refs", None)
    refs: list[Any] = []
    _local.refs = refs
    try:
        try:
            pickled = _dumps(value, 5, buffer_callback=None)
            by_value = b"__main__" in pickled
        except Exception:  # as above
            by_value = True
        if by_value:
            refs.clear()
            pickled = _dump_by_value(value)
    finally:
        _local.refs = outer
    return Serialized(pickled, [], refs)


def _dump_by_value(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    file = io.BytesIO()
    cloud_pickler()(file, 5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


@functools.cache
def cloud_pickler() -> type[pickle.Pickler]:
    """cloudpickle's pickler, but code keeps the name of its file.

    cloudpickle 3.1.3 writes "<dynamic-code>" there, so that equal cells of notebooks pickle equally. Then tracebacks do
    not tell which line of which file failed.
    """
    import cloudpickle  # start-up cost: 40 ms, and many programs never need it

    reduce_code = cloudpickle.CloudPickler.dispatch_table[CodeType]

    def reduce_with_file(code: CodeType) -> tuple[Any, ...]:
        make, fields = reduce_code(code)
        return make, tuple(code.co_filename if field == "<dynamic-code>" else field for field in fields)

    table = ChainMap({CodeType: reduce_with_file, **_reducers}, cloudpickle.CloudPickler.dispatch_table)
    return type("FilePickler", (cloudpickle.CloudPickler,), {"dispatch_table": table})


def serialize_function(function: object) -> Serialized:
    """Pickles a function or class, by value if it is not to be imported."""
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


def register(cls: type, serializer: Callable[[Any], object], deserializer: Callable[[Any], object]) -> None:
    """From now on this process pickles instances of exactly this class with the serializer.

    Raises:
        Exception: the deserializer cannot be pickled.
    """
    # Once: one that goes by value takes long, and is the same for all values.
    pickled = serialize_function(deserializer).pickled

    def reduce(value: object) -> tuple[Any, ...]:
        return _rebuild, (pickled, serializer(value))

    _replace_reducers({**_reducers, cls: reduce})


def deregister(cls: type) -> None:
    """Takes that back, if it was done."""
    _replace_reducers({known: reduce for known, reduce in _reducers.items() if known is not cls})


def deregister_all() -> None:
    """The session is over, and with it what was registered."""
    if _reducers:
        _replace_reducers({})
    _deserializer.cache_clear()


def is_registered(cls: type) -> bool:
    """True if instances of the class are pickled with a serializer of the user's."""
    return cls in _reducers


def _replace_reducers(reducers: dict[type, Reducer]) -> None:
    global _reducers, _dumps
    _reducers = reducers
    table: ChainMap[type, Any] = ChainMap(reducers, copyreg.dispatch_table)

    def dump_with_reducers(
        value: object, protocol: int, *, buffer_callback: Callable[[pickle.PickleBuffer], object] | None
    ) -> bytes:
        file = io.BytesIO()
        pickler = pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
        pickler.dispatch_table = table
        pickler.dump(value)
        return file.getvalue()

    _dumps = dump_with_reducers if reducers else pickle.dumps
    cloud_pickler.cache_clear()


def _rebuild(pickled_deserializer: bytes, state: object) -> Any:
    return _deserializer(pickled_deserializer)(state)


@functools.lru_cache(maxsize=256)
def _deserializer(pickled: bytes) -> Callable[[object], Any]:
    function: Callable[[object], Any] = deserialize(pickled)
    return function


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
