"""Records with fixed keys that the nodes of a cluster send to each other, as types of plain dicts.

As ``asyncray.words``: only for type checkers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NotRequired, TypedDict


class MemberFacts(TypedDict):
    """The facts about a member that never change."""

    node: bytes
    """Its NodeID: another one after each start, so it also says which life of the daemon is meant."""
    host: str
    """Its address for other nodes."""
    port: int
    hostname: str
    pid: int
    session: str
    name: str
    """The name that its user gave it, or empty."""
    resources: Mapping[str, int]
    """Name -> fixed amount, in all."""
    labels: Mapping[str, str]
    for_driver: NotRequired[bool]
    """It was started for one driver, with which it ends."""
    joined: int
    """Counts the members of the cluster in the order in which they joined; 0 until the head has said it."""


class ClusterRow(TypedDict):
    """The row of a node in the view: the changing facts that placement needs."""

    available: Mapping[str, int]
    """Name -> fixed amount."""
    held: Mapping[str, int]
    """Name -> fixed amount that actors and bundles of placement groups have for life."""
    queued: Sequence[tuple[Sequence[tuple[str, int]], int]]
    """Demands that wait on the node, with the number of their tasks: the largest ones."""
    store_free: int
    """Bytes."""
    draining: bool


HOW_ENDED: Final = {"lost": "is lost", "left": "was stopped"}
"""State of a member that has ended -> a predicate for people: only a node that ends by its own wish was stopped."""

# Why a task comes back that has not started: it never fits there, its job has ended, its home wanted it back, or its
# bundle is elsewhere.
NEVER_FITS: Final = 0
OVER: Final = 1
WANTED_BACK: Final = 2
# A call: the actor is not at this node, or not in this incarnation.
NOT_HERE: Final = 3
NO_BUNDLE: Final = 4
# The home wanted it back, and it stood behind another task in a process that has died: perhaps that had started it.
MAY_HAVE_STARTED: Final = 5
