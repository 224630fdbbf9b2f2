"""The daemon's end of the zygote: asks it to fork and to kill, learns of the ends of workers, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from typing import Protocol

from asyncray.config import FRAME_LIMIT, KILLED_DEADLINE, START_DEADLINE
from asyncray.io.control_groups import oom_kills
from asyncray.io.processes import kill
from asyncray.io.streams import MessageStream
from asyncray.messages import (
    ENDED,
    FORK,
    FORKED,
    KILL_WORKER,
    LACKS_LOG,
    EndedMessage,
    ForkedMessage,
    LacksLogMessage,
    Message,
    Received,
)

_MOST_DEATHS = 5
"""Zygotes that may die within ``_DEATHS_WITHIN`` seconds: one is bad luck, more than five are a broken machine."""

_DEATHS_WITHIN = 60.0

ExitStatus = int | str | None
"""How a worker ended: its wait status, why it could not start, or None if its zygote ended before it could report."""


class Listener(Protocol):
    """Learns of the starts and ends of workers."""

    def worker_started(self, number: int, pid: int) -> None:
        """A worker was forked."""

    def worker_lacks_log(self, number: int, why: str) -> None:
        """A worker starts without a log file, for the system's reason."""

    def worker_ended(self, number: int, status: ExitStatus) -> None:
        """A worker has ended."""

    def zygote_ended(self) -> None:
        """The zygote has ended, and with it all workers."""


class ZygoteLink:
    """The stream to a zygote, and its process. Requests before ``connect`` are kept until then."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        # None until ``connect``.
        self._stream: MessageStream | None = None
        # Requests that wait for ``connect``.
        self._unsent: list[Message] = []
        self._unanswered: dict[int, float] = {}  # forks, and when they must have happened
        # Numbers of workers that were asked for and whose end was not reported.
        self._workers: set[int] = set()
        self._loop = asyncio.get_running_loop()
        # None until ``connect`` and after ``end``.
        self.pid: int | None = None
        # Of the process. Opened at its start, because at its end no descriptor may be free.
        self._descriptor = -1

    def __repr__(self) -> str:
        return f"<ZygoteLink pid={self.pid} {len(self._workers)} workers>"

    async def connect(self, connection: socket.socket, pid: int) -> None:
        """Serves the stream to a zygote that was started, and watches its process."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        connection.setblocking(False)  # noqa: FBT003 - takes no keyword
        _, self._stream = await self._loop.create_connection(self._new_stream, sock=connection)
        if self._unsent:
            self._stream.send(self._unsent)
            self._unsent = []

    def _new_stream(self) -> MessageStream:
        return MessageStream(FRAME_LIMIT, self._received, self._closed)

    def fork(self, number: int) -> None:
        """Asks for a worker."""
        self._workers.add(number)
        self._unanswered[number] = self._loop.time() + START_DEADLINE
        self._send((FORK, number))

    def kill_worker(self, number: int) -> None:
        """Asks for a worker's death."""
        self._send((KILL_WORKER, number))

    def _send(self, message: Message) -> None:
        if self._stream is None:
            self._unsent.append(message)
        else:
            self._stream.send([message])

    def stood_still(self, seconds: float) -> None:
        """The daemon stood still and read no answer meanwhile: the zygote gets as much more time."""
        self._unanswered = {number: deadline + seconds for number, deadline in self._unanswered.items()}

    def is_stuck(self) -> bool:
        """True if it did not fork a worker in time."""
        return any(deadline < self._loop.time() for deadline in self._unanswered.values())

    def _received(self, stream: MessageStream, messages: list[Received]) -> None:
        for message in messages:
            if message[0] == FORKED:
                self._forked(message)
            elif message[0] == LACKS_LOG:
                self._lacks_log(message)
            elif message[0] == ENDED:
                self._ended(message)

    def _forked(self, message: ForkedMessage) -> None:
        _, number, pid = message
        self._unanswered.pop(number, None)
        self._listener.worker_started(number, pid)

    def _lacks_log(self, message: LacksLogMessage) -> None:
        _, number, why = message
        self._listener.worker_lacks_log(number, why)

    def _ended(self, message: EndedMessage) -> None:
        _, number, _, status = message
        self._unanswered.pop(number, None)
        self._workers.discard(number)
        self._listener.worker_ended(number, status)

    def _closed(self, stream: MessageStream, why: str | None) -> None:
        stream.drain_input()
        self._listener.zygote_ended()
        for number in sorted(self._workers):
            self._listener.worker_ended(number, None)
        self._workers.clear()

    def kill(self) -> None:
        """SIGKILL: its workers go with it."""
        if self.pid is not None:
            kill(self.pid)

    async def end(self) -> None:
        """Kills the process, and waits for its end; what its workers leave becomes this process's own.

        The zygote is not asked to end, because it may be busy: on a busy machine the modules that it loads ahead take
        seconds.
        """
        if self.pid is None:
            return
        self.kill()
        descriptor = self._descriptor
        gone = asyncio.Event()
        self._loop.add_reader(descriptor, gone.set)
        try:
            async with asyncio.timeout(KILLED_DEADLINE):
                await gone.wait()
        except TimeoutError:
            pass
        finally:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        if self._stream is not None:
            self._stream.abort()
        with contextlib.suppress(ChildProcessError):  # the system reaped it, where SIGCHLD is ignored
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - this does not wait
        self.pid = None


class DeathRate:
    """Counts deaths of zygotes, and forgets those of long ago."""

    def __init__(self) -> None:
        # The times of the last deaths, one more than are allowed.
        self._times: deque[float] = deque(maxlen=_MOST_DEATHS + 1)

    def __repr__(self) -> str:
        return f"<DeathRate {len(self._times)} deaths>"

    def is_too_high(self, now: float) -> bool:
        """Counts a death at this time; True if there were too many lately."""
        self._times.append(now)
        return len(self._times) > _MOST_DEATHS and now - self._times[0] <= _DEATHS_WITHIN


class MemoryKills:
    """Notices that the system has killed a process for lack of memory."""

    def __init__(self) -> None:
        self._known = oom_kills()

    def __repr__(self) -> str:
        return f"<MemoryKills {self._known}>"

    def explain(self, status: ExitStatus) -> str:
        """The end of a worker, for people."""
        how = describe_exit(status)
        if not isinstance(status, int) or not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            return how
        before, self._known = self._known, oom_kills()
        return f"{how}, probably for lack of memory" if self._known > before else how


def describe_exit(status: ExitStatus) -> str:
    """The end of a worker, for people."""
    if status is None:
        return "it went with the zygote that had forked it"
    if isinstance(status, str):
        return status
    if not os.WIFSIGNALED(status):
        return f"exit code {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "of real time"
    return f"killed by signal {name} ({number})"
