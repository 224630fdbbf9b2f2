"""Far notices: notices and errors of nodes for the drivers of other nodes. ``far_output`` carries output.

Notices and unread errors of a job go to the home of its driver, which hands them on. A notice names the node that it
comes from. Each node thins the errors of its own tasks out; the home does so once more over all nodes.

The end of a node is a notice for each driver whose job that node knew. The home of the driver may not have sent the job
there itself, so each node that did reports the end to the home. The driver gets one notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asyncray.cluster_messages import FOR_DRIVER, NODE_ENDED_FOR
from asyncray.config import LOG_WARNING, REPORTED_SINGLY
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.records import Job
from asyncray.messages import NOTICE, RUN_GC, UNREAD, Message

MOST_NAMES = 1000
"""The number of functions of a job whose errors at other nodes are counted. The oldest gives way."""


class _Errors:
    """The unread errors of one function at other nodes."""

    __slots__ = ("counts", "due")

    def __init__(self) -> None:
        # Node -> its last count.
        self.counts: dict[Peer, int] = {}
        # The next sum beyond the first few that the driver is to see.
        self.due = REPORTED_SINGLY * 10

    def __repr__(self) -> str:
        return f"<_Errors {sum(self.counts.values())}>"

    def is_news(self, peer: Peer, count: int) -> int:
        """Takes the count of a node. Returns the sum of all nodes if the driver is to see it, otherwise 0."""
        self.counts[peer] = count
        total = sum(self.counts.values())
        if total <= REPORTED_SINGLY:
            return total
        if total < self.due:
            return 0
        while self.due <= total:
            self.due *= 10
        return total


class FarNotices:
    """Both sides: notices of this node for drivers at others, and notices of others for drivers here.

    Args:
        jobs: those of this node by JobID, with those of other nodes that run here.
        describe: says for people which node a NodeID means.
    """

    def __init__(self, outbox: Outbox, jobs: dict[bytes, Job], describe: Callable[[bytes], str]) -> None:
        self._outbox = outbox
        self._jobs = jobs
        self._describe = describe
        # JobID -> the ended nodes that its driver has had a notice of.
        self._ended: dict[bytes, dict[bytes, None]] = {}
        # JobID -> name -> the unread errors at other nodes.
        self._errors: dict[bytes, dict[str, _Errors]] = {}
        outbox.send_far = self._send

    def __repr__(self) -> str:
        return f"<FarNotices of {len(self._errors)} jobs>"

    def _send(self, job: Job, message: Message) -> None:
        assert job.reports_to is not None
        self._outbox.send(job.reports_to, (FOR_DRIVER, job.id, message))

    def for_own_drivers(self, text: str) -> None:
        """Sends a warning to the drivers of this node, and to no others."""
        for job in self._jobs.values():
            if job.reports_to is not None and not job.reports_to.is_node:
                self._outbox.send_to_driver(job, (NOTICE, LOG_WARNING, text))

    def for_driver(self, peer: Peer, message: Any) -> None:
        """FOR_DRIVER: another node has a message for a driver of this one."""
        _, job_id, (kind, *fields) = message
        job = self._jobs.get(job_id)
        if job is None or job.reports_to is None:
            return  # the driver has ended
        if kind == NOTICE:
            level, text = fields
            self._outbox.send_to_driver(job, (NOTICE, level, f"{self._describe(peer.id)}: {text}"))
        elif kind == RUN_GC:
            self._outbox.send_to_driver(job, (RUN_GC,))
        elif kind == UNREAD:
            self._unread(peer, job, *fields)
        else:
            raise ValueError(f"{peer} has a message of kind {kind} for a driver")

    def _unread(self, peer: Peer, job: Job, name: str, kind: int, payload: Any, count: int) -> None:
        errors = self._errors.setdefault(job.id, {})
        if name not in errors and len(errors) >= MOST_NAMES:
            del errors[next(iter(errors))]
        total = errors.setdefault(name, _Errors()).is_news(peer, count)
        if total:
            self._outbox.send_to_driver(job, (UNREAD, name, kind, payload, total))

    # Nodes that end ---------------------------------------------------------------------------------------------------

    def node_ended(self, peer: Peer, how: str, jobs: Iterable[Job]) -> None:
        """Another node is lost or has left.

        Args:
            how: which node it is, and how it ended, for people.
            jobs: those that this node told it.
        """
        for job in list(jobs):
            reader = job.reports_to
            if isinstance(reader, Peer):
                self._outbox.send(reader, (NODE_ENDED_FOR, job.id, peer.id, how))
            else:
                self._tell(job, peer.id, how)

    def node_ended_for(self, peer: Peer, message: Any) -> None:
        """NODE_ENDED_FOR: a node has ended that knew a job of this node from another one."""
        _, job_id, node, how = message
        job = self._jobs.get(job_id)
        if job is not None:
            self._tell(job, node, how)

    def _tell(self, job: Job, node: bytes, how: str) -> None:
        if job.reports_to is None:
            return
        heard = self._ended.setdefault(job.id, {})
        if node not in heard:
            heard[node] = None
            text = f"{how}. Tasks that it had run again or fail, and what they printed last may be missing."
            self._outbox.send_to_driver(job, (NOTICE, LOG_WARNING, text))

    def jobs_over(self, job_ids: Iterable[bytes]) -> None:
        """Jobs have ended."""
        for job_id in job_ids:
            self._ended.pop(job_id, None)
            self._errors.pop(job_id, None)

    def check(self) -> None:
        """Raises AssertionError if something of an ended job is left."""
        for table in (self._ended, self._errors):
            assert table.keys() <= self._jobs.keys(), f"{self} keeps notices of ended jobs"
