"""Records of placement groups, for the machine that decides about them: ``groups``, which writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from asyncray.core.placements import Conditions
from asyncray.ids import NODE_SIZE
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.words import GroupRow

GROUP_PENDING: Final = "PENDING"
GROUP_PREPARED: Final = "PREPARED"
CREATED: Final = "CREATED"
RESCHEDULING: Final = "RESCHEDULING"
REMOVED: Final = "REMOVED"

# State -> the states that may follow it.
_MOVES: dict[str, tuple[str, ...]] = {
    GROUP_PENDING: (GROUP_PREPARED, REMOVED),
    GROUP_PREPARED: (CREATED, RESCHEDULING, REMOVED),
    CREATED: (RESCHEDULING, REMOVED),
    RESCHEDULING: (CREATED, REMOVED),
    REMOVED: (),
}

UNPLACED: Final = "unplaced"
PREPARING: Final = "preparing"
BUNDLE_PREPARED: Final = "prepared"
COMMITTING: Final = "committing"
COMMITTED: Final = "committed"

UNDECIDED = (PREPARING, BUNDLE_PREPARED)
"""The stages of a bundle whose round is under way."""

MOST_REMOVED = 1000
"""The number of removed groups that are still shown."""

Pairs = list[tuple[int, int]]
"""Index and attempt of bundles."""


class Nodes(Protocol):
    """The way to the nodes. Each of them answers PREPARE with ``answered`` and COMMIT with ``committed``."""

    def prepare(self, node: bytes, group: bytes, bundles: list[tuple[int, int, Demand]], patient: bool) -> None:  # noqa: FBT001 - as in the message
        """PREPARE: sets these bundles (index, attempt, demand) aside, all or none."""

    def commit(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """COMMIT: tasks may use these bundles."""

    def abort(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """ABORT: these bundles are not wanted; no task has used them."""

    def release(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """RELEASE: the group is removed. Whatever uses these bundles ends."""

    def changed(self, row: GroupRow) -> None:
        """Shows a group to the nodes that watch it."""


class PlacedBundle:
    """A bundle and its place. ``Groups`` writes it."""

    __slots__ = ("attempt", "conditions", "demand", "node", "stage")

    def __init__(self, demand: Demand, conditions: Conditions) -> None:
        self.demand = demand
        self.conditions = conditions
        # None while it is UNPLACED.
        self.node: bytes | None = None
        # The number of nodes that were chosen for it so far.
        self.attempt = 0
        self.stage: str = UNPLACED

    def __repr__(self) -> str:
        return f"<PlacedBundle {self.stage} {self.attempt}>"

    def leave(self) -> None:
        """It has no node any more."""
        self.node = None
        self.stage = UNPLACED


class PlacedGroup:
    """A placement group. ``Groups`` writes it."""

    __slots__ = (
        "asked", "avoided", "bundles", "detached", "id", "name", "patient_at", "pause", "retry_at", "rounds", "state",
        "strategy", "why",
    )  # fmt: skip

    def __init__(
        self, group_id: bytes, name: tuple[str, str], strategy: str, bundles: list[PlacedBundle], *, detached: bool
    ) -> None:
        self.id = group_id
        # Namespace and name. The name may be empty.
        self.name = name
        self.strategy = strategy
        self.bundles = bundles
        self.detached = detached
        self.state: str = GROUP_PENDING
        # Nodes that have not answered PREPARE of the present round.
        self.asked: dict[bytes, None] = {}
        # How many rounds there were.
        self.rounds = 0
        # No round before ``retry_at``; after the next failure the pause is twice as long.
        self.retry_at = 0.0
        self.pause = 0.0
        # No patient round before this, and none on these nodes, which refused one.
        self.patient_at = 0.0
        self.avoided: dict[bytes, None] = {}
        # Why no nodes could be chosen even if all were idle, for people. Empty if they could.
        self.why = ""

    def __repr__(self) -> str:
        return f"<PlacedGroup {self.id.hex()} {self.state} {self.bundles}>"

    @property
    def home(self) -> bytes:
        """The node of the process that created it."""
        return self.id[:NODE_SIZE]

    def move(self, state: str) -> None:
        """Moves the group to another state. Raises AssertionError if the table of moves does not allow it."""
        assert state in _MOVES[self.state], f"{self} cannot become {state}"
        self.state = state

    def where(self, *stages: str) -> dict[bytes, list[int]]:
        """Returns the nodes of the bundles in these stages, with the indices of the bundles."""
        found: dict[bytes, list[int]] = {}
        for index, bundle in enumerate(self.bundles):
            if bundle.node is not None and bundle.stage in stages:
                found.setdefault(bundle.node, []).append(index)
        return found

    def pairs(self, indices: Sequence[int]) -> Pairs:
        """Returns index and attempt of these bundles."""
        return [(index, self.bundles[index].attempt) for index in indices]

    def is_at(self, node: bytes, pair: Sequence[int]) -> PlacedBundle | None:
        """Returns the bundle if this attempt of it is at the node; None if that is past."""
        index, attempt = pair
        bundle = self.bundles[index]
        return bundle if bundle.node == node and bundle.attempt == attempt else None

    def row(self) -> GroupRow:
        """Returns the group as nodes and people see it."""
        return {
            "group_id": self.id,
            "namespace": self.name[0],
            "name": self.name[1],
            "strategy": self.strategy,
            "state": self.state,
            "bundles": [bundle.demand for bundle in self.bundles],
            "nodes": [bundle.node if bundle.stage == COMMITTED else None for bundle in self.bundles],
            "attempts": self.rounds,
            "detached": self.detached,
            "why": self.why,
        }
