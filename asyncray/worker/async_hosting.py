"""Hosting an actor that has coroutine methods: one event loop, on the main thread.

Constructor and plain methods run on that thread, too, and block the loop. Up to ``max_concurrency`` calls are under way
at once; further ones start in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, NoReturn

import uvloop

from asyncray.exceptions import AsyncioActorExit
from asyncray.messages import Message
from asyncray.runtime.context import enter, leave
from asyncray.worker.hosting import ActorHost, Process
from asyncray.worker.running import Invocation


class AsyncHost(ActorHost):
    """An actor with an event loop."""

    def __init__(self, process: Process, invocation: Invocation) -> None:
        super().__init__(process, invocation)
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(_tell)
        asyncio.set_event_loop(self._loop)
        self._arrived: deque[Message] = deque()
        self._armed = False
        self._flushing = False
        self._waiting: deque[Message] = deque()
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._unstarted: dict[bytes, Message] = {}  # calls whose asyncio task has not made its first step
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

    def invoke(self, message: Message) -> bool:
        self._arrived.append(message)
        if not self._armed:
            self._armed = True
            self._loop.call_soon_threadsafe(self._take_arrived)
        return True

    def stop(self, task_id: bytes) -> bool:
        self._loop.call_soon_threadsafe(self._cancel, task_id)
        return True

    def leave(self, why: str) -> bool:
        self._loop.call_soon_threadsafe(self._leave, why)
        return True

    def wake(self) -> None:
        assert self.ending is not None
        self.leave(self.ending)

    def exit(self) -> NoReturn:
        try:
            super().exit()
        except SystemExit:
            raise AsyncioActorExit() from None  # a SystemExit in a task of the user's would end the loop

    # In the loop ------------------------------------------------------------------------------------------------------

    def _take_arrived(self) -> None:
        self._armed = False
        arrived = self._arrived
        while arrived:
            self._waiting.append(arrived.popleft())
        self._start()

    def _start(self) -> None:
        waiting, tasks = self._waiting, self._tasks
        while waiting and len(tasks) < self.concurrency and self.ending is None:
            message = waiting.popleft()
            self._unstarted[message[1]] = message
            tasks[message[1]] = self._loop.create_task(self._call(message))

    async def _call(self, message: Message) -> None:
        del self._unstarted[message[1]]
        invocation, runner = self.begin(message), self.process.runner
        enter(invocation.context)
        reply: Message | None = None
        keep: object = None
        try:
            args, kwargs = runner.arguments(message)
            result = self.method(invocation.definition)(*args, **kwargs)
            if isinstance(result, Coroutine):
                result = await result
            reply, keep = self.returned(invocation, result)
        except asyncio.CancelledError:
            reply = runner.cancelled(invocation.id, invocation.microseconds())
        except SystemExit as error:
            if self.ending is None:
                self._die(error)
                return
        except BaseException as error:  # user code may raise anything
            reply, keep = runner.failed(invocation, error)
        leave(invocation.context)
        del self.running[invocation.id]
        self._over(invocation.id, reply, keep)

    def _over(self, task_id: bytes, reply: Message | None, keep: object) -> None:
        del self._tasks[task_id]
        if reply is not None and not self.silent:
            self._post(reply, keep)
        if self._waiting:
            self._start()
        if self._leaving is not None:
            self._leave(self._leaving)

    def _post(self, reply: Message, keep: object) -> None:
        self.process.runtime.references.posted.append(reply)
        del keep  # the refs inside had to live until here
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.process.runtime.flush()

    def _cancel(self, task_id: bytes) -> None:
        task, context = self._tasks.get(task_id), self.running.get(task_id)
        if task is not None:
            task.cancel()
            if context is not None:
                context.cancelled = True
            else:  # a task that is cancelled before its first step makes none
                self.process.runner.discard(self._unstarted.pop(task_id))
                self._over(task_id, self.process.runner.cancelled(task_id), None)
            return
        for message in self._waiting:
            if message[1] == task_id:
                self._waiting.remove(message)
                self.process.runner.discard(message)
                self._post(self.process.runner.cancelled(task_id), None)
                return

    def _leave(self, why: str) -> None:
        """Ends the loop: at once after ``exit_actor``, else when all calls are done that were to be done."""
        self._leaving = why
        ahead = self.ending is None and (self._waiting or self._arrived)
        if self.silent or not (self._tasks or ahead):
            self.process.leaving = why
            self._loop.stop()

    def _die(self, error: SystemExit) -> None:
        def leave() -> None:
            raise error

        self._loop.call_soon(leave)

    def shut_down(self) -> Any:
        result = super().shut_down()
        if isinstance(result, Coroutine):
            try:
                self._loop.run_until_complete(result)
            except BaseException:  # the user's; promised to be swallowed
                pass


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaited has failed. To leave by ``exit_actor`` in a task of one's own is no failure."""
    if not isinstance(context.get("exception"), AsyncioActorExit):
        loop.default_exception_handler(context)
