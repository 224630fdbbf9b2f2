"""Values to bytes and back.

Promises: each value is pickled in one pass, because a pass may consume it (an iterator, a queue) or have effects.
A pickler of our own makes that pass: pickle's, protocol 5 with buffers out of band, with the reducers that users have
registered, those of ``runtime/reducers.py`` and cloudpickle's. A registered serializer travels with what it makes, so
only the process that pickles must know it. Refs inside the value are collected on the way, because the message that
carries the bytes names them.

Cost: 0.5 µs for a small value, against 0.45 µs of ``pickle.dumps`` and 1.7 µs with a new pickler for each.

In shared memory a value is laid out as: number of parts, length of each part (8 bytes each, little endian), the
pickle bytes, and the buffers, each aligned to 64 bytes.
"""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from asyncray.config import ALIGNMENT, INLINE_LIMIT
from asyncray.io.interrupts import raised_by_handler
from asyncray.runtime.arrays import make_array, reducer_of_arrays
from asyncray.runtime.late_paths import reduce_by_name, reduce_module, with_paths
from asyncray.runtime.reducers import REDUCERS, CloudReducer, cloud, is_importable

_LARGEST_REUSE = 512
"""Bytes. After a larger value the pickler is dropped: clearing its memo takes longer than making a new pickler."""

Reducer = Callable[[Any], Any]


class PicklingFailed(TypeError):
    """A value cannot be pickled.

    Attributes:
        error: the error that the pickler or a reducer raised.
        part: the last part that the pickler asked for its reduction: the culprit. None if there was no such part.
    """

    def __init__(self, error: Exception, part: object) -> None:
        super().__init__(_text(error))
        self.error = error
        self.part = part


class Serialized:
    """A pickled value: its bytes, the buffers beside it and the refs inside it (kept alive until it was sent)."""

    __slots__ = ("buffers", "pickled", "refs", "size")

    def __init__(self, pickled: bytes, buffers: Sequence[memoryview], refs: list[Any]) -> None:
        self.pickled = pickled
        self.buffers = buffers
        self.refs = refs
        self.size = len(pickled)
        for buffer in buffers:
            self.size += buffer.nbytes

    def __repr__(self) -> str:
        return f"<Serialized {self.size} bytes, {len(self.buffers)} buffers, {len(self.refs)} refs>"


class SerializedInChunks(Serialized):
    """A large value whose pickle bytes are not joined, because large ``bytes`` among them are the value's own."""

    __slots__ = ("chunks",)

    def __init__(self, chunks: Sequence[bytes], buffers: Sequence[memoryview], refs: list[Any]) -> None:
        self.chunks = chunks
        self.buffers = buffers
        self.refs = refs
        self.size = sum(map(len, chunks)) + sum(buffer.nbytes for buffer in buffers)

    @property
    def pickled(self) -> bytes:  # type: ignore[override]  # nothing sets it
        """The bytes in one piece, which is made again each time."""
        return b"".join(self.chunks)


class Pickler(pickle.Pickler):
    """pickle's own, with our reducers. Made as ``pickle.Pickler``: ``Pickler(file, protocol, buffer_callback=...)``."""

    __slots__ = ("_cloud", "outer", "part", "refs")

    # The last value that was asked for its reduction. Built-in values are not asked.
    part: object

    # The refs inside the value. None before the first value that is asked for its reduction: only such values are refs,
    # or run code that pickles some. A list in a pickler that others use: it collects none.
    refs: list[Any] | None

    # The list of the value in whose middle this one is pickled.
    outer: list[Any] | None

    # Made for the first function or class that goes by value.
    _cloud: CloudReducer | None

    def __init__(
        self, file: Any, protocol: int, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
    ) -> None:
        super().__init__(file, protocol, buffer_callback=buffer_callback)
        self.part = self.outer = self._cloud = None
        self.refs = []

    def reducer_override(self, value: Any) -> Any:
        """Called by pickle for each value that is not of a built-in type. Costs 0.1 µs for most."""
        if self.refs is None:
            self.outer = _collecting.refs
            self.refs = _collecting.refs = []
        self.part = value
        # The set first: registering a reducer meanwhile replaces the set last.
        plain, kind = _plain, type(value)
        if kind in plain or value is make_array:
            return NotImplemented
        if kind is FunctionType:
            return reduce_by_name(value) if is_importable(value, value.__qualname__) else self._reduce_by_value(value)
        reduce = _reducers.get(kind)
        if reduce is not None:
            return reduce(value)
        if issubclass(kind, type):
            return reduce_by_name(value) if is_importable(value, value.__qualname__) else self._reduce_by_value(value)
        return _reduce_new_kind(value, kind, plain)

    def _reduce_by_value(self, value: Any) -> Any:
        if self._cloud is None:
            load_cloudpickle()
            self._cloud = CloudReducer()
        return self._cloud.reduce(value)

    @property
    def is_reusable(self) -> bool:
        """Not after cloudpickle's reducer, which remembers the globals of the functions that it has met."""
        return self._cloud is None


def _reduce_module(module: ModuleType) -> Any:
    reduced = REDUCERS[ModuleType](module)
    return reduce_module(module, reduced) if reduced[0] is cloud().subimport else reduced


def _reduce_new_kind(value: Any, kind: type, plain: set[type]) -> Any:
    reducers = _reducers
    reduce = reducer_of_arrays(kind)
    if reduce is not None:
        return reducers.setdefault(kind, reduce)(value)
    if is_importable(kind, kind.__qualname__):  # others may be made again and again
        plain.add(kind)
    return NotImplemented


class _ReusablePickler(Pickler):
    """A pickler with the lists that it writes to."""

    def __init__(self) -> None:
        file = _Chunks()
        self.chunks = file.chunks
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, 5, buffer_callback=self.buffers.append)
        self.refs = None

    def reset(self) -> None:
        """Forgets the value that was pickled."""
        self.chunks.clear()
        self.buffers.clear()
        self.clear_memo()
        self.part = self.refs = self.outer = None


class _Chunks:
    """The file of a pickler: a list of written bytes. Cheaper than BytesIO, which would grow by copying."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, chunk: Any) -> None:
        """Called once for a small value. A large bytearray comes as itself, and may change later."""
        self.chunks.append(chunk if type(chunk) is bytes else bytes(chunk))


class _Collecting(threading.local):
    """The list that refs add themselves to while this thread pickles for us; None otherwise."""

    refs: list[Any] | None = None


_collecting = _Collecting()

# Picklers that no one uses now. A call takes one out, so threads, finalizers and reducers that pickle meanwhile get
# others. One that failed does not come back.
_idle: list[_ReusablePickler] = []

# The reducers of users; and these with REDUCERS, cloudpickle's and that of arrays. Replaced and never changed, but for
# the one of arrays, because other threads may be pickling.
_registered: dict[type, Reducer] = {}
_reducers: dict[type, Reducer] = {**REDUCERS, ModuleType: _reduce_module}

# ``_reducers`` has those of cloudpickle, which was loaded.
_knows_cloudpickle = False

# Importable classes that have no reducer here, so that pickle reduces their instances by itself.
_plain: set[type] = set()


def collecting_refs() -> list[Any] | None:
    """The list that refs add themselves to while this thread pickles for us."""
    return _collecting.refs


def serialize(value: object) -> Serialized:
    """Pickles a value.

    Raises:
        PicklingFailed: with what the value's own pickling raised.
    """
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _ReusablePickler()
    refs = _dump(pickler, value)
    chunks = pickler.chunks
    buffers = [buffer.raw() for buffer in pickler.buffers] if pickler.buffers else ()
    if len(chunks) == 1:
        pickled = chunks[0]
    elif sum(map(len, chunks)) > INLINE_LIMIT:
        return SerializedInChunks(chunks, buffers, refs)
    else:
        pickled = b"".join(chunks)
    if len(pickled) <= _LARGEST_REUSE and pickler.is_reusable:
        pickler.reset()
        _idle.append(pickler)
    return Serialized(pickled, buffers, refs)


def serialize_in_band(value: object) -> Serialized:
    """Pickles a value without out-of-band buffers: functions, classes and errors travel as plain bytes."""
    file = _Chunks()
    pickler = Pickler(file, 5)
    pickler.refs = None
    refs = _dump(pickler, value)
    return Serialized(b"".join(file.chunks), (), refs)


def _dump(pickler: Pickler, value: object) -> list[Any]:
    """Pickles a value into the pickler's file. Returns the refs that were met.

    Not a context manager, which would cost 0.2 µs.
    """
    try:
        pickler.dump(value)
    except Exception as error:  # user code pickles: any error may come
        if raised_by_handler(error):
            raise
        raise PicklingFailed(error, pickler.part) from error
    finally:
        if pickler.refs is not None:
            _collecting.refs = pickler.outer
    return pickler.refs or []


def deserialize(pickled: bytes | memoryview, buffers: Sequence[bytes | memoryview] = ()) -> Any:
    """The inverse of ``serialize``, for bytes from this session's own processes."""
    return pickle.loads(pickled, buffers=buffers) if buffers else pickle.loads(pickled)


def register(cls: type, serializer: Callable[[Any], object], deserializer: Callable[[Any], object]) -> None:
    """From now on this process pickles instances of exactly this class with the serializer.

    Raises:
        TypeError: the deserializer cannot be pickled.
    """
    # Pickle the deserializer once; by-value pickling is slow and the result never changes.
    pickled = with_paths(serialize_in_band(deserializer).pickled)

    def reduce(value: object) -> tuple[Any, ...]:
        return _rebuild, (pickled, serializer(value))

    _replace_registered({**_registered, cls: reduce})


def deregister(cls: type) -> None:
    """Undoes ``register``. Does nothing if nothing is registered for the class."""
    _replace_registered({known: reduce for known, reduce in _registered.items() if known is not cls})


def deregister_all() -> None:
    """Undoes each ``register``, because the session has ended."""
    _replace_registered({})
    _deserializer.cache_clear()


def is_registered(cls: type) -> bool:
    """True if instances of the class are pickled with a serializer of the user's."""
    return cls in _registered


def _replace_registered(registered: dict[type, Reducer]) -> None:
    global _registered, _reducers, _plain
    known = cloud().Pickler.dispatch_table.maps[0] if _knows_cloudpickle else {}
    _registered = registered
    _reducers = {**known, **REDUCERS, ModuleType: _reduce_module, **registered}
    _plain = set()


def load_cloudpickle() -> None:
    """Loads cloudpickle, whose reducers count from now on. Does nothing the next time."""
    global _knows_cloudpickle
    if not _knows_cloudpickle:
        cloud()
        _knows_cloudpickle = True
        _replace_registered(_registered)


def _rebuild(pickled_deserializer: bytes, state: object) -> Any:
    return _deserializer(pickled_deserializer)(state)


@functools.lru_cache(maxsize=256)
def _deserializer(pickled: bytes) -> Callable[[object], Any]:
    function: Callable[[object], Any] = deserialize(pickled)
    return function


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # the user's __str__
        return type(error).__name__


def layout(value: Serialized) -> tuple[int, list[bytes | memoryview]]:
    """The size and the consecutive parts of a value in shared memory."""
    pickled = value.chunks if isinstance(value, SerializedInChunks) else (value.pickled,)
    pickled_size = sum(map(len, pickled))
    lengths = [pickled_size, *(buffer.nbytes for buffer in value.buffers)]
    header = b"".join(length.to_bytes(8, "little") for length in (len(lengths), *lengths))
    parts: list[bytes | memoryview] = [header, *pickled]
    size = len(header) + pickled_size
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
