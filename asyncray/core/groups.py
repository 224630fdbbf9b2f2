"""Placement groups: a node for each bundle. The head chooses it, or a node that is alone.

::

    PENDING --all bundles prepared--> PREPARED --all committed--> CREATED
       |                                 |                         |  ^
       |                                 +------ node lost --------+  | all committed
       |                                 |                         v  |
       |                                 |                    RESCHEDULING
       +---------------------------------+-------------------------+---> REMOVED

Bundles are set aside in two phases, so that a group gets all of its bundles or none:

1. The head chooses a node for each bundle that has none, and sends PREPARE to these nodes. Each sets its bundles aside,
   or refuses.
2. If all have prepared theirs, the group is PREPARED: that is the decision. The nodes get COMMIT, and from then on
   tasks may use the bundles. If one refuses or is lost before, the others get ABORT, and the head chooses again.

A bundle has an ``attempt``, which grows each time that it goes to a node. So a late answer about an earlier attempt
means nothing. A bundle whose node is lost after the decision gets another node, while the others stay where they are.

A group that does not fit beside the tasks that run, but would fit without them, gets one *patient* round at a time: its
nodes lend no more of what it lacks, for at most ten seconds. Otherwise small tasks that follow one another would keep a
large bundle waiting for ever. There is one patient round in the cluster, so that two groups never wait for each other.

Every change of a group that a later head would have to know goes through ``_changed``: a head that keeps its tables on
disk writes the row there, before the messages that depend on it leave.

Invariants (``check``): a group is in ``_waiting`` exactly while one of its bundles lacks a node or the decision; a
CREATED group has all its bundles committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.group_choice import STRATEGIES, NodeRoom, Wish, choose, obstacle
from asyncray.core.group_records import (
    BUNDLE_PREPARED,
    COMMITTED,
    COMMITTING,
    CREATED,
    GROUP_PENDING,
    GROUP_PREPARED,
    MOST_REMOVED,
    PREPARING,
    REMOVED,
    RESCHEDULING,
    UNDECIDED,
    UNPLACED,
    Nodes,
    PlacedBundle,
    PlacedGroup,
)
from asyncray.core.placements import read_conditions
from asyncray.core.questions import Refusal

if TYPE_CHECKING:
    from asyncray.words import GroupRow

LOOK_EVERY = 0.1
"""Seconds between two looks at groups that wait, if only amounts of nodes have changed: they change all the time."""

PATIENT_AGAIN_AFTER = 10.0
"""Seconds after a patient round that failed before the group gets another one."""

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class Groups:
    """All placement groups of a cluster, or of a node that is alone.

    Args:
        rooms: returns the nodes, as copies that may be written to.
        nodes: the way to them.
    """

    def __init__(self, rooms: Callable[[], list[NodeRoom]], nodes: Nodes) -> None:
        self._rooms = rooms
        self._nodes = nodes
        # All groups that are not removed, by ID.
        self.table: dict[bytes, PlacedGroup] = {}
        # The last MOST_REMOVED groups that were removed, the oldest first.
        self.removed: dict[bytes, PlacedGroup] = {}
        # (namespace, name) -> group.
        self._names: dict[tuple[str, str], PlacedGroup] = {}
        # Groups with a bundle that lacks a node or the decision, in the order of their turns.
        self._waiting: dict[PlacedGroup, None] = {}
        # The group of the patient round under way.
        self._patient: PlacedGroup | None = None
        # A group or a node has appeared or ended since nodes were last chosen.
        self._dirty = False
        # Amounts of nodes have changed since then, and when nodes are chosen again for that.
        self._amounts_changed = False
        self._look_at = 0.0

    def __repr__(self) -> str:
        return f"<Groups {len(self.table)}, {len(self._waiting)} waiting>"

    # Questions --------------------------------------------------------------------------------------------------------

    def serve(self, method: str, arguments: Sequence[Any]) -> Any:
        """Answers a question of a node.

        Raises:
            Refusal: it cannot be done, through a fault of the asker.
        """
        return _SERVICES[method](self, *arguments)

    def create(
        self,
        group_id: bytes,
        namespace: str,
        name: str,
        strategy: str,
        bundles: Sequence[tuple[Sequence[tuple[str, int]], Sequence[Any]]],
        detached: bool,  # noqa: FBT001 - arguments come from a message
    ) -> GroupRow:
        """Registers a group, and returns its row.

        Args:
            bundles: demand, and conditions on the labels of the node.

        Raises:
            Refusal: the name is taken.
            ValueError: the arguments make no sense.
        """
        if (namespace, name) in self._names:
            text = f"Failed to create placement group '{name}' because name '{name}' already exists."
            raise Refusal("ValueError", text)
        demands = [tuple((resource, amount) for resource, amount in demand) for demand, _ in bundles]
        if strategy not in STRATEGIES or not demands or not all(demands) or group_id in self.table:
            raise ValueError(f"no group has the strategy {strategy} and the bundles {bundles}")
        if any(amount <= 0 for demand in demands for _, amount in demand):
            raise ValueError(f"a bundle of {bundles} asks for nothing")
        placed = [
            PlacedBundle(demand, read_conditions(conditions))
            for demand, (_, conditions) in zip(demands, bundles, strict=True)
        ]
        group = self.table[group_id] = PlacedGroup(group_id, (namespace, name), strategy, placed, detached=detached)
        if name:
            self._names[group.name] = group
        self._waiting[group] = None
        self._dirty = True
        self._changed(group)
        return group.row()

    def find(self, namespace: str, name: str) -> GroupRow | None:
        """Returns the row of the group with this name, or None."""
        group = self._names.get((namespace, name))
        return None if group is None else group.row()

    def look(self, group_id: bytes) -> GroupRow | None:
        """Returns the row of a group, or None if there never was one, or its end is long ago."""
        group = self.table.get(group_id) or self.removed.get(group_id)
        return None if group is None else group.row()

    def rows(self) -> list[GroupRow]:
        """Returns the rows of all groups, the removed ones last."""
        return [group.row() for group in (*self.table.values(), *self.removed.values())]

    def remove(self, group_id: bytes) -> None:
        """Ends a group. Does nothing if it has ended."""
        group = self.table.pop(group_id, None)
        if group is None:
            return
        group.move(REMOVED)
        self._waiting.pop(group, None)
        if self._patient is group:
            self._patient = None
        if group.name[1]:
            del self._names[group.name]
        for node, indices in group.where(*UNDECIDED).items():
            self._nodes.abort(node, group_id, group.pairs(indices))
        for node, indices in group.where(COMMITTING, COMMITTED).items():
            self._nodes.release(node, group_id, group.pairs(indices))
        self.removed[group_id] = group
        if len(self.removed) > MOST_REMOVED:
            del self.removed[next(iter(self.removed))]
        self._dirty = True
        self._changed(group)

    # Choosing ---------------------------------------------------------------------------------------------------------

    def nodes_changed(self) -> None:
        """A node joined, or has got resources back: groups that wait may fit."""
        self._dirty = True

    def amounts_changed(self) -> None:
        """The free amounts of a node have changed."""
        self._amounts_changed = True

    def flush(self, now: float) -> None:
        """Tries to place the groups that wait, if something has changed since the last time."""
        if self._waiting and (self._dirty or (self._amounts_changed and now >= self._look_at)):
            self._place_all(now)

    def tick(self, now: float) -> None:
        """Some time has passed: pauses may have ended."""
        if self._waiting:
            self._place_all(now)

    def _place_all(self, now: float) -> None:
        self._dirty = self._amounts_changed = False
        self._look_at = now + LOOK_EVERY
        rooms = self._rooms()
        by_node = {room.node: room for room in rooms}
        for group in self._waiting:
            for node, indices in group.where(PREPARING).items():
                for index in indices:
                    if node in by_node:
                        by_node[node].take(group.bundles[index].demand)
        for group in list(self._waiting):
            if not group.asked and now >= group.retry_at:
                self._place(group, rooms, now)

    def _place(self, group: PlacedGroup, rooms: list[NodeRoom], now: float) -> None:
        wishes = [
            Wish(index, bundle.demand, bundle.conditions)
            for index, bundle in enumerate(group.bundles)
            if bundle.stage == UNPLACED
        ]
        taken = Counter(bundle.node for bundle in group.bundles if bundle.node is not None)
        choice = choose(group.strategy, wishes, rooms, taken)
        patient = choice is None and self._patient is None and now >= group.patient_at
        if patient:
            empty = [room.emptied() for room in rooms if room.node not in group.avoided]
            choice = choose(group.strategy, wishes, empty, taken)
            if choice is None and group.avoided:
                group.avoided.clear()
                group.patient_at = now + PATIENT_AGAIN_AFTER
        why = "" if choice is not None else obstacle(group.strategy, wishes, rooms)
        if why != group.why:
            group.why = why
            self._nodes.changed(group.row())
        if choice is not None:
            self._begin(group, choice, rooms, patient=patient)

    def _begin(self, group: PlacedGroup, choice: dict[int, bytes], rooms: list[NodeRoom], *, patient: bool) -> None:
        """Begins a round: sends PREPARE to the nodes that were chosen."""
        group.rounds += 1
        if patient:
            self._patient = group
        by_node = {room.node: room for room in rooms}
        for index, node in sorted(choice.items()):
            bundle = group.bundles[index]
            bundle.node = node
            bundle.attempt += 1
            bundle.stage = PREPARING
            by_node[node].take(bundle.demand)
        self._changed(group)
        asked = group.where(PREPARING)
        group.asked = dict.fromkeys(asked)
        for node, indices in asked.items():
            bundles = [(index, group.bundles[index].attempt, group.bundles[index].demand) for index in indices]
            self._nodes.prepare(node, group.id, bundles, patient)

    def answered(
        self, node: bytes, group_id: bytes, pairs: Sequence[Sequence[int]], *, ready: bool, now: float
    ) -> None:
        """A node has prepared these bundles, or refuses."""
        group = self.table.get(group_id)
        bundles = [] if group is None else [group.is_at(node, pair) for pair in pairs]
        if group is None or not all(bundle is not None and bundle.stage == PREPARING for bundle in bundles):
            return  # the round has ended meanwhile, and the node has got ABORT
        del group.asked[node]
        if not ready:
            self._fail(group, node, now)
            return
        for bundle in bundles:
            assert bundle is not None
            bundle.stage = BUNDLE_PREPARED
        if not group.asked:
            self._decide(group)

    def _fail(self, group: PlacedGroup, node: bytes, now: float) -> None:
        """A node has refused, or was lost: the round of the group ends, and the other nodes get ABORT."""
        for other, indices in group.where(*UNDECIDED).items():
            if other != node:
                self._nodes.abort(other, group.id, group.pairs(indices))
        for bundle in group.bundles:
            if bundle.stage in UNDECIDED:
                bundle.leave()
        group.asked.clear()
        if self._patient is not group:
            group.pause = min(2 * group.pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            group.retry_at = now + group.pause
        else:
            self._patient = None
            group.avoided[node] = None
            # The others have their turn first.
            del self._waiting[group]
            self._waiting[group] = None
        self._changed(group)

    def _decide(self, group: PlacedGroup) -> None:
        """All bundles of the round are prepared: that is the decision."""
        if self._patient is group:
            self._patient = None
        group.pause = 0.0
        group.avoided.clear()
        for bundle in group.bundles:
            if bundle.stage == BUNDLE_PREPARED:
                bundle.stage = COMMITTING
        if any(bundle.stage == UNPLACED for bundle in group.bundles):
            # The node of another bundle ended while the round was under way: that bundle is next.
            self._dirty = True
        else:
            del self._waiting[group]
        if group.state == GROUP_PENDING:
            group.move(GROUP_PREPARED)
        self._changed(group)
        for node, indices in group.where(COMMITTING).items():
            self._nodes.commit(node, group.id, group.pairs(indices))

    def committed(self, node: bytes, group_id: bytes, pairs: Sequence[Sequence[int]]) -> None:
        """A node has committed these bundles."""
        group = self.table.get(group_id)
        if group is None:
            return  # removed meanwhile: RELEASE is on its way
        for pair in pairs:
            bundle = group.is_at(node, pair)
            if bundle is not None:
                bundle.stage = COMMITTED
        if group.state != CREATED and all(bundle.stage == COMMITTED for bundle in group.bundles):
            group.move(CREATED)
            self._changed(group)

    def unsure(self, node: bytes, group_id: bytes, pairs: Sequence[Sequence[int]]) -> None:
        """A node has held these bundles prepared for long, and asks: it gets COMMIT or ABORT, or goes on waiting."""
        group = self.table.get(group_id)
        found = [(tuple(pair), None if group is None else group.is_at(node, pair)) for pair in pairs]
        past = [pair for pair, bundle in found if bundle is None]
        decided = [pair for pair, bundle in found if bundle is not None and bundle.stage not in UNDECIDED]
        if past:
            self._nodes.abort(node, group_id, past)  # type: ignore[arg-type]  # pairs
        if decided:
            self._nodes.commit(node, group_id, decided)  # type: ignore[arg-type]  # pairs

    # Nodes that end ---------------------------------------------------------------------------------------------------

    def node_ended(self, node: bytes, now: float) -> None:
        """A node is lost or has left: its bundles get other nodes, and the groups that were created there end."""
        for group in list(self.table.values()):
            if group.home == node and not group.detached:
                self.remove(group.id)
            else:
                self._node_of_group_ended(group, node, now)
        self._dirty = True

    def _node_of_group_ended(self, group: PlacedGroup, node: bytes, now: float) -> None:
        if node in group.where(*UNDECIDED):
            self._fail(group, node, now)
            group.retry_at = now
        lost = group.where(COMMITTING, COMMITTED).get(node)
        if not lost:
            return
        for index in lost:
            group.bundles[index].leave()
        if group.state != RESCHEDULING:
            group.move(RESCHEDULING)
        self._waiting[group] = None
        group.retry_at = group.patient_at = now
        self._changed(group)

    def _changed(self, group: PlacedGroup) -> None:
        """A row has changed."""
        self._nodes.changed(group.row())

    # Books ------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError if a group contradicts its bundles, or the tables each other."""
        for group_id, group in self.table.items():
            stages = [bundle.stage for bundle in group.bundles]
            waits = any(stage in (UNPLACED, *UNDECIDED) for stage in stages)
            assert group.id == group_id, f"{group} is under the wrong ID"
            assert group_id not in self.removed, f"{group} is removed and lives"
            assert waits == (group in self._waiting), f"{group} and the list of waiting groups disagree"
            assert group.state != CREATED or all(stage == COMMITTED for stage in stages), f"{group} is incomplete"
            assert group.state != GROUP_PENDING or waits, f"{group} waits for nothing"
            assert group.asked.keys() == group.where(PREPARING).keys(), f"{group} waits for other answers"
            assert all((bundle.node is None) == (bundle.stage == UNPLACED) for bundle in group.bundles), f"{group}"
        assert self._patient is None or self._patient.asked, f"{self._patient} is patient without a round"
        assert self._waiting.keys() <= {*self.table.values()}, "a removed group waits"
        assert all(self.table.get(group.id) is group for group in self._names.values()), "a removed group has a name"


_SERVICES: dict[str, Callable[..., Any]] = {
    "create_group": Groups.create,
    "remove_group": Groups.remove,
    "find_group": Groups.find,
    "group": Groups.look,
    "watch_group": Groups.look,
    "groups": Groups.rows,
}
