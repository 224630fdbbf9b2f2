"""Task arguments: what happens to a task while its large arguments come from other nodes.

Such a task is WAITING and misses one thing more (``Task.missing``), so it is neither queued nor posted to an actor.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from asyncray.core.cluster.pulls import Pulls
from asyncray.core.leases import Shape
from asyncray.core.records import Guest, Party, Task
from asyncray.core.shapes import Shapes
from asyncray.core.states import WAITING
from asyncray.core.work import Work


class TaskArguments:
    """The arguments of the tasks that run on this node."""

    def __init__(self, work: Work, shapes: Shapes) -> None:
        self._work = work
        self._shapes = shapes
        # Set once, after this object, which it needs.
        self.pulls: Pulls
        # Tasks of other nodes that wait for their arguments, with the key under which they are counted.
        self.guests_waiting: dict[Guest, tuple[Shape | None, Party]] = {}
        # Shape and home -> how many of these there are. ``Guests`` reads both.
        self.guests_counted: Counter[tuple[Shape | None, Party]] = Counter()

    def __repr__(self) -> str:
        return f"<TaskArguments of {self._work}>"

    # From the node ----------------------------------------------------------------------------------------------------

    def are_here(self, task: Task) -> bool:
        """Returns True if arguments were brought for the task, and all of them are here."""
        return self.pulls.brought(task)

    def bring(self, task: Task) -> bool:
        """A task is about to be queued or posted. Returns True if arguments come first."""
        # A call by a route goes to the node of the actor, which brings the arguments. An actor of this node may have
        # its process elsewhere, and start again here at any time.
        by_route = task.actor is not None and task.actor.is_route
        if by_route or not task.dependencies or not self.pulls.bring(task):
            return False
        self._wait(task)
        return True

    def _wait(self, task: Task) -> None:
        task.state = WAITING
        task.missing = 1
        if isinstance(task, Guest):
            # A call has no shape, and must not get one: slots are for tasks.
            key = self.guests_waiting[task] = (task.template.shape, task.home)
            self.guests_counted[key] += 1

    def brings(self, task: Task) -> bool:
        """Returns True if arguments of the task are not here yet."""
        return self.pulls.brings(task)

    def ended(self, task: Task) -> None:
        """The task has ended, or is sent to another node."""
        self._waits_no_more(task)
        self.pulls.ended(task)

    def _waits_no_more(self, task: Task) -> None:
        key = self.guests_waiting.pop(task, None) if isinstance(task, Guest) else None
        if key is not None:
            self.guests_counted[key] -= 1
            if not self.guests_counted[key]:
                del self.guests_counted[key]

    # From the pulls ---------------------------------------------------------------------------------------------------

    def arguments_here(self, task: Task) -> None:
        """All arguments of the task are here, or one is an error."""
        self._waits_no_more(task)
        self._work.dependency_resolved(task, task.dependencies[0])

    def arguments_failed(self, task: Task, kind: int, payload: Any) -> None:
        """There is no room for the arguments of the task."""
        self._waits_no_more(task)
        task.missing = 0
        made = task.constructed_actor
        if made is not None:
            self._work.constructor_failed(made, kind, payload)
        else:
            self._work.finish(task, kind, payload)

    def wait_for_arguments(self, task: Task) -> None:
        """The task is queued and has to wait for its arguments again."""
        shape = self._shapes.shape_of(task)
        shape.remove(task)
        self._wait(task)
        if shape in self._shapes.parking:
            self._shapes.unpark(shape)  # the shape may have no task left
