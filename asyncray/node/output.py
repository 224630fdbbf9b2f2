"""The workers' output on its way to the drivers: when it is read, and which driver gets it.

While a task runs the files are read ten times a second; otherwise only with the daemon's slow tick. Each
line goes to the driver whose job the worker serves. A line that is not finished when its task has finished is sent as
it is. A driver that does not read is sent no more: its output waits in the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncray.core.leases import Worker
from asyncray.core.records import Job, Party
from asyncray.core.workers import Pool
from asyncray.io.streams import MessageStream
from asyncray.messages import OUTPUT
from asyncray.node.logs import WorkerLogs

_PAUSE = 0.1
_MOST_UNREAD = 1 << 20
"""Bytes. Output for a driver that has left more unread waits."""


class Output:
    """Sends the workers' lines to their drivers.

    Args:
        logs: the workers' files.
        pool: the workers.
        stream_of: the connection of a party, if it still has one.
    """

    def __init__(self, logs: WorkerLogs, pool: Pool, stream_of: Callable[[Party], MessageStream | None]) -> None:
        self._logs = logs
        self._pool = pool
        self._stream_of = stream_of
        # The timer of the next reading. None while no output is expected.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Output {'watching' if self._timer else 'quiet'}>"

    def expect(self) -> None:
        """An event may cause output: looks for it a moment later."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.read():
            self.expect()

    def read(self, last_of: Job | None = None) -> bool:
        """Sends new lines to the drivers.

        Args:
            last_of: a job whose driver is about to end: it gets unfinished lines, too.

        Returns:
            True if more may come within a moment.
        """
        more = False
        for worker in list(self._pool.workers.values()):
            last = last_of is not None and worker.job is last_of
            busy = _is_busy(worker)
            more |= self._pass_on(worker, last=last, pause=not busy) or busy
        return more

    def ended(self, worker: Worker) -> str:
        """Sends the last output of a worker that has ended to its driver; returns the end of its log, for people."""
        self._pass_on(worker, last=True)
        tail = self._logs.tail(worker.number)
        self._logs.ended(worker.number)
        return tail

    def _pass_on(self, worker: Worker, *, last: bool, pause: bool = True) -> bool:
        reader = worker.job.reports_to if worker.job is not None else None
        stream = self._stream_of(reader) if reader is not None else None
        if stream is not None and stream.backlog > _MOST_UNREAD and not last:
            return True
        lines = self._logs.read(worker.number, _name(worker), worker.pid, last=last, pause=pause)
        if lines and stream is not None and worker.job is not None and worker.job.setup["log_to_driver"]:
            stream.send([(OUTPUT, lines)])
        return bool(lines)

    def close(self) -> None:
        """Reads no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._logs.close()


def _is_busy(worker: Worker) -> bool:
    return bool(worker.inflight or worker.nested or (worker.actor is not None and worker.actor.inflight))


def _name(worker: Worker) -> str:
    """The task or actor that output without a mark belongs to. C code and subprocesses write no marks."""
    if worker.actor is not None:
        return worker.actor.task.name
    task = next(iter(worker.inflight.values()), None)
    return "" if task is None else task.name
