"""Far output: lines that workers print here for a driver at another node, and lines that come for drivers here.

A node sends lines straight to the home of the driver, whichever node told it the job: so the loss of a node between the
two loses none. The home acknowledges what its driver has read (OUTPUT_READ). While a job has ``MOST_UNREAD`` characters
under way, its output waits in the workers' files. The last lines of a worker that has ended cannot wait there: they are
left out, counted, and a line says how many they were.

The lines of a detached actor that the head's node has adopted go to the head's node, and from there to the driver for
which the actor was made, as long as that lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from asyncray.cluster_messages import OUTPUT_OF, OUTPUT_READ
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.records import Job, Party
from asyncray.messages import OUTPUT

MOST_UNREAD = 1 << 20
"""Characters of one job that are on their way to its driver before further output waits."""

_PART = 1 << 16
"""Characters of one message. Frames between nodes are cut between messages."""

OutputLine: TypeAlias = "Sequence[str]"
"""stream ("out" or "err"), prefix, text"""


class _Sent:
    """The output of one job on its way to another node."""

    __slots__ = ("left_out", "unread")

    def __init__(self) -> None:
        # Characters that were sent and that the driver has not read.
        self.unread = 0
        # Lines that were not sent, and that no line has reported yet.
        self.left_out = 0

    def __repr__(self) -> str:
        return f"<_Sent unread={self.unread} left_out={self.left_out}>"


class FarOutput:
    """Both sides: lines of this node for drivers at others, and lines of others for drivers here.

    Args:
        jobs: those of this node by JobID, with those of other nodes that run here.
        host: the address of this node, which the lines name.
        directory: the workers' files, for people.
    """

    def __init__(self, outbox: Outbox, jobs: dict[bytes, Job], host: str, directory: str) -> None:
        self._outbox = outbox
        self._jobs = jobs
        self._host = host
        self._directory = directory
        # Home of a driver -> JobID -> the output on its way there.
        self._sent: dict[Peer, dict[bytes, _Sent]] = {}
        # Node -> JobID -> characters that have come from it and that were not acknowledged yet.
        self.owed: dict[Peer, dict[bytes, int]] = {}

    def __repr__(self) -> str:
        return f"<FarOutput to {len(self._sent)} nodes, owed to {len(self.owed)}>"

    # Lines of this node -----------------------------------------------------------------------------------------------

    def is_full(self, job: Job) -> bool:
        """True while further output of a job should wait, because too much is on its way to the driver."""
        sent = self._sent_of(job)
        return sent is not None and sent.unread > MOST_UNREAD

    def _sent_of(self, job: Job) -> _Sent | None:
        reader = job.output_reader
        return self._sent.get(reader, {}).get(job.output_job) if isinstance(reader, Peer) else None

    def send(self, job: Job, lines: Sequence[OutputLine]) -> None:
        """Sends lines to the home of a job's driver. Leaves them out and counts them if too much is on its way."""
        self._pass_on(job, [(stream, f"{prefix[:-1]}, ip={self._host})", text) for stream, prefix, text in lines])

    def _pass_on(self, job: Job, lines: Sequence[OutputLine]) -> None:
        reader, job_id = job.output_reader, job.output_job
        if not isinstance(reader, Peer) or not reader.alive:
            return
        sent = self._sent.setdefault(reader, {}).setdefault(job_id, _Sent())
        if sent.unread > MOST_UNREAD:
            sent.left_out += len(lines)
            return
        self._report_left_out(reader, job_id, sent)
        self._write(reader, job_id, sent, lines)

    def _write(self, reader: Peer, job_id: bytes, sent: _Sent, lines: Sequence[OutputLine]) -> None:
        for part, size in _parts(lines):
            sent.unread += size
            self._outbox.send(reader, (OUTPUT_OF, job_id, size, part))

    def _report_left_out(self, reader: Peer, job_id: bytes, sent: _Sent) -> None:
        if sent.left_out:
            text = f"... {sent.left_out} lines of workers are not shown, because nobody read fast enough"
            sent.left_out = 0
            self._write(reader, job_id, sent, [("err", f"(ip={self._host})", f"{text}, see {self._directory}")])

    def finish(self, job: Job) -> None:
        """The driver is about to end: reports now how many lines were left out."""
        sent = self._sent_of(job)
        if sent is not None and isinstance(job.reports_to, Peer):
            self._report_left_out(job.reports_to, job.id, sent)

    def output_read(self, peer: Peer, message: Any) -> None:
        """OUTPUT_READ: the driver has read this many characters of a job's output."""
        _, job_id, size = message
        sent = self._sent[peer][job_id]
        sent.unread -= size
        if sent.unread <= MOST_UNREAD:
            self._report_left_out(peer, job_id, sent)
        if not sent.unread:
            del self._sent[peer][job_id]

    # Lines of other nodes ---------------------------------------------------------------------------------------------

    def output_of(self, peer: Peer, message: Any) -> None:
        """OUTPUT_OF: lines for a driver of this node."""
        _, job_id, size, lines = message
        job = self._jobs.get(job_id)
        if job is not None and job.output_to is not None and job.output_to[0].is_node:
            self._pass_on(job, lines)
        elif job is not None and (reader := job.output_reader) is not None:
            self._outbox.send(reader, (OUTPUT, lines))
        owed = self.owed.setdefault(peer, {})
        owed[job_id] = owed.get(job_id, 0) + size

    def acknowledge(self, is_behind: Callable[[Party], bool]) -> None:
        """Acknowledges the output that drivers have read.

        Args:
            is_behind: True for a driver that has left too much unread.
        """
        for peer, owed in list(self.owed.items()):
            for job_id, size in list(owed.items()):
                job = self._jobs.get(job_id)
                reader = None if job is None else job.reports_to
                if reader is None or not is_behind(reader):
                    del owed[job_id]
                    self._outbox.send(peer, (OUTPUT_READ, job_id, size))
            if not owed:
                del self.owed[peer]

    def lost(self, peer: Peer) -> None:
        """Another node has ended."""
        self._sent.pop(peer, None)
        self.owed.pop(peer, None)

    def check(self) -> None:
        """Raises AssertionError if the books are wrong."""
        for peer, table in self._sent.items():
            assert peer.alive, f"{peer} is lost and reads output"
            for job_id, sent in table.items():
                assert sent.unread > 0, f"{sent} of job {job_id.hex()} waits for nothing"


def _parts(lines: Sequence[OutputLine]) -> Iterator[tuple[list[OutputLine], int]]:
    """Yields the lines in parts of a bounded size, each with its size."""
    part: list[OutputLine] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line[1]) + len(line[2])
        if size >= _PART:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size
