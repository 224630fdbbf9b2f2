"""The objects of a process: it puts, reads and awaits them, from threads and from coroutines.

Owns nothing but the way from refs to values: the connection waits, ``Values`` reads and writes, and ``References``
counts. Values are unpickled in the thread that asks for them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from asyncray.config import INLINE_LIMIT
from asyncray.exceptions import GetTimeoutError
from asyncray.ids import PUT_INDEX
from asyncray.io.interrupts import raised_by_handler
from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ERROR, ERROR_SEEN, ERRORS, FAULT, PUT, SEAL, SHARED, SUBSCRIBE_ANYWHERE, UNRESOLVED
from asyncray.runtime.blocking import is_finished
from asyncray.runtime.connection import Connection
from asyncray.runtime.context import TaskContext, in_event_loop, running_task, uninterrupted
from asyncray.runtime.deadlines import share
from asyncray.runtime.late_puts import LatePuts
from asyncray.runtime.references import LocalObject, Pin, ValueHasLeft, exists, is_failed_read
from asyncray.runtime.refs import ObjectRef, own
from asyncray.runtime.reservation import Reservation
from asyncray.runtime.serialization import PicklingFailed, Serialized, layout, serialize
from asyncray.runtime.values import Values, inline, nested_ids
from asyncray.runtime.waiters import LoopCallback

if TYPE_CHECKING:
    import concurrent.futures
    import contextvars

    from asyncray.runtime.futures import Futures, RefFuture

_MOST_READS = 5
"""How often objects are asked for before it is an error that the store has no room for them. It waits each time."""

_ADVICE = "Put what it is made from, or give its class a __reduce__ method."


class ObjectClient:
    """Objects, as the code of this process sees them."""

    def __init__(self, connection: Connection, values: Values) -> None:
        self._connection = connection
        self._references = connection.references
        self._waiters = connection.waiters
        self._values = values
        self._post = connection.post
        self._next_id = connection.ids.next_task_id
        self._late_puts = LatePuts(connection, values)
        # Re-entrant: a finalizer may come here in a thread that holds it. Guards the making of:
        self._lock = OwnedRLock()
        # Made for the first future.
        self._futures: Futures | None = None

    def __repr__(self) -> str:
        return f"<ObjectClient {self._references} {self._waiters}>"

    # Any thread -------------------------------------------------------------------------------------------------------

    def put(self, value: object) -> ObjectRef[Any]:
        """Stores a value; returns its ref.

        Raises:
            TypeError: it cannot be pickled; names the part.
            Exception: what a registered serializer raised.
        """
        try:
            return self.put_serialized(serialize(value))
        except PicklingFailed as failure:
            from asyncray.runtime.culprits import explain  # start-up cost: most values can be pickled

            error = explain({"put value": value}, "", _ADVICE, failure)
        raise error

    def put_serialized(self, value: Serialized) -> ObjectRef[Any]:
        """The same for a value that is pickled already."""
        if self._waiters.broken is not None:
            self._waiters.check_alive()
        object_id = self._next_id() + PUT_INDEX
        ref = own(self._references, object_id)  # before the daemon knows it: an interrupt releases it
        local = ref._local
        if value.size > INLINE_LIMIT:
            self._store(local, value)
        else:
            local.kind, local.payload = kind, payload = inline(value)
            self._post((PUT, object_id, kind, payload, nested_ids(value) if value.refs else None))
        return ref

    def _store(self, local: LocalObject, value: Serialized) -> None:
        size, parts = layout(value)
        with self._values.reservations.new(size) as reservation:
            if not in_event_loop() or not self._late_puts.accept(size):
                reservation.wait()
            elif not reservation.wait_briefly():
                self._late_puts.add(local.id, reservation, value)
                return
            reservation.write(self._values.segments, parts)
            uninterrupted(functools.partial(self._seal, local, reservation, value))

    def _seal(self, local: LocalObject, reservation: Reservation, value: Serialized) -> None:
        local.pin = Pin(local.id, 1)
        local.payload = place = reservation.place
        local.kind = SHARED
        self._post((SEAL, local.id, place[0], place[1], nested_ids(value)))
        reservation.seal()

    def load(self, local: LocalObject) -> Any:
        """The value of an object that has arrived; raises if it is an error.

        The daemon learns that an error was seen, because it reports errors that no process has seen.

        Raises:
            ValueHasLeft: it had arrived, and is on another node again.
        """
        kind = local.kind
        if kind == UNRESOLVED:
            self._connection.check_alive()
            if exists(local):
                raise ValueHasLeft
            raise AssertionError(f"{local} is read before it has arrived")
        payload = local.payload
        if kind in ERRORS:
            self._post((ERROR_SEEN, [local.id]))
            self._references.give_back((local,))
        return self._values.load(kind, payload, local.pin)

    def error(self, local: LocalObject) -> BaseException | None:
        """The exception that ``load`` would raise; None for a value, which is not unpickled for that."""
        if local.kind in (UNRESOLVED, ERROR, FAULT):
            try:
                self.load(local)
            except ValueHasLeft:
                return None
            except Exception as error:  # what user code raised, among others
                if raised_by_handler(error):
                    raise
                return error
        return None

    def is_done(self, local: LocalObject) -> bool:
        """True if the object has arrived, or cannot arrive any more."""
        if local.kind == UNRESOLVED and self._waiters.broken is None:
            self._subscribe((local,))  # otherwise a program that only polls would never get it
            return False
        return True

    def check_enough(self, objects: Sequence[LocalObject], enough: int) -> None:
        """Raises LocalNodeDiedError if fewer objects exist, and no news can arrive."""
        if self._waiters.broken is not None and sum(map(exists, objects)) < enough:
            self._connection.check_alive()

    def _subscribe(self, objects: Sequence[LocalObject], *, together: bool = True) -> bool:
        """Asks for the values that the daemon does not push by itself. True if there are any.

        Args:
            together: all of them are needed. Otherwise the daemon must not wait until it has room for all.
        """
        wanted = [local for local in objects if local.kind == UNRESOLVED and local.push_expected is not True]
        if wanted and together:
            self._waiters.ask_for(wanted)
        else:
            for local in wanted:
                self._waiters.ask_for((local,))
        return bool(wanted)

    def _watch(self, objects: Sequence[LocalObject]) -> bool:
        """Asks for word that objects exist, as far as it does not come by itself. True if it asks for any."""
        unknown = [local for local in objects if not exists(local) and not local.push_expected]
        if unknown:
            self._post((SUBSCRIBE_ANYWHERE, [local.id for local in unknown]))
            for local in unknown:  # after posting, as in ``Connection``
                local.push_expected = True
        return bool(unknown)

    def future(self, ref: ObjectRef[Any], future: RefFuture | None = None) -> concurrent.futures.Future[Any]:
        """A ``concurrent.futures.Future`` with the object's value: the given one, or a new one."""
        self._subscribe((ref._local,))
        return self._started_futures().future(ref, future)

    def _started_futures(self) -> Futures:
        from asyncray.runtime.futures import Futures  # start-up cost: few programs want it

        with self._lock:
            if self._futures is None:
                self._futures = Futures(self._waiters, self._load_in_thread)
            return self._futures

    def drain(self, timeout: float) -> None:
        """Waits for values that were put in an event loop and have no room yet, for at most ``timeout`` seconds."""
        self._late_puts.drain(timeout)

    def close(self, timeout: float) -> None:
        """The connection has ended."""
        share(timeout, self._late_puts.close, *(() if self._futures is None else (self._futures.close,)))

    # In a thread that may wait ----------------------------------------------------------------------------------------

    def wait(
        self,
        objects: Sequence[LocalObject],
        enough: int,
        *,
        fails_fast: bool = False,
        fetch: bool = True,
        timeout: float | None = None,
    ) -> bool:
        """Waits until ``enough`` of the objects have arrived (or one failed). False if the time is up first.

        Args:
            fetch: values of other nodes come here. Otherwise an object has arrived when it exists.
        """
        task = running_task()
        asked = self._subscribe(objects, together=enough >= len(objects)) if fetch else self._watch(objects)
        if asked and _asks_first(task, timeout):
            self._connection.round_trip()
        if timeout == 0:
            return self._waiters.satisfied(objects, enough, fails_fast=fails_fast, fetches=fetch)
        return self._connection.block_on(
            objects, enough, timeout=timeout, fails_fast=fails_fast, fetch=fetch, task=task
        )

    def get(self, objects: Sequence[LocalObject], timeout: float | None) -> list[Any]:
        """The values, in order; raises the first error that is known."""
        ends_at = monotonic() + (timeout or 0)
        for turn in itertools.count(1):
            if not self._have_arrived(objects) and not self.wait(
                objects, len(objects), fails_fast=True, timeout=timeout
            ):
                raise _timed_out(objects, timeout)
            try:
                return self._load_all(objects, may_ask_again=turn < _MOST_READS)
            except ValueHasLeft:
                timeout = timeout and max(0.0, ends_at - monotonic())
        raise AssertionError("unreachable")

    def _load_in_thread(self, local: LocalObject) -> Any:
        return self.get((local,), None)[0]

    # In the loop's thread ---------------------------------------------------------------------------------------------

    async def wait_async(
        self,
        objects: Sequence[LocalObject],
        enough: int,
        *,
        fails_fast: bool = False,
        fetch: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - Ray's argument
    ) -> bool:
        """The same as ``wait`` for coroutines. Cancelling it only stops the waiting.

        A task that runs an event loop counts as waiting as long as one of its coroutines waits: its children may need
        the CPU that it holds.
        """
        task = running_task()
        asked = self._subscribe(objects, together=enough >= len(objects)) if fetch else self._watch(objects)
        if asked and _asks_first(task, timeout):
            await self._connection.round_trip_async()
        if timeout == 0:
            return self._waiters.satisfied(objects, enough, fails_fast=fails_fast, fetches=fetch)
        return await self._connection.wait_async(
            objects, enough, timeout=timeout, fails_fast=fails_fast, fetch=fetch, task=task
        )

    async def get_async(
        self,
        objects: Sequence[LocalObject],
        timeout: float | None,  # noqa: ASYNC109 - as above
    ) -> list[Any]:
        """The same as ``get`` for coroutines."""
        ends_at = monotonic() + (timeout or 0)
        for turn in itertools.count(1):
            if not self._have_arrived(objects) and not await self.wait_async(
                objects, len(objects), fails_fast=True, timeout=timeout
            ):
                raise _timed_out(objects, timeout)
            try:
                return self._load_all(objects, may_ask_again=turn < _MOST_READS)
            except ValueHasLeft:
                timeout = timeout and max(0.0, ends_at - monotonic())
        raise AssertionError("unreachable")

    async def load_async(self, local: LocalObject) -> Any:
        """Waits for the object; its value."""
        if local.kind != UNRESOLVED:
            try:
                return self.load(local)
            except ValueHasLeft:
                pass
        return (await self.get_async((local,), None))[0]

    def add_callback(
        self, ref: ObjectRef[Any], function: Callable[[Any], object], context: contextvars.Context | None
    ) -> None:
        """The running loop calls ``function(ref)`` when the object has arrived, or cannot arrive any more.

        A task counts as waiting until then, as in ``wait_async``.
        """
        import asyncio  # start-up cost: a program with a loop has imported it
        import contextvars  # start-up cost: comes with asyncio

        loop = asyncio.get_running_loop()
        local = ref._local
        task = running_task()
        was_finished = is_finished(task)
        blocking = self._connection.blocking
        if context is None:
            context = contextvars.copy_context()

        def end_wait() -> None:
            blocking.end(task, waiter, was_finished=was_finished)

        def call() -> None:
            end_wait()
            if self.is_done(local):  # otherwise it was woken early, because its task was cancelled
                loop.call_soon(function, ref, context=context)  # by itself: it may raise

        waiter = LoopCallback(loop, function, call, end_wait)
        self._subscribe((local,))
        if self._waiters.register_callback(waiter, local):
            blocking.begin(task, waiter)
            self._connection.flush_after_turn(loop)
        else:
            loop.call_soon(function, ref, context=context)

    @staticmethod
    def _have_arrived(objects: Sequence[LocalObject]) -> bool:
        for local in objects:  # noqa: SIM110 - ``all`` with a generator takes twice as long
            if local.kind == UNRESOLVED:
                return False
        return True

    def _load_all(self, objects: Sequence[LocalObject], *, may_ask_again: bool) -> list[Any]:
        """The values of objects that have all arrived, or of which one is an error: that error is raised.

        The daemon learns that all errors were seen, also those that come later, because the one stands for them.

        Args:
            may_ask_again: if there was no room for all, those that came are given back, and all are asked for together:
                otherwise processes that each have a part of what they need would wait for each other.

        Raises:
            ValueHasLeft: the objects have to be waited for once more.
        """
        load = self._values.load
        kinds = [local.kind for local in objects]
        if UNRESOLVED in kinds or ERROR in kinds or FAULT in kinds:
            errors = [(local.kind, local.payload, local.pin) for local in objects if local.kind in ERRORS]
            if any(map(is_failed_read, objects)):
                self._references.give_back(objects)
                if may_ask_again:
                    raise ValueHasLeft
            self._post((ERROR_SEEN, [other.id for other in objects if other.kind in (UNRESOLVED, ERROR, FAULT)]))
            for error in errors:
                load(*error)
            self._connection.check_alive()
            raise ValueHasLeft
        return [load(local.kind, local.payload, local.pin) for local in objects]


def _asks_first(task: TaskContext | None, timeout: float | None) -> bool:
    """True if the values that the daemon already has are fetched before the wait for the rest.

    A task that waits lends its CPU, and another worker is started to use it. Do not report BLOCKED merely to fetch
    values the daemon already has: a thousand tasks that read the same refs would start a dozen workers for each CPU.
    """
    return timeout == 0 or (task is not None and task.blocks)


def _timed_out(objects: Sequence[LocalObject], seconds: float | None) -> GetTimeoutError:
    missing = sum(local.kind == UNRESOLVED for local in objects)
    return GetTimeoutError(
        f"Get timed out after {seconds:g} seconds: {missing} of {len(objects)} objects are not ready."
    )
