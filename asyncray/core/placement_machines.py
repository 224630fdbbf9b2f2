"""The machines of placements and placement groups of a node, which its door makes at the first need.

Most programs name no placement: without these modules a node starts some milliseconds earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncray.core.bundles import Bundles
from asyncray.core.cancelling import Cancelling
from asyncray.core.clock import Clock
from asyncray.core.destinations import Destinations
from asyncray.core.group_requests import GroupRequests
from asyncray.core.own_groups import OwnGroups
from asyncray.core.records import Job, Task
from asyncray.core.stalls import Stalls
from asyncray.core.work import Work


class PlacementMachines:
    """The machines, put together.

    Args:
        node: the ID of the node.
        jobs: those that have not ended.
        finish: ends a task with a value: ``finish(task, kind, payload)``.
    """

    def __init__(
        self,
        node: bytes,
        clock: Clock,
        work: Work,
        stalls: Stalls,
        jobs: dict[bytes, Job],
        cancelling: Cancelling,
        finish: Callable[[Task, int, Any], None],
    ) -> None:
        resources, shapes = work.scheduler.resources, work.scheduler.shapes
        labels = {"ray.io/node-id": node.hex()}
        self.destinations = destinations = Destinations(node, labels, work.scheduler, work.actors, cancelling, finish)
        # The machine that decides about groups, while this node is alone.
        self.own_groups = OwnGroups(clock, node, labels, resources)
        self.views = self.own_groups.views
        self.bundles = Bundles(clock, resources, shapes, self.views, destinations.evict)
        self.own_groups.bundles = destinations.bundles = self.bundles
        self.requests = GroupRequests(clock, work, self.views, stalls, jobs)
        self._shapes = shapes

    def __repr__(self) -> str:
        return f"<PlacementMachines {self.bundles}>"

    def flush(self) -> None:
        """All events of a batch have been handled, and work is not handed out yet."""
        if self.bundles.has_work and self.bundles.flush():
            self.own_groups.groups.nodes_changed()
        self.own_groups.flush()
        if self._shapes.failing:
            self.destinations.settle()

    def tick(self) -> None:
        """Some time has passed."""
        self.requests.settle()
        self.bundles.tick()
        self.own_groups.tick()

    def check(self) -> None:
        """Raises AssertionError if an invariant of any machine is broken."""
        self.bundles.check()
        self.own_groups.groups.check()
