"""Hosts an actor that has coroutine methods: one event loop, on the main thread.

Constructor and plain methods run on that thread, too, and block the loop. Up to ``max_concurrency`` calls run at once;
further calls start in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, NoReturn

import uvloop

from asyncray.config import EXIT_GRACE
from asyncray.exceptions import AsyncioActorExit
from asyncray.messages import ConstructMessage, InvokeMessage, Message, UndefineMessage
from asyncray.runtime.context import enter, leave
from asyncray.worker.hosting import RUNNING, SILENT, ActorHost, HostProcess


class AsyncHost(ActorHost):
    """An actor with an event loop."""

    def __init__(self, process: HostProcess, message: ConstructMessage) -> None:
        super().__init__(process, message)
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(_log_unhandled)
        asyncio.set_event_loop(self._loop)
        # Calls on their way from the io thread to the loop.
        self._arrived: deque[InvokeMessage] = deque()
        # True while ``_take_arrived`` is scheduled.
        self._taking = False
        # True while ``_flush`` is scheduled.
        self._flush_scheduled = False
        # Calls that wait for a free place among ``max_concurrency``.
        self._waiting: deque[InvokeMessage] = deque()
        # The asyncio tasks of calls that run, by the ID of the call.
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._unstarted: dict[bytes, InvokeMessage] = {}  # calls whose asyncio task has not made its first step
        # Why the loop stops when the calls are done. None while it is not to stop.
        self._leaving: str | None = None

    def construct(self) -> None:
        async def run() -> None:
            super(AsyncHost, self).construct()

        self._loop.run_until_complete(run())

    def serve(self) -> None:
        self.process.runtime.flush()
        if self.process.leaving is None:
            self._loop.run_forever()

    # In the io thread -------------------------------------------------------------------------------------------------

    def invoke(self, message: InvokeMessage) -> bool:
        self._arrived.append(message)
        if not self._taking:
            self._taking = True
            self._loop.call_soon_threadsafe(self._take_arrived)
        return True

    def undefine(self, message: UndefineMessage) -> bool:
        # Behind the calls that were cancelled before, and that have not made their first step.
        self._loop.call_soon_threadsafe(self.process.undefine, message)
        return True

    def cancel_call(self, task_id: bytes) -> bool:
        self._loop.call_soon_threadsafe(self._cancel, task_id)
        return True

    def end_when_done(self, why: str) -> bool:
        self._loop.call_soon_threadsafe(self._leave, why)
        return True

    def _wake_main_thread(self) -> None:
        self.end_when_done(self.reason)

    def exit_actor(self) -> NoReturn:
        try:
            super().exit_actor()
        except SystemExit:
            raise AsyncioActorExit() from None  # SystemExit in an asyncio task of the user would end the loop

    # In the loop ------------------------------------------------------------------------------------------------------

    def _take_arrived(self) -> None:
        self._taking = False
        arrived = self._arrived
        while arrived:
            self._waiting.append(arrived.popleft())
        self._start()

    def _start(self) -> None:
        waiting, tasks = self._waiting, self._tasks
        while waiting and len(tasks) < self.concurrency and self.ending is RUNNING:
            message = waiting.popleft()
            self._unstarted[message[1]] = message
            tasks[message[1]] = self._loop.create_task(self._call(message))

    async def _call(self, message: InvokeMessage) -> None:
        del self._unstarted[message[1]]
        invocation, process = self.begin(message), self.process  # not its runner, which is another one after a fork
        enter(invocation.context)
        reply: Message | None = None
        keep: Any = None
        try:
            args, kwargs = process.runner.arguments(message)
            result = self.method(invocation.definition)(*args, **kwargs)
            if type(result) is CoroutineType or isinstance(result, Coroutine):  # the second takes 0.2 us
                result = await result
            if invocation.context.cancelled:  # it ended early, so its value is no result
                reply = process.runner.cancelled(invocation.id, invocation.microseconds())
            else:
                reply, keep = process.runner.small_reply(invocation, result)
                if reply is None:
                    reply, keep = await process.runner.large_reply_async(invocation, keep)
        except asyncio.CancelledError:
            reply = process.runner.cancelled(invocation.id, invocation.microseconds())
        except SystemExit as error:
            if self.ending is RUNNING:
                self._die(error)
                return
        except BaseException as error:  # user code may raise anything
            reply, keep = process.runner.failed(invocation, error)
        leave(invocation.context)
        del self.running[invocation.id]
        self._finished(invocation.id, reply, keep)

    def _finished(self, task_id: bytes, reply: Message | None, keep: object) -> None:
        del self._tasks[task_id]
        if reply is not None and self.ending is not SILENT:
            self._post(reply, keep)
        if self._waiting:
            self._start()
        if self._leaving is not None:
            self._leave(self._leaving)

    def _post(self, reply: Message, keep: object) -> None:
        self.process.runtime.references.posted.append(reply)
        del keep  # the refs inside had to live until here
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.process.runtime.flush()

    def _cancel(self, task_id: bytes) -> None:
        task, context = self._tasks.get(task_id), self.running.get(task_id)
        if task is not None:
            task.cancel()
            if context is not None:
                context.cancelled = True
            # An asyncio task that is cancelled before its first step never makes that step.
            else:
                self.process.runner.discard(self._unstarted.pop(task_id))
                self._finished(task_id, self.process.runner.cancelled(task_id), None)
            return
        for message in self._waiting:
            if message[1] == task_id:
                self._waiting.remove(message)
                self.process.runner.discard(message)
                self._post(self.process.runner.cancelled(task_id), None)
                return

    def _leave(self, why: str) -> None:
        """Ends the loop: at once after ``exit_actor``, otherwise when all calls that are to run have finished."""
        self._leaving = why
        ahead = self.ending is RUNNING and (self._waiting or self._arrived)
        if self.ending is SILENT or not (self._tasks or ahead):
            self.process.leaving = why
            self._loop.stop()

    def _die(self, error: SystemExit) -> None:
        def leave() -> None:
            raise error

        self._loop.call_soon(leave)

    def run_shutdown_method(self) -> Any:
        result = super().run_shutdown_method()
        if isinstance(result, Coroutine):
            try:
                self._loop.run_until_complete(result)
            except BaseException:  # of the user's method, and documented to be swallowed
                pass

    def let_go(self) -> None:
        """Cancels the loop's tasks, as ``asyncio.run`` does at its end: they may hold the instance."""
        self.ending = SILENT
        self._leaving = None  # calls that end now do not stop the loop
        try:
            self._loop.run_until_complete(_cancel_all())
        finally:
            super().let_go()


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=EXIT_GRACE)
    await loop.shutdown_asyncgens()


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an exception that no code awaits, except that of ``exit_actor`` in an asyncio task of the user."""
    if not isinstance(context.get("exception"), AsyncioActorExit):
        loop.default_exception_handler(context)
