"""Values on their way in and out of this process: inline, or in shared memory.

Small values travel inside messages. For large ones the daemon gives room, this process writes, and whoever reads maps
the same memory: arrays are views of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncray.config import INLINE_LIMIT
from asyncray.exceptions import AsyncraySystemError, ObjectStoreFullError
from asyncray.io.interrupts import with_signals_deferred
from asyncray.messages import BUFFERS, ERROR, FAULT, PLAIN, SHARED
from asyncray.runtime.context import running_task
from asyncray.runtime.errors import load_task_error, system_fault
from asyncray.runtime.interpreters import environment_note
from asyncray.runtime.references import Pin, References
from asyncray.runtime.serialization import Serialized, deserialize, layout, parse

if TYPE_CHECKING:
    from asyncray.io.segments import SegmentMap

Place = tuple[str, int, bool]
"""segment, offset, warm"""


def inline(value: Serialized) -> tuple[int, Any]:
    """A small value as kind and payload. Buffers are copied: the caller may change them right after."""
    if value.buffers:
        return BUFFERS, [value.pickled, *map(bytes, value.buffers)]
    return PLAIN, value.pickled


class Values:
    """Reads and writes values.

    Args:
        allocate: asks the daemon for room of so many bytes, waits, and has it filled in one piece; gives it back if
            that fails. What fills it returns whether somebody else looks after the room from then on.
    """

    def __init__(self, references: References, allocate: Callable[[int, Callable[[Place], bool]], Place]) -> None:
        self._references = references
        self._allocate = allocate
        self._segments: SegmentMap | None = None

    def __repr__(self) -> str:
        return f"<Values {self._segments}>"

    @property
    def segments(self) -> SegmentMap:
        """The mapped segments."""
        if self._segments is None:
            from asyncray.io.segments import SegmentMap  # start-up cost: many programs have small values only

            self._segments = SegmentMap()
        return self._segments

    def is_large(self, value: Serialized) -> bool:
        """True if the value goes to shared memory."""
        return value.size > INLINE_LIMIT

    def store(self, value: Serialized, seal: Callable[[list[Any]], None] | None = None) -> list[Any]:
        """Writes a value to shared memory: [segment, offset, size], for the daemon to seal.

        Args:
            seal: does so, with no interrupt in between.

        Raises:
            ObjectStoreFullError: there is no room, in the store or in the system.
        """
        from asyncray.io.segments import copy_parts  # start-up cost, as above

        size, parts = layout(value)

        def fill(place: Place) -> bool:
            segment, offset, warm = place
            try:
                copy_parts(self.segments.writable(segment), offset, parts, warm)
            except OSError as error:
                raise ObjectStoreFullError(f"Writing {size} bytes to shared memory failed: {error}") from error
            if seal is not None:
                seal([segment, offset, size])
            return seal is not None

        segment, offset, _ = self._allocate(size, fill)
        return [segment, offset, size]

    def load(self, kind: int, payload: Any, pin: Pin | None) -> Any:
        """The value.

        Raises:
            Exception: the stored error, if that is what it is.
            AsyncraySystemError: the value cannot be unpickled here.
        """
        if kind == ERROR:
            raise load_task_error(payload, deserialize)
        if kind == FAULT:
            raise system_fault(payload)
        try:
            if kind == PLAIN:
                return deserialize(payload)
            if kind == BUFFERS:
                return deserialize(payload[0], payload[1:])
            assert kind == SHARED
            assert pin is not None
            return self._load_shared(payload, pin)
        except Exception as error:  # unpickling runs user code: anything may come
            text = f"A value could not be deserialized: {type(error).__name__}: {error}"
            note = environment_note(error)
            raise AsyncraySystemError(f"{text}. {note}" if note else text) from error

    def _load_shared(self, payload: Any, pin: Pin) -> Any:
        segment, offset, size = payload
        watch = functools.partial(self._references.watch, pin)
        return deserialize(*parse(self.segments.view(segment, offset, size, watch)))

    def forget_segment(self, name: str) -> None:
        """The daemon has retired a segment."""
        if self._segments is not None:
            self._segments.forget(name)

    def close(self) -> None:
        """Unmaps what is not viewed any more."""
        if self._segments is not None:
            self._segments.close()


def in_one_piece(work: Callable[[], None]) -> None:
    """Neither signals nor cancelling interrupt it."""
    task = running_task()
    if task is None or task.shield is None:
        with_signals_deferred(work)
    else:
        with task.shield:
            work()
