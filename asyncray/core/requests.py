"""Requests of clients, each of which gets one answer: a table of functions.

Each function takes the question and the arguments, and returns plain data or raises ``Refusal``. A function that cannot
answer yet keeps the question and returns ``LATER``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.core.directory import Directory, RegisteredName, Registration
from asyncray.core.jobs import Jobs
from asyncray.core.leases import Worker
from asyncray.core.lives import Actor
from asyncray.core.outbox import FlushOutput
from asyncray.core.questions import LATER, Question, Refusal
from asyncray.core.records import Client, Job
from asyncray.core.stalls import Stalls
from asyncray.core.work import Work
from asyncray.messages import ERROR, FAULT, UNRESOLVED, CreateMessage
from asyncray.units import UNIT, plain

if TYPE_CHECKING:
    from asyncray.core.cluster.node_rows import NodeRows
    from asyncray.core.key_values import KeyValues
    from asyncray.words import (
        ActorRow,
        AllActors,
        JobRow,
        NodeFacts,
        NodeRow,
        NodeStatus,
        ObjectRow,
        ShapeRow,
        WorkerRow,
    )

_STORE = "object_store_memory"

GROUP_METHODS = ("create_group", "remove_group", "find_group", "groups", "placement_groups")
"""The questions about placement groups, which ``group_requests`` answers."""


class Requests:
    """Answers for one node, from its machines.

    Args:
        facts: what every client learns from WELCOME.
        stop: ends the node, for a reason.
    """

    def __init__(
        self,
        node_id: bytes,
        facts: NodeFacts,
        work: Work,
        stalls: Stalls,
        jobs: Jobs,
        directory: Directory,
        clients: Mapping[int, Client],
        stop: Callable[[str], None],
    ) -> None:
        self._outbox = work.outbox
        self._node_id = node_id
        self._facts = facts
        self._work = work
        self._actors = work.actors
        self._directory = directory
        self._jobs = jobs
        self._stalls = stalls
        self._scheduler = work.scheduler
        self._resources = work.scheduler.resources
        self._store = work.store
        self._clients = clients
        self._stop_node = stop
        # Functions of other machines, which take the question and the arguments: method -> function.
        self.further: dict[str, Callable[..., Any]] = {}
        # The placement groups, for ``status``. ``NodeMachine`` sets it.
        self.groups: Callable[[], list[dict[str, Any]]] = list
        # Answers about all nodes. None on a node that belongs to no cluster.
        self.cluster: NodeRows | None = None
        # Functions that take the place of those below on a node of a cluster, by method.
        self.of_cluster: Mapping[str, Callable[..., Any]] = {}
        # The pairs of a lone node. None before the first question about them.
        self._key_values: KeyValues | None = None

    def ask(self, question: Question, method: str, arguments: Sequence[Any]) -> None:
        """Answers a question, now or after a later event."""
        function = self.of_cluster.get(method) or self.further.get(method)
        if function is None:
            self.ask_this_node(question, method, arguments)
        else:
            self._ask(question, function, arguments)

    def ask_this_node(self, question: Question, method: str, arguments: Sequence[Any]) -> None:
        """Answers a question about this node alone."""
        function = _TABLE.get(method)
        if function is None:
            question.refuse("InternalError", {"message": f"There is no request named {method!r}."})
        else:
            self._ask(question, partial(function, self), arguments)

    @staticmethod
    def _ask(question: Question, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        try:
            value = function(question, *arguments)
        except Refusal as refusal:
            question.refuse(refusal.name, {"message": refusal.message})
        else:
            if value is not LATER:
                question.answer(value)

    def _create_named(
        self,
        question: Question,
        namespace: str,
        name: str,
        if_exists: bool,  # noqa: FBT001 - arguments come from a message
        handle: bytes,
        create: CreateMessage,
    ) -> Any:
        if not name:  # of a detached actor: a cluster makes it elsewhere
            self._work.create(question.asker, create)
            return None
        taken = self._directory.claim((namespace, name), create[1], handle)
        if taken is not None:
            return found_instead((namespace, name), taken, if_exists=if_exists)
        try:
            self._work.create(question.asker, create, (namespace, name), handle)
        except BaseException:
            self._directory.free((namespace, name), create[1])  # the message is invalid: no actor follows
            raise
        return None

    def _get_actor(self, question: Question, namespace: str, name: str) -> Any:
        found = self._directory.find((namespace, name))
        return [found.actor, found.handle] if found is not None and found.alive else None

    def _list_named_actors(self, question: Question, namespace: str | None) -> Any:
        return [{"name": name, "namespace": where} for where, name in self._directory.list(namespace)]

    def _cluster_resources(self, question: Question) -> dict[str, float]:
        return plain(self._resources.total.items()) if self.cluster is None else self.cluster.total()

    def _available_resources(self, question: Question) -> dict[str, float]:
        return self._own_available() if self.cluster is None else self.cluster.available()

    def _own_available(self) -> dict[str, float]:
        available = {name: max(0, amount) for name, amount in self._resources.available.items()}
        # Tasks do not request store memory: the objects in the store say how much of it is free.
        if _STORE in available:
            available[_STORE] = max(0, available[_STORE] - self._store.allocator.used * UNIT)
        return plain(available.items())

    def _nodes(self, question: Question) -> list[NodeRow]:
        if self.cluster is not None:
            return self.cluster.nodes()
        return [
            {
                "NodeID": self._node_id.hex(),
                "Alive": True,
                "State": "ALIVE",
                "DeathReasonMessage": "",
                "NodeName": "",
                "NodeManagerAddress": self._facts.get("ip", ""),
                "NodeManagerPort": 0,
                "NodeManagerHostname": self._facts.get("hostname", ""),
                "Resources": plain(self._resources.total.items()),
                "Available": self._own_available(),
                "Labels": {"ray.io/node-id": self._node_id.hex()},
            }
        ]

    def status(self, question: Question) -> NodeStatus:
        """Describes this node."""
        queued = sum(shape.count for shape in self._scheduler.shapes.ready)
        return {
            "node_id": self._node_id.hex(),
            **{key: value for key, value in self._facts.items() if isinstance(value, (str, int, float))},  # type: ignore[typeddict-item]  # keys of facts
            "resources": plain(self._resources.total.items()),
            "available": self._own_available(),
            "nodes": self._nodes(question),
            "store": {
                "capacity": self._store.allocator.capacity,
                "used": self._store.allocator.used,
                "reserved": self._store.allocator.reserved,
            },
            "objects": len(self._work.objects.table),
            "tasks": {"unfinished": len(self._work.tasks), "queued": queued},
            "jobs": len(self._jobs.table),
            "functions": len(self._work.functions.functions),
            "templates": len(self._work.functions.templates),
            "shapes": len(self._scheduler.shapes.table),
            "waiting": self._stalls.rows(),
            "problem": self._scheduler.pool.failures.problem() or "",
            "workers": [_worker_row(worker) for worker in self._scheduler.pool.workers.values()],
            "actors": self._list_actors(question),
            "groups": self.groups(),
            "drivers": [{"pid": c.pid, "client": c.number} for c in self._clients.values() if c.role == "driver"],
        }

    def _waiting(self, question: Question) -> list[ShapeRow]:
        return self._stalls.rows()

    def _list_actors(self, question: Question) -> list[ActorRow]:
        return [_actor_row(actor, self._node_id) for actor in self._actors.table.values() if not actor.is_guest]

    def _all_actors(self, question: Question) -> AllActors:
        return {"actors": self._list_actors(question), "silent_nodes": []}

    def _object(self, question: Question, object_id: bytes) -> ObjectRow:
        entry = self._work.objects.table.get(object_id)
        if entry is None:
            raise Refusal("ObjectLostError", f"There is no object {object_id.hex()} on this node (any more).")
        ready = entry.kind != UNRESOLVED
        return {
            "object_id": object_id.hex(),
            "state": "failed" if entry.kind in (ERROR, FAULT) else "ready" if ready else "pending",
            "size": entry.block.allocation.size if entry.block is not None else None,
            "node_ids": [self._node_id.hex()] if ready else [],
            "processes": entry.held + len(entry.borrowers or ()),
            "uses": entry.uses,
        }

    def _list_jobs(self, question: Question) -> list[JobRow]:
        return self._jobs.rows(self._node_id)

    def _key_value(self, question: Question, operation: str, *arguments: Any) -> Any:
        if self._key_values is None:
            from asyncray.core.key_values import KeyValues  # start-up cost: few lone nodes are asked

            self._key_values = KeyValues()
        try:
            return self._key_values.perform(operation, arguments)
        except ValueError as error:
            raise Refusal("ValueError", f"{error}.") from None

    def _ping(self, question: Question) -> Any:
        """A client wants to know that the daemon has handled all its earlier messages."""

    def _goodbye(self, question: Question) -> Any:
        """A driver is about to end: it gets its workers' output before the answer."""
        job = question.asker.job
        if job is not None:
            self.say_goodbye(job)

    def say_goodbye(self, job: Job) -> None:
        """Sends a driver that is about to end what this node has for it."""
        self._work.objects.unread.job_ends(job)
        self._outbox.do(FlushOutput(job))

    def _stop(self, question: Question, by: str = "a client") -> Any:
        self._stop_node(f"{by} asked it to stop")


def found_instead(name: RegisteredName, taken: Registration, *, if_exists: bool) -> list[bytes]:
    """Returns actor and handle of the actor that has the name, if the caller would take it.

    Raises:
        Refusal: the caller wants a new one, or that one is dead.
    """
    if if_exists and taken.alive:
        return [taken.actor, taken.handle]
    raise Refusal(
        "ActorAlreadyExistsError",
        f"The name {name[1]} is already taken. Please use a different name or get the existing actor using "
        f"ray.get_actor('{name[1]}', namespace='{name[0]}'), or get or make it by "
        f".options(name='{name[1]}', get_if_exists=True).",
    )


def _worker_row(worker: Worker) -> WorkerRow:
    """Describes a worker. ``running`` is the actor that it hosts, or the task that was sent to it first."""
    first = next(iter(worker.inflight.values()), None) or next(iter(worker.nested.values()), None)
    task = worker.actor.task if worker.actor is not None else first
    return {
        "number": worker.number,
        "pid": worker.pid,
        "state": worker.state,
        "inflight": len(worker.inflight) + len(worker.nested),
        "running": task.name if task is not None else "",
    }


def _actor_row(actor: Actor, node: bytes) -> ActorRow:
    there: Any = actor.peer
    return {
        "actor_id": actor.id.hex(),
        "node_id": node.hex(),
        "process_node_id": there.id.hex() if there is not None else node.hex() if actor.worker else "",
        "class_name": actor.task.template.name,
        "state": actor.state.upper(),
        "name": actor.name[1] if actor.name else "",
        "namespace": actor.name[0] if actor.name else actor.job.namespace,
        "pid": actor.worker.pid if actor.worker else actor.pid,
        "restarts": actor.restarted,
        "pending_calls": actor.pending,
        "detached": actor.detached,
        "death_cause": str(actor.cause[1].get("message", "")) if actor.cause is not None else "",
    }


_TABLE: dict[str, Callable[..., Any]] = {
    "create_named": Requests._create_named,
    "get_actor": Requests._get_actor,
    "list_named_actors": Requests._list_named_actors,
    "cluster_resources": Requests._cluster_resources,
    "available_resources": Requests._available_resources,
    "nodes": Requests._nodes,
    "actors": Requests._list_actors,
    "all_actors": Requests._all_actors,
    "object": Requests._object,
    "jobs": Requests._list_jobs,
    "key_value": Requests._key_value,
    "status": Requests.status,
    "waiting": Requests._waiting,
    "ping": Requests._ping,
    "goodbye": Requests._goodbye,
    "stop": Requests._stop,
}
