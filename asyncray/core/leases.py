"""Records of the processes that run tasks: workers, their leases, and the queues that leases serve.

A *worker* is a forked process, a *lease* its right to resources, a *shape* a queue of tasks with the same demand
and placement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncray.core.resources import Account, Grant
from asyncray.core.states import LEASED, QUEUED, SENT, STARTING
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.core.lives import Actor
    from asyncray.core.records import Client, Function, Job, Task, Template, Where


class Worker:
    """A forked process that runs tasks. The pool writes it, except where a field names another writer."""

    __slots__ = (
        "actor", "announced_lease", "backlog", "calls", "client", "deadline", "died_with_zygote", "exits_cleanly",
        "gpu", "idle_since", "inflight", "job", "killed", "known", "known_functions", "lease", "nested", "number",
        "pid", "state", "why",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        # Counts the workers of the node. Never reused.
        self.number = number
        # 0 until the zygote reports the fork, or the worker says hello.
        self.pid = 0
        # See ``states``. ``Pool._enter`` writes it and keeps the counts of the pool.
        self.state = STARTING
        # When it must have said hello, or later have ended. None: no deadline.
        self.deadline: float | None = None
        # Its connection. None until it says hello.
        self.client: Client | None = None
        # The job that it serves for life. None until it gets its first lease.
        self.job: Job | None = None
        # Its last lease was for a shape that needs GPUs. Such a worker never runs tasks without GPUs.
        self.gpu = False
        # The living actor that it hosts. ``Actor.placed`` and ``Actors`` write it.
        self.actor: Actor | None = None
        # The lease that it runs on at present. The scheduler and ``Actor.placed`` write it.
        self.lease: Lease | None = None
        # Devices and amounts of the last LEASE message to it. The scheduler writes it.
        self.announced_lease: tuple[tuple[int, ...], Demand] | None = None
        # Tasks by ID, in the order in which the scheduler sent them; the first one runs.
        self.inflight: dict[bytes, Task] = {}
        # Tasks by ID that the scheduler sent to run on threads beside blocked tasks.
        self.nested: dict[bytes, Task] = {}
        # Microseconds that the tasks in ``inflight`` are estimated to take. The scheduler writes it.
        self.backlog = 0.0
        # Templates and functions that it was sent and is not to forget. ``Functions`` writes both.
        self.known: dict[Template, None] = {}
        self.known_functions: dict[Function, None] = {}
        # Number of a template with ``max_calls`` -> how many of its tasks have run here.
        self.calls: dict[int, int] = {}
        # When it last became IDLE.
        self.idle_since = 0.0
        # SIGKILL is on its way.
        self.killed = False
        # Why it ends, as the worker or the daemon says. Empty while it is not ending.
        self.why = ""
        # It ends in order: the objects that it made live on, and the tasks that it was sent have not started.
        self.exits_cleanly = False
        # Its zygote died and took it along: nothing that ran in it is to blame.
        self.died_with_zygote = False

    def __repr__(self) -> str:
        work = f"inflight={len(self.inflight)} nested={len(self.nested)}"
        return f"<Worker {self.number} pid={self.pid} {self.state} {work} {self.actor or ''}>"

    @property
    def sent(self) -> Iterator[Task]:
        """Yields the unfinished tasks that were sent to it, calls of its actor among them."""
        calls = () if self.actor is None else self.actor.inflight.values()
        return (task for task in (*self.inflight.values(), *self.nested.values(), *calls) if task.state == SENT)

    def may_host(self, shape: Shape) -> bool:
        """True if tasks of a shape may be nested into it while its own task waits.

        The process must be on the same account: a placement group that is removed takes its processes along.
        """
        own = None if self.lease is None else self.lease.shape
        same = own is not None and own.account is shape.account
        return same and self.job is shape.job and self.state == LEASED and not self.gpu

    @property
    def is_actor_host(self) -> bool:
        """True as soon as it hosts an actor, and also after the death of that actor."""
        return self.lease is not None and self.lease.shape is None


class Shape:
    """Tasks of one job with the same demand and placement: a queue for each depth, and the leases that serve them.

    Constructors have shapes of their own (``lives``): each takes a worker for good.
    """

    __slots__ = (
        "account", "count", "demand", "depths", "free_of_charge", "gpu", "guests", "job", "leases", "lives",
        "queues", "templates", "turn", "where",
    )  # fmt: skip

    def __init__(self, job: Job, demand: Demand, where: Where, account: Account, *, lives: bool) -> None:
        self.job = job
        self.demand = demand
        # Where its tasks wish to run.
        self.where = where
        # True if its tasks are constructors.
        self.lives = lives
        # The account that serves its demand.
        self.account = account
        # True if the demand includes GPUs: its workers never run tasks without GPUs.
        self.gpu = any(name == "GPU" for name, _ in demand)
        # True if its tasks need no resources: only a limit of workers bounds how many run.
        self.free_of_charge = not demand
        # Depth of a task -> the queue of the tasks of that depth.
        self.queues: dict[int, deque[Task]] = {}
        # The keys of ``queues``, ascending; the last one is served first.
        self.depths: list[int] = []
        # How many tasks are in the queues, with cancelled ones that ``peek`` has not removed yet.
        self.count = 0
        # How many of these are tasks of other nodes.
        self.guests = 0
        # The leases that serve it. The scheduler writes it.
        self.leases: list[Lease] = []
        # How many templates have tasks for it. ``Shapes`` writes it.
        self.templates = 0
        # Shapes with a smaller number come first, among those of the same depth. ``Shapes`` writes it.
        self.turn = 0

    def __repr__(self) -> str:
        return f"<Shape {dict(self.demand)} queued={self.count} leases={len(self.leases)}>"

    def push(self, task: Task, *, first: bool) -> None:
        queue = self.queues.get(task.depth)
        if queue is None:
            queue = self.queues[task.depth] = deque()
            self.depths = sorted(self.queues)
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)
        self.count += 1
        if task.is_guest:
            self.guests += 1

    def remove(self, task: Task) -> None:
        """Removes a queued task. Costs a search of its queue up to the task."""
        self.queues[task.depth].remove(task)
        self._removed(task)

    def _removed(self, task: Task) -> None:
        self.count -= 1
        if task.is_guest:
            self.guests -= 1

    def peek(self) -> Task | None:
        """Returns the next task, and removes the cancelled ones before it."""
        while self.depths:
            depth = self.depths[-1]
            queue = self.queues[depth]
            while queue:
                task = queue[0]
                if task.state == QUEUED:
                    return task
                self._removed(queue.popleft())
            del self.queues[depth]
            self.depths.pop()
        return None

    def own_task(self) -> Task | None:
        """Returns the next task whose home is this node: guests that wait before it are not sent on."""
        task = self.peek()
        if task is None or not task.is_guest:
            return task
        if self.guests == self.count:
            return None
        queued = (task for depth in reversed(self.depths) for task in self.queues[depth])
        return next((task for task in queued if task.state == QUEUED and not task.is_guest), None)

    @property
    def serving(self) -> int:
        """How many leases have no task that waits for objects."""
        return sum(1 for lease in self.leases if not lease.blocked)

    def pop(self) -> None:
        """Removes the task that ``peek`` returned."""
        task = self.queues[self.depths[-1]].popleft()
        # As ``_removed`` does: a call would cost each task 30 ns.
        self.count -= 1
        if task.is_guest:
            self.guests -= 1


class Lease:
    """A worker's right to run tasks of a shape (or, for an actor, to live) on resources that a grant holds.

    The scheduler makes and writes it.
    """

    __slots__ = ("blocked", "finished_at", "grant", "served", "shape", "worker")

    def __init__(self, worker: Worker, shape: Shape | None, grant: Grant, now: float) -> None:
        self.worker = worker
        # None for the lease of an actor or of a nested task.
        self.shape = shape
        self.grant = grant
        # ID of a task that waits for objects -> how many of its threads wait.
        self.blocked: dict[bytes, int] = {}
        # Microseconds that its tasks have taken.
        self.served = 0.0
        # When it last finished a task, or got a task while it had none.
        self.finished_at = now

    def __repr__(self) -> str:
        return f"<Lease {self.worker.number} {self.grant} blocked={len(self.blocked)} served={self.served:.0f}us>"
