"""Records of actors: the life of an actor, and its seat.

``actors`` decides about lives, ``mailboxes`` about calls.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from asyncray.config import MAILBOX_WINDOW
from asyncray.core.states import ALIVE, DEAD, PENDING, RESTARTING, STARTING

if TYPE_CHECKING:
    from asyncray.core.leases import Lease, Worker
    from asyncray.core.records import Client, Fault, Job, ObjectEntry, Party, Task
    from asyncray.words import FunctionOptions

# State -> the states that may follow it.
_MOVES: dict[str, tuple[str, ...]] = {
    PENDING: (STARTING, DEAD),
    STARTING: (ALIVE, RESTARTING, DEAD),
    ALIVE: (RESTARTING, DEAD),
    RESTARTING: (STARTING, DEAD),
    DEAD: (),
}


class Seat:
    """The place of an actor: its process, and the calls for it. ``Mailboxes`` writes the calls, ``Actors`` the rest.

    Nothing here says whether the actor may start again, and for whom it lives: that is ``Actor``. An actor of this node
    is both.
    """

    __slots__ = (
        "cause", "id", "inflight", "lanes", "lease", "mailbox", "ordered", "peer", "pending", "restarted", "state",
        "unreferenced", "window", "worker",
    )  # fmt: skip

    is_route: ClassVar[bool] = False
    """True for the way to an actor of another node (``Route``)."""

    def __init__(self, actor_id: bytes, options: FunctionOptions) -> None:
        self.id = actor_id
        # ``move`` writes it.
        self.state = PENDING
        # How often the actor was restarted.
        self.restarted = 0
        # Calls of one caller are posted in the order in which the caller submitted them.
        self.ordered = bool(options.get("ordered", True))
        # How many calls may be in flight.
        self.window: int = MAILBOX_WINDOW + int(options.get("concurrency", 1))
        # The worker that hosts the actor and the lease that it lives on, while it is STARTING or ALIVE. ``placed`` sets
        # both.
        self.worker: Worker | None = None
        self.lease: Lease | None = None
        # The node with its process, if that is another one.
        self.peer: Party | None = None
        # Posted calls that are not sent yet, with cancelled ones that are skipped later.
        self.mailbox: deque[Task] = deque()
        # ID of a call -> the call, which was sent to the worker and has not ended.
        self.inflight: dict[bytes, Task] = {}
        # ClientID of a caller -> its calls that are not posted yet: the first waits for its arguments, the others wait
        # behind it, or for their own arguments if the actor keeps no order. By ID, because a caller may be a process of
        # another node, whose calls come through one connection.
        self.lanes: dict[bytes, deque[Task]] = {}
        # How many calls have not ended.
        self.pending = 0
        # No handle of the actor is left.
        self.unreferenced = False
        # The error of the calls once the actor is DEAD. None until then.
        self.cause: Fault | None = None

    def __repr__(self) -> str:
        calls = f"mailbox={len(self.mailbox)} inflight={len(self.inflight)}"
        return f"<{type(self).__name__} {self.id.hex()} {self.state} {calls}>"

    def move(self, state: str) -> None:
        """Moves the actor to another state. Raises AssertionError if the table of moves does not allow it."""
        assert state in _MOVES[self.state], f"{self} cannot become {state}"
        self.state = state

    def fault(self, name: str, message: str) -> Fault:
        return [name, {"actor_id": self.id.hex(), "message": message}]


class Actor(Seat):
    """An actor whose life is decided here: when it starts again, for whom it lives, how it is found.

    It inherits, because the life and its seat are one thing with one state while both are on this node: mailboxes read
    the state, the cause of death and the handles that are left, and nearly every line about lives reads what a seat
    has. An ``actor.seat`` with a way back would cost each call six more loads: 3.52 us in the core instead of 3.48.
    """

    __slots__ = (
        "constructed_at", "creator", "detached", "handle", "job", "name", "pid", "restart_pause", "restarts", "task",
    )  # fmt: skip

    is_guest: ClassVar[bool] = False
    """True for an actor whose life another node decides (``GuestActor``)."""

    def __init__(self, task: Task, creator: Client) -> None:
        options = task.template.options
        super().__init__(task.id, options)
        # The constructor, which runs again at each restart.
        self.task = task
        self.job: Job = task.template.job
        # The process that created it.
        self.creator = creator
        # (namespace, name), or None.
        self.name: tuple[str, str] | None = None
        # The pickled description from which other processes make a handle of it. The daemon never reads it.
        self.handle: bytes = b""
        # It lives on without handles and after its driver.
        self.detached = bool(options.get("detached"))
        # How many restarts are left; -1: no limit.
        self.restarts: int = int(options.get("restarts", 0))
        # When the constructor last returned. None until it has, also after a restart.
        self.constructed_at: float | None = None
        # The pid of its process at another node, for people.
        self.pid: int | None = None
        # Seconds that the next restart waits: none at first, and more for an actor whose process ends soon each time,
        # unless its zygote or its node has died.
        self.restart_pause = 0.0

    @property
    def registered_name(self) -> str:
        """The name under which programs find the actor; empty if there is none."""
        return self.name[1] if self.name else ""

    @property
    def is_wanted(self) -> bool:
        """False once no handle is left and all calls have ended."""
        return self.detached or self.pending > 0 or not self.unreferenced

    @property
    def full_window(self) -> int:
        """How many calls may be in flight. ``window`` is smaller while calls are held back."""
        return MAILBOX_WINDOW + int(self.task.template.options.get("concurrency", 1))

    def __repr__(self) -> str:
        calls = f"mailbox={len(self.mailbox)} inflight={len(self.inflight)}"
        return f"<{type(self).__name__} {self.id.hex()} {self.task.template.name} {self.state} {calls}>"

    def placed(self, worker: Worker, lease: Lease) -> None:
        """The actor gets a worker and the lease that it lives on: its constructor runs there."""
        self.move(STARTING)
        worker.actor = self
        worker.lease = lease
        self.worker = worker
        self.lease = lease


class GuestActor(Actor):
    """An actor that has its process here, and whose life another node decides: its home.

    It never restarts here. When its process has ended, its home decides whether and where it starts again.
    """

    __slots__ = ("_shown_name",)

    is_guest = True

    def __init__(self, task: Task, creator: Client, restarted: int, name: str) -> None:
        super().__init__(task, creator)
        self.restarts = 0
        self.restarted = restarted
        self._shown_name = name

    @property
    def registered_name(self) -> str:
        return self._shown_name


class Route(Seat):
    """The way of the calls of this node to an actor of another node.

    It is PENDING until the home of the actor says where the actor is, ALIVE while calls may be sent there, RESTARTING,
    and DEAD. A window of 0 holds all calls back.
    """

    __slots__ = ("home", "life")

    is_route = True

    def __init__(self, actor_id: bytes, home: Party) -> None:
        super().__init__(actor_id, {})
        self.home = home
        # The object of the actor's life, which is in use while calls are unfinished.
        self.life: tuple[ObjectEntry, ...] = ()
