"""Answers about all nodes of a cluster, for people and programs. Each node answers from its own view."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from asyncray.core.cluster.members import Members, OtherNode
from asyncray.units import UNIT, plain

if TYPE_CHECKING:
    from asyncray.words import NodeRow

_STORE = "object_store_memory"


class NodeRows:
    """Answers questions about the nodes of a cluster.

    Args:
        members: those that this node knows.
    """

    def __init__(self, members: Members) -> None:
        self._members = members

    def __repr__(self) -> str:
        return f"<NodeRows of {self._members}>"

    def nodes(self) -> list[NodeRow]:
        """A row for each member, and for those that have ended since this node joined."""
        living = [_row(member, "ALIVE", "") for member in self._members.table.values()]
        past = [_row(member, *self._end_of(node)) for node, member in self._members.past.items()]
        return living + past

    def _end_of(self, node: bytes) -> tuple[str, str]:
        state, how = self._members.ended[node]
        return state.upper(), how

    def total(self) -> dict[str, float]:
        """The resources of all members, by name."""
        total: Counter[str] = Counter()
        for member in self._members.table.values():
            total.update(member.facts["resources"])
        return plain(total.items())

    def available(self) -> dict[str, float]:
        """The free resources of all members, by name."""
        free: Counter[str] = Counter()
        for member in self._members.table.values():
            free.update(_available(member))
        return plain(free.items())


def _available(member: OtherNode) -> dict[str, int]:
    available = dict(member.row["available"])
    # Tasks do not request store memory: the objects in the store say how much of it is free.
    if _STORE in available:
        available[_STORE] = member.row["store_free"] * UNIT
    return available


def _row(member: OtherNode, state: str, how: str) -> NodeRow:
    facts = member.facts
    alive = state == "ALIVE"
    return {
        "NodeID": facts["node"].hex(),
        "Alive": alive,
        "State": state,
        "DeathReasonMessage": how,
        "NodeName": facts["name"],
        "NodeManagerAddress": facts["host"],
        "NodeManagerPort": facts["port"],
        "NodeManagerHostname": facts["hostname"],
        "Resources": plain(facts["resources"].items()) if alive else {},
        "Available": plain(_available(member).items()) if alive else {},
        "Labels": {**facts["labels"], "ray.io/node-id": facts["node"].hex()},
    }
