"""Cancelling: ends tasks that a client cancels, or whose results no process can use any more.

A task that is not at a worker ends at once. The worker of a task that was sent drops or interrupts it, or is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.leases import Worker
from asyncray.core.outbox import Outbox
from asyncray.core.records import Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import CANCELLED, CANCELLED_WITH_CHILDREN, QUEUED, SENT, WAITING
from asyncray.messages import FAULT, STOP_TASK

if TYPE_CHECKING:
    from asyncray.core.elsewhere import TasksElsewhere


class Cancelling:
    """Cancels tasks.

    Args:
        tasks: all unfinished tasks by ID.
        finish: ends a task with a value: ``finish(task, kind, payload)``.
    """

    def __init__(
        self,
        outbox: Outbox,
        scheduler: Scheduler,
        tasks: Mapping[bytes, Task],
        finish: Callable[[Task, int, Any], None],
    ) -> None:
        self._outbox = outbox
        self._scheduler = scheduler
        self._tasks = tasks
        self._finish = finish
        # None on a node that belongs to no cluster.
        self.elsewhere: TasksElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Cancelling among {len(self._tasks)} tasks>"

    def cancel(self, task_id: bytes, *, force: bool, recursive: bool) -> None:
        """CANCEL: drops or stops a task, and with ``recursive`` all tasks that it submitted as well.

        Args:
            task_id: of the task. If it has ended, nothing happens.
            force: kill the worker if it is running the task.
            recursive: cancel the children too, and theirs.
        """
        task = self._tasks.get(task_id)
        if task is None:
            return
        how_far = CANCELLED_WITH_CHILDREN if recursive else CANCELLED
        # An actor is killed, not cancelled, and with it the tasks that it has submitted.
        family = [] if task.is_constructor else [task]
        if recursive:
            # The list grows while the loop runs over it.
            for member in family:
                family += (child for child in (member.children or {}).values() if not child.is_constructor)
        for member in reversed(family):
            member.cancelled = max(member.cancelled, how_far)
            self._cancel_one(member, force=force)

    def _cancel_one(self, task: Task, *, force: bool) -> None:
        if task.state in (WAITING, QUEUED):
            self._finish(task, FAULT, task.cancelled_fault())
        elif task.state == SENT and task.worker is not None:
            self._stop(task, task.worker, force=force)
        elif task.state == SENT and self.elsewhere is not None:
            self.elsewhere.cancel(task, force=force, recursive=task.cancelled_with_children)

    def _stop(self, task: Task, worker: Worker, *, force: bool) -> None:
        # Never kill for a nested task: the blocked tasks of the same worker would die with it.
        running = next(iter(worker.inflight), None) == task.id
        if force and task.actor is None and running:
            self._scheduler.pool.kill(worker, "a task was cancelled by force")
        elif worker.client is not None:
            self._outbox.send(worker.client, (STOP_TASK, task.id))
        if task.id in worker.nested:
            # The thread of a nested task learns of the cancellation when its current call returns, a sleep for example.
            # The callers do not wait for that: the task fails now. It keeps its CPU until the thread returns.
            self._finish(task, FAULT, task.cancelled_fault())

    def abandon(self, submitted: Sequence[Task]) -> None:
        """The process that submitted these tasks has ended: cancels those whose results no other process can use."""
        for child in submitted:
            if not any(entry.borrowers or entry.uses for entry in child.returns):
                self.cancel(child.id, force=False, recursive=True)
