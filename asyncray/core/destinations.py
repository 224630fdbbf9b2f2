"""Destinations: which account serves a placement on this node, and the end of tasks that no account can serve.

A node that is alone is every node: SPREAD goes to it, and so does affinity to itself. Hard affinity to another node,
and hard labels that it lacks, can never be met, so their tasks fail at once. Tasks with a label selector wait for a
node that has the labels. In a cluster ``cluster`` says which account serves a placement.

A task that no account can serve waits in a shape whose account has a fault, and fails when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncray.core.actors import Actors
from asyncray.core.bundles import Bundles
from asyncray.core.cancelling import Cancelling
from asyncray.core.placements import Affinity, Bundle, Labels, Selectors, meets
from asyncray.core.records import Fault, Task, Where
from asyncray.core.resources import Account, Grant, Resources, readable
from asyncray.core.scheduler import Scheduler
from asyncray.exceptions import ActorDiedError
from asyncray.messages import FAULT
from asyncray.units import Demand

_WHY = "its placement group was removed"


class Nowhere:
    """The account of shapes that no node serves. See ``Account``.

    Args:
        why: for people.
        fails: True if their tasks fail, False if they wait.
    """

    __slots__ = ("fault", "obstacle")

    def __init__(self, why: str, *, fails: bool) -> None:
        self.obstacle = why
        self.fault: Fault | None = ["UnschedulableError", {"message": why}] if fails else None

    def __repr__(self) -> str:
        return f"<Nowhere: {self.obstacle}>"

    def feasible(self, demand: Demand) -> bool:
        return True

    def feasible_beside_actors(self, demand: Demand) -> bool:
        return True

    def fits(self, demand: Demand) -> bool:
        return False

    def shortage(self, demand: Demand) -> tuple[str, int] | None:
        return "a node", 1

    def room(self, resource: str) -> int:
        return 0

    def acquire(self, demand: Demand) -> Grant | None:
        return None

    def describe(self, demand: Demand, *, held: bool) -> str:
        return f"needs {readable(demand)} where no node is"


class Destinations:
    """The destinations of a node's tasks.

    Args:
        labels: those of this node.
        finish: ends a task with a value: ``finish(task, kind, payload)``.
    """

    def __init__(
        self,
        node: bytes,
        labels: Mapping[str, str],
        scheduler: Scheduler,
        actors: Actors,
        cancelling: Cancelling,
        finish: Callable[[Task, int, Any], None],
    ) -> None:
        self._node = node
        self.labels = labels
        self._scheduler = scheduler
        self._shapes = scheduler.shapes
        self._actors = actors
        self._cancelling = cancelling
        self._finish = finish
        self._shapes.elsewhere = self.account_for
        # ``PlacementMachines`` sets it: ``Bundles`` needs ``evict``.
        self.bundles: Bundles | None = None
        # Says in a cluster which account serves a placement that is no bundle.
        self.cluster: Callable[[Where, Demand], Account] | None = None

    def __repr__(self) -> str:
        return f"<Destinations {len(self._shapes.failing)} shapes fail>"

    def account_for(self, where: Where, demand: Demand) -> Account:
        """Returns the account that serves tasks with this placement and demand."""
        if isinstance(where, Bundle):
            assert self.bundles is not None
            return self.bundles.account_for(where)
        return (self.cluster or self.on_this_node)(where, demand)

    def on_this_node(self, where: Where, demand: Demand) -> Account:
        """Returns the account for a placement that is no bundle, if there is no other node."""
        here = self._scheduler.resources
        if isinstance(where, Affinity) and not where.soft:
            if where.node != self._node:
                return Nowhere(f"the node {where.node.hex()} does not exist (any more)", fails=True)
            if not here.feasible(demand):
                return Nowhere(f"its node {here.describe(demand, held=False)}", fails=True)
        if isinstance(where, Labels) and not meets(self.labels, where.hard):
            return Nowhere(f"no node has the labels that it needs: {_shown(where.hard)}", fails=True)
        if isinstance(where, Selectors) and not any(meets(self.labels, found) for found in where.alternatives):
            wanted = " or ".join(_shown(found) for found in where.alternatives)
            return Nowhere(f"waits for a node with the labels {wanted}", fails=False)
        return here

    def settle(self) -> None:
        """Ends the tasks that wait in shapes whose accounts have a fault."""
        for shape in list(self._shapes.failing):
            fault = shape.account.fault
            assert fault is not None
            while (task := shape.peek()) is not None:
                self._fail(task, fault)

    def _fail(self, task: Task, fault: Fault, how: str = "cannot run") -> None:
        name, fields = fault
        message = f"{task.name} {how}: {fields['message']}"
        made = task.constructed_actor
        if made is not None:
            self._actors.die(made, [f"Actor{name}", {"message": message}])
        else:
            self._finish(task, FAULT, [f"Task{name}", {"message": message}])

    def evict(self, part: Resources, fault: Fault) -> None:
        """Kills the processes that run on an account, and ends their tasks and actors."""
        pool = self._scheduler.pool
        for worker in list(pool.workers.values()):
            leases = [task.lease for task in worker.nested.values()]
            if not any(lease is not None and lease.grant.account is part for lease in (worker.lease, *leases)):
                continue
            actor = worker.actor
            if actor is not None:
                message = f"{ActorDiedError.GROUP_REMOVED} {fault[1]['message']}"
                self._actors.kill(actor, actor.fault("ActorDiedError", message), _WHY)
                continue
            tasks = list(worker.sent)
            submitted = [child for task in tasks for child in (task.children or {}).values()]
            pool.kill(worker, _WHY)
            for task in tasks:
                self._fail(task, fault, "was killed")
            self._cancelling.abandon(submitted)


def _shown(conditions: tuple[tuple[str, str, tuple[str, ...]], ...]) -> str:
    return ", ".join(" ".join((key, operator, *values)) for key, operator, values in conditions)
