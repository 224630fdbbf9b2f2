"""The placement groups of a cluster, at the head: the machine that decides, and its messages to nodes and from them.

The node of a group's creator watches the group, and so does each node that asks for it: they get the row at each
change until the group is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.cluster_messages import (
    ABORT,
    COMMIT,
    COMMITTED,
    GROUP,
    PREPARE,
    PREPARED,
    RELEASE_BUNDLES,
    UNSURE,
    ClusterMessage,
)
from asyncray.core.group_choice import NodeRoom, load_of
from asyncray.core.group_records import REMOVED, Pairs
from asyncray.core.groups import Groups
from asyncray.core.head.membership import Member
from asyncray.core.outbox import Outbox
from asyncray.core.questions import Refusal
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.words import GroupRow

SERVICES = ("create_group", "remove_group", "find_group", "group", "groups", "watch_group")
"""The questions that nodes may ask."""


class HeadGroups:
    """The placement groups of a cluster.

    Args:
        members: those that have not ended, by NodeID.
    """

    def __init__(self, outbox: Outbox, members: Mapping[bytes, Member]) -> None:
        self._outbox = outbox
        self._members = members
        self.groups = Groups(self._rooms, self)
        # Group -> the nodes that watch it.
        self._watchers: dict[bytes, dict[bytes, None]] = {}

    def __repr__(self) -> str:
        return f"<HeadGroups {self.groups}>"

    def _rooms(self) -> list[NodeRoom]:
        found = []
        for node, member in self._members.items():
            if not member.row["draining"] and not member.facts.get("for_driver"):
                total, free = member.facts["resources"], dict(member.row["available"])
                labels = {**member.facts["labels"], "ray.io/node-id": node.hex()}
                found.append(NodeRoom(node, total, free, labels, load_of(total, free)))
        return found

    # Nodes ------------------------------------------------------------------------------------------------------------

    def serve(self, method: str, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        """Answers the question of a node about groups."""
        try:
            value = self.groups.serve(method, arguments)
        except Refusal as refusal:
            reply(ok=False, value=[refusal.name, {"message": refusal.message}])
            return
        if method in ("create_group", "watch_group") and value is not None and value["state"] != REMOVED:
            self._watchers.setdefault(arguments[0], {})[node] = None
        reply(ok=True, value=value)

    def receive(self, node: bytes, message: Any, now: float) -> None:
        """PREPARED, COMMITTED or UNSURE: a message of a node about its bundles."""
        kind, group, pairs, *rest = message
        if kind == PREPARED:
            self.groups.answered(node, group, pairs, ready=rest[0], now=now)
        elif kind == COMMITTED:
            self.groups.committed(node, group, pairs)
        else:
            assert kind == UNSURE
            self.groups.unsure(node, group, pairs)

    def node_ended(self, node: bytes, now: float) -> None:
        """A node is lost or has left."""
        for watchers in self._watchers.values():
            watchers.pop(node, None)
        self.groups.node_ended(node, now)

    # The way to the nodes ---------------------------------------------------------------------------------------------

    def _send(self, node: bytes, message: ClusterMessage) -> None:
        member = self._members.get(node)
        if member is not None:
            self._outbox.send(member.party, message)

    def prepare(self, node: bytes, group: bytes, bundles: list[tuple[int, int, Demand]], patient: bool) -> None:  # noqa: FBT001 - as in the message
        """PREPARE."""
        self._send(node, (PREPARE, group, bundles, patient))

    def commit(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """COMMIT."""
        self._send(node, (COMMIT, group, pairs))

    def abort(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """ABORT."""
        self._send(node, (ABORT, group, pairs))

    def release(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """RELEASE_BUNDLES."""
        self._send(node, (RELEASE_BUNDLES, group, pairs))

    def changed(self, row: GroupRow) -> None:
        """Shows a group to the nodes that watch it."""
        group = row["group_id"]
        for node in self._watchers.get(group, ()):
            self._send(node, (GROUP, row))
        if row["state"] == REMOVED:
            self._watchers.pop(group, None)

    def check(self) -> None:
        """Raises AssertionError if the tables contradict each other."""
        self.groups.check()
        for group, nodes in self._watchers.items():
            assert group in self.groups.table, f"{group.hex()} is removed and watched"
            assert nodes.keys() <= self._members.keys(), f"{group.hex()} is watched by a node that has ended"
