"""The outbox of the core: messages for parties, and commands for the shell.

The state machines append here. After each batch of events the shell takes everything out, writes each party's messages
as one frame, and performs the commands in order. Every command that takes time ends in exactly one event of
``asyncray.core.machine.NodeMachine``, which the docstring of the command names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from asyncray.core.records import Job, Party
from asyncray.messages import Message

if TYPE_CHECKING:
    from asyncray.cluster_messages import ClusterMessage
    from asyncray.core.cluster.commands import ClusterCommand


class _Order:
    """What the commands share: those of one class with equal fields are equal.

    No dataclasses: these would take 3 ms of each daemon's start, a fifth of what its own modules take.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Order) and type(self) is type(other) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # as of other things with fields that may not be hashable

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._fields()}"

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)


class StartWorker(_Order):
    """Fork a worker. Ends in ``worker_started`` or ``worker_exited``."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class KillWorker(_Order):
    """Send SIGKILL to a worker and the processes that it started. Ends in ``worker_exited``."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class CreateSegment(_Order):
    """Make a shared-memory segment of ``size`` bytes. Ends in ``segment_created`` or ``segment_failed``."""

    __slots__ = ("name", "size")

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size


class RetireSegment(_Order):
    """Unlink a segment. Nothing follows."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class StopNode(_Order):
    """Stop the whole node in order. Nothing follows."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class FlushOutput(_Order):
    """Send the workers' new output to their drivers, before the messages that are queued now. Nothing follows.

    The driver of this job is about to end: it gets unfinished lines, too.
    """

    __slots__ = ("job",)

    def __init__(self, job: Job) -> None:
        self.job = job


class LogLine(_Order):
    """A line for the daemon's log."""

    __slots__ = ("level", "text")

    def __init__(self, level: int, text: str) -> None:
        self.level = level
        self.text = text


Command: TypeAlias = (
    "StartWorker | KillWorker | CreateSegment | RetireSegment | StopNode | FlushOutput | LogLine | ClusterCommand"
)


class Restless(Protocol):
    """A ``Link`` that has something to do before the usual tick."""

    @property
    def tick_wanted_at(self) -> float | None:
        """The time of the tick. None: it has nothing to do any more."""

    def tick(self, now: float, late: float) -> None:
        """Some time has passed."""


class Outbox:
    """Collects messages per party, and commands."""

    __slots__ = ("_parties", "commands", "dirty", "restless", "send_far")

    def __init__(self) -> None:
        # Parties with messages that the shell has not taken yet.
        self.dirty: list[Party] = []
        # Commands that the shell has not taken yet, in order.
        self.commands: list[Command] = []
        # Links to other nodes that owe an acknowledgement or will dial again: they need a tick before the usual one.
        # They enter themselves, and ``ClusterMachine`` takes them out.
        self.restless: dict[Restless, None] = {}
        # The number of the last party.
        self._parties = 0
        # Sends a message to a driver at another node. A node without a cluster has no such jobs.
        self.send_far: Callable[[Job, Message], None] | None = None

    def __repr__(self) -> str:
        return f"<Outbox {len(self.dirty)} parties, {len(self.commands)} commands>"

    def new_party_number(self) -> int:
        """Returns a number that no party of the node has had."""
        self._parties += 1
        return self._parties

    def send(self, party: Party, message: Message | ClusterMessage) -> None:
        """Queues a message, or drops it if the connection of the party is closed."""
        out = party.out
        if not out:
            if not party.alive:
                return
            self.dirty.append(party)
        out.append(message)

    def send_to_driver(self, job: Job, message: Message) -> None:
        """Queues a message for the driver of a job, or drops it if the driver has ended."""
        reader = job.reports_to
        if reader is None:
            return
        if reader.is_node:
            assert self.send_far is not None
            self.send_far(job, message)
        else:
            self.send(reader, message)

    def do(self, command: Command) -> None:
        """Queues a command."""
        self.commands.append(command)
