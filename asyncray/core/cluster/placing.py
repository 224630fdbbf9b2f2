"""Placing: which node a task runs on, decided by its home from the rows of the members.

The rows are some tenths of a second old. So a node debits what it sends: the row of another node counts for less until
the next version of it comes, or for a second: a task that starts and ends between two beats changes no row. Two nodes
may still see the same free CPU; the windows of ``task_lines`` bound that.

Tasks without a placement run at home while it has room. Of those that run for long, or whose time is not known yet, the
home takes as many as fill half of it; the others go to the node that is used least. A node that is used to less than
half counts as unused, and among equals the choice goes round. Tasks that need no GPU avoid nodes that have some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from asyncray.core.bundles import Bundles, covers
from asyncray.core.clock import Clock
from asyncray.core.cluster.members import Members, OtherNode
from asyncray.core.group_records import REMOVED
from asyncray.core.placements import ANY_BUNDLE, Affinity, Bundle, Labels, Selectors, Spread, meets
from asyncray.core.records import Where
from asyncray.core.resources import Resources
from asyncray.units import UNIT, Demand

HALF = 0.5
"""A node that is used to a smaller share counts as unused."""

DEBITS_LAST = 1.0
"""Seconds after which the row of a node counts the tasks that still run there: it comes 0.2 s after a change."""

_GPU = "GPU"


class Placing:
    """The choice of nodes, for one home.

    Args:
        node: the ID of this node.
        own: the resources of this node.
        bundles: those of this node, and what it knows of placement groups.
    """

    def __init__(self, clock: Clock, node: bytes, own: Resources, members: Members, bundles: Bundles) -> None:
        self._clock = clock
        self.node = node
        self._bundles = bundles
        self._own = own
        self._members = members
        # Node -> (version of its row, demands of the tasks that went there since that version, time of the last of
        # them). The node of the oldest such time comes first.
        self._debits: dict[bytes, tuple[int, dict[str, int], float]] = {}
        # Counts the choices among equals, and the tasks that are spread.
        self._turn = 0
        self._spread = -1

    def __repr__(self) -> str:
        return f"<Placing among {len(self._members.table)} nodes>"

    @property
    def is_alone(self) -> bool:
        """True while the cluster has no other member."""
        return len(self._members.table) < 2

    def feasible(self, demand: Demand) -> bool:
        """True if a member could serve the demand."""
        return any(_could(member, demand) and self._takes(member) for member in self._members.table.values())

    def frees_up(self, demand: Demand, node: bytes | None = None) -> bool:
        """True if another member could serve the demand once all tasks have ended, beside the actors there.

        Args:
            node: the only member that counts. None: all.
        """
        return any(
            _beside_actors(member, demand)
            for member in self._members.others()
            if node in (None, member.facts["node"]) and not member.row["draining"] and self._takes(member)
        )

    def candidates(self, demand: Demand) -> Iterator[OtherNode]:
        """Yields the other members that could serve the demand."""
        return (
            member
            for member in self._members.others()
            if _could(member, demand) and not member.row["draining"] and self._takes(member)
        )

    def _takes(self, member: OtherNode) -> bool:
        """True if a member takes work of this node. A node that was started for another driver does not."""
        return not member.facts.get("for_driver") or member.facts["node"] == self.node

    def candidate(self, node: bytes, demand: Demand) -> OtherNode | None:
        """Returns another member if it could serve the demand."""
        return next((member for member in self.candidates(demand) if member.facts["node"] == node), None)

    def room(self, node: bytes, demand: Demand) -> int:
        """How many tasks with this demand another node has resources for, by its row and the debits."""
        member = self._members.table.get(node)
        if member is None:
            return 0
        free = self._free(member)
        return min((max(0, free.get(name, 0)) // amount for name, amount in demand), default=_without_demand(member))

    def debit(self, node: bytes, demand: Demand) -> None:
        """A task with this demand was sent to another node."""
        member = self._members.table.get(node)
        if member is None:
            return
        version, sent, at = self._debits.pop(node, (-1, {}, 0.0))
        if version != member.version or self._clock.now - at > DEBITS_LAST:
            sent = {}
        self._debits[node] = (member.version, sent, self._clock.now)
        for name, amount in demand:
            sent[name] = sent.get(name, 0) + amount

    def expire_debits(self) -> bool:
        """Forgets the debits that have lasted. Returns True if there were some: their nodes may have room again.

        No row need tell of that: tasks that have ended since the last row leave it as it was.
        """
        found = False
        while self._debits:
            node, (_, _, at) = next(iter(self._debits.items()))
            if self._clock.now - at <= DEBITS_LAST:
                break
            del self._debits[node]
            found = True
        return found

    def _free(self, member: OtherNode) -> Mapping[str, int]:
        version, sent, at = self._debits.get(member.facts["node"], (-1, {}, 0.0))
        available = member.row["available"]
        if version != member.version or not sent or self._clock.now - at > DEBITS_LAST:
            return available
        return {name: amount - sent.get(name, 0) for name, amount in available.items()}

    def use(self, member: OtherNode, demand: Demand) -> float:
        """The share of a member that is used: of the resource of the demand of which the least is free."""
        return _use(self._free(member), member.facts["resources"], demand)

    def own_use(self, demand: Demand) -> float:
        """The share of this node that is used."""
        return _use(self._own.available, self._own.total, demand)

    def best(self, members: Iterable[OtherNode], demand: Demand) -> OtherNode | None:
        """Returns the member that should get a task, or None."""
        wants_gpu = any(name == _GPU for name, _ in demand)
        ranked: list[tuple[bool, bool, float, OtherNode]] = []
        for member in members:
            use = self.use(member, demand)
            has_gpu = not wants_gpu and bool(member.facts["resources"].get(_GPU))
            # Actors and bundles may fill a node for long: then one with GPUs that has room is better.
            full = self.room(member.facts["node"], demand) <= 0
            ranked.append((full, has_gpu, 0.0 if use < HALF else use, member))
        if not ranked:
            return None
        first = min(rank[:3] for rank in ranked)
        equal = [member for *rank, member in ranked if tuple(rank) == first]
        self._turn += 1
        return equal[self._turn % len(equal)]

    def is_better_elsewhere(self, demand: Demand) -> bool:
        """True if this node is used to half, and another one has room and is used less."""
        own = self.own_use(demand)
        if own < HALF:
            return False
        return any(
            self.use(member, demand) < own and self.room(member.facts["node"], demand)
            for member in self.candidates(demand)
        )

    # Placements -------------------------------------------------------------------------------------------------------

    def choose(self, where: Where, demand: Demand) -> OtherNode | str | None:
        """Returns the member for a task with a placement. One that its row shows full comes after all others.

        Returns: this node's own entry, another member, None if no member will do at present, or why none ever will.
        """
        if isinstance(where, Bundle):
            return self._of_bundle(where, demand)
        ranks = self._ranks(where, demand)
        if isinstance(ranks, str):
            return ranks
        for members in ranks:
            with_room = [member for member in members if self._shows_room(member, demand)]
            if with_room:
                return self._one_of(with_room, where, demand)
        return next((self._one_of(members, where, demand) for members in ranks if members), None)

    def move_to(
        self, where: Where, demand: Demand, node: bytes, taken: Mapping[bytes, Mapping[str, int]]
    ) -> OtherNode | None:
        """Returns a member with room for a task that waits at a node. None: there is none at present.

        Args:
            taken: node -> amounts that others will take first of what is free there.
        """
        if isinstance(where, Bundle):
            return None
        ranks = self._ranks(where, demand)
        for members in ranks if not isinstance(ranks, str) else ():
            others = [member for member in members if member.facts["node"] != node]
            with_room = [member for member in others if self._has_room(member, demand, taken)]
            if with_room:
                return self._one_of(with_room, where, demand)
        return None

    def others_for(self, where: Where, demand: Demand, node: bytes) -> list[bytes]:
        """Returns the nodes that a task which waits at a node may go to."""
        ranks = () if isinstance(where, Bundle) else self._ranks(where, demand)
        found = {m.facts["node"]: None for rank in ranks if not isinstance(rank, str) for m in rank}
        found.pop(node, None)
        return list(found)

    def _ranks(self, where: Where, demand: Demand) -> list[list[OtherNode]] | str:
        """Returns the members that a placement allows, the preferred ones first, or why it never allows any."""
        if isinstance(where, Affinity):
            wanted = self._members.table.get(where.node)
            if wanted is not None and _could(wanted, demand) and not wanted.row["draining"]:
                return [[wanted]]
            if not where.soft:
                return f"the node {where.node.hex()} has ended, is unknown, or never has the resources for it"
        able = self._able(demand)
        if isinstance(where, Labels):
            fitting = [member for member in able if meets(member.facts["labels"], where.hard)]
            if not fitting:
                return "no node has both the labels and the resources that it demands"
            preferred = [member for member in fitting if where.soft and meets(member.facts["labels"], where.soft)]
            return [preferred, fitting]
        if isinstance(where, Selectors):
            return [[m for m in able if meets(m.facts["labels"], conditions)] for conditions in where.alternatives]
        return [able]

    def _one_of(self, members: list[OtherNode], where: Where, demand: Demand) -> OtherNode | None:
        return self._next_of(members) if isinstance(where, Spread) else self._prefer_own(members, demand)

    def _shows_room(self, member: OtherNode, demand: Demand) -> bool:
        """True if a member has room by its row. Tasks that went there since may have ended and changed no row."""
        if member.facts["node"] == self.node:
            return self._own.fits(demand)
        return _fits(member.row["available"], demand)

    def _has_room(self, member: OtherNode, demand: Demand, taken: Mapping[bytes, Mapping[str, int]]) -> bool:
        amounts = taken.get(member.facts["node"])
        if amounts:
            demand = tuple((name, amount + amounts.get(name, 0)) for name, amount in demand)
        if member.facts["node"] == self.node:
            return self._own.fits(demand)
        return self.room(member.facts["node"], demand) > 0

    def _of_bundle(self, where: Bundle, demand: Demand) -> OtherNode | None:
        """The node of the bundle; among several, this one if it has room, otherwise each in turn by what it has."""
        table = self._members.table
        row = self._bundles.views.find(where.group)
        if row is None:
            return None
        if row["state"] == REMOVED:
            return table.get(self.node)  # it fails here
        bundles = list(zip(row["bundles"], row["nodes"], strict=True))
        if where.index != ANY_BUNDLE:
            bundles = bundles[where.index : where.index + 1]
        # A node is in the list as often as its bundle can serve the demand.
        places = [node for bundle, node in bundles if node in table for _ in range(covers(bundle, demand))]
        if not places:
            return None
        if self.node in places and (places.count(self.node) == len(places) or self._bundle_has_room(where, demand)):
            return table.get(self.node)
        self._turn += 1
        return table[places[self._turn % len(places)]]

    def _bundle_has_room(self, where: Bundle, demand: Demand) -> bool:
        return self._bundles.account_for(where).fits(demand)

    def _able(self, demand: Demand) -> list[OtherNode]:
        return [
            member
            for member in self._members.table.values()
            if _could(member, demand) and not member.row["draining"] and self._takes(member)
        ]

    def _next_of(self, members: list[OtherNode]) -> OtherNode:
        """Returns the next of these nodes, in the order of joining."""
        members.sort(key=lambda member: member.facts["joined"])
        found = next((member for member in members if member.facts["joined"] > self._spread), members[0])
        self._spread = found.facts["joined"]
        return found

    def own_or_best(self, demand: Demand, queued: Counter[str]) -> OtherNode | None:
        """Returns this node while the demand fits, otherwise a node with room, otherwise one that could serve it.

        Args:
            queued: amounts that others will take first of what is free on this node.
        """
        able = self._able(demand)
        own = next((member for member in able if member.facts["node"] == self.node), None)
        if own is not None and self._own.fits(tuple((name, amount + queued[name]) for name, amount in demand)):
            return own
        with_room = [m for m in able if m is not own and self.room(m.facts["node"], demand)]
        return self.best(with_room, demand) or own or self.best(able, demand)

    def _prefer_own(self, members: list[OtherNode], demand: Demand) -> OtherNode | None:
        """This node if it is among them and has room, otherwise the one that is used least."""
        own = next((member for member in members if member.facts["node"] == self.node), None)
        if own is not None and (len(members) == 1 or self._own.fits(demand)):
            return own
        with_room = [m for m in members if m is not own and self.room(m.facts["node"], demand)]
        return self.best(with_room, demand) or own or self.best(members, demand)


def _could(member: OtherNode, demand: Demand) -> bool:
    total = member.facts["resources"]
    return all(total.get(name, 0) >= amount for name, amount in demand)


def _fits(available: Mapping[str, int], demand: Demand) -> bool:
    return all(available.get(name, 0) >= amount for name, amount in demand)


def _beside_actors(member: OtherNode, demand: Demand) -> bool:
    total, held = member.facts["resources"], member.row["held"]
    return all(total.get(name, 0) - held.get(name, 0) >= amount for name, amount in demand)


def _without_demand(member: OtherNode) -> int:
    """How many tasks without a demand a node runs at once, as its scheduler limits it."""
    return max(4 * (member.facts["resources"].get("CPU", 0) // UNIT), 32)


def _use(free: Mapping[str, int], total: Mapping[str, int], demand: Demand) -> float:
    shares = [1.0 - free.get(name, 0) / total[name] for name, _ in demand if total.get(name)]
    return max(shares, default=0.0)
