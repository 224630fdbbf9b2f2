"""Cancelling: tasks that shall not run, or stop, on somebody's word or because nobody is left who wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyncray.core.leases import Worker
from asyncray.core.outbox import Outbox
from asyncray.core.records import Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import QUEUED, SENT, WAITING
from asyncray.messages import FAULT, STOP_TASK


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

    def __repr__(self) -> str:
        return f"<Cancelling among {len(self._tasks)} tasks>"

    def cancel(self, task_id: bytes, force: bool, recursive: bool) -> None:
        """CANCEL: the task shall not run, or stop; with ``recursive`` all that it submitted as well."""
        task = self._tasks.get(task_id)
        if task is None:
            return
        family = (
            [] if task.is_constructor else [task]
        )  # actors are killed, not cancelled, with what they have submitted
        if recursive:
            for member in family:  # grows meanwhile
                family += (child for child in (member.children or {}).values() if not child.is_constructor)
        for member in reversed(family):
            member.cancelled_with_children = recursive
            self._cancel_one(member, force)

    def _cancel_one(self, task: Task, force: bool) -> None:
        task.cancelled = True
        if task.state in (WAITING, QUEUED):
            self._finish(task, FAULT, task.cancelled_fault())
        elif task.state == SENT and task.worker is not None:
            self._stop(task, task.worker, force)

    def _stop(self, task: Task, worker: Worker, force: bool) -> None:
        running = next(iter(worker.inflight), None) == task.id  # a nested one would take those with it that wait
        if force and task.actor is None and running:
            self._scheduler.pool.kill(worker, "a task was cancelled by force", self._scheduler.now)
        elif worker.client is not None:
            self._outbox.send(worker.client, (STOP_TASK, task.id))
        if task.id in worker.nested:
            # Its thread learns of it when it comes back from what it waits in, a sleep maybe, and nobody waits for
            # that. It keeps its CPU until then.
            self._finish(task, FAULT, task.cancelled_fault())

    def abandon(self, submitted: Sequence[Task]) -> None:
        """The process is gone that has submitted these: what nobody else wants is cancelled."""
        for child in submitted:
            if not any(entry.borrowers or entry.uses for entry in child.returns):
                self.cancel(child.id, False, True)
