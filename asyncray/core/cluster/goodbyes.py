"""Goodbyes: before a driver ends, it gets the last output and the unread errors of its job from all nodes.

1. The home of the driver asks the nodes that it told the job (LAST_OUTPUT).
2. Each sends the last lines and errors, and behind them LAST_DONE with the nodes that it told the job itself.
3. The home asks those, too. So it finds all nodes, and no cycle of nodes that told each other makes it ask twice.

The driver gets its answer when all have answered or ended, or after ``PATIENCE``: it waits for a second itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asyncray.cluster_messages import LAST_DONE, LAST_OUTPUT
from asyncray.core.clock import Clock
from asyncray.core.cluster.commands import ReadLastOutput
from asyncray.core.cluster.far_output import FarOutput
from asyncray.core.cluster.known_templates import KnownTemplates
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.questions import LATER, Question
from asyncray.core.records import Job
from asyncray.core.unread import Unread

PATIENCE = 0.8
"""Seconds for the last output of other nodes: less than ``GOODBYE_DEADLINE``, so that the driver gets the answer."""


class _Goodbye:
    """A driver that waits."""

    __slots__ = ("asked", "question", "until", "waiting")

    def __init__(self, question: Question, until: float) -> None:
        self.question = question
        self.until = until
        # The nodes that were asked, and those that have not answered.
        self.asked: dict[Peer, None] = {}
        self.waiting: dict[Peer, None] = {}

    def __repr__(self) -> str:
        return f"<_Goodbye waits for {list(self.waiting)}>"


class Goodbyes:
    """Both sides: drivers of this node that are about to end, and the last output of this node for others.

    Args:
        jobs: those of this node by JobID, with those of other nodes that run here.
        peer: returns the record of a node.
        say_goodbye: lets this node report the output that it has of a job.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        jobs: dict[bytes, Job],
        unread: Unread,
        output: FarOutput,
        templates: KnownTemplates,
        peer: Callable[[bytes], Peer],
        say_goodbye: Callable[[Job], None],
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._jobs = jobs
        self._unread = unread
        self._output = output
        self._templates = templates
        self._peer = peer
        self._say_goodbye = say_goodbye
        # JobID -> the driver that waits.
        self._open: dict[bytes, _Goodbye] = {}

    def __repr__(self) -> str:
        return f"<Goodbyes {len(self._open)} open>"

    # The driver's home ------------------------------------------------------------------------------------------------

    def goodbye(self, question: Question) -> Any:
        """A driver is about to end: it gets the last output of all nodes before the answer."""
        job = question.asker.job
        if job is None:
            return None
        self._say_goodbye(job)
        self._end(job.id)  # a driver may say goodbye twice
        goodbye = _Goodbye(question, self._clock.now + PATIENCE)
        self._ask(job.id, goodbye, self._templates.told(job.id))
        if not goodbye.waiting:
            return None
        self._open[job.id] = goodbye
        return LATER

    def _ask(self, job_id: bytes, goodbye: _Goodbye, peers: Iterable[Peer]) -> None:
        for peer in peers:
            if peer.alive and peer not in goodbye.asked:
                goodbye.asked[peer] = goodbye.waiting[peer] = None
                self._outbox.send(peer, (LAST_OUTPUT, job_id))

    def last_done(self, peer: Peer, message: Any) -> None:
        """LAST_DONE: another node has sent its last output of a job."""
        _, job_id, nodes = message
        goodbye = self._open.get(job_id)
        if goodbye is None:
            return  # it came too late
        goodbye.waiting.pop(peer, None)
        self._ask(job_id, goodbye, [self._peer(node) for node in nodes])
        self._settle(job_id, goodbye)

    def _settle(self, job_id: bytes, goodbye: _Goodbye) -> None:
        if not goodbye.waiting:
            self._end(job_id)

    def _end(self, job_id: bytes) -> None:
        goodbye = self._open.pop(job_id, None)
        if goodbye is not None:
            goodbye.question.answer(None)

    # Another node -----------------------------------------------------------------------------------------------------

    def last_output(self, peer: Peer, message: Any) -> None:
        """LAST_OUTPUT: a driver of another node is about to end."""
        _, job_id = message
        job = self._jobs.get(job_id)
        if job is None or job.reports_to is not peer:
            self._outbox.send(peer, (LAST_DONE, job_id, []))
            return
        self._unread.job_ends(job)
        self._outbox.do(ReadLastOutput(job, peer.id))

    def last_lines_read(self, job: Job, node: bytes) -> None:
        """The shell has sent the last lines of a job."""
        self._output.finish(job)
        # The list may name the home itself, which asks no node twice.
        told = [peer.id for peer in self._templates.told(job.id) if peer.id != node]
        self._outbox.send(self._peer(node), (LAST_DONE, job.id, told))

    # Losses and time --------------------------------------------------------------------------------------------------

    def lost(self, peer: Peer) -> None:
        """Another node has ended."""
        for job_id, goodbye in list(self._open.items()):
            goodbye.waiting.pop(peer, None)
            self._settle(job_id, goodbye)

    def jobs_over(self, job_ids: Iterable[bytes]) -> None:
        """Jobs have ended: nobody waits any more."""
        for job_id in job_ids:
            self._end(job_id)

    def tick(self) -> None:
        """Some time has passed: drivers that have waited long enough get their answers."""
        for job_id, goodbye in list(self._open.items()):
            if self._clock.now >= goodbye.until:
                self._end(job_id)

    @property
    def tick_wanted_at(self) -> float | None:
        """When ``tick`` should come. None: nobody waits."""
        return min((goodbye.until for goodbye in self._open.values()), default=None)

    def check(self) -> None:
        """Raises AssertionError if a driver waits for nobody."""
        for goodbye in self._open.values():
            assert goodbye.waiting, f"{goodbye} is left"
            assert goodbye.asked.keys() >= goodbye.waiting.keys(), f"{goodbye} waits for a node that was not asked"
