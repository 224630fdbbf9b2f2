"""The parts of a node that only a cluster has, as ``Work`` sees them: on a lone node each is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncray.core.records import Task
    from asyncray.messages import Value


class GuestEnds(Protocol):
    """Tasks of other nodes that run here, for a node that belongs to a cluster."""

    def ended(self, guest: Task, values: Sequence[Value]) -> None:
        """A guest has ended: its home gets the values, and its uses of objects end."""


class WaysToActors(Protocol):
    """The ways to actors of other nodes, for a node that belongs to a cluster."""

    def submit(self, call: Task, actor_id: bytes) -> bool:
        """A process of this node calls an actor of another one. False: the actor is this node's own."""


class TasksElsewhere(Protocol):
    """Tasks of this node that run at other nodes, for a node that belongs to a cluster."""

    def cancel(self, task: Task, *, force: bool, recursive: bool) -> None:
        """Stops a task that was sent to another node."""

    def cancel_at_home(self, task_id: bytes, *, force: bool, recursive: bool) -> None:
        """A process of this node cancels a task that this node does not know."""

    def has(self, task: Task) -> bool:
        """True if the task was sent to another node."""


class Bringer(Protocol):
    """Brings arguments that are on other nodes to this one, for a node that belongs to a cluster."""

    def bring(self, task: Task) -> bool:
        """A task is about to be queued or posted. Returns True if arguments come here first."""

    def brings(self, task: Task) -> bool:
        """Returns True if arguments of the task are not here yet."""

    def ended(self, task: Task) -> None:
        """The task needs its arguments no more."""
