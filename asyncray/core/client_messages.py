"""Takes the messages of drivers and workers apart, and calls the machine that each is for.

A message of an invalid form raises, and so does one of a kind that its sender may not send. The shell then closes the
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from asyncray.core.objects import check_new
from asyncray.core.questions import Answer, Question
from asyncray.core.records import Client
from asyncray.exceptions import ActorDiedError
from asyncray.messages import (
    ABANDON,
    ADD_REFS,
    ALLOCATE,
    BLOCKED,
    CALL,
    CANCEL,
    CREATE,
    DONE,
    DONE_MANY,
    ERROR_SEEN,
    FAILED,
    FORGET,
    FUNCTION,
    GROUP_READY,
    KILL,
    LEAVING,
    NOT_STARTED,
    OUTPUT_LOST,
    PROMISE,
    PUT,
    RELEASE_REFS,
    REPLY,
    REPLY_FAULT,
    REQUEST,
    SEAL,
    SHARED,
    SUBMIT,
    SUBSCRIBE,
    SUBSCRIBE_ANYWHERE,
    TEMPLATE,
    UNBLOCKED,
    UNPIN,
)

if TYPE_CHECKING:
    from asyncray import messages as m
    from asyncray.core.actors import Actors
    from asyncray.core.cancelling import Cancelling
    from asyncray.core.functions import Functions
    from asyncray.core.group_requests import GroupRequests
    from asyncray.core.leases import Worker
    from asyncray.core.objects import Objects
    from asyncray.core.outbox import Outbox
    from asyncray.core.outcomes import Outcomes
    from asyncray.core.requests import Requests
    from asyncray.core.scheduler import Scheduler
    from asyncray.core.stalls import Stalls
    from asyncray.core.store import Store
    from asyncray.core.unsealed import Unsealed
    from asyncray.core.work import Work
    from asyncray.core.workers import Pool

ClientHandler = Callable[[Client, Any], None]


class Machines(Protocol):
    """The machines of a node, as messages of clients use them: the ``NodeMachine``."""

    outbox: Outbox
    store: Store
    objects: Objects
    pool: Pool
    functions: Functions
    scheduler: Scheduler
    unsealed: Unsealed
    stalls: Stalls
    cancelling: Cancelling
    actors: Actors
    work: Work
    outcomes: Outcomes
    requests: Requests

    @property
    def group_requests(self) -> GroupRequests:
        """The requests of clients about placement groups."""

    @property
    def now(self) -> float:
        """The time of the present events."""

    def settle_lives(self) -> None:
        """Ends actors that have no handle left."""

    def output_lost(self, why: str) -> None:
        """Output of a worker is lost, for this reason."""


class ClientMessages:
    """The handlers of one node.

    Args:
        node: the machines.
    """

    def __init__(self, node: Machines) -> None:
        self._node = node
        self._objects = node.objects
        # Message kind -> its handler. Those of the hot path take their messages apart themselves.
        self.handlers: dict[int, ClientHandler] = {
            SUBMIT: node.work.submit,
            CALL: node.work.call,
            CREATE: self._create,
            DONE: node.outcomes.done,
            DONE_MANY: self._done_many,
            FAILED: self._failed,
            NOT_STARTED: self._not_started,
            BLOCKED: self._blocked,
            UNBLOCKED: self._unblocked,
            CANCEL: self._cancel,
            ADD_REFS: self._add_refs,
            RELEASE_REFS: self._release_refs,
            SUBSCRIBE: self._subscribe,
            SUBSCRIBE_ANYWHERE: self._subscribe_anywhere,
            ERROR_SEEN: self._error_seen,
            PUT: self._put,
            PROMISE: self._promise,
            ALLOCATE: self._allocate,
            ABANDON: self._abandon,
            SEAL: self._seal,
            UNPIN: self._unpin,
            FUNCTION: node.functions.export,
            TEMPLATE: self._template,
            FORGET: self._forget,
            REQUEST: self._request,
            KILL: self._kill,
            LEAVING: self._leaving,
            OUTPUT_LOST: self._output_lost,
            GROUP_READY: self._group_ready,
        }

    def __repr__(self) -> str:
        return f"<ClientMessages of {self._node}>"

    # Tasks and actors -------------------------------------------------------------------------------------------------

    def _create(self, client: Client, message: m.CreateMessage) -> None:
        self._node.work.create(client, message)

    def _cancel(self, client: Client, message: m.CancelMessage) -> None:
        _, task_id, force, recursive = message
        elsewhere = self._node.work.elsewhere
        if elsewhere is not None and task_id not in self._node.work.tasks:
            elsewhere.cancel_at_home(task_id, force=force, recursive=recursive)
        else:
            self._node.cancelling.cancel(task_id, force=force, recursive=recursive)

    def _kill(self, client: Client, message: m.KillMessage) -> None:
        _, actor_id, no_restart = message
        actors = self._node.actors
        if actors.elsewhere is not None:
            actors.elsewhere.kill_for_client(actor_id, no_restart=no_restart)
            return
        actor = actors.table.get(actor_id)
        if actor is None:
            return
        if no_restart or not actor.restarts:
            fault = actor.fault("ActorDiedError", ActorDiedError.KILLED)
            actors.kill(actor, fault, "it was killed by `ray.kill`")
            actors.free_name(actor)  # also if the actor crashed before
        elif actor.worker is not None:
            self._node.pool.kill(actor.worker, "it was killed by `ray.kill`")

    def _template(self, client: Client, message: m.TemplateMessage) -> None:
        template = self._node.functions.describe(client, message)
        if template is not None:
            self._node.stalls.described(template)

    def _forget(self, client: Client, message: m.ForgetMessage) -> None:
        _, numbers = message
        self._node.functions.forget(client, numbers)

    def _request(self, client: Client, message: m.RequestMessage) -> None:
        _, number, method, arguments = message
        # The answer must show the effect of earlier messages: a name may be free now.
        self._node.settle_lives()
        outbox = self._node.outbox

        def reply(answer: Answer) -> None:
            ok, *rest = answer
            outbox.send(client, (REPLY if ok else REPLY_FAULT, number, *rest))

        self._node.requests.ask(Question(client, reply), method, arguments)

    # Objects ----------------------------------------------------------------------------------------------------------

    def _add_refs(self, client: Client, message: m.AddRefsMessage) -> None:
        _, object_ids = message
        self._objects.hold(client, object_ids)

    def _release_refs(self, client: Client, message: m.ReleaseRefsMessage) -> None:
        _, object_ids = message
        self._objects.drop(client, object_ids)

    def _subscribe(self, client: Client, message: m.SubscribeMessage) -> None:
        _, object_ids = message
        self._objects.subscribe(client, object_ids)

    def _subscribe_anywhere(self, client: Client, message: m.SubscribeAnywhereMessage) -> None:
        _, object_ids = message
        self._objects.subscribe(client, object_ids, fetch=False)

    def _error_seen(self, client: Client, message: m.ErrorSeenMessage) -> None:
        _, object_ids = message
        self._objects.read(object_ids)

    def _put(self, client: Client, message: m.PutMessage) -> None:
        _, object_id, kind, payload, nested = message
        promised = client.promised.get(object_id) if client.promised else None
        if promised is None:
            self._objects.resolve_new(object_id, client, kind, payload, nested)
        else:
            self._node.work.keep_promise(promised, kind, payload, nested)

    def _promise(self, client: Client, message: m.PromiseMessage) -> None:
        _, object_id = message
        self._node.work.promise(client, object_id)

    def _allocate(self, client: Client, message: m.AllocateMessage) -> None:
        _, number, size = message
        self._node.unsealed.request(client, number, size, self._node.now)

    def _abandon(self, client: Client, message: m.AbandonMessage) -> None:
        _, segment, offset = message
        self._node.unsealed.abandon(client, segment, offset)

    def _seal(self, client: Client, message: m.SealMessage) -> None:
        _, object_id, segment, offset, nested = message
        promised = client.promised.get(object_id)
        if promised is None:
            check_new(object_id, client)  # before the store takes the room and enters the block
        allocation = self._node.unsealed.take(client, segment, offset)
        if allocation is None:
            raise ValueError(f"{client} seals {segment}+{offset}, which is not its own")
        block = self._node.store.seal(object_id, allocation)
        payload = [segment, offset, allocation.size]
        if promised is None:
            self._objects.resolve_new(object_id, client, SHARED, payload, nested, block)
        else:
            promised.block = block
            self._node.work.keep_promise(promised, SHARED, payload, nested)

    def _unpin(self, client: Client, message: m.UnpinMessage) -> None:
        _, places = message
        for object_id, times in places:
            self._node.store.unpin(client, object_id, times)

    def _group_ready(self, client: Client, message: m.GroupReadyMessage) -> None:
        _, group, object_id, value = message
        self._node.group_requests.ready(client, group, object_id, value)

    # From workers only ------------------------------------------------------------------------------------------------

    def _done_many(self, client: Client, message: m.DoneManyMessage) -> None:
        self._node.outcomes.done_many(_worker(client), message)

    def _failed(self, client: Client, message: m.FailedMessage) -> None:
        self._node.outcomes.failed(_worker(client), message)

    def _not_started(self, client: Client, message: m.NotStartedMessage) -> None:
        _, task_ids = message
        self._node.outcomes.returned(_worker(client), task_ids)

    def _blocked(self, client: Client, message: m.BlockedMessage) -> None:
        _, task_id = message
        self._node.outcomes.blocked(_worker(client), task_id)

    def _unblocked(self, client: Client, message: m.UnblockedMessage) -> None:
        _, task_id = message
        self._node.outcomes.unblocked(_worker(client), task_id)

    def _leaving(self, client: Client, message: m.LeavingMessage) -> None:
        _, why = message
        worker = _worker(client)
        actor = worker.actor
        self._node.pool.leaving(worker, why)
        self._node.scheduler.end_idle_lease(worker)
        if actor is not None:
            self._node.actors.die(actor, actor.fault("ActorDiedError", f"The actor is dead because {why}."))

    def _output_lost(self, client: Client, message: m.OutputLostMessage) -> None:
        _, why = message
        self._node.output_lost(why)


def _worker(client: Client) -> Worker:
    if client.worker is None:
        raise ValueError(f"{client} is no worker")
    return client.worker
