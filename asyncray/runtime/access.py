"""Access to objects: putting, reading, and waiting for them, from threads and from coroutines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.states import UNRESOLVED
from asyncray.exceptions import GetTimeoutError, LocalNodeDiedError
from asyncray.ids import PUT_INDEX
from asyncray.messages import BLOCKED, ERROR, FAULT, PUT, SEAL, SHARED, SUBSCRIBE, UNBLOCKED
from asyncray.runtime.context import running_task
from asyncray.runtime.references import LocalObject, Pin, References
from asyncray.runtime.refs import ObjectRef, wrap
from asyncray.runtime.serialization import Serialized, serialize
from asyncray.runtime.values import Values, inline
from asyncray.runtime.waiting import CallWaiter, LoopWaiter, ThreadWaiter, Waiters

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures


class Access:
    """What a process does with objects.

    Args:
        post: sends a message soon.
        flush: sends what was posted, now.
        next_task_id: makes an ID.
    """

    def __init__(
        self,
        references: References,
        waiters: Waiters,
        values: Values,
        post: Callable[[Any], None],
        flush: Callable[[], None],
        next_task_id: Callable[[], bytes],
    ) -> None:
        self._references = references
        self._waiters = waiters
        self._values = values
        self._post = post
        self._flush = flush
        self._next_task_id = next_task_id
        self.before_blocking: Callable[[], None] | None = None
        self.after_blocking: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Access {self._references} {self._waiters}>"

    def put(self, value: object) -> ObjectRef[Any]:
        """Stores a value; returns its ref."""
        serialized = serialize(value)
        return wrap(self.put_serialized(serialized))

    def put_serialized(self, serialized: Serialized) -> LocalObject:
        """The same for a value that is pickled already."""
        nested = [ref.binary() for ref in serialized.refs] or None
        object_id = self._next_task_id() + PUT_INDEX
        if self._values.is_large(serialized):
            place = self._values.store(serialized)
            local = self._references.own(object_id)
            local.pin = Pin(object_id, 1)
            local.payload, local.kind = place, SHARED
            self._post((SEAL, object_id, place[0], place[1], nested))
        else:
            local = self._references.own(object_id)
            local.kind, local.payload = kind, payload = inline(serialized)
            self._post((PUT, object_id, kind, payload, nested))
        return local

    def load(self, local: LocalObject) -> Any:
        """The value of an object that is there; raises if it is an error."""
        if local.kind == UNRESOLVED:
            if self._waiters.broken is not None:
                raise LocalNodeDiedError(f"The node of this process is gone: {self._waiters.broken}.")
            raise AssertionError(f"{local} is read before it is there")
        return self._values.load(local.kind, local.payload, local.pin)

    def subscribe(self, objects: Sequence[LocalObject]) -> None:
        """Asks for values that would not come by themselves."""
        wanted = []
        for local in objects:
            if local.kind == UNRESOLVED and not local.coming:
                local.coming = True
                wanted.append(local.id)
        if wanted:
            self._post((SUBSCRIBE, wanted))

    def wait_in_thread(
        self, objects: Sequence[LocalObject], enough: int, fails_fast: bool, timeout: float | None
    ) -> bool:
        """Waits until ``enough`` of the objects are there (or one failed). False if the time is over first."""
        self.subscribe(objects)
        waiter = ThreadWaiter(enough, fails_fast)
        if not self._waiters.register(waiter, objects):
            return True
        task = running_task()
        blocks = task is not None and task.blocks
        try:
            if task is not None and blocks:
                self._post((BLOCKED, task.id))
                if self.before_blocking is not None:
                    self.before_blocking()
            self._flush()
            return waiter.wait(timeout)
        finally:
            self._waiters.withdraw(waiter, objects if not waiter.fired or fails_fast or enough < len(objects) else ())
            if task is not None and blocks:
                self._post((UNBLOCKED, task.id))
                if self.after_blocking is not None:
                    self.after_blocking()

    async def wait_in_loop(self, objects: Sequence[LocalObject], enough: int, fails_fast: bool) -> None:
        """The same for coroutines. Cancelling it only stops the waiting."""
        import asyncio  # start-up cost: whoever awaits has it

        self.subscribe(objects)
        waiter = LoopWaiter(enough, fails_fast, asyncio.get_running_loop())
        if not self._waiters.register(waiter, objects):
            return
        try:
            await waiter.future
        finally:
            self._waiters.withdraw(waiter, objects if not waiter.fired or fails_fast or enough < len(objects) else ())

    def future_for(self, local: LocalObject) -> asyncio.Future[None] | None:
        """A future of the running loop, done when the object is there; None if it is."""
        import asyncio  # start-up cost: whoever awaits has it

        if local.kind != UNRESOLVED:
            return None
        self.subscribe((local,))
        waiter = LoopWaiter(1, False, asyncio.get_running_loop())
        if not self._waiters.register(waiter, (local,)):
            return None
        return waiter.future

    def concurrent_future(self, local: LocalObject) -> concurrent.futures.Future[Any]:
        """A ``concurrent.futures.Future`` with the object's value."""
        import concurrent.futures  # start-up cost: few programs want it

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        ref = wrap(self._references.borrow(local.id))  # the object lives while the future is pending

        def resolve() -> None:
            threading.Thread(target=_resolve, args=(self, ref, future), name="asyncray-future", daemon=True).start()

        self.subscribe((local,))
        waiter = CallWaiter(1, resolve)
        if not self._waiters.register(waiter, (local,)):
            _resolve(self, ref, future)
        return future

    def get(self, objects: Sequence[LocalObject], timeout: float | None) -> list[Any]:
        """The values, in order; raises the first error that is known."""
        if any(local.kind == UNRESOLVED for local in objects):
            started = time.monotonic() if timeout is not None else 0.0
            if not self.wait_in_thread(objects, len(objects), True, timeout):
                raise GetTimeoutError(
                    f"Get timed out after {time.monotonic() - started:.3g} seconds: some objects are not ready."
                )
        return self.load_all(objects)

    async def get_async(self, objects: Sequence[LocalObject]) -> list[Any]:
        """The same for coroutines."""
        if any(local.kind == UNRESOLVED for local in objects):
            await self.wait_in_loop(objects, len(objects), True)
        return self.load_all(objects)

    def load_all(self, objects: Sequence[LocalObject]) -> list[Any]:
        """The values of objects that are all there, or of which one is an error: that one is raised."""
        for local in objects:
            if local.kind in (UNRESOLVED, ERROR, FAULT):
                for failed in objects:
                    if failed.kind in (ERROR, FAULT):
                        self.load(failed)
                break
        return [self.load(local) for local in objects]


def _resolve(access: Access, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = access.load(ref._local)
    except BaseException as error:  # whatever the task raised goes into the future
        future.set_exception(error)
    else:
        future.set_result(value)
