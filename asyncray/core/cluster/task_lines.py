"""Lines: the ways of tasks to other nodes, and how many tasks each may have on it.

A *line* leads to one node for the tasks of one shape. It has a window: the slots that the node has for this home, and
as many tasks ahead as take two milliseconds. Tasks that may start only once, and those of functions whose time is not
known, are never sent ahead. At least one task may wait at each node that could run it, so that every shape stands in
the queue of some node. A line may have a queue of its own: of tasks whose placement names the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from asyncray.core.cluster.members import OtherNode
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.placing import Placing
from asyncray.core.leases import Shape
from asyncray.core.placements import Bundle
from asyncray.core.records import ObjectEntry, Task
from asyncray.core.scheduler import SHORTEST_TASK, UNKNOWN

if TYPE_CHECKING:
    from asyncray.words import GroupRow

AHEAD_MICROSECONDS = 2000.0
"""The work that is sent ahead to a slot of another node, by the mean of the function."""

MOST_AHEAD = 128


class Away:
    """A task at another node."""

    __slots__ = ("attempt", "line", "peer", "task", "uses")

    def __init__(self, task: Task, attempt: int, peer: Peer, uses: tuple[ObjectEntry, ...]) -> None:
        self.task = task
        self.attempt = attempt
        self.peer = peer
        # None for constructors and calls of actors.
        self.line: TaskLine | None = None
        # The objects that it names, until the last message about it.
        self.uses = uses

    def __repr__(self) -> str:
        return f"<Away {self.attempt} {self.task}>"


class TaskLine:
    """The way of the tasks of one shape to one node."""

    __slots__ = ("asked_back_at", "misled_by", "peer", "queue", "sent", "shape", "slots")

    def __init__(self, peer: Peer, shape: Shape) -> None:
        self.peer = peer
        self.shape = shape
        # Tasks whose placement names the node.
        self.queue: deque[Task] = deque()
        # Tasks there, by attempt, in the order in which they were sent.
        self.sent: dict[int, Away] = {}
        # How many run there side by side, as the node says; None: it has not said, or long ago.
        self.slots: int | None = None
        self.asked_back_at = 0.0
        # The row of the placement group by which a task went there, although its bundle was elsewhere.
        self.misled_by: GroupRow | None = None

    def __repr__(self) -> str:
        return f"<TaskLine to {self.peer} {self.shape} sent={len(self.sent)} slots={self.slots}>"


class TaskLines:
    """All lines of a node."""

    def __init__(self, placing: Placing, peer: Callable[[bytes], Peer]) -> None:
        self._placing = placing
        self._peer = peer
        # Node -> shape -> line.
        self._table: dict[Peer, dict[Shape, TaskLine]] = {}
        # Tasks may wait at other nodes: some did at the last tick, or a line has changed since. ``Feeding`` sets it.
        self.need_tick = False

    def __repr__(self) -> str:
        return f"<TaskLines to {len(self._table)} nodes>"

    def __iter__(self) -> Iterator[TaskLine]:
        return (line for lines in self._table.values() for line in lines.values())

    def find(self, peer: Peer, shape: Shape) -> TaskLine | None:
        """Returns the line to a node, if there is one."""
        return self._table.get(peer, {}).get(shape)

    def to(self, member: OtherNode, shape: Shape) -> TaskLine:
        """Returns the line to a member."""
        peer = self._peer(member.facts["node"])
        lines = self._table.setdefault(peer, {})
        line = lines.get(shape)
        if line is None:
            line = lines[shape] = TaskLine(peer, shape)
        return line

    def pop(self, peer: Peer) -> list[TaskLine]:
        """Removes the lines to a node that has ended, and returns them."""
        return list(self._table.pop(peer, {}).values())

    def best(self, shape: Shape) -> TaskLine | None:
        """Returns the line for the next task of a shape. None: no other node should get one now."""
        members = []
        for member in self._placing.candidates(shape.demand):
            line = self.find(self._peer(member.facts["node"]), shape)
            if line is None or (not line.peer.link.congested and self.room(line) > 0):
                members.append(member)
        found = self._placing.best(members, shape.demand)
        return None if found is None else self.to(found, shape)

    def room(self, line: TaskLine) -> int:
        """How many tasks may be sent on a line now.

        A free slot is filled at once. Beyond the slots the line is filled when it is half empty: batches, not single
        tasks.
        """
        task = line.queue[0] if line.queue else line.shape.own_task()
        if task is None:
            return 0
        slots = line.slots
        if slots is None:
            slots = len(line.sent) + self._placing.room(line.peer.id, line.shape.demand)
        slots = max(1, slots)
        mean = task.template.mean
        if mean is None or not task.retries or task.estimate == UNKNOWN:
            return slots - len(line.sent)
        ahead = min(MOST_AHEAD, int(AHEAD_MICROSECONDS / (mean + SHORTEST_TASK)))
        window = slots * (1 + ahead)
        return window - len(line.sent) if len(line.sent) < slots or 2 * len(line.sent) <= window + 1 else 0

    def forget_unused(self) -> None:
        """Forgets lines without tasks: the slots that their nodes named are old when the next task comes."""
        for lines in self._table.values():
            for shape, line in list(lines.items()):
                if not line.sent and not line.queue:
                    del lines[shape]
        self.need_tick = any(len(line.sent) > (line.slots or 0) for line in self)

    def together(self) -> Iterator[list[TaskLine]]:
        """Yields the lines whose tasks stand in one queue at their node, which knows no placements but bundles."""
        for lines in self._table.values():
            groups: dict[Any, list[TaskLine]] = {}
            for line in lines.values():
                groups.setdefault(_queue_there(line.shape), []).append(line)
            yield from groups.values()

    def slots_are(self, peer: Peer, shape: Shape, slots: int) -> None:
        """A node says how many tasks of a shape can run there side by side."""
        queue = _queue_there(shape)
        for line in self._table.get(peer, {}).values():
            if _queue_there(line.shape) == queue:
                line.slots = slots


def _queue_there(shape: Shape) -> tuple[Any, ...]:
    where = shape.where if isinstance(shape.where, Bundle) else None
    return shape.job, shape.demand, where


def units(shape: Shape) -> int:
    """How many more tasks of a shape the account here has resources for."""
    account = shape.account
    count = min((max(0, account.room(name)) // amount for name, amount in shape.demand), default=1)
    # The halves of two devices make no device.
    return count if count and account.fits(shape.demand) else 0
