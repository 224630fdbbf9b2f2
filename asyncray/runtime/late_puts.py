"""Values that are put in an event loop's thread while the object store is full.

1. **Goal.** ``put``, and a call with a large argument, return at once in a coroutine, as they do while there is room;
   and the loop goes on, because what frees room may be a coroutine of the same loop.
2. **Things that do not work.**

   * *Waiting in the thread*: the loop stands still, and with it the coroutine that would free room. After two seconds
     the put fails.
   * *An awaitable put*: programs for Ray write ``ref = put(value)``, and awaiting a ref means its value.
   * *Keeping the caller's memory until there is room*: the caller may change it meanwhile.
3. **Solution.** The daemon says when a request for room has to wait (STORE_FULL). Then the value is copied, PROMISE
   announces its object to the daemon, and the ref is returned: tasks may depend on it, and ``get`` waits for it. When
   the room is granted a thread of this module writes the copy and seals it. If there is no room in time, the object
   becomes the ObjectStoreFullError: ``get`` raises it, and tasks that need the object fail with it.
4. **Bound.** Copies take at most ``MOST_BYTES``, or one value if that is larger. A put beyond that waits in its thread,
   as it does outside of event loops: the caller's loop is slowed. A coroutine that wants to wait before it puts more
   writes ``await asyncio.wait([ref])``, which reads no value.
5. **The end.** If this process dies, the daemon turns its promises into OwnerDiedError.
"""

from __future__ import annotations

import functools
import threading

from asyncray.exceptions import ObjectStoreFullError
from asyncray.messages import FAULT, PLAIN, PROMISE, PUT, SEAL
from asyncray.runtime.background import BackgroundThreads
from asyncray.runtime.connection import Connection
from asyncray.runtime.context import uninterrupted
from asyncray.runtime.reservation import Reservation
from asyncray.runtime.serialization import Serialized, layout
from asyncray.runtime.values import Values, nested_ids, own_buffers
from asyncray.runtime.waiters import IoThreadCallback

MOST_BYTES = 1 << 30


class LatePut:
    """A value that waits for its room.

    Args:
        value: a copy, which nobody changes. It keeps the refs inside it until the object is sealed.
    """

    def __init__(self, object_id: bytes, reservation: Reservation, value: Serialized) -> None:
        self.object_id = object_id
        self.reservation = reservation
        self.value = value

    def __repr__(self) -> str:
        return f"<LatePut {self.object_id.hex()} {self.reservation}>"


class LatePuts:
    """The values of one session that wait for their room."""

    def __init__(self, connection: Connection, values: Values) -> None:
        self._connection = connection
        self._values = values
        self._threads = BackgroundThreads("asyncray-put")
        # Guards ``_bytes``, and wakes ``drain`` when that falls to zero. Re-entrant: finalizers put values, too.
        self._changed = threading.Condition(threading.RLock())
        # Of the copies that are neither stored nor refused.
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<LatePuts {self._bytes} bytes>"

    # In the loop's thread ---------------------------------------------------------------------------------------------

    def accept(self, size: int) -> bool:
        """True if a value of that size may wait here now."""
        if self._bytes and self._bytes + size > MOST_BYTES:
            return False
        try:
            self._threads.start()
        except RuntimeError:
            return False
        return True

    def add(self, object_id: bytes, reservation: Reservation, value: Serialized) -> None:
        """The value waits for the room that was asked for; its ref may be used from now on.

        A signal handler that raises cannot break this: it runs before, or when everything is done, and then the value
        is stored although the caller has no ref. The daemon frees it, because the caller has released it.
        """
        put = LatePut(object_id, reservation, own_buffers(value))
        uninterrupted(functools.partial(self._promise, put))

    def _promise(self, put: LatePut) -> None:
        put.reservation.hand_over()
        self._count(put.reservation.size)
        self._connection.post((PROMISE, put.object_id))
        answer = put.reservation.answer
        if not self._connection.waiters.register(IoThreadCallback(functools.partial(self._answered, put)), (answer,)):
            self._answered(put)

    # Any thread -------------------------------------------------------------------------------------------------------

    def _count(self, change: int) -> None:
        with self._changed:
            self._bytes += change
            if not self._bytes:
                self._changed.notify_all()

    def drain(self, timeout: float) -> None:
        """Waits until everything is stored or refused, for at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, timeout)

    def close(self, timeout: float) -> None:
        """The session has ended."""
        self._threads.close(timeout)

    # In the io thread -------------------------------------------------------------------------------------------------

    def _answered(self, put: LatePut) -> None:
        answer = put.reservation.answer
        if answer.kind == PLAIN:
            self._threads.put(functools.partial(self._store, put))
            return
        # Refused, or the session has ended: there is nothing to give back.
        put.reservation.abandon()
        if answer.kind == FAULT:
            self._fail(put, list(answer.payload))
        self._count(-put.reservation.size)

    def _fail(self, put: LatePut, fault: list[object]) -> None:
        self._connection.post((PUT, put.object_id, FAULT, fault, None))

    # In a thread of this module ---------------------------------------------------------------------------------------

    def _store(self, put: LatePut) -> None:
        reservation, value = put.reservation, put.value
        try:
            reservation.write(self._values.segments, layout(value)[1])
        except ObjectStoreFullError as error:
            reservation.abandon()
            self._fail(put, ["ObjectStoreFullError", {"message": str(error)}])
        else:
            segment, offset, _ = reservation.place
            self._connection.post((SEAL, put.object_id, segment, offset, nested_ids(value)))
            reservation.seal()
        finally:
            self._count(-reservation.size)
