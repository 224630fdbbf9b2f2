"""ObjectClient to objects: putting, reading, and waiting for them, from threads and from coroutines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.exceptions import AsyncraySystemError, GetTimeoutError, LocalNodeDiedError
from asyncray.ids import PUT_INDEX
from asyncray.io.channel import Channel
from asyncray.messages import BLOCKED, ERROR, ERROR_SEEN, FAULT, PUT, SEAL, SHARED, SUBSCRIBE, UNBLOCKED, UNRESOLVED
from asyncray.runtime.context import TaskContext, running_task
from asyncray.runtime.culprits import explain
from asyncray.runtime.references import LocalObject, Pin, References
from asyncray.runtime.refs import ObjectRef, borrow, own
from asyncray.runtime.serialization import Serialized, serialize
from asyncray.runtime.values import Values, inline
from asyncray.runtime.waiters import IoThreadCallback, LoopCallback, LoopWaiter, ThreadWaiter, Waiter, Waiters

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    import contextvars

NO_WAITING = "A finalizer (__del__) cannot wait while its thread talks to the node."

_ADVICE = "Put what it is made from, or give its class a __reduce__ method."


class ObjectClient:
    """What a process does with objects.

    Args:
        post: sends a message soon.
        channel: the stream to the daemon.
        next_task_id: makes an ID.
        ping: asks the daemon for an answer; returns what is there when it comes.
    """

    def __init__(
        self,
        references: References,
        waiters: Waiters,
        values: Values,
        post: Callable[[Any], None],
        channel: Channel,
        next_task_id: Callable[[], bytes],
        ping: Callable[[], LocalObject],
    ) -> None:
        self._references = references
        self._waiters = waiters
        self._values = values
        self._post = post
        self._channel = channel
        self._next_task_id = next_task_id
        self._ping = ping
        self._ticking: set[asyncio.AbstractEventLoop] = set()
        self.before_blocking: Callable[[TaskContext, Waiter], None] | None = None
        self.after_blocking: Callable[[TaskContext], None] | None = None

    def __repr__(self) -> str:
        return f"<ObjectClient {self._references} {self._waiters}>"

    def put(self, value: object) -> ObjectRef[Any]:
        """Stores a value; returns its ref.

        Raises:
            TypeError: it cannot be pickled; tells which part.
            Exception: what a registered serializer raised.
        """
        try:
            serialized = serialize(value)
        except Exception as error:  # pickling runs user code: anything may come
            explained = explain(value, "put value", "", _ADVICE, error)
            if explained is error:
                raise
            raise explained from error
        return self.put_serialized(serialized)

    def put_serialized(self, serialized: Serialized) -> ObjectRef[Any]:
        """The same for a value that is pickled already."""
        self._check_alive()
        nested = [ref.binary() for ref in serialized.refs] or None
        object_id = self._next_task_id() + PUT_INDEX
        ref = own(self._references, object_id)  # before the daemon hears of it: an interrupt then drops it
        local = ref._local
        if self._values.is_large(serialized):

            def seal(place: list[Any]) -> None:
                local.pin = Pin(object_id, 1)
                local.payload, local.kind = place, SHARED
                self._post((SEAL, object_id, place[0], place[1], nested))

            self._values.store(serialized, seal)
        else:
            local.kind, local.payload = kind, payload = inline(serialized)
            self._post((PUT, object_id, kind, payload, nested))
        return ref

    def load(self, local: LocalObject) -> Any:
        """The value of an object that is there; raises if it is an error.

        That an error is read is told to the daemon, which tells people of those that nobody reads.
        """
        if local.kind == UNRESOLVED:
            self._check_alive()
            raise AssertionError(f"{local} is read before it is there")
        if local.kind > SHARED:
            self._post((ERROR_SEEN, [local.id]))
        return self._values.load(local.kind, local.payload, local.pin)

    def error(self, local: LocalObject) -> BaseException | None:
        """What ``load`` would raise; None for a value, which is not unpickled for that."""
        if local.kind in (UNRESOLVED, ERROR, FAULT):
            try:
                self.load(local)
            except Exception as error:  # what user code raised, among others
                return error
        return None

    def is_done(self, local: LocalObject) -> bool:
        """True if there is something to load, or nothing can come any more."""
        if local.kind == UNRESOLVED and self._waiters.broken is None:
            self._subscribe((local,))  # so that it comes, if somebody only asks again and again
            return False
        return True

    def _check_alive(self) -> None:
        if self._waiters.broken is not None:
            raise LocalNodeDiedError(f"The node of this process is gone: {self._waiters.broken}.")

    def check_enough(self, objects: Sequence[LocalObject], enough: int) -> None:
        """Raises LocalNodeDiedError if not so many objects are there, and no more can come."""
        if self._waiters.broken is not None and sum(local.kind != UNRESOLVED for local in objects) < enough:
            self._check_alive()

    def _subscribe(self, objects: Sequence[LocalObject]) -> bool:
        """Asks for values that would not come by themselves. True if there are any."""
        wanted = [local for local in objects if local.kind == UNRESOLVED and not local.push_expected]
        if wanted:
            self._post((SUBSCRIBE, [local.id for local in wanted]))
            for local in wanted:  # after it: should an interrupt come in between, they are asked for again
                local.push_expected = True
        return bool(wanted)

    def wait(self, objects: Sequence[LocalObject], enough: int, fails_fast: bool, timeout: float | None) -> bool:
        """Waits until ``enough`` of the objects are there (or one failed). False if the time is over first."""
        task = running_task()
        if self._subscribe(objects) and _asks_first(task, timeout):
            self._round_trip()
        if timeout == 0:
            return self._waiters.satisfied(objects, enough, fails_fast)
        waiter = ThreadWaiter(enough, fails_fast)
        if not self._waiters.register(waiter, objects):
            return True
        was_over = task is not None and task.finished
        try:
            self._blocks(task, waiter)
            return self.block_on(waiter, timeout)
        finally:
            try:
                self._goes_on(task, was_over)
            finally:
                others = not waiter.fired or fails_fast or enough < len(objects)
                self._waiters.withdraw(waiter, objects if others else ())

    def _round_trip(self) -> None:
        """What the daemon has of what was asked for comes ahead of its answer to this."""
        answer = (self._ping(),)
        waiter = ThreadWaiter(1, False)
        if self._waiters.register(waiter, answer):
            try:
                self.block_on(waiter, None)
            finally:
                self._waiters.withdraw(waiter, answer)

    def block_on(self, waiter: ThreadWaiter, timeout: float | None) -> bool:
        """Writes what was posted, and waits for the waiter. False if the time is over first."""
        if (
            self._channel.held_by_this_thread()
            or self._waiters.held_by_this_thread()
            or self._references.held_by_this_thread()
        ):
            raise AsyncraySystemError(NO_WAITING)
        self.flush()
        task = running_task()
        if task is not None and task.shield is not None:  # it may not be the one who reads, either
            return waiter.wait(timeout)
        return self._channel.read_until(lambda: waiter.fired, waiter.wait, timeout, waiter.remaining == 1)

    def flush(self) -> None:
        """Sends what was posted, now; what the socket does not take at once is sent soon."""
        if self._references.held_by_this_thread():
            return  # a finalizer: who writes just now may wait for what its thread holds. It is sent soon.
        task = running_task()
        if task is None or task.shield is None:
            self._channel.flush()
        else:
            with task.shield:
                self._channel.flush()

    def _blocks(self, task: TaskContext | None, waiter: Waiter) -> None:
        """The daemon may lend the task's CPU to others."""
        if task is not None and task.blocks:
            self._post((BLOCKED, task.id))
            if self.before_blocking is not None:
                self.before_blocking(task, waiter)

    def _goes_on(self, task: TaskContext | None, was_over: bool) -> None:
        # A task that has ended meanwhile waits no more, as far as the daemon knows. What is said of it now would be
        # taken for its next attempt, which has the same ID and may be waiting on this very worker.
        if task is not None and task.blocks and task.finished == was_over:
            if self.after_blocking is not None:  # first: what the daemon sends from now on is wanted again
                self.after_blocking(task)
            self._post((UNBLOCKED, task.id))

    async def wait_async(
        self,
        objects: Sequence[LocalObject],
        enough: int,
        fails_fast: bool,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> bool:
        """The same for coroutines. Cancelling it only stops the waiting.

        A task that runs an event loop counts as waiting as long as one of its coroutines waits: its children may need
        the CPU that it holds.
        """
        import asyncio  # start-up cost: whoever awaits has it

        loop = asyncio.get_running_loop()
        task = running_task()
        if self._subscribe(objects) and _asks_first(task, timeout):
            await self._round_trip_async(loop)
        if timeout == 0:
            return self._waiters.satisfied(objects, enough, fails_fast)
        waiter = LoopWaiter(enough, fails_fast, loop)
        if not self._waiters.register(waiter, objects):
            return True
        was_over = task is not None and task.finished
        try:
            self._blocks(task, waiter)
            self._flush_after_tick(loop)
            if timeout is None:
                await waiter.future
                return True
            return bool((await asyncio.wait((waiter.future,), timeout=timeout))[0])
        finally:
            self._goes_on(task, was_over)
            self._waiters.withdraw(waiter, objects if not waiter.fired or fails_fast or enough < len(objects) else ())

    async def _round_trip_async(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same for coroutines as ``_round_trip``."""
        answer = (self._ping(),)
        waiter = LoopWaiter(1, False, loop)
        if self._waiters.register(waiter, answer):
            try:
                self._flush_after_tick(loop)
                await waiter.future
            finally:
                self._waiters.withdraw(waiter, answer)

    def add_callback(
        self, ref: ObjectRef[Any], function: Callable[[Any], object], context: contextvars.Context | None
    ) -> None:
        """The running loop calls ``function(ref)`` when the object is there, or cannot come any more.

        A task counts as waiting until then, as in ``wait_async``.
        """
        import asyncio  # start-up cost: whoever has a loop has it
        import contextvars  # start-up cost: comes with asyncio

        loop = asyncio.get_running_loop()
        local = ref._local
        task = running_task()
        was_over = task is not None and task.finished
        if context is None:
            context = contextvars.copy_context()

        def call() -> None:
            self._goes_on(task, was_over)
            if self.is_done(local):  # else it was woken to be interrupted
                loop.call_soon(function, ref, context=context)  # by itself: it may raise

        waiter = LoopCallback(loop, function, call, lambda: self._goes_on(task, was_over))
        self._subscribe((local,))
        if self._waiters.register(waiter, (local,)):
            self._blocks(task, waiter)
            self._flush_after_tick(loop)
        else:
            loop.call_soon(function, ref, context=context)

    def _flush_after_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sends what this turn of the loop submits, in one batch at its end. Waits for nothing."""
        if loop not in self._ticking:
            loop.call_soon(self._flush_tick, loop)
            self._ticking.add(loop)  # last: an interrupt that comes in between leaves a turn too much, and not none

    def _flush_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticking.discard(loop)
        self.flush()

    def concurrent_future(self, local: LocalObject) -> concurrent.futures.Future[Any]:
        """A ``concurrent.futures.Future`` with the object's value."""
        import concurrent.futures  # start-up cost: few programs want it

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        ref = borrow(self._references, local.id)  # the object lives while the future is pending

        def resolve() -> None:
            thread = threading.Thread(target=_resolve, args=(self, ref, future), name="asyncray-future", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends and takes no new threads
                future.cancel()

        self._subscribe((local,))
        waiter = IoThreadCallback(1, resolve)
        if not self._waiters.register(waiter, (local,)):
            _resolve(self, ref, future)
        return future

    def get(self, objects: Sequence[LocalObject], timeout: float | None) -> list[Any]:
        """The values, in order; raises the first error that is known."""
        if not self._there(objects) and not self.wait(objects, len(objects), True, timeout):
            raise _timed_out(objects, timeout)
        return self._load_all(objects)

    async def get_async(
        self,
        objects: Sequence[LocalObject],
        timeout: float | None,  # noqa: ASYNC109 - as above
    ) -> list[Any]:
        """The same in a coroutine."""
        if not self._there(objects) and not await self.wait_async(objects, len(objects), True, timeout):
            raise _timed_out(objects, timeout)
        return self._load_all(objects)

    async def load_async(self, local: LocalObject) -> Any:
        """Waits for the object in a coroutine; its value."""
        if local.kind == UNRESOLVED:
            await self.wait_async((local,), 1, False)
        return self.load(local)

    @staticmethod
    def _there(objects: Sequence[LocalObject]) -> bool:
        return all(local.kind != UNRESOLVED for local in objects)

    def _load_all(self, objects: Sequence[LocalObject]) -> list[Any]:
        """The values of objects that are all there, or of which one is an error: that one is raised.

        It stands for those of the others, which may come later.
        """
        for local in objects:
            if local.kind in (UNRESOLVED, ERROR, FAULT):
                self._post((ERROR_SEEN, [other.id for other in objects if other.kind in (UNRESOLVED, ERROR, FAULT)]))
                for failed in objects:
                    if failed.kind in (ERROR, FAULT):
                        self._values.load(failed.kind, failed.payload, failed.pin)
                break
        return [self.load(local) for local in objects]


def _asks_first(task: TaskContext | None, timeout: float | None) -> bool:
    """Whether to hear what the daemon has before one waits for the rest.

    A task that waits lends its CPU, and another worker is started to use it. That is not for values which are there
    and only have to be told: a thousand tasks that read the same refs would start a dozen workers for each CPU.
    """
    return timeout == 0 or (task is not None and task.blocks)


def _timed_out(objects: Sequence[LocalObject], seconds: float | None) -> GetTimeoutError:
    missing = sum(local.kind == UNRESOLVED for local in objects)
    return GetTimeoutError(
        f"Get timed out after {seconds:g} seconds: {missing} of {len(objects)} objects are not ready."
    )


def _resolve(access: ObjectClient, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = access.load(ref._local)
    except BaseException as error:  # whatever the task raised goes into the future
        future.set_exception(error)
    else:
        future.set_result(value)
