"""The unfinished tasks of a node, found by ID.

Each job holds its own tasks, so that its end concerns only them. A task is in no second table: a queue of a million
tasks would pay for it with a hundred bytes each. The ID of a task names its job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from asyncray.ids import CLIENT_SIZE, TASK_PREFIX_SIZE

if TYPE_CHECKING:
    from asyncray.core.records import Job, Task


class Tasks(Mapping[bytes, "Task"]):
    """The unfinished tasks of all jobs, by ID. ``Work`` adds and removes them, in ``Job.tasks``.

    Args:
        jobs: the jobs of the node by ID. ``Jobs`` writes it.
    """

    def __init__(self, jobs: Mapping[bytes, Job]) -> None:
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"<Tasks {len(self)} unfinished>"

    def __getitem__(self, task_id: bytes) -> Task:
        return self._jobs[task_id[CLIENT_SIZE:TASK_PREFIX_SIZE]].tasks[task_id]

    def __iter__(self) -> Iterator[bytes]:
        return (task_id for job in self._jobs.values() for task_id in job.tasks)

    def __len__(self) -> int:
        return sum(len(job.tasks) for job in self._jobs.values())
