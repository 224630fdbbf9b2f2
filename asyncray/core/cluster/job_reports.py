"""The jobs of this node, as the head hears of them."""

from __future__ import annotations

from asyncray.core.cluster.members import Members
from asyncray.core.jobs import job_row
from asyncray.core.questions import Answer
from asyncray.core.records import Job


class JobReports:
    """Reports to the head when jobs begin and end.

    Args:
        node: the ID of this node.
    """

    def __init__(self, node: bytes, members: Members) -> None:
        self._node = node
        self._members = members

    def __repr__(self) -> str:
        return f"<JobReports of {self._members}>"

    def job_began(self, job: Job, pid: int) -> None:
        """A driver has connected."""
        self._members.ask("job_began", [job_row(job, self._node, pid)], _ignore)

    def job_ended(self, job: Job) -> None:
        """Nothing of the job is left on this node."""
        self._members.ask("job_ended", [job.id.hex(), "its driver has ended"], _ignore)


def _ignore(answer: Answer) -> None:
    """The head has heard it."""
