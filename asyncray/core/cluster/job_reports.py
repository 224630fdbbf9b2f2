"""The ends of jobs, which begin at the node of their driver: that node reports them to the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asyncray.core.cluster.members import Members
from asyncray.core.jobs import job_row
from asyncray.core.questions import Answer
from asyncray.core.records import Job


class JobReports:
    """Reports to the head when jobs begin and end.

    Args:
        node: the ID of this node.
        over: called with the jobs that have ended. Other nodes learn of them from the head.
    """

    def __init__(self, node: bytes, members: Members, over: Callable[[Iterable[bytes]], None]) -> None:
        self._node = node
        self._members = members
        self._over = over

    def __repr__(self) -> str:
        return f"<JobReports of {self._members}>"

    def job_began(self, job: Job, pid: int) -> None:
        """A driver has connected."""
        self._members.ask("job_began", [job_row(job, self._node, pid)], _ignore)

    def job_ended(self, job: Job) -> None:
        """The driver of a job has ended, and nothing of it outlives the driver."""
        self._over([job.id])
        self._members.ask("job_ended", [job.id.hex(), "its driver has ended"], _ignore)


def _ignore(answer: Answer) -> None:
    """Ignores the answer to a report."""
