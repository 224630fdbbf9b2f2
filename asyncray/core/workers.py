"""The worker pool: the processes that exist, those that are free, and the starts and ends of processes.

A worker is forked without a job. The first job that gets it keeps it for life, because the worker then has the code and
paths of that job. It may become the host of an actor for life. A worker that had a GPU never runs tasks without one.

Invariants (``check``): a worker is in ``idle`` exactly while its state is IDLE; a worker that is leaving or dead gets
no work; ``starting`` counts the workers that have not said hello.
"""

from __future__ import annotations

from asyncray.config import EXIT_GRACE, LOG_WARNING, START_DEADLINE, STOP_DEADLINE
from asyncray.core.clock import Clock
from asyncray.core.leases import Worker
from asyncray.core.outbox import KillWorker, LogLine, Outbox, StartWorker
from asyncray.core.records import Client, Job, Template
from asyncray.core.states import ACTOR, DEAD, IDLE, LEASED, LEAVING, STARTING
from asyncray.messages import LEAVE, SETUP

IDLE_SECONDS = 1.0
"""Seconds after which the pool ends an idle worker beyond the spare ones. Not at once: the next burst may need it."""

_SERVING = (IDLE, LEASED)
"""The states of workers that run tasks, or could."""

MOST_STARTING = 8
"""The most workers that start at the same time: with more, all of them are late."""

FIRST_PAUSE = 0.1
"""Seconds without forks after a worker ended before it said hello. Each further failure doubles them."""

LONGEST_PAUSE = 2.0
"""Seconds. Short enough to notice soon that forks work again, long enough not to burn the CPU."""

REPORT_AFTER = 1.0
"""Seconds of failures before the node reports them to drivers: one failed fork is bad luck, a second of them is not."""

REPORT_AGAIN_AFTER = 60.0
"""Seconds between two reports, in case workers start now and then, and fail again."""


class StartFailures:
    """Workers that ended before they said hello: how long forks pause, and when drivers get a report.

    Workers that were forked together fail together. Only the first failure after a pause makes the next pause longer.
    """

    __slots__ = ("_clock", "_pause", "_reported_at", "_resume_at", "_since", "reason")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Why the last worker could not start, for people. None after a worker said hello.
        self.reason: str | None = None
        # The time of the first failure since a worker last said hello.
        self._since = 0.0
        # Seconds that the next pause will last.
        self._pause = FIRST_PAUSE
        # When the present pause ends.
        self._resume_at = 0.0
        # When drivers got the last report.
        self._reported_at: float | None = None

    def __repr__(self) -> str:
        return f"<StartFailures {self.reason or 'none'}>"

    def failed(self, reason: str) -> None:
        """A worker ended before it said hello."""
        now = self._clock.now
        if self.reason is None:
            self._since = now
        self.reason = reason
        if now >= self._resume_at:
            self._resume_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def succeeded(self) -> None:
        """A worker said hello: ends the pauses."""
        self.reason = None
        self._pause = FIRST_PAUSE
        self._resume_at = 0.0

    def most_starting(self) -> int:
        """Returns how many workers may be starting at once: after a failure one, and during a pause none."""
        if self.reason is None:
            return MOST_STARTING
        return 0 if self._clock.now < self._resume_at else 1

    def problem(self) -> str | None:
        """Returns the failure for people, once it has lasted too long for an accident."""
        if self.reason is None or self._clock.now - self._since < REPORT_AFTER:
            return None
        return f"no worker can start: {self.reason}"

    def report(self) -> str | None:
        """Returns the report that drivers get now, or None."""
        problem, now = self.problem(), self._clock.now
        if problem is None or (self._reported_at is not None and now - self._reported_at < REPORT_AGAIN_AFTER):
            return None
        self._reported_at = now
        return problem


class Pool:
    """All workers of the node.

    Args:
        spare: the number of workers that are kept even if they are idle.
    """

    def __init__(self, outbox: Outbox, clock: Clock, spare: int) -> None:
        self._outbox = outbox
        self._clock = clock
        self.spare = spare
        # All workers by number, until the end of their process is reported.
        self.workers: dict[int, Worker] = {}
        # (job, whether it had a GPU) -> the free workers, the least recently used first.
        self.idle: dict[tuple[Job | None, bool], dict[Worker, None]] = {}
        # How many workers have not said hello.
        self.starting = 0
        # How many workers run tasks or are free: the others host actors, are starting, or are leaving.
        self.serving = 0
        # Workers with a deadline to say hello, or to have ended.
        self._deadlines: dict[Worker, None] = {}
        # The node ends: the pool starts no more workers.
        self.stopping = False
        self.failures = StartFailures(clock)
        # The number of the last worker.
        self._count = 0

    def __repr__(self) -> str:
        return f"<Pool {len(self.workers)} workers, {self.starting} starting>"

    def start(self, count: int) -> None:
        """Starts workers until ``count`` are starting."""
        if self.stopping:
            return
        while self.starting < min(count, self.failures.most_starting()):
            self._count += 1
            worker = self.workers[self._count] = Worker(self._count)
            self._set_deadline(worker, self._clock.now + START_DEADLINE)
            self.starting += 1
            self._outbox.do(StartWorker(self._count))

    def fill(self) -> None:
        """Starts workers until the spare ones are complete. Workers that run tasks count, hosts of actors do not."""
        if self.serving + self.starting < self.spare:
            self.start(self.spare - self.serving)

    def _set_deadline(self, worker: Worker, deadline: float | None) -> None:
        worker.deadline = deadline
        if deadline is None:
            self._deadlines.pop(worker, None)
        else:
            self._deadlines[worker] = None

    def _enter(self, worker: Worker, state: str) -> None:
        self.serving += (state in _SERVING) - (worker.state in _SERVING)
        worker.state = state

    def started(self, number: int, pid: int) -> None:
        """The zygote has forked the worker."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.pid = pid

    def hello(self, number: int, client: Client) -> Worker | None:
        """The forked process is connected. Returns None if it is not (or no longer) a worker of this pool."""
        worker = self.workers.get(number)
        if worker is None or worker.state != STARTING:
            return None
        self.starting -= 1
        self.failures.succeeded()
        worker.client = client
        worker.pid = client.pid
        self._set_deadline(worker, None)
        client.worker = worker
        self._enter_idle(worker)
        return worker

    def _enter_idle(self, worker: Worker) -> None:
        self._enter(worker, IDLE)
        worker.idle_since = self._clock.now
        self.idle.setdefault((worker.job, worker.gpu), {})[worker] = None

    def take(self, job: Job, *, gpu: bool) -> Worker | None:
        """Takes a free worker for this job.

        Returns: the most recently used worker of the job, because its caches are warm; otherwise a worker that has no
            job yet; None if no worker is free.
        """
        for key in ((job, gpu), (None, False)):
            free = self.idle.get(key)
            if free:
                worker, _ = free.popitem()
                if not free:
                    del self.idle[key]
                worker.state = LEASED
                worker.gpu = gpu
                if worker.job is None:
                    worker.job = job
                    job.workers[worker.number] = worker
                    assert worker.client is not None
                    worker.client.job = job
                    self._outbox.send(worker.client, (SETUP, job.id, job.setup))
                return worker
        return None

    def becomes_actor(self, worker: Worker) -> None:
        """The worker hosts an actor for life: it runs no other tasks."""
        self._enter(worker, ACTOR)

    def give_back(self, worker: Worker) -> None:
        """The lease of the worker has ended: the worker is free again, or is killed if its job has ended."""
        if worker.state != LEASED:
            return
        if worker.job is not None and worker.job.driver_ended and not worker.job.lasts:
            self.kill(worker, "its job has ended")
        else:
            self._enter_idle(worker)

    def _leave_idle(self, worker: Worker) -> None:
        key = (worker.job, worker.gpu)
        free = self.idle.get(key)
        if free is not None and worker in free:
            del free[worker]
            if not free:
                del self.idle[key]

    def retire(self, worker: Worker, why: str) -> None:
        """Asks a worker to end when its tasks have finished; kills it if it does not end in time."""
        if worker.state in (LEAVING, DEAD):
            return
        if worker.client is None or not worker.client.alive:
            self.kill(worker, why)
            return
        self._leave_idle(worker)
        self._enter(worker, LEAVING)
        worker.why = why
        self._set_deadline(worker, self._clock.now + EXIT_GRACE + STOP_DEADLINE)
        self._outbox.send(worker.client, (LEAVE, why))

    def leaving(self, worker: Worker, why: str) -> None:
        """The worker says that it ends by itself."""
        worker.exits_cleanly = not worker.is_actor_host
        self._expect_exit(worker, why)

    def _expect_exit(self, worker: Worker, why: str) -> None:
        if worker.state in (LEAVING, DEAD):
            return  # it is ending already: the deadline stands
        self._leave_idle(worker)
        self._enter(worker, LEAVING)
        worker.why = why
        # The worker enforces EXIT_DEADLINE itself, once its last task has ended.
        self._set_deadline(worker, None)

    def called(self, worker: Worker, template: Template) -> None:
        """The worker ran a function with ``max_calls``. The worker counts too, and ends by itself.

        The daemon must know before the worker reports it: otherwise it could place an actor in a process that ends.
        """
        calls = worker.calls[template.number] = worker.calls.get(template.number, 0) + 1
        if calls == template.max_calls:
            self._expect_exit(worker, f"{template.name} reached max_calls={template.max_calls}")
            if worker.client is not None:
                self._outbox.send(worker.client, (LEAVE, worker.why))  # in case it counts differently

    def disconnected(self, worker: Worker) -> None:
        """The worker's connection is closed: kills the worker, or sets a deadline if it is ending already."""
        if worker.state not in (LEAVING, DEAD):
            self.kill(worker, "it closed its connection")
        elif worker.state == LEAVING and worker.deadline is None:
            self._set_deadline(worker, self._clock.now + STOP_DEADLINE)

    def kill(self, worker: Worker, why: str) -> None:
        """Sends SIGKILL to the worker. The end of its process arrives as an event."""
        if worker.state == DEAD:
            return
        if worker.state == STARTING:
            self.starting -= 1
        self._leave_idle(worker)
        self._enter(worker, LEAVING)
        worker.exits_cleanly = worker.exits_cleanly and not (worker.inflight or worker.nested)
        worker.why = worker.why or why
        worker.killed = True
        self._set_deadline(worker, self._clock.now + STOP_DEADLINE)
        self._outbox.do(KillWorker(worker.number))

    def exited(self, number: int) -> Worker | None:
        """The process has ended. Returns None if that was known already."""
        worker = self.workers.pop(number, None)
        if worker is None:
            return None
        if worker.state == STARTING:
            self.starting -= 1
        self._leave_idle(worker)
        self._enter(worker, DEAD)
        self._set_deadline(worker, None)
        if worker.job is not None:
            del worker.job.workers[number]
        return worker

    def tick(self, late: float = 0.0) -> None:
        """Ends workers that are idle, and kills workers that do not start or end in time.

        Args:
            late: seconds for which the daemon stood still and learned of nobody: workers get as much more time.
        """
        for worker in list(self._deadlines):
            assert worker.deadline is not None
            worker.deadline += late
            if worker.deadline <= self._clock.now:
                missed = "say hello" if worker.state == STARTING else "end"
                text = f"worker {worker.number} (pid {worker.pid}) did not {missed} in time: killed"
                self._outbox.do(LogLine(LOG_WARNING, text))
                self.kill(worker, f"it did not {missed} in time")
        for free in list(self.idle.values()):
            self._end_idle(free)
        self.fill()

    def _end_idle(self, free: dict[Worker, None]) -> None:
        for worker in list(free):
            if self.serving <= self.spare or self._clock.now - worker.idle_since < IDLE_SECONDS:
                return
            worker.exits_cleanly = True
            self.retire(worker, "it was idle")

    def check(self) -> None:
        """Raises AssertionError if the counts and lists of the pool contradict its workers."""
        free = [worker for group in self.idle.values() for worker in group]
        assert len(free) == len(dict.fromkeys(free)), "a worker is idle twice"
        for worker in self.workers.values():
            assert (worker.state == IDLE) == (worker in free), f"{worker} and the idle list disagree"
            if worker.state == IDLE:
                assert not (worker.inflight or worker.nested), f"{worker} is idle with work"
                assert worker.lease is None, f"{worker} is idle with a lease"
            assert (worker.deadline is not None) == (worker in self._deadlines), f"{worker} and the deadlines disagree"
            assert worker.job is None or worker.job.workers[worker.number] is worker, f"{worker} is not its job's"
        assert len(self._deadlines) <= len(self.workers), "a worker that has ended has a deadline"
        states = [worker.state for worker in self.workers.values()]
        assert self.starting == states.count(STARTING), "starting"
        assert self.serving == states.count(IDLE) + states.count(LEASED), "serving"
