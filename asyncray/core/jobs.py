"""Jobs: they begin with a driver, and end with the driver or with the last actor that outlives it.

When a driver ends, its actors die, its unfinished tasks fail, and its workers are killed. The job's detached actors
stay, and the processes that work for them: the processes of the tasks and actors that they submitted, and so on. When
the last of its actors is dead the job is swept again, and it is forgotten when its last process has ended.

Each job knows its own tasks, actors and workers, so nothing here looks at those of other jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from asyncray.core.leases import Worker
from asyncray.core.lives import Actor
from asyncray.core.records import Client, Job, Task
from asyncray.core.states import SENT
from asyncray.core.work import Work
from asyncray.core.workers import Pool
from asyncray.exceptions import ActorDiedError
from asyncray.ids import JOB_SIZE
from asyncray.messages import FAULT, STOP_TASK

if TYPE_CHECKING:
    from asyncray.words import JobRow, JobSetup

JOB_RUNNING: Final = "RUNNING"
JOB_ENDED: Final = "ENDED"


LONE_NODE = range(1, 1 << 8 * JOB_SIZE)
"""The numbers of jobs of a node that shares them with no other."""


class JobWatcher(Protocol):
    """Learns when jobs begin and end."""

    def job_began(self, job: Job, pid: int) -> None: ...
    def job_ended(self, job: Job) -> None: ...


class Jobs:
    """The jobs of a node.

    Args:
        table: the jobs are entered here by ID, until their last process has ended.
    """

    def __init__(self, work: Work, pool: Pool, table: dict[bytes, Job]) -> None:
        self._work = work
        self._pool = pool
        self.table = table
        # Jobs of the table whose drivers have ended.
        self._driverless: dict[Job, None] = {}
        # The block that the numbers of new jobs come from. No other node of the cluster has it.
        self.block = LONE_NODE
        # Numbers that no job has had.
        self._numbers = iter(LONE_NODE)
        # Job -> the pid of its driver, for people. None: it has no driver, and people do not see it.
        self._pids: dict[Job, int | None] = {}
        # None unless the node belongs to a cluster.
        self.watcher: JobWatcher | None = None

    def __repr__(self) -> str:
        return f"<Jobs {list(self.table.values())}>"

    def number_from(self, numbers: range) -> None:
        """Takes the numbers of further jobs from another block: the node has joined a cluster."""
        self.block = numbers
        self._numbers = iter(numbers)

    def begin(self, driver: Client, namespace: str, setup: JobSetup, *, adopts: bool = False) -> Job:
        """A driver has connected: makes its job.

        Args:
            adopts: it is none, but stands for a process of another node, for which this one makes a detached actor.

        Raises:
            OverflowError: the block of numbers is used up.
        """
        number = next(self._numbers, None)
        if number is None:
            raise OverflowError("the node has no more numbers for jobs")
        job = Job(number.to_bytes(JOB_SIZE, "big"), namespace, setup)
        self.table[job.id] = job
        driver.job = job
        job.reports_to = driver
        self._pids[job] = None if adopts else driver.pid
        if self.watcher is not None and not adopts:
            self.watcher.job_began(job, driver.pid)
        return job

    def began_here(self, job_id: bytes) -> bool:
        """True for the jobs of the drivers of this node. A node that has not joined its cluster yet has had none."""
        return int.from_bytes(job_id, "big") in self.block

    def rows(self, node: bytes) -> list[JobRow]:
        """The jobs that run, for people."""
        return [job_row(job, node, pid) for job, pid in self._pids.items() if pid is not None]

    def visiting(self, job_id: bytes, namespace: str, setup: JobSetup) -> Job | None:
        """Tasks of a job come from another node: returns the job, or None if it began on this node and has ended."""
        job = self.table.get(job_id)
        if job is None and not self.began_here(job_id):
            job = self.table[job_id] = Job(job_id, namespace, setup)
        return job

    def ended_elsewhere(self, job_id: bytes) -> None:
        """A job has ended at the node where it began."""
        self._nobody_reads(job_id)
        job = self.table.get(job_id)
        if job is not None and not job.driver_ended:
            self.driver_ended(job)

    def _nobody_reads(self, job_id: bytes) -> None:
        """The driver of a job has ended, which read the output of the detached actors that were made for it."""
        for job in self.table.values():
            if job.output_to is not None and job.output_to[1] == job_id:
                job.output_to = None

    def driver_ended(self, job: Job) -> None:
        """The driver has ended: ends everything that does not outlive it."""
        job.driver_ended = True
        job.reports_to = None
        self._nobody_reads(job.id)
        self._driverless[job] = None
        self._sweep(job)

    def worker_exited(self, job: Job) -> None:
        """A process of the job has ended: sweeps the job if its actors are dead or no process is left."""
        if job.driver_ended and not job.actors and (job.lasts or not job.workers):
            self._sweep(job)

    def tick(self) -> None:
        """Ends the jobs whose last lasting actor has died."""
        for job in list(self._driverless):
            if not job.actors:
                self._sweep(job)

    def _sweep(self, job: Job) -> None:
        lasting = _lasting(job)
        for actor in list(job.actors.values()):
            if not actor.detached and actor.creator not in lasting:
                fault = actor.fault("ActorDiedError", ActorDiedError.OWNER_DIED)
                self._work.actors.kill(actor, fault, "its job has ended")
        job.lasts = bool(job.actors)
        for task in list(job.tasks.values()):
            if not (task.is_constructor or task.is_guest or _lasts(task, job, lasting)):
                self._abort(task)
        for worker in job.workers.values():
            if worker.actor is None and worker.client not in lasting and not worker.killed:
                self._pool.kill(worker, "its job has ended")
        if job.lasts:
            return
        if job in self._pids:
            del self._pids[job]
            if self.watcher is not None:
                self.watcher.job_ended(job)
        if not job.workers and job in self._driverless and not any(task.is_guest for task in job.tasks.values()):
            del self.table[job.id], self._driverless[job]

    def _abort(self, task: Task) -> None:
        worker, actor = task.worker, task.actor
        if actor is not None and (actor.is_route or (isinstance(actor, Actor) and actor.detached)):
            # An actor that outlives the job runs its calls to the end, for their effects.
            pass
        elif worker is not None and worker.client is not None:
            self._work.outbox.send(worker.client, (STOP_TASK, task.id))
        elif task.state == SENT and self._work.elsewhere is not None:
            self._work.elsewhere.cancel(task, force=True, recursive=True)
        self._work.finish(task, FAULT, ["OwnerDiedError", {"message": "The driver of the task's job has ended."}])

    def check(self) -> None:
        """Raises AssertionError if a job's own tables disagree with the tables of all jobs."""
        assert self._pids.keys() <= set(self.table.values()), "a job has ended and has a row"
        for job in self.table.values():
            assert job.driver_ended == (job in self._driverless), f"{job} is in the wrong table"
            assert all(self._work.tasks.get(task) is job.tasks[task] for task in job.tasks), f"{job} has others' tasks"
            assert job.workers.items() <= self._pool.workers.items(), f"{job} has workers that have ended"


def job_row(job: Job, node: bytes, pid: int) -> JobRow:
    """Describes a job that runs."""
    return {
        "job_id": job.id.hex(),
        "node_id": node.hex(),
        "namespace": job.namespace,
        "pid": pid,
        "state": JOB_RUNNING,
        "why": "",
    }


def _lasts(task: Task, job: Job, lasting: dict[Client, None]) -> bool:
    actor = task.actor
    return task.submitter in lasting or (isinstance(actor, Actor) and actor.detached and actor.job is job)


def _lasting(job: Job) -> dict[Client, None]:
    """Returns the processes of the job that work for its detached actors, directly or through other processes."""
    served_by: dict[Client, list[Client]] = {}
    for worker in job.workers.values():
        if worker.client is not None:
            for client in _served(worker):
                served_by.setdefault(client, []).append(worker.client)
    found = [a.worker.client for a in job.actors.values() if a.detached and a.worker is not None]
    lasting = {client: None for client in found if client is not None}
    stack = list(lasting)
    while stack:
        for client in served_by.get(stack.pop(), ()):
            if client not in lasting:
                lasting[client] = None
                stack.append(client)
    return lasting


def _served(worker: Worker) -> Iterator[Client]:
    """Yields the processes that a worker works for: the creator of its actor, and the submitters of its tasks."""
    if worker.actor is not None:
        yield worker.actor.creator
    yield from (task.submitter for task in worker.sent)
