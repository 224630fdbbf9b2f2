"""The workers' output on its way to the drivers: when it is read, and which driver gets it.

The files of a worker are read ten times a second while it has work, and once more after a message to it. Now and then
the daemon reads all files, because threads and child processes may write while their worker has no work.
Each line goes to the driver whose job the worker serves, or to the node of that driver. A line that is not finished
when its task has finished is sent as it is. A driver that does not read is sent no more: its output waits in the files,
up to their limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from asyncray.core.leases import Worker
from asyncray.core.records import Client, Job, Party
from asyncray.core.workers import Pool
from asyncray.io.streams import MessageStream
from asyncray.messages import OUTPUT
from asyncray.node.logs import Line, WorkerLogs

if TYPE_CHECKING:
    from asyncray.core.cluster.far_output import FarOutput

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
        # Workers that have work, or got a message since the last reading, or had new lines then.
        self._active: dict[Worker, None] = {}
        # The timer of the next reading. None while no output is expected.
        self._timer: asyncio.TimerHandle | None = None
        # The way to drivers at other nodes. None on a node that belongs to no cluster. ``join`` sets both.
        self._far: FarOutput | None = None
        self._request_flush: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Output of {len(self._active)} active workers>"

    def join(self, far: FarOutput, request_flush: Callable[[], None]) -> None:
        """The node belongs to a cluster.

        Args:
            request_flush: makes the daemon write messages in this turn of the loop.
        """
        self._far = far
        self._request_flush = request_flush

    def expect(self, parties: Iterable[Party]) -> None:
        """These parties get messages. Workers among them may write something, and are read a moment later."""
        for party in parties:
            if isinstance(party, Client) and party.worker is not None:
                self._active[party.worker] = None
        self._acknowledge()
        self._set_timer()

    def _acknowledge(self) -> None:
        """Tells other nodes how much of their output drivers of this node have read."""
        if self._far is not None and self._far.owed:
            self._far.acknowledge(self._is_behind)
            self._request_flush()

    def _is_behind(self, reader: Party) -> bool:
        stream = self._stream_of(reader)
        return stream is not None and (stream.backlog > _MOST_UNREAD or bool(reader.out))

    def _set_timer(self) -> None:
        if self._timer is None and (self._active or (self._far is not None and self._far.owed)):
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def _look(self) -> None:
        self._timer = None
        self._read(self._active)
        self._acknowledge()
        self._set_timer()

    def read_all(self) -> None:
        """Sends the new lines of all workers to the drivers."""
        self._read(self._pool.workers.values())
        self._set_timer()

    def _read(self, workers: Iterable[Worker]) -> None:
        for worker in list(workers):
            busy = _is_busy(worker)
            if self._pass_on(worker, pause=not busy) or busy:
                self._active[worker] = None
            else:
                self._active.pop(worker, None)

    def read_last_of(self, job: Job) -> None:
        """The driver of the job is about to end: sends it the new lines of its workers, unfinished ones as well."""
        for worker in job.workers.values():
            self._pass_on(worker, last=True)

    def ended(self, worker: Worker) -> str:
        """Sends the last output of a worker that has ended to its driver; returns the end of its log, for people."""
        self._active.pop(worker, None)
        self._pass_on(worker, last=True)
        tail = self._logs.tail(worker.number)
        self._logs.ended(worker.number)
        return tail

    def _pass_on(self, worker: Worker, *, last: bool = False, pause: bool = True) -> bool:
        """Sends the worker's new lines to its driver. Returns True if there were some, or if some wait."""
        job = worker.job
        if job is not None and not last and self._must_wait(job):
            self._logs.skip_old(worker.number)
            return True
        lines = self._logs.read(worker.number, _name(worker), worker.pid, last=last, pause=pause)
        if lines and job is not None and job.setup["log_to_driver"]:
            self._send(job, lines)
        return bool(lines)

    def _must_wait(self, job: Job) -> bool:
        """True if the driver of a job has left too much unread."""
        reader = job.output_reader
        if reader is None:
            return False
        if reader.is_node:
            return self._far is not None and self._far.is_full(job)
        stream = self._stream_of(reader)
        return stream is not None and stream.backlog > _MOST_UNREAD

    def _send(self, job: Job, lines: list[Line]) -> None:
        reader = job.output_reader
        if reader is None:
            return
        if reader.is_node:
            if self._far is not None:
                self._far.send(job, lines)
                self._request_flush()
            return
        stream = self._stream_of(reader)
        if stream is not None:
            stream.send([(OUTPUT, lines)])

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
