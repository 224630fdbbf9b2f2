"""Waiting tasks: those of this node that stand in no queue of its own, or that other nodes could serve as well.

``Stalls`` asks here, because the home of a task reports it when it waits, also as a guest of another node: only the
home knows whether a third node could serve it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncray.core.cluster.feeding import Feeding
from asyncray.core.cluster.placing import Placing
from asyncray.core.leases import Shape
from asyncray.core.placements import Bundle, Selectors
from asyncray.core.records import HERE, Task, Template
from asyncray.core.resources import readable
from asyncray.core.states import QUEUED
from asyncray.units import Demand, plain

if TYPE_CHECKING:
    from asyncray.words import ShapeRow


class WaitingTasks:
    """Answers what ``Stalls`` asks about other nodes."""

    def __init__(self, feeding: Feeding, placing: Placing) -> None:
        self._feeding = feeding
        self._placing = placing

    def __repr__(self) -> str:
        return f"<WaitingTasks {self._feeding}>"

    def feasible(self, demand: Demand) -> bool:
        """True if a node of the cluster could serve the demand while nothing else uses it."""
        return self._placing.feasible(demand)

    def frees_up(self, shape: Shape) -> bool:
        """True if another node could serve a shape once all tasks have ended, beside the actors there."""
        return shape.where is HERE and self._placing.frees_up(shape.demand)

    def stuck(self) -> Iterator[tuple[Shape, Task]]:
        """Yields the shapes whose tasks wait at other nodes until an actor ends, with a task of each."""
        lines: dict[Shape, list[tuple[bytes, int, Task]]] = {}
        for line in self._feeding.lines:
            if line.sent:
                first = next(iter(line.sent.values())).task
                lines.setdefault(line.shape, []).append((line.peer.id, line.slots or 0, first))
        for shape, found in lines.items():
            if shape.leases or isinstance(shape.where, Bundle) or any(slots for _, slots, _ in found):
                continue
            node, _, task = found[0]
            demand = shape.demand
            if shape.where is HERE:
                moves_on = self._placing.frees_up(demand) or shape.account.feasible_beside_actors(demand)
            else:
                moves_on = self._placing.frees_up(demand, node)
            if not moves_on:
                yield shape, task

    def rows(self) -> list[ShapeRow]:
        """Lists the tasks that no queue of this node has, as ``Stalls.rows`` does."""
        found: dict[tuple[Template, str], list[Task]] = {}
        for task in self._feeding.homeless:
            found.setdefault((task.template, self._why(task.template)), []).append(task)
        for line in self._feeding.lines:
            for task in line.queue:
                if task.state == QUEUED:
                    why = f"waits for room at node {line.peer.id.hex()}"
                    found.setdefault((task.template, why), []).append(task)
        return [
            {"name": tasks[0].name, "needs": plain(template.demand), "tasks": len(tasks), "why": why}
            for (template, why), tasks in found.items()
        ]

    def _why(self, template: Template) -> str:
        if isinstance(template.where, Bundle):
            return "waits for its placement group"
        if not self._placing.feasible(template.demand):
            return f"needs {readable(template.demand)}, and no node of the cluster has that much"
        if isinstance(template.where, Selectors):
            return "no node that could run it has the labels that it selects"
        return "no node can take it at present"
