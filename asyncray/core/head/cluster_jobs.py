"""The jobs of a cluster: the nodes report when they begin and end, and the head lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncray.core.jobs import JOB_ENDED

if TYPE_CHECKING:
    from asyncray.words import JobRow

MOST_ENDED_JOBS = 10_000
"""The number of ended jobs that the head remembers."""


class ClusterJobs:
    """All jobs that run, and the last that ended."""

    def __init__(self) -> None:
        # By JobID, in the order in which they began.
        self._running: dict[str, JobRow] = {}
        # Jobs that have ended, the oldest end first.
        self._ended: dict[str, JobRow] = {}

    def __repr__(self) -> str:
        return f"<ClusterJobs {len(self._running)} run>"

    def began(self, row: JobRow) -> None:
        """A job has begun."""
        self._running[row["job_id"]] = row

    def ended(self, job_id: str, why: str) -> None:
        """A job has ended. Does nothing if it did before: its node may have been faster than its loss."""
        row = self._running.pop(job_id, None)
        if row is not None:
            self._ended[job_id] = {**row, "state": JOB_ENDED, "why": why}
            if len(self._ended) > MOST_ENDED_JOBS:
                del self._ended[next(iter(self._ended))]

    def node_ended(self, node: bytes, how: str) -> None:
        """A node is LOST or has LEFT, and the drivers there with it."""
        for job_id, row in list(self._running.items()):
            if row["node_id"] == node.hex():
                self.ended(job_id, f"its node has ended: {how}")

    def rows(self) -> list[JobRow]:
        """All jobs that are known: those that have ended first."""
        return [*self._ended.values(), *self._running.values()]

    def check(self) -> None:
        """Raises AssertionError if a job has ended and runs."""
        assert not self._running.keys() & self._ended.keys(), "a job has ended and runs"
