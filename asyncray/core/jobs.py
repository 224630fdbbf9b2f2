"""Jobs: what begins with a driver, and what of it may outlive the driver.

When a driver ends, its job is over: its actors die, its unfinished tasks fail, its workers are killed. What stays are
its detached actors and whatever works for them: the tasks and actors that they submitted, and so on. When the last of
them is dead the job is swept again, and forgotten once its last process is gone.
"""

from __future__ import annotations

from typing import Any

from asyncray.core.lives import Actor
from asyncray.core.records import Client, Job, Task
from asyncray.core.states import DEAD
from asyncray.core.work import Work
from asyncray.core.workers import Pool
from asyncray.exceptions import ActorDiedError
from asyncray.messages import FAULT, STOP_TASK


class Jobs:
    """The jobs of a node. ``table`` holds them by ID until nothing of them is left."""

    def __init__(self, work: Work, pool: Pool) -> None:
        self._work = work
        self._pool = pool
        self.table: dict[bytes, Job] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<Jobs {list(self.table.values())}>"

    def begin(self, driver: Client, namespace: str, setup: dict[str, Any]) -> Job:
        """A driver has connected."""
        self._count += 1
        job = Job(self._count.to_bytes(4, "big"), namespace, setup)
        self.table[job.id] = job
        driver.job = job
        job.driver = driver
        return job

    def over(self, job: Job, now: float) -> None:
        """The driver has gone."""
        job.over = True
        self._sweep(job, now)

    def tick(self, now: float) -> None:
        """Ends the jobs whose last lasting actor has died."""
        for job in list(self.table.values()):
            if job.over and not self._living(job):
                self._sweep(job, now)

    def _living(self, job: Job) -> list[Actor]:
        return [actor for actor in self._work.actors.table.values() if actor.job is job and actor.state != DEAD]

    def _sweep(self, job: Job, now: float) -> None:
        lasting = self._lasting()
        for actor in self._living(job):
            if not actor.detached and actor.owner not in lasting:
                fault = actor.fault("ActorDiedError", ActorDiedError.OWNER_DIED)
                self._work.actors.kill(actor, fault, "its job is over")
        job.lasts = bool(self._living(job))
        for task in list(self._work.tasks.values()):
            if task.template.job is job and not task.is_constructor and not self._lasts(task, lasting):
                self._abort(task)
        workers = list(self._pool.of_job(job))
        for worker in workers:
            if worker.actor is None and worker.client not in lasting:
                self._pool.kill(worker, "its job is over", now)
        if not workers and not job.lasts:
            self._work.scheduler.shapes.forget_job(job)
            self._work.objects.unuse_all(job.captured)
            del self.table[job.id]

    def _lasting(self) -> set[Client]:
        """The processes that work for detached actors, in whatever generation."""
        actors, tasks = self._work.actors.table.values(), self._work.tasks.values()
        lasting = {actor.worker.client for actor in actors if actor.detached and actor.worker is not None}
        more = lasting
        while more:
            more = {actor.worker.client for actor in actors if actor.owner in lasting and actor.worker is not None}
            more |= {task.worker.client for task in tasks if task.worker is not None and self._lasts(task, lasting)}
            more -= lasting
            lasting = lasting | more
        return {client for client in lasting if client is not None}

    @staticmethod
    def _lasts(task: Task, lasting: set[Any]) -> bool:
        return task.submitter in lasting or (task.actor is not None and task.actor.detached)

    def _abort(self, task: Task) -> None:
        worker = task.worker
        if worker is not None and worker.client is not None:
            self._work.outbox.send(worker.client, (STOP_TASK, task.id))
        self._work.finish(task, FAULT, ["OwnerDiedError", {"message": "The driver of the task's job has ended."}])
