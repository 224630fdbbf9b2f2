"""Records of actors: one actor's life and mailbox."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from asyncray.config import MAILBOX_WINDOW
from asyncray.core.states import ALIVE, DEAD, PENDING, RESTARTING, STARTING

if TYPE_CHECKING:
    from asyncray.core.leases import Lease, Worker
    from asyncray.core.records import Client, Fault, Job, Task

_MOVES: dict[str, tuple[str, ...]] = {
    PENDING: (STARTING, DEAD),
    STARTING: (ALIVE, RESTARTING, DEAD),
    ALIVE: (RESTARTING, DEAD),
    RESTARTING: (STARTING, DEAD),
    DEAD: (),
}


class Actor:
    """One actor. ``task`` constructs it, again at each restart."""

    __slots__ = (
        "cause", "constructed_at", "detached", "handle", "id", "inflight", "job", "lanes", "lease", "mailbox", "name",
        "ordered", "owner", "pending", "restart_pause", "restarted", "restarts", "state", "task", "unreferenced",
        "window", "worker",
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
        # When the constructor last returned; None while it has not, after a restart too.
        self.constructed_at: float | None = None
        # Seconds that the next restart waits: none at first, and more for an actor that dies soon again and again.
        self.restart_pause = 0.0
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
        worker.actor = self
        worker.lease = lease
        self.worker = worker
        self.lease = lease
