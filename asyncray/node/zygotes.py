"""The daemon's end of the zygote: starting it, telling it what to fork and kill, hearing what became of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from asyncray.config import FRAME_LIMIT
from asyncray.io.streams import MessageStream
from asyncray.messages import ENDED, FORK, FORKED, STRIKE, Message


class Listener(Protocol):
    """Who hears of workers."""

    def worker_started(self, number: int, pid: int) -> None:
        """A worker was forked."""

    def worker_ended(self, number: int, pid: int, status: int | None) -> None:
        """A worker is gone; the wait status, or None if nobody knows it."""

    def zygote_ended(self) -> None:
        """The zygote is gone, and with it all workers."""


class ZygoteLink:
    """The stream to a zygote, and its process."""

    def __init__(self, listener: Listener, pid: int) -> None:
        self._listener = listener
        self._stream: MessageStream | None = None
        self._unsent: list[Message] = []
        self._workers: set[int] = set()
        self.pid = pid
        self.ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ZygoteLink pid={self.pid} {len(self._workers)} workers>"

    async def connect(self, connection: socket.socket) -> None:
        """Takes over the stream."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        make: Callable[[], MessageStream] = lambda: MessageStream(FRAME_LIMIT, self._received, self._closed)  # noqa: E731
        _, self._stream = await loop.create_connection(make, sock=connection)
        if self._unsent:
            self._stream.send(self._unsent)
            self._unsent = []

    def fork(self, number: int) -> None:
        """Asks for a worker."""
        self._workers.add(number)
        self._send((FORK, number))

    def strike(self, number: int) -> None:
        """Asks for a worker's death."""
        self._send((STRIKE, number))

    def _send(self, message: Message) -> None:
        if self._stream is None:
            self._unsent.append(message)
        else:
            self._stream.send([message])

    def _received(self, stream: MessageStream, messages: list[Message]) -> None:
        for message in messages:
            if message[0] == FORKED:
                self._listener.worker_started(message[1], message[2])
            elif message[0] == ENDED:
                self._workers.discard(message[1])
                self._listener.worker_ended(message[1], message[2], message[3])

    def _closed(self, stream: MessageStream, why: str | None) -> None:
        self.ended.set()
        for number in sorted(self._workers):
            self._listener.worker_ended(number, 0, None)
        self._workers.clear()
        self._listener.zygote_ended()

    def release(self) -> None:
        """Lets the zygote go: it kills its workers, cleans up and ends."""
        if self._stream is not None:
            self._stream.abort()

    async def wait(self, deadline: float) -> None:
        """Waits for the process to end; kills it if it does not."""
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(self.pid)
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            async with asyncio.timeout(deadline):
                await gone.wait()
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it has ended: this does not wait


def describe_end(status: int | None, log_tail: str) -> str:
    """A worker's end, for people."""
    if status is None:
        how = "it went with the zygote that had forked it"
    elif os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "a signal"
        how = f"killed by signal {name} ({number})"
    else:
        how = f"exit code {os.waitstatus_to_exitcode(status)}"
    return f"{how}. The last lines of its log:\n{log_tail}" if log_tail else how
