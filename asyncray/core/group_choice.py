"""The choice of nodes for the bundles of a placement group, by its strategy. Pure functions.

A choice considers the amounts that nodes have free, and not which devices they are. So a node may refuse a bundle that
was chosen for it, and the caller chooses again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncray.core.placements import Conditions, meets
from asyncray.core.resources import readable
from asyncray.units import Demand

PACK: Final = "PACK"
SPREAD: Final = "SPREAD"
STRICT_PACK: Final = "STRICT_PACK"
STRICT_SPREAD: Final = "STRICT_SPREAD"
STRATEGIES: Final = (PACK, SPREAD, STRICT_PACK, STRICT_SPREAD)


@dataclass(frozen=True, slots=True)
class Wish:
    """A bundle that needs a node."""

    index: int
    demand: Demand
    conditions: Conditions
    """On the labels of the node."""


@dataclass(slots=True)
class NodeRoom:
    """A node, and the amounts that bundles may have of it. Choices subtract from ``free``."""

    node: bytes
    total: Mapping[str, int]
    free: dict[str, int]
    labels: Mapping[str, str]
    load: float
    """The share of its scarcest resource that is in use: 0 to 1."""

    def fits(self, wish: Wish) -> bool:
        """True if the bundle may go to this node now."""
        return all(self.free.get(name, 0) >= amount for name, amount in wish.demand) and meets(
            self.labels, wish.conditions
        )

    def take(self, demand: Demand) -> None:
        """A bundle goes to this node."""
        for name, amount in demand:
            self.free[name] = self.free.get(name, 0) - amount

    def emptied(self) -> NodeRoom:
        """Returns the node as it would be if nothing used it."""
        return NodeRoom(self.node, self.total, dict(self.total), self.labels, self.load)

    def copy(self) -> NodeRoom:
        """Returns a copy that a choice may take from."""
        return NodeRoom(self.node, self.total, dict(self.free), self.labels, self.load)


def load_of(total: Mapping[str, int], free: Mapping[str, int]) -> float:
    """Returns the share of the scarcest resource that is in use."""
    return max((1 - free.get(name, 0) / amount for name, amount in total.items() if amount), default=0.0)


def choose(
    strategy: str, wishes: Sequence[Wish], rooms: Iterable[NodeRoom], taken: Mapping[bytes, int]
) -> dict[int, bytes] | None:
    """Chooses a node for each bundle.

    Args:
        strategy: one of ``STRATEGIES``.
        wishes: the bundles that need a node.
        rooms: the nodes. They stay as they are.
        taken: node -> how many other bundles of the group it has.

    Returns:
        Index of a bundle -> node; None if they do not all fit.
    """
    own = [room.copy() for room in rooms]
    largest = _by_size(wishes, own)
    if strategy == STRICT_PACK:
        return _on_one_node(largest, [room for room in own if not taken or room.node in taken])
    if strategy == STRICT_SPREAD:
        return _on_different_nodes(largest, [room for room in own if room.node not in taken])
    if strategy == SPREAD:
        return _on_different_nodes(largest, [room for room in own if room.node not in taken]) or _evenly(
            largest, own, taken
        )
    return _on_few_nodes(largest, own, taken)


def _by_size(wishes: Sequence[Wish], rooms: Sequence[NodeRoom]) -> list[Wish]:
    """The largest bundles first: they have the fewest places."""
    most: dict[str, int] = {}
    for room in rooms:
        for name, amount in room.total.items():
            most[name] = max(most.get(name, 0), amount)

    def size(wish: Wish) -> tuple[float, int]:
        return -sum(amount / (most.get(name) or 1) for name, amount in wish.demand), wish.index

    return sorted(wishes, key=size)


def _left(room: NodeRoom) -> float:
    return sum(max(0, room.free.get(name, 0)) / amount for name, amount in room.total.items() if amount)


def _fill(room: NodeRoom, wishes: Sequence[Wish]) -> list[Wish]:
    """Returns the bundles that fit on a node together, as many as the order allows."""
    trial, found = room.copy(), []
    for wish in wishes:
        if trial.fits(wish):
            trial.take(wish.demand)
            found.append(wish)
    return found


def _on_one_node(wishes: Sequence[Wish], rooms: Sequence[NodeRoom]) -> dict[int, bytes] | None:
    fitting = [room for room in rooms if len(_fill(room, wishes)) == len(wishes)]
    if not fitting:
        return None
    fullest = min(fitting, key=lambda room: (_left(room), room.load))
    return {wish.index: fullest.node for wish in wishes}


def _on_few_nodes(wishes: list[Wish], rooms: Sequence[NodeRoom], taken: Mapping[bytes, int]) -> dict[int, bytes] | None:
    """Fills the node that takes the most bundles, then the next; nodes that have some of the group come first."""
    found: dict[int, bytes] = {}
    rest, free = wishes, list(rooms)
    while rest and free:
        filled = [(room, _fill(room, rest)) for room in free]
        best, bundles = max(filled, key=lambda pair: (len(pair[1]), taken.get(pair[0].node, 0), -_left(pair[0])))
        if not bundles:
            break
        found |= {wish.index: best.node for wish in bundles}
        free.remove(best)
        rest = [wish for wish in rest if wish.index not in found]
    return found if not rest else _evenly(wishes, rooms, taken)


def _evenly(wishes: Sequence[Wish], rooms: Sequence[NodeRoom], taken: Mapping[bytes, int]) -> dict[int, bytes] | None:
    """Gives each bundle to the node that has the fewest of the group, and among these is used least."""
    count = dict(taken)
    free = [room.copy() for room in rooms]
    found: dict[int, bytes] = {}
    for wish in wishes:
        fitting = [room for room in free if room.fits(wish)]
        if not fitting:
            return None
        best = min(fitting, key=lambda room: (count.get(room.node, 0), room.load))
        best.take(wish.demand)
        count[best.node] = count.get(best.node, 0) + 1
        found[wish.index] = best.node
    return found


def _on_different_nodes(wishes: Sequence[Wish], rooms: Sequence[NodeRoom]) -> dict[int, bytes] | None:
    """Gives each bundle a node of its own: a matching, found by paths along which earlier bundles move aside."""
    if len(wishes) > len(rooms):
        return None
    order = sorted(rooms, key=lambda room: room.load)
    holder: dict[bytes, Wish] = {}

    def place(wish: Wish, seen: dict[bytes, None]) -> bool:
        fitting = [room.node for room in order if room.node not in seen and room.fits(wish)]
        free = next((node for node in fitting if node not in holder), None)
        if free is not None:
            holder[free] = wish
            return True
        for node in fitting:
            if node not in seen:
                seen[node] = None
                if place(holder[node], seen):
                    holder[node] = wish
                    return True
        return False

    if all(place(wish, {}) for wish in wishes):
        return {wish.index: node for node, wish in holder.items()}
    return None


def obstacle(strategy: str, wishes: Sequence[Wish], rooms: Sequence[NodeRoom]) -> str:
    """Says for people why these nodes cannot have the bundles even if they are idle; empty if they can."""
    empty = [room.emptied() for room in rooms]
    if choose(strategy, wishes, empty, {}) is not None:
        return ""
    for wish in wishes:
        if not any(room.fits(wish) for room in empty):
            labelled = " with the labels that it asks for" if wish.conditions else ""
            return f"no node{labelled} has the {readable(wish.demand)} of bundle {wish.index}"
    nodes = f"{len(empty)} node{'s' * (len(empty) != 1)}"
    if strategy == STRICT_SPREAD:
        return f"STRICT_SPREAD needs {len(wishes)} nodes that fit, and the cluster has {nodes}"
    if strategy == STRICT_PACK:
        return "no node has room for all its bundles together"
    return f"the cluster of {nodes} has no room for all its bundles"
