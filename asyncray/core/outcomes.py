"""Outcomes: the reports of workers about their tasks, and the tasks of a worker that has ended.

A task that raised or was lost is retried while its retries last. Results of finished tasks (late, repeated, of a worker
that was given up) are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncray.core.allocator import Allocation
from asyncray.core.cancelling import Cancelling
from asyncray.core.clock import Clock
from asyncray.core.leases import Lease, Worker
from asyncray.core.pauses import pause_before_retry
from asyncray.core.records import Client, Guest, ObjectEntry, Task
from asyncray.core.states import CRASHED, DIED_WITH_ZYGOTE, FINAL, FINISHED, QUEUED, RAISED
from asyncray.core.unsealed import Unsealed
from asyncray.core.work import Work
from asyncray.exceptions import ActorDiedError
from asyncray.messages import FAULT, SHARED, DoneManyMessage, DoneMessage, FailedMessage, Value


class Outcomes:
    """Reads the reports of workers about their tasks."""

    def __init__(self, clock: Clock, work: Work, cancelling: Cancelling, unsealed: Unsealed) -> None:
        self._clock = clock
        self._work = work
        self._cancelling = cancelling
        self._tasks = work.tasks
        self._store = work.store
        self._unsealed = unsealed
        self._actors = work.actors
        self._scheduler = work.scheduler

    def __repr__(self) -> str:
        return f"<Outcomes of {self._work}>"

    # Results ----------------------------------------------------------------------------------------------------------

    def done(self, client: Client, message: DoneMessage) -> None:
        """DONE: a task with one return value (or a constructor, or a task with none) has run."""
        worker = client.worker
        if worker is None:
            raise ValueError(f"{client} is no worker")
        _, task_id, microseconds, kind, payload, contained = message
        task = self._came_back(worker, task_id, microseconds)
        if task is not None and task.actor is not None and (made := task.constructed_actor) is not None:
            self._actors.constructed(made)
        elif kind == SHARED:
            self._finish_shared(worker, task, ((kind, payload, contained),))
        elif task is not None:
            self._work.finish_all(task, ((kind, payload, contained),) if task.returns else ())

    def done_many(self, worker: Worker, message: DoneManyMessage) -> None:
        """DONE_MANY: a task with several return values has run."""
        _, task_id, microseconds, values = message
        self._finish_shared(worker, self._came_back(worker, task_id, microseconds), values)

    def _finish_shared(self, worker: Worker, task: Task | None, values: Sequence[Value]) -> None:
        """Some values are in shared memory: seals it for the return values, or frees it if the report is stale."""
        assert worker.client is not None
        entries: Sequence[ObjectEntry] = () if task is None else task.returns
        checked = []
        for index, (kind, payload, contained) in enumerate(values):
            if kind == SHARED:
                allocation = self._unsealed.take(worker.client, payload[0], payload[1])
                if allocation is None:
                    kind, payload = FAULT, ["InternalError", {"message": "A result is not in the named memory."}]
                elif index < len(entries):
                    self._seal(task, entries[index], allocation)
                else:
                    self._store.free(allocation)
            checked.append((kind, payload, contained))
        if task is not None and len(checked) != len(entries):
            message = f"{task.name} returned {len(checked)} values, not {len(entries)}"
            self._work.finish(task, FAULT, ["InternalError", {"message": message}])
        elif task is not None:
            self._work.finish_all(task, checked)

    def failed(self, worker: Worker, message: FailedMessage) -> None:
        """FAILED: a task has raised."""
        _, task_id, microseconds, kind, payload, retryable, contained = message
        task = self._came_back(worker, task_id, microseconds)
        if task is None:
            return
        actor = task.actor
        made = task.constructed_actor
        if made is not None:
            if task.is_guest:  # its home learns of the error itself
                self._end_guest(task, RAISED, (kind, payload, contained))
            self._work.constructor_failed(made, kind, payload)
        elif task.is_guest:
            self._end_guest(task, RAISED if retryable else FINAL, (kind, payload, contained))
        elif retryable and task.retries and not task.cancelled:
            task.retries -= 1
            if actor is not None:
                self._work.mailboxes.resend(task)
            elif kind == FAULT:
                self._retry(task)  # it ended its thread beside other tasks, or got none
            else:
                self._scheduler.shapes.enqueue(task)
        else:
            self._work.finish(task, kind, payload, contained)

    def _seal(self, task: Task | None, entry: ObjectEntry, allocation: Allocation) -> None:
        """The memory becomes the value of a task of this node, or a copy of that of a guest."""
        if isinstance(task, Guest):
            self._store.seal_copy(entry.id, task.attempt, allocation)
        else:
            entry.block = self._store.seal(entry.id, allocation)

    def _end_guest(self, guest: Task, how: int, value: Value) -> None:
        """Ends a task of another node, which decides whether to try it again."""
        assert isinstance(guest, Guest)
        guest.how = how
        self._work.finish(guest, *value)

    def _came_back(self, worker: Worker, task_id: bytes, microseconds: int) -> Task | None:
        lease = worker.lease
        if lease is not None and lease.blocked:
            self._scheduler.unblock(lease, task_id, finished=True)
        task = worker.inflight.get(task_id)
        if task is None and worker.actor is not None:
            task = worker.actor.inflight.get(task_id)
        if task is None:
            task = self._tasks.get(task_id)
        if task is None or task.worker is not worker or task.state == FINISHED:
            # A late report: the task was ended from outside, or the worker reports it twice.
            given_up = worker.inflight.get(task_id) or worker.nested.get(task_id)
            if given_up is not None:
                self._scheduler.finished(given_up, microseconds)
            return None
        if task.actor is None:
            self._scheduler.finished(task, microseconds)
        return task

    # Workers ----------------------------------------------------------------------------------------------------------

    def returned(self, worker: Worker, task_ids: Sequence[bytes]) -> None:
        """NOT_STARTED: the worker has not started these tasks and will not start them."""
        sent = [worker.inflight.get(task_id) or worker.nested.get(task_id) for task_id in task_ids]
        found = [task for task in sent if task is not None]
        self._scheduler.returned(worker, found)
        for task in found:
            if task.cancelled and task.state == QUEUED:
                self._work.finish(task, FAULT, task.cancelled_fault())
        self._scheduler.end_idle_lease(worker)

    def blocked(self, worker: Worker, task_id: bytes) -> None:
        """BLOCKED: a task waits for an object."""
        lease = _lease_of(worker, task_id)
        if lease is not None:
            self._scheduler.block(lease, task_id)

    def unblocked(self, worker: Worker, task_id: bytes) -> None:
        """UNBLOCKED: the task goes on."""
        lease = _lease_of(worker, task_id)
        if lease is not None:
            self._scheduler.unblock(lease, task_id)

    def worker_exited(self, worker: Worker, how: str) -> None:
        """The process has ended: the tasks that it had are retried or fail. ``how`` describes its end for people."""
        started, unstarted, waited = self._scheduler.worker_exited(worker)
        blameless = worker.died_with_zygote
        culprits = sorted(dict.fromkeys(task.name for task in started if task not in waited and not blameless))
        actor = worker.actor
        if actor is not None:
            text = f"{ActorDiedError.WORKER_DIED} {actor.task.template.name}: {how}"
            self._actors.lost(actor, text, blameless=blameless)
        for task in reversed(unstarted):
            self._again(task)
        for task in started:
            self._cancelling.abandon(list((task.children or {}).values()))
            if task.retries and not (task.cancelled or task.is_guest):
                task.retries -= 1
                self._again(task) if blameless else self._retry(task)
            elif culprits and task in waited:
                self._crashed(task, f"{how}, while {', '.join(culprits)} ran on another of its threads")
            else:
                self._crashed(task, how, blameless=blameless)

    def _retry(self, task: Task) -> None:
        """Runs a task again whose process has crashed: the first time at once, then after longer and longer pauses."""
        pause = pause_before_retry(task.template.retries - task.retries)
        if pause:
            self._scheduler.pauses.add(task, self._clock.now + pause)
        else:
            self._again(task)

    def _again(self, task: Task) -> None:
        if task.cancelled:
            self._work.finish(task, FAULT, task.cancelled_fault())
        else:
            self._scheduler.shapes.enqueue(task, first=True)

    def _crashed(self, task: Task, how: str, *, blameless: bool = False) -> None:
        if task.cancelled:
            fault = task.cancelled_fault()
        else:
            fault = ["WorkerCrashedError", {"message": f"The worker that ran {task.name} died: {how}"}]
        if task.is_guest:
            self._end_guest(task, DIED_WITH_ZYGOTE if blameless else CRASHED, (FAULT, fault, None))
        else:
            self._work.finish(task, FAULT, fault)


def _lease_of(worker: Worker, task_id: bytes) -> Lease | None:
    """The lease that a task of the worker runs on. None if the task has finished, or is not this worker's any more."""
    task = worker.inflight.get(task_id) or worker.nested.get(task_id)
    if task is not None:
        return task.lease
    return worker.lease if worker.actor is not None else None
