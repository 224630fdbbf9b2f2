"""Values on their way in and out of this process: inline, or in shared memory.

Small values travel inside messages. For large ones the daemon grants room, this process writes, and each process that
reads the value maps the same memory: arrays are views of it.
"""

from __future__ import annotations

import functools
import os
from pickle import loads
from typing import TYPE_CHECKING, Any

from asyncray.config import INLINE_LIMIT
from asyncray.exceptions import DeserializationError
from asyncray.io.interrupts import raised_by_handler
from asyncray.messages import BUFFERS, ERROR, FAULT, PLAIN, SHARED
from asyncray.runtime.connection import Connection
from asyncray.runtime.errors import dump_task_error, load_task_error, system_fault
from asyncray.runtime.interpreters import environment_note
from asyncray.runtime.late_paths import late_paths
from asyncray.runtime.references import ELSEWHERE, Pin, ValueHasLeft
from asyncray.runtime.reservation import Reservation, Reservations
from asyncray.runtime.serialization import (
    PicklingFailed,
    Serialized,
    deserialize,
    layout,
    parse,
    serialize_in_band,
)

if TYPE_CHECKING:
    from asyncray.io.segments import SegmentMap
    from asyncray.runtime.refs import ObjectRef


def dump_failure(
    error: BaseException, *, function_name: str, ip: str, actor_repr: str | None, skip_frames: int
) -> tuple[bytes, list[ObjectRef[Any]]]:
    """Returns the payload for an exception, and the refs inside it, which have to live until it was sent.

    Args:
        error: gets a note if the interpreter of the workers may have caused it.
        function_name, ip, actor_repr: where it was raised.
        skip_frames: frames at the outer end of the traceback that are not shown, as they are not the user's.
    """
    note = environment_note(error)
    if note:
        error.add_note(note)
    refs: list[ObjectRef[Any]] = []
    payload = dump_task_error(
        error,
        function_name=function_name,
        pid=os.getpid(),
        ip=ip,
        actor_repr=actor_repr,
        skip_frames=skip_frames,
        dumps=functools.partial(_dump, refs),
    )
    return payload, refs


def _dump(refs: list[ObjectRef[Any]], value: object) -> bytes:
    try:
        serialized = serialize_in_band(value)
    except PicklingFailed as failure:
        raise failure.error from None
    refs += serialized.refs
    return serialized.pickled


def inline(value: Serialized) -> tuple[int, Any]:
    """A small value as kind and payload. Buffers are copied, because the caller may change them right after."""
    if value.buffers:
        return BUFFERS, [value.pickled, *map(bytes, value.buffers)]
    return PLAIN, value.pickled


def nested_ids(value: Serialized) -> list[bytes] | None:
    """The IDs of the refs inside the value."""
    return [ref.binary() for ref in value.refs] if value.refs else None


def own_buffers(value: Serialized) -> Serialized:
    """The same value with copies of its buffers, because the caller may change the originals right after."""
    if not value.buffers:
        return value
    buffers = [buffer if type(buffer.obj) is bytes else memoryview(bytes(buffer)) for buffer in value.buffers]
    return Serialized(value.pickled, buffers, value.refs)


class Values:
    """Reads and writes values. Any thread may call it."""

    def __init__(self, connection: Connection) -> None:
        self._references = connection.references
        self.reservations = Reservations(connection)
        # Mapped memory. Made by the first thread that needs it; it has no lock of its own.
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

    def store(self, value: Serialized) -> Reservation:
        """Writes a value to shared memory; waits for room. The caller seals the reservation, or abandons it.

        Raises:
            ObjectStoreFullError: there is no room, in the store or in the system.
        """
        size, parts = layout(value)
        with self.reservations.new(size) as reservation:
            reservation.wait()
            reservation.write(self.segments, parts)
            return reservation

    async def store_async(self, value: Serialized) -> Reservation:
        """The same in an event loop, which goes on while the store is full.

        Raises:
            CancelledError: the room is given up.
        """
        size, parts = layout(value)
        with self.reservations.new(size) as reservation:
            if not reservation.wait_briefly():
                size, parts = layout(own_buffers(value))  # other coroutines may change the original meanwhile
                await reservation.wait_async()
            reservation.write(self.segments, parts)
            return reservation

    def load(self, kind: int, payload: Any, pin: Pin | None) -> Any:
        """The value.

        Raises:
            Exception: the object is this error.
            DeserializationError: the value cannot be unpickled here.
            ValueHasLeft: it was here, and is on another node again.
        """
        try:
            if kind == PLAIN:  # the hot path
                return loads(payload)
            if kind == BUFFERS:
                return loads(payload[0], buffers=payload[1:])
            if kind == SHARED:
                return self._load_shared(payload, pin)
        except ValueHasLeft:
            raise
        except Exception as error:  # unpickling runs user code, which may raise anything
            if raised_by_handler(error):
                raise
            text = f"A value could not be deserialized: {type(error).__name__}: {error}"
            note = environment_note(error)
            raise DeserializationError(f"{text}. {note}" if note else text) from error
        if kind == ERROR:
            raised = load_task_error(payload, deserialize)
            note = late_paths.note(raised)
            if note:
                raised.add_note(note)
            raise raised
        assert kind == FAULT
        if payload is ELSEWHERE:
            raise ValueHasLeft  # the read had failed, and another thread has raised the error
        raise system_fault(payload)

    def _load_shared(self, payload: Any, pin: Pin | None) -> Any:
        if pin is None or (pin.place is not None and pin.place != payload):
            # It may be back, at another place, since the caller has read the payload.
            raise ValueHasLeft
        segment, offset, size = payload[:3]
        watch = functools.partial(self._references.watch, pin)
        return deserialize(*parse(self.segments.view(segment, offset, size, watch)))

    def forget_segment(self, name: str) -> None:
        """The daemon has retired a segment."""
        if self._segments is not None:
            self._segments.forget(name)

    def close(self) -> None:
        """Unmaps the segments of which no view is left."""
        if self._segments is not None:
            self._segments.close()
