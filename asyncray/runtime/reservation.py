"""Room for one value in shared memory, from the request until the room is sealed as an object or given up.

    new → asked → granted → written → sealed
           │  │      │         │
           │  ▼      ▼         ▼
           │ refused └────── abandoned (from new and asked, too)

Owns every allocation that the daemon has granted to this process and that is not sealed yet.

Promises: no matter what ends the work on a value (an error, a signal handler that raises, a cancelled coroutine, the
end of the task), its room is either sealed or given back, and no thread writes to room that was given back. The race
that needs care: the daemon may grant room at the moment when the caller gives up. One lock decides which came first;
what is granted too late finds no reservation, and goes back at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from asyncray.exceptions import ObjectStoreFullError
from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import (
    ABANDON,
    ALLOCATE,
    ALLOCATED,
    FAULT,
    PLAIN,
    STORE_FULL,
    UNRESOLVED,
    AllocatedMessage,
    StoreFullMessage,
)
from asyncray.runtime.connection import Connection
from asyncray.runtime.context import uninterrupted
from asyncray.runtime.errors import system_fault
from asyncray.runtime.references import LocalObject

if TYPE_CHECKING:
    from asyncray.io.segments import SegmentMap

NEW = "new"
ASKED = "asked"
GRANTED = "granted"
WRITTEN = "written"
SEALED = "sealed"
REFUSED = "refused"
ABANDONED = "abandoned"

_MOVES = {
    NEW: (ASKED, ABANDONED),
    ASKED: (GRANTED, REFUSED, ABANDONED),
    GRANTED: (WRITTEN, ABANDONED),
    WRITTEN: (SEALED, ABANDONED),
    SEALED: (),
    REFUSED: (),
    ABANDONED: (),
}

_PATIENCE = 0.1
"""Seconds. Where the daemon does not answer, an event loop stands still for so long at most."""


class Room(NamedTuple):
    """Memory that the daemon has granted. All of a warm room's pages were written before."""

    segment: str
    offset: int
    warm: bool


class Reservation:
    """Room for one value. As a context manager it gives the room up if its block raises, unless it was handed over.

    Example::

        with reservations.new(size) as reservation:
            reservation.wait()
            reservation.write(segments, parts)
        connection.post((SEAL, object_id, *reservation.place[:2], None))
        reservation.seal()
    """

    def __init__(self, owner: Reservations, size: int) -> None:
        self._owner = owner
        self._connection = owner.connection
        self.size = size
        # Moves that the io thread and the caller may make at once (from ASKED) are made under the owner's lock.
        self.state = NEW
        # None until it is granted.
        self.room: Room | None = None
        # Resolved by the io thread: PLAIN when granted, FAULT when refused.
        self.answer: LocalObject = self._connection.new_reply()
        # Resolved by the io thread when the daemon says that the answer takes time. Only of ``wait_briefly``.
        self.full: LocalObject | None = None
        # True once another thread answers for the room, and not the block of the context manager. Set by the caller.
        self.is_handed_over = False
        self.number = next(self._connection.request_numbers)

    def __repr__(self) -> str:
        return f"<Reservation {self.number} {self.size} bytes {self.state} {self.room or ''}>"

    def _move(self, state: str) -> None:
        if state not in _MOVES[self.state]:
            raise AssertionError(f"{self} cannot become {state}")
        self.state = state

    @property
    def place(self) -> list[Any]:
        """[segment, offset, size], as in messages."""
        assert self.room is not None
        return [self.room.segment, self.room.offset, self.size]

    # Any thread but the io thread -------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Asks the daemon for the room."""
        self._move(ASKED)
        self._owner.asked[self.number] = self
        self._connection.replies[self.number] = self.answer
        self._connection.post((ALLOCATE, self.number, self.size))

    def wait(self) -> None:
        """Waits for the room in this thread; asks for it if that is not done.

        Raises:
            ObjectStoreFullError: there is none in time, or the value is larger than the store.
            LocalNodeDiedError: the daemon has ended.
        """
        if self.state == NEW:
            self.ask()
        self._connection.block_on((self.answer,))
        self.check()

    async def wait_async(self) -> None:
        """The same for coroutines."""
        await self._connection.wait_async((self.answer,))
        self.check()

    def wait_briefly(self) -> bool:
        """Asks for the room, and waits in this thread until the daemon grants it or says that it takes time.

        Returns:
            False if it takes time, or the daemon has not answered for a tenth of a second.

        Raises:
            ObjectStoreFullError: the value is larger than the store.
            LocalNodeDiedError: the daemon has ended.
        """
        self.full = full = self._connection.new_reply()
        self.ask()
        self._connection.block_on((self.answer, full), timeout=_PATIENCE)
        if self.answer.kind == UNRESOLVED and self._connection.waiters.broken is None:
            return False
        self.check()
        return True

    def check(self) -> None:
        """Raises what the daemon answered, unless it has granted the room."""
        self._connection.check_alive(self.answer)
        if self.answer.kind == FAULT:
            self._owner.refused(self)
            raise system_fault(self.answer.payload)

    def write(self, segments: SegmentMap, parts: Sequence[bytes | memoryview]) -> None:
        """Writes the value. Not interrupted: large values are copied by two threads, and both must have finished.

        Raises:
            ObjectStoreFullError: the system has no memory for fresh pages.
            LocalNodeDiedError: the session has ended, here.
        """
        uninterrupted(functools.partial(self._write, segments, parts))

    def _write(self, segments: SegmentMap, parts: Sequence[bytes | memoryview]) -> None:
        from asyncray.io.segments import copy_parts  # start-up cost: many programs have small values only

        assert self.room is not None
        # A signal handler may have forked since the room was granted: in the child all segments are closed.
        self._connection.check_alive()
        try:
            copy_parts(segments.writable(self.room.segment), self.room.offset, parts, warm=self.room.warm)
        except OSError as error:
            raise ObjectStoreFullError(f"Writing {self.size} bytes to shared memory failed: {error}") from error
        self._move(WRITTEN)

    def seal(self) -> None:
        """The message that gives the memory to an object was posted."""
        self._move(SEALED)

    def hand_over(self) -> None:
        """From now on another thread writes and seals the room, or abandons it."""
        self.is_handed_over = True

    def abandon(self) -> None:
        """Gives the room up, granted or not. Does nothing once it is sealed, refused or given up."""
        uninterrupted(self._abandon)

    def _abandon(self) -> None:
        with self._owner.lock:
            granted = self.state in (GRANTED, WRITTEN)
            if granted or self.state in (NEW, ASKED):
                self._move(ABANDONED)
            self._owner.forget(self)
        if granted and self.room is not None:
            self._connection.post((ABANDON, self.room.segment, self.room.offset))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and not self.is_handed_over:
            self.abandon()

    # Under the owner's lock -------------------------------------------------------------------------------------------

    def grant(self, room: Room) -> None:
        """The daemon has granted the room."""
        self._move(GRANTED)
        self.room = room

    def refuse(self) -> None:
        """The daemon has no room."""
        self._move(REFUSED)


class Reservations:
    """The reservations of one connection that the daemon has not answered."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # Re-entrant: a finalizer may come here in a thread that holds it. Guards the state of reservations, and:
        self.lock = OwnedRLock()
        # By the number of the request, until it is answered or given up.
        self.asked: dict[int, Reservation] = {}
        connection.handlers[ALLOCATED] = self._allocated
        connection.handlers[STORE_FULL] = self._store_full

    def __repr__(self) -> str:
        return f"<Reservations {len(self.asked)} asked>"

    def new(self, size: int) -> Reservation:
        """Room for so many bytes, which is not asked for yet."""
        return Reservation(self, size)

    def forget(self, reservation: Reservation) -> None:
        """The answer is not wanted any more. Called under the lock."""
        self.asked.pop(reservation.number, None)
        self.connection.replies.pop(reservation.number, None)

    def refused(self, reservation: Reservation) -> None:
        """Its answer is an error."""
        with self.lock:
            if self.asked.pop(reservation.number, None) is not None:
                reservation.refuse()

    def _store_full(self, message: StoreFullMessage) -> None:
        _, number = message
        reservation = self.asked.get(number)
        if reservation is not None and reservation.full is not None:
            self.connection.waiters.resolved([(reservation.full, PLAIN, None)])

    def _allocated(self, message: AllocatedMessage) -> None:
        _, number, segment, offset, warm = message
        room = Room(segment, offset, warm)
        with self.lock:
            reservation = self.asked.pop(number, None)
            self.connection.replies.pop(number, None)
            if reservation is not None:
                reservation.grant(room)
        if reservation is None:
            self.connection.post((ABANDON, segment, offset))
        else:
            self.connection.waiters.resolved([(reservation.answer, PLAIN, room)])
