"""Records: what the machines of a node keep. No decisions here, and one module, for they all know one another.

A *job* is one driver's work, a *client* a connected process. A *template* is what all invocations of one remote
function with the same options share, a *task* one invocation: of a function, of an actor's constructor or of an
actor's method. A *worker* is a forked process, a *lease* its right to resources, a *shape* a queue of tasks
that need the same. An *object entry* is one object, a *block* its memory if it is in shared memory. An *actor*
is one actor's life and mailbox.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from asyncray.config import MAILBOX_WINDOW
from asyncray.core.allocator import Allocation
from asyncray.core.resources import Grant
from asyncray.core.states import ACTOR, ALIVE, DEAD, PENDING, QUEUED, RESTARTING, STARTING, WAITING
from asyncray.messages import UNRESOLVED, Message
from asyncray.units import Demand

_MEAN_WEIGHT = 0.2
"""Of the newest measurement in the mean of a function's run time: five runs forget an outlier."""

Fault = list[Any]
"""A system error as a value: [exception name, fields]."""

_MOVES = {
    PENDING: {STARTING, DEAD},
    STARTING: {ALIVE, RESTARTING, DEAD},
    ALIVE: {RESTARTING, DEAD},
    RESTARTING: {STARTING, DEAD},
    DEAD: set(),
}


class Job:
    """One driver's work: its namespace, and what its workers need to import its code.

    ``over`` is set once the driver is gone; detached actors may outlive that (``lasts``).
    """

    __slots__ = ("captured", "driver", "functions", "id", "lasts", "namespace", "over", "refused", "setup", "templates")

    def __init__(self, job_id: bytes, namespace: str, setup: dict[str, Any]) -> None:
        self.id = job_id
        self.namespace = namespace
        self.setup = setup
        self.driver: Client | None = None
        self.over = False
        self.lasts = False
        self.functions: dict[bytes, bytes] = {}
        self.captured: tuple[ObjectEntry, ...] = ()  # what functions have refs to in their closures and globals
        self.templates: dict[bytes, Template] = {}
        self.refused: set[Demand] = set()  # what the node does not have, and the driver was told

    def __repr__(self) -> str:
        return f"<Job {self.id.hex()} {'over' if self.over else 'running'}>"


class Client:
    """A connected process. ``out`` holds the messages that the shell has not taken yet."""

    __slots__ = (
        "alive", "borrowed", "id", "job", "number", "out", "owned", "pid", "pinned", "role", "templates", "unsealed",
        "worker",
    )  # fmt: skip

    def __init__(self, number: int, client_id: bytes, role: str, pid: int) -> None:
        self.number = number
        self.id = client_id
        self.role = role
        self.pid = pid
        self.job: Job | None = None
        self.worker: Worker | None = None
        self.alive = True
        self.out: list[Message] = []
        self.templates: dict[int, Template] = {}
        self.owned = 0  # objects that this client made and still has refs to: none, no search when it ends
        self.borrowed: set[bytes] = set()
        self.pinned: set[bytes] = set()
        self.unsealed: dict[tuple[str, int], Allocation] = {}

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.role} pid={self.pid} {'alive' if self.alive else 'gone'}>"


class Template:
    """A function, constructor or method with its options, as a client described it once."""

    __slots__ = (
        "crashes", "demand", "digest", "function", "job", "life", "max_calls", "mean", "name", "number", "options",
        "retries", "returns", "shape", "unread",
    )  # fmt: skip

    def __init__(self, number: int, digest: bytes, job: Job, spec: dict[str, Any]) -> None:
        self.number = number
        self.digest = digest
        self.job = job
        self.crashes = False  # it ran in a worker that died: never again beside tasks that wait
        self.name: str = spec["name"]
        self.function: bytes = spec["function"]
        self.returns: int = spec["returns"]
        self.retries: int = spec["retries"]
        self.demand: Demand = tuple((name, amount) for name, amount in spec["demand"])
        self.life: Demand = tuple((name, amount) for name, amount in spec.get("life", ()))
        needed = dict(self.demand)
        if any(amount <= 0 for amount in needed.values()) or any(needed.get(n, 0) < amount for n, amount in self.life):
            raise ValueError(f"{self.name} needs {self.demand} to start, and for life {self.life}")
        self.options: dict[str, Any] = spec.get("options", {})
        self.max_calls: int = self.options.get("max_calls", 0)  # in one process; 0: any number
        self.shape: Shape | None = None
        self.mean: float | None = None  # microseconds, None until one has run
        self.unread = 0  # errors that nobody has read

    def __repr__(self) -> str:
        return f"<Template {self.number} {self.name} {dict(self.demand)}>"

    def ran(self, microseconds: int) -> None:
        """One invocation took so long."""
        mean = self.mean
        self.mean = microseconds if mean is None else mean + _MEAN_WEIGHT * (microseconds - mean)


class Task:
    """One invocation."""

    __slots__ = (
        "actor", "cancelled", "children", "dependencies", "depth", "estimate", "id", "kind", "lease", "missing",
        "nested", "parent", "payload", "retries", "returns", "spoiled", "state", "submitter", "template", "worker",
    )  # fmt: skip

    def __init__(self, task_id: bytes, template: Template, submitter: Client, kind: int, payload: Any) -> None:
        self.id = task_id
        self.template = template
        self.submitter = submitter
        self.kind = kind
        self.payload = payload
        self.state = WAITING
        self.cancelled = False
        self.spoiled = False  # cancelled with all that it submits
        self.missing = 0  # dependencies that are not resolved yet
        self.depth = 0
        self.retries = template.retries
        self.estimate = 0.0
        self.dependencies: tuple[ObjectEntry, ...] = ()
        self.nested: tuple[ObjectEntry, ...] = ()
        self.returns: tuple[ObjectEntry, ...] = ()
        self.parent: Task | None = None
        self.children: dict[bytes, Task] | None = None
        self.worker: Worker | None = None
        self.lease: Lease | None = None
        self.actor: Actor | None = None

    def __repr__(self) -> str:
        return f"<Task {self.id.hex()} {self.template.name} {self.state}>"

    @property
    def constructs(self) -> bool:
        """True for an actor's constructor, which is no call."""
        return self.actor is not None and self.actor.task is self

    def cancelled_fault(self) -> Fault:
        """What ``get`` raises for a cancelled task."""
        return ["TaskCancelledError", {"task_id": self.id.hex()}]


class Worker:
    """A forked process."""

    __slots__ = (
        "actor", "backlog", "calls", "client", "deadline", "gpu", "idle_since", "inflight", "job", "known", "lease",
        "lent", "nested", "number", "pid", "polite", "state", "why",
    )  # fmt: skip

    def __init__(self, number: int, deadline: float) -> None:
        self.number = number
        self.pid = 0
        self.state = STARTING
        self.deadline: float | None = deadline  # to say hello, later to be gone
        self.client: Client | None = None
        self.job: Job | None = None
        self.gpu = False
        self.actor: Actor | None = None
        self.lease: Lease | None = None
        self.lent: tuple[tuple[int, ...], Demand] | None = None  # devices and amounts that it was last told of
        self.inflight: dict[bytes, Task] = {}  # in the order in which they were sent; the first one runs
        self.nested: dict[bytes, Task] = {}  # on threads beside blocked ones
        self.backlog = 0.0  # microseconds that inflight is thought to take
        self.known: set[int] = set()  # templates
        self.calls: dict[int, int] = {}  # of templates that have a limit of them
        self.idle_since = 0.0
        self.why = ""  # it ends, as it said itself or was told
        self.polite = False  # it ends in order: what it made lives on, and what it was sent has not started

    def __repr__(self) -> str:
        work = f"inflight={len(self.inflight)} nested={len(self.nested)}"
        return f"<Worker {self.number} pid={self.pid} {self.state} {work} {self.actor or ''}>"

    @property
    def hosted(self) -> bool:
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


class ObjectEntry:
    """One object. ``kind`` is UNRESOLVED until it has a value."""

    __slots__ = (
        "actor", "block", "borrowers", "contained", "dependents", "held", "id", "kind", "owner", "payload", "task",
        "uses", "waiting",
    )  # fmt: skip

    def __init__(self, object_id: bytes, owner: Client, task: Task | None) -> None:
        self.id = object_id
        self.owner = owner
        self.task = task  # that makes it, while pending
        self.kind = UNRESOLVED
        self.payload: Any = None
        self.held = True
        self.borrowers: set[Client] | None = None
        self.uses = 0
        self.contained: tuple[ObjectEntry, ...] = ()
        self.waiting: list[Client] | None = None
        self.dependents: list[Task] | None = None
        self.block: Block | None = None
        self.actor: Actor | None = None  # whose life this entry stands for

    def __repr__(self) -> str:
        state = "pending" if self.kind == UNRESOLVED else f"kind {self.kind}"
        holders = f"held={self.held} borrowers={len(self.borrowers or ())} uses={self.uses}"
        return f"<ObjectEntry {self.id.hex()} {state} {holders}>"


class Block:
    """The memory of one sealed object."""

    __slots__ = ("allocation", "id", "in_use", "pins")

    def __init__(self, object_id: bytes, allocation: Allocation) -> None:
        self.id = object_id
        self.allocation = allocation
        self.pins: dict[Client, int] = {}
        self.in_use = True  # the object exists

    def __repr__(self) -> str:
        return f"<Block {self.id.hex()} {self.allocation} pins={len(self.pins)} in_use={self.in_use}>"


class Actor:
    """One actor. ``task`` constructs it, again at each restart."""

    __slots__ = (
        "cause", "detached", "handle", "id", "inflight", "job", "lanes", "lease", "mailbox", "name",
        "ordered", "owner", "pending", "restarted", "restarts", "state", "task", "unreferenced", "window", "worker",
    )  # fmt: skip

    def __init__(self, task: Task, owner: Client) -> None:
        options = task.template.options
        self.id = task.id
        self.task = task
        self.job: Job = task.template.job
        self.owner = owner
        self.state = PENDING
        self.name: tuple[str, str] | None = None  # (namespace, name)
        self.handle: bytes = b""  # how other processes make a handle of it: theirs to read
        self.detached = bool(options.get("detached"))
        self.ordered = bool(options.get("ordered", True))
        self.window: int = MAILBOX_WINDOW + int(options.get("concurrency", 1))
        self.restarts: int = int(options.get("restarts", 0))  # left; -1 for ever
        self.restarted = 0
        self.worker: Worker | None = None
        self.lease: Lease | None = None
        self.mailbox: deque[Task] = deque()
        self.inflight: dict[bytes, Task] = {}
        self.lanes: dict[Client, deque[Task]] = {}
        self.pending = 0  # calls that are not over
        self.unreferenced = False
        self.cause: Fault | None = None

    def __repr__(self) -> str:
        calls = f"mailbox={len(self.mailbox)} inflight={len(self.inflight)}"
        return f"<Actor {self.id.hex()} {self.task.template.name} {self.state} {calls}>"

    def move(self, state: str) -> None:
        """To the next state of its life; raises AssertionError where the table has no such move."""
        assert state in _MOVES[self.state], f"{self} cannot become {state}"
        self.state = state

    def fault(self, name: str, message: str) -> Fault:
        return [name, {"actor_id": self.id.hex(), "message": message}]

    def placed(self, worker: Worker, lease: Lease) -> None:
        """A worker and the resources for life are the actor's: it is constructed there."""
        self.move(STARTING)
        worker.state = ACTOR
        worker.actor = self
        worker.lease = lease
        self.worker = worker
        self.lease = lease
