"""Segments of shared memory: made, mapped, filled, viewed and removed.

A segment is a file in ``/dev/shm``, where ``shm_open`` makes it, too. A name that is a path (``/directory/name``) means
a file there instead, for machines whose /dev/shm is too small (docker gives 64 MB). The allocator decides which part of
a segment is used, and for which object.

Promises:

- The resource tracker of multiprocessing never learns of our segments and is never started by us. In Python 3.11 and
  3.12 ``SharedMemory`` registers every segment that a process makes or maps, and the tracker unlinks it when that
  process ends, even if others use it. So we do without ``SharedMemory``, whose import costs a daemon 8 ms as well.
- If memory runs out during a write, that is an OSError, never a SIGBUS: fresh pages are written through the descriptor.
- A view is read-only and keeps its memory mapped. The caller can watch for the end of its last slice or array.
- Closing never fails: a segment with views stays mapped until the last view has ended.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from asyncray.config import STORE_MINIMUM
from asyncray.io import forking

SHARED_MEMORY = "/dev/shm"

# Measured on 2 cores, into warm pages: one thread 13.9 GB/s, two 21 GB/s from 32 MiB on; below, starting the second
# costs what it saves. (A process's first write to a page still faults its own mapping: 2.5 to 3.8 GB/s, once.)
# Short copies keep the GIL: 0.3 ms at most, less than getting it back may take.
_TWO_THREADS_FROM = 32 << 20
_RELEASE_GIL_FROM = 4 << 20
_MADV_POPULATE_WRITE = 23  # not in Python's mmap
_MOST_PARTS = 1024  # IOV_MAX of Linux


def _path_of(name: str) -> str:
    """The file of a segment."""
    return name if "/" in name else f"{SHARED_MEMORY}/{name}"


class Segment:
    """A mapped segment. ``create`` and ``attach`` make it.

    Args:
        name: its name among the shared memory of the system, or the path of a file.
        flags: how to open its file.
        size: bytes of a segment to make; None for one that exists.

    Example:
        >>> segment = Segment.create("example-0", 4096)
        >>> copy_parts(segment, 0, [b"hello"], warm=False)
        >>> segment.unlink(); segment.close()
    """

    def __init__(self, name: str, flags: int, size: int | None) -> None:
        self.name = name
        self.size = 0
        # -1 and None once it is closed, or if it could not be opened.
        self._fd = -1
        self._mmap: mmap.mmap | None = None
        self._buf: memoryview | None = None
        with forking.lock:
            self._fd = os.open(_path_of(name), flags | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                self._map(size)
            except BaseException:
                os.close(self._fd)
                self._fd = -1
                # mmap wants a descriptor of its own. An attach that gets none must not destroy the store.
                if size is not None:
                    self.unlink()
                raise
            forking.close_in_child(functools.partial(_close_in_child, weakref.ref(self)), self._fd)

    def _map(self, size: int | None) -> None:
        if size is not None:
            os.ftruncate(self._fd, size)
        self.size = os.fstat(self._fd).st_size
        self._mmap = mmap.mmap(self._fd, self.size)
        self._buf = memoryview(self._mmap)

    def __repr__(self) -> str:
        return f"Segment({self.name!r}, size={self.size})"

    def __del__(self) -> None:
        self.close()

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """Makes a segment. Its pages get memory when they are written. Raises FileExistsError, OSError."""
        return cls(name, os.O_CREAT | os.O_EXCL, size)

    @classmethod
    def attach(cls, name: str) -> Segment:
        """Maps an existing segment. Raises FileNotFoundError, OSError."""
        return cls(name, 0, None)

    @property
    def buf(self) -> memoryview:
        """The bytes of the segment, writable. Raises ValueError when closed."""
        if self._buf is None:
            raise ValueError(f"{self} is closed")
        return self._buf

    def unlink(self) -> None:
        """Removes the name, if it still exists; the memory is freed with the last mapping of any process."""
        try:
            os.unlink(_path_of(self.name))
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Releases the mapping. Views live on; the mapping ends with the last of them."""
        buf, self._buf = self._buf, None
        mapping, self._mmap = self._mmap, None
        descriptor, self._fd = self._fd, -1
        try:
            if buf is not None:
                buf.release()
            if mapping is not None:
                mapping.close()
        except BufferError:
            pass  # views exist, and they hold the mapping themselves
        if descriptor >= 0:
            # No code forks any more, and other modules may have been destroyed.
            if sys.is_finalizing():
                os.close(descriptor)
                return
            with forking.lock:
                os.close(descriptor)
                forking.closed(descriptor)

    def view(self, offset: int, size: int, watch: Callable[[object], object]) -> memoryview:
        """A read-only view on a range. See ``SegmentMap.view``."""
        self._check_range(offset, size)
        # numpy and others keep the exporter of a buffer and drop the memoryview. So we must watch the exporter, and it
        # must belong to this view alone: a ctypes array does. Array types are costly to make and stay until the garbage
        # collector runs, so we use only power-of-two lengths and the lengths of whole segments.
        span = min(1 << max(size - 1, 63).bit_length(), self.size)
        start = min(offset, self.size - span)
        exporter = _array_type(span).from_buffer(self._mapping(), start)
        watch(exporter)
        return memoryview(exporter).cast("B")[offset - start : offset - start + size].toreadonly()

    def populate(self, offset: int, size: int) -> None:
        """Gives memory to the pages of a range that is about to be filled: its bytes may change.

        After that no write through the mapping can fail. (Receiving from a socket into fresh pages of full shared
        memory fails with EFAULT, and a write of the process itself is a SIGBUS.) It costs what the faults would cost.

        Raises OSError (ENOSPC, ENOMEM) when the system has no memory.
        """
        self._check_range(offset, size)
        start = offset - offset % mmap.PAGESIZE
        try:
            self._mapping().madvise(_MADV_POPULATE_WRITE, start, offset + size - start)
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            if error.errno != errno.EINVAL:
                raise
            # Linux before 5.14, and other systems, do not know it.
            _write_fresh(self._fd, offset, [memoryview(bytes(size))])

    def _mapping(self) -> mmap.mmap:
        if self._mmap is None:
            raise ValueError(f"{self} is closed")
        return self._mmap

    def _check_range(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset} to {offset + size} are not in {self}")


def _close_in_child(segment: weakref.ref[Segment]) -> None:
    """Views that the child has of the parent's objects live on, and the mapping with them."""
    alive = segment()
    if alive is not None:
        alive.close()


def copy_parts(segment: Segment, offset: int, parts: Sequence[bytes | memoryview], *, warm: bool) -> None:
    """Writes parts one after the other, without gaps, from an offset on.

    Args:
        segment: the segment to write to.
        offset: position of the first byte of the first part.
        parts: C-contiguous bytes of any format; padding is a part too.
        warm: all pages of the range were written before, by any process.

    Raises OSError (ENOSPC, ENOMEM) when the system has no memory for fresh pages; part of the range is written then.
    """
    views = [memoryview(part) for part in parts]
    views = [view.cast("B") for view in views if view.nbytes]
    total = sum(view.nbytes for view in views)
    segment._check_range(offset, total)
    if not warm:
        _write_fresh(segment._fd, offset, views)
    elif total >= _RELEASE_GIL_FROM:
        _move(segment._mapping(), offset, views, total)
    else:
        buf = segment.buf
        for view in views:
            buf[offset : offset + view.nbytes] = view
            offset += view.nbytes


def _write_fresh(descriptor: int, offset: int, views: list[memoryview]) -> None:
    """Writes through the descriptor, on one thread: 2.7 to 3.1 GB/s. Two are no faster: the kernel locks the inode."""
    index = 0
    while index < len(views):
        done = os.pwritev(descriptor, views[index : index + _MOST_PARTS], offset)
        offset += done
        while index < len(views) and done >= views[index].nbytes:
            done -= views[index].nbytes
            index += 1
        if done:
            views[index] = views[index][done:]


_Move = tuple[int, int, int]  # to, from, bytes


def _move(mapping: mmap.mmap, offset: int, views: list[memoryview], total: int) -> None:
    """Writes through the mapping, without the GIL, and on two threads if that pays."""
    anchor = ctypes.c_ubyte.from_buffer(mapping)  # as long as it lives, the mapping cannot be closed
    to = ctypes.addressof(anchor) + offset
    moves: list[_Move] = []
    for view in views:
        moves.append((to, _address(view), view.nbytes))
        to += view.nbytes
    keep = (anchor, views)
    if total < _TWO_THREADS_FROM:
        _move_all(moves, keep)
        return
    first, second = _halves(moves, total // 2)
    helper = threading.Thread(target=_move_all, args=(second, keep), name="asyncray-copy")
    try:
        helper.start()
    except RuntimeError:  # the system gives no more threads
        _move_all(moves, keep)
        return
    _move_all(first, keep)
    helper.join()


def _move_all(moves: list[_Move], keep: object) -> None:
    """Copies. ``keep`` owns the memory: the helper thread still needs it if the caller is interrupted."""
    for to, start, size in moves:
        ctypes.memmove(to, start, size)


def _halves(moves: list[_Move], middle: int) -> tuple[list[_Move], list[_Move]]:
    """Splits the moves after ``middle`` bytes."""
    first: list[_Move] = []
    second: list[_Move] = []
    for to, start, size in moves:
        here = max(0, min(size, middle))
        middle -= size
        if here:
            first.append((to, start, here))
        if here < size:
            second.append((to + here, start + here, size - here))
    return first, second


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer, in the stable ABI since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def _address(view: memoryview) -> int:
    """The address of the bytes, valid while the view lives. (``from_buffer`` takes only writable buffers.)"""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address: int = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address


@functools.lru_cache(maxsize=128)
def _array_type(length: int) -> type[ctypes.Array[ctypes.c_ubyte]]:
    return ctypes.c_ubyte * length


class SegmentMap:
    """The segments that a process has mapped, each once. Safe in any thread and in finalizers, because it has no lock.

    Example:
        >>> segments = SegmentMap()
        >>> view = segments.view("example-0", offset=64, size=100, watch=note)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        # By name. Entries are made and removed by one C call each.
        self._segments: dict[str, Segment] = {}

    def __repr__(self) -> str:
        return f"<SegmentMap {sorted(self._segments)}>"

    def view(self, name: str, offset: int, size: int, watch: Callable[[object], object]) -> memoryview:
        """A read-only view on a range of a segment.

        Args:
            name: the segment.
            offset: first byte of the range.
            size: bytes of the range; may be zero.
            watch: called with an object that lives as long as any slice of the view, or array over it. It may make
                weak references to it, and must not keep it.

        Raises FileNotFoundError, OSError when the segment cannot be mapped; ValueError when the range is not in it.
        """
        return self.writable(name).view(offset, size, watch)

    def writable(self, name: str) -> Segment:
        """The segment, mapped now if it was not yet. Raises FileNotFoundError, OSError."""
        segment = self._segments.get(name)
        if segment is None:
            # Two threads may get here at once: both map the segment, and both keep the mapping that was entered first.
            # No lock: the garbage collector could run a finalizer that wants it in the thread that holds it.
            mine = Segment.attach(name)
            segment = self._segments.setdefault(name, mine)
            if segment is not mine:
                mine.close()
        return segment

    def forget(self, name: str) -> None:
        """Unmaps a segment that was retired, if it was mapped. A view that still exists keeps its memory."""
        segment = self._segments.pop(name, None)
        if segment is not None:
            segment.close()

    def close(self) -> None:
        """Forgets all segments."""
        for name in list(self._segments):
            self.forget(name)


class Backend(NamedTuple):
    """The place of a node's segments."""

    directory: str
    """Of the files, or "" for shared memory."""
    capacity: int
    """Bytes that it can hold, at most as many as were asked for."""
    warning: str | None
    """Text for the user, or None."""

    def prefix(self, session: str) -> str:
        """The beginning of the names of the session's segments."""
        return f"{self.directory}/{session}" if self.directory else session


def pick_backend(capacity: int, fallback_directory: str) -> Backend:
    """Shared memory, if it holds the capacity or at least a useful part of it; otherwise files in the directory.

    Raises OSError when the directory is needed and cannot be made.
    """
    # Mounted read-only, not even root may write to it.
    free = _free_bytes(SHARED_MEMORY) if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else None
    if free is not None and free >= min(capacity, STORE_MINIMUM):
        return in_shared_memory(capacity, free)
    os.makedirs(fallback_directory, mode=0o700, exist_ok=True)
    return in_files(capacity, free, fallback_directory, _free_bytes(fallback_directory))


def in_shared_memory(capacity: int, free: int) -> Backend:
    """Shared memory with ``free`` bytes left, 5 % of which are not ours to take."""
    holds = min(capacity, free * 95 // 100)
    warning = None
    if holds < capacity:
        warning = (
            f"The object store gets {_megabytes(holds)} instead of {_megabytes(capacity)}, because {SHARED_MEMORY} has "
            f"only {_megabytes(free)} free. In docker, start the container with a larger --shm-size."
        )
    return Backend("", holds, warning)


def in_files(capacity: int, free: int | None, directory: str, free_on_disk: int) -> Backend:
    """Files on a disk with ``free_on_disk`` bytes left: shared memory has only ``free``. None: it cannot be written."""
    holds = min(capacity, free_on_disk * 95 // 100)
    less = f", and gets {_megabytes(holds)} instead of {_megabytes(capacity)}" if holds < capacity else ""
    if free is None:
        why = f"{SHARED_MEMORY} cannot be written"
    else:
        wanted = (capacity * 100 // 95 >> 20) + 1
        remedy = f"In docker, start the container with --shm-size={wanted}m or more"
        why = f"{SHARED_MEMORY} has only {_megabytes(free)} free. {remedy}"
    warning = f"The object store uses files in {directory}, which is slower{less}, because {why}."
    return Backend(directory, holds, warning)


def sweep(prefix: str) -> list[str]:
    """Unlinks all segments whose names begin with the prefix, and returns the names. Leaves others' segments alone.

    For the segments of a session whose processes were killed: none of them needs to be mapped.
    """
    directory, start = os.path.split(prefix)
    if not start:
        raise ValueError(f"{prefix!r} would sweep everything")
    swept = []
    place = directory or SHARED_MEMORY
    for name in forking.names_in(place) if os.path.isdir(place) else ():
        if name.startswith(start):
            try:
                os.unlink(os.path.join(place, name))
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                continue  # it was removed meanwhile, or it is another user's
            swept.append(os.path.join(directory, name))
    return swept


def _free_bytes(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _megabytes(size: int) -> str:
    return f"{size >> 20} MiB"
