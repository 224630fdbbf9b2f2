"""Records of what runs tasks: workers, their leases, and the queues that leases serve.

A *worker* is a forked process, a *lease* its right to resources, a *shape* a queue of tasks that need the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncray.core.resources import Grant
from asyncray.core.states import QUEUED, SENT, STARTING
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.core.lives import Actor
    from asyncray.core.records import Client, Job, Task


class Worker:
    """A forked process."""

    __slots__ = (
        "actor", "announced_lease", "backlog", "calls", "client", "deadline", "exits_cleanly", "gpu", "idle_since",
        "inflight", "job", "killed", "known", "known_functions", "lease", "nested", "number", "pid", "state", "why",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.state = STARTING
        # When it must have said hello, or later be gone: the pool writes it.
        self.deadline: float | None = None
        self.client: Client | None = None
        self.job: Job | None = None
        self.gpu = False
        self.actor: Actor | None = None
        self.lease: Lease | None = None
        # Devices and amounts of the last LEASE that it was sent.
        self.announced_lease: tuple[tuple[int, ...], Demand] | None = None
        self.inflight: dict[bytes, Task] = {}  # in the order in which they were sent; the first one runs
        self.nested: dict[bytes, Task] = {}  # on threads beside blocked ones
        self.backlog = 0.0  # microseconds that inflight is thought to take
        # The templates that it was sent. For membership only.
        self.known: set[int] = set()
        # The digests of the functions that it was sent. For membership only.
        self.known_functions: set[bytes] = set()
        self.calls: dict[int, int] = {}  # of templates that have a limit of them
        self.idle_since = 0.0
        # SIGKILL is on its way.
        self.killed = False
        self.why = ""  # it ends, as it said itself or was told
        self.exits_cleanly = False  # it ends in order: what it made lives on, and what it was sent has not started

    def __repr__(self) -> str:
        work = f"inflight={len(self.inflight)} nested={len(self.nested)}"
        return f"<Worker {self.number} pid={self.pid} {self.state} {work} {self.actor or ''}>"

    @property
    def sent(self) -> Iterator[Task]:
        """The unfinished tasks that it was sent, calls of its actor among them."""
        calls = () if self.actor is None else self.actor.inflight.values()
        return (task for task in (*self.inflight.values(), *self.nested.values(), *calls) if task.state == SENT)

    @property
    def is_actor_host(self) -> bool:
        """True once it is an actor's, and after that one's death."""
        return self.lease is not None and self.lease.shape is None


class Shape:
    """Tasks of one job that need the same: a queue by depth, and the leases that serve it.

    Constructors have shapes of their own (``lives``): each takes a worker for good.
    """

    __slots__ = ("count", "demand", "depths", "free_of_charge", "gpu", "job", "leases", "lives", "queues")

    def __init__(self, job: Job, demand: Demand, lives: bool) -> None:
        self.job = job
        self.demand = demand
        self.lives = lives
        self.gpu = any(name == "GPU" for name, _ in demand)
        self.free_of_charge = not demand
        self.queues: dict[int, deque[Task]] = {}
        self.depths: list[int] = []  # ascending; the last one is served first
        self.count = 0  # of queued tasks, with cancelled ones that are still in the queues
        self.leases: list[Lease] = []

    def __repr__(self) -> str:
        return f"<Shape {dict(self.demand)} queued={self.count} leases={len(self.leases)}>"

    def push(self, task: Task, first: bool = False) -> None:
        queue = self.queues.get(task.depth)
        if queue is None:
            queue = self.queues[task.depth] = deque()
            self.depths = sorted(self.queues)
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)
        self.count += 1

    def peek(self) -> Task | None:
        """The next task, past those that were cancelled meanwhile."""
        while self.depths:
            depth = self.depths[-1]
            queue = self.queues[depth]
            while queue:
                task = queue[0]
                if task.state == QUEUED:
                    return task
                queue.popleft()
                self.count -= 1
            del self.queues[depth]
            self.depths.pop()
        return None

    @property
    def serving(self) -> int:
        """Leases whose holders do not wait."""
        return sum(1 for lease in self.leases if not lease.blocked)

    def pop(self) -> None:
        """Takes off what ``peek`` showed."""
        self.queues[self.depths[-1]].popleft()
        self.count -= 1


class Lease:
    """A worker's right to run tasks of a shape (or, for an actor, to live) on resources that are held for it."""

    __slots__ = ("blocked", "finished_at", "grant", "served", "shape", "worker")

    def __init__(self, worker: Worker, shape: Shape | None, grant: Grant, now: float) -> None:
        self.worker = worker
        self.shape = shape
        self.grant = grant
        self.blocked: dict[bytes, int] = {}  # tasks that wait for objects, each on so many threads
        self.served = 0.0
        self.finished_at = now

    def __repr__(self) -> str:
        return f"<Lease {self.worker.number} {self.grant} blocked={len(self.blocked)} served={self.served:.0f}us>"
