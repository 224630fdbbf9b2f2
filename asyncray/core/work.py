"""Work: every task in progress, its submission and its end. ``outcomes`` reads the reports of workers.

A task waits for its dependencies, is queued (or posted to its actor's mailbox), is sent to a worker, and is finished
when its return values are resolved: by its results, by its own error, by the error of a dependency, by cancellation, or
by the death of its process once no retry is left. Results of finished tasks (late, repeated, of a worker that was given
up) are dropped.

The end of a task is not always final: if ``keep`` wants it, a finished task keeps its function and its arguments, and
``run_again`` makes values that were lost.

Errors pass to dependents in a loop and not by recursion, because chains may be long.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.config import ARGUMENTS_LIMIT
from asyncray.core.actors import Actors
from asyncray.core.elsewhere import Bringer, GuestEnds, TasksElsewhere, WaysToActors
from asyncray.core.functions import Functions
from asyncray.core.lives import Actor
from asyncray.core.objects import Objects, check_new
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client, ObjectEntry, Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import FINISHED, QUEUED, SENT, WAITING
from asyncray.core.store import Store
from asyncray.core.tasks import Tasks
from asyncray.exceptions import ActorDiedError
from asyncray.ids import FIRST_RETURN, PUT_INDEX, return_id
from asyncray.messages import (
    BUFFERS,
    ERROR,
    ERRORS,
    FAULT,
    PLAIN,
    UNRESOLVED,
    CallMessage,
    CreateMessage,
    Refs,
    SubmitMessage,
    Value,
)

_UNREADY = (ERROR, FAULT, UNRESOLVED)

_MANY = 1000
"""Fewer small arguments than this always fit in one message."""


class Work:
    """Tasks in progress. ``tasks`` finds them by ID until they have finished.

    Args:
        tasks: the unfinished tasks of all jobs.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        objects: Objects,
        functions: Functions,
        scheduler: Scheduler,
        tasks: Tasks,
        actors: Actors,
    ) -> None:
        self.outbox = outbox
        self.store = store
        self.objects = objects
        self.functions = functions
        self.scheduler = scheduler
        self._shapes = scheduler.shapes
        self.tasks = tasks
        self.actors = actors
        self.mailboxes = actors.mailboxes
        # Asked at the end of a task. True: its function and arguments stay in use until ``let_go``, for ``run_again``.
        self.keep: Callable[[Task], bool] | None = None
        # How many tasks were run again.
        self.reruns = 0
        # None on a node that belongs to no cluster.
        self.elsewhere: TasksElsewhere | None = None
        self.guests: GuestEnds | None = None
        self.arguments: Bringer | None = None
        self.routes: WaysToActors | None = None
        # Tasks that have ended, with their values, in a queue: the end of one may end others.
        self._ending: deque[tuple[Task, Sequence[Value]]] = deque()
        # The queue is being worked off.
        self._in_loop = False

    def __repr__(self) -> str:
        return f"<Work {len(self.tasks)} tasks>"

    # Submission -------------------------------------------------------------------------------------------------------

    def submit(self, client: Client, message: SubmitMessage) -> None:
        """SUBMIT: runs a function."""
        _, task_id, number, kind, payload, dependencies, nested, parent, name = message
        template = client.templates[number]
        task = Task(task_id, template, client, kind, payload, name)
        if dependencies is None and nested is None and parent is None:  # the hot path
            template.users += 1
            template.job.tasks[task_id] = task
            if template.returns == 1:
                task.returns = (self.objects.expect(task_id + FIRST_RETURN, client, task),)
            else:
                task.returns = self._expect_returns(task, client)
            self._shapes.enqueue(task)
            return
        if not self._register(task, client, dependencies, nested, parent):
            self.finish(task, FAULT, self._lost_argument(task, dependencies))
        elif not self._born_cancelled(task) and not task.missing:
            self._ready(task)

    def call(self, client: Client, message: CallMessage) -> None:
        """CALL: runs a method of an actor."""
        _, task_id, number, kind, payload, dependencies, nested, parent, name, actor_id = message
        call = Task(task_id, client.templates[number], client, kind, payload, name)
        whole = self._register(call, client, dependencies, nested, parent)
        actor = self.actors.table.get(actor_id)
        if actor is None and self.routes is None:
            self.finish(call, FAULT, self.actors.absent(actor_id))
        elif not whole:
            self.finish(call, FAULT, self._lost_argument(call, dependencies))
        elif not self._born_cancelled(call) and not self._fail_by_dependency(call):
            if self.arguments is not None and not call.missing:
                self.arguments.bring(call)
            if actor is not None:
                call.actor = actor
                if actor.is_guest:  # its home must not end it before the call has ended
                    call.nested += self.objects.use_all([actor_id + PUT_INDEX])
                self.mailboxes.submit(call)
            elif self.routes is None or not self.routes.submit(call, actor_id):
                self.finish(call, FAULT, self.actors.absent(actor_id))

    def create(
        self, client: Client, message: CreateMessage, name: tuple[str, str] | None = None, handle: bytes = b""
    ) -> Actor:
        """CREATE: makes an actor."""
        _, actor_id, number, kind, payload, dependencies, nested, parent = message
        task = Task(actor_id, client.templates[number], client, kind, payload)
        whole = self._register(task, client, dependencies, nested, parent, returns=False)
        life = actor_id + PUT_INDEX
        self.objects.resolve_new(life, client, FAULT, ["ValueError", {"message": "An actor is no object."}], None)
        actor = Actor(task, client)
        task.actor = self.objects.table[life].actor = actor
        self.actors.add(actor, name, handle)
        if not whole:
            self.constructor_failed(actor, FAULT, self._lost_argument(task, dependencies))
        elif not task.missing:
            self._ready(task)
        return actor

    def _expect_returns(self, task: Task, client: Client) -> tuple[ObjectEntry, ...]:
        expect, count = self.objects.expect, task.template.returns
        if count == 1:
            return (expect(task.id + FIRST_RETURN, client, task),)
        return tuple(expect(return_id(task.id, index), client, task) for index in range(count))

    def _register(
        self,
        task: Task,
        client: Client,
        dependencies: Sequence[bytes] | None,
        nested: Sequence[bytes] | None,
        parent_id: bytes | None,
        *,
        returns: bool = True,
    ) -> bool:
        """Enters the task in all tables. Returns False if an argument is freed already."""
        task.template.users += 1
        task.template.job.tasks[task.id] = task
        if returns:
            task.returns = self._expect_returns(task, client)
        if parent_id is not None:
            parent = self.tasks.get(parent_id)
            if parent is None and client.worker is not None:
                parent = client.worker.nested.get(parent_id)  # cancelled, and its thread has not learned of it yet
            if parent is not None:
                # A task that waits for its children occupies a worker, so they are deeper. Actors keep theirs anyway.
                task.depth = parent.depth + (parent.actor is None)
                task.parent = parent
                if parent.children is None:
                    parent.children = {}
                parent.children[task.id] = task
        if nested:
            task.nested = self.objects.use_all(nested)
        if dependencies:
            task.dependencies = entries = self.objects.use_all(dependencies)
            for entry in entries:
                if entry.kind == UNRESOLVED:
                    task.missing += 1
                    if entry.dependents is None:
                        entry.dependents = []
                        if entry.far is not None and self.objects.values_elsewhere is not None:
                            self.objects.values_elsewhere.want(entry)
                    entry.dependents.append(task)
            return len(entries) == len(dependencies)
        return True

    def _lost_argument(self, task: Task, dependencies: Refs) -> list[Any]:
        lost = next(object_id for object_id in dependencies or () if object_id not in self.objects.table)
        name, fields = self.objects.dead_refs.fault(lost)
        return [name, {**fields, "message": f"An argument of {task.name} is lost. {fields['message']}"}]

    def _born_cancelled(self, task: Task) -> bool:
        """Ends a task whose parent was cancelled, and had submitted it before the parent learned of that."""
        cancelled_with_children = task.parent is not None and task.parent.cancelled_with_children
        if cancelled_with_children:
            self.finish(task, FAULT, task.cancelled_fault())
        return cancelled_with_children

    def _fail_by_dependency(self, task: Task) -> bool:
        """Ends a task whose dependency failed, with that error."""
        if task.state in (FINISHED, SENT) or not task.dependencies:
            return False
        for entry in task.dependencies:
            if entry.kind in (ERROR, FAULT):
                self._end_with(task, entry)
                return True
        return False

    def _ready(self, task: Task) -> None:
        for entry in task.dependencies:
            if entry.kind in _UNREADY:
                if entry.kind == UNRESOLVED:
                    self._wait_again(task)
                else:
                    self._end_with(task, entry)
                return
        if len(task.dependencies) > _MANY and self._fail_by_size(task):
            return
        if task.actor is None or task.is_constructor:
            self._shapes.enqueue(task, first=self.store.under_pressure and _holds_memory(task))
        elif self.arguments is None or not self.arguments.bring(task):
            self.mailboxes.dependencies_ready(task)

    def gives_memory_back(self) -> bool:
        """True if a task runs that holds objects in shared memory and waits for nothing.

        A call of an actor holds its arguments only: what else its process has read may stay with the actor.
        """
        return any(
            task.lease is not None
            and not task.lease.blocked
            and (_holds_memory(task) or _has_read_memory(task))
            and self._may_run(task)
            for worker in self.scheduler.pool.workers.values()
            for task in worker.sent
        )

    def _may_run(self, task: Task) -> bool:
        """False if every thread that could run in the task's process waits for room in the store.

        Such a wait is known by its process and not by its task, and beside a host each thread may have one.
        """
        worker = task.worker
        waits = len(worker.client.claims) if worker is not None and worker.client is not None else 0
        if worker is None or not waits:
            return True
        begun = [*worker.nested.values(), *itertools.islice(worker.inflight.values(), 1)]
        return waits < sum(1 for other in begun if other.lease is not None and other.id not in other.lease.blocked)

    def _fail_by_size(self, task: Task) -> bool:
        """Ends a task whose arguments would not fit in one message."""
        small = [entry.payload for entry in task.dependencies if entry.kind in (PLAIN, BUFFERS)]
        size = sum(len(payload) if type(payload) is bytes else sum(map(len, payload)) for payload in small)
        if size <= ARGUMENTS_LIMIT:
            return False
        message = (
            f"The arguments of {task.name} are {len(small)} small objects of {size >> 20} MiB in all; "
            f"{ARGUMENTS_LIMIT >> 20} MiB are possible. Pass them as one list of refs, and get them inside."
        )
        fault = ["AsyncraySystemError", {"message": message}]
        made = task.constructed_actor
        if made is not None:
            self.constructor_failed(made, FAULT, fault)
        else:
            self.finish(task, FAULT, fault)
        return True

    # Promises ---------------------------------------------------------------------------------------------------------

    def promise(self, client: Client, object_id: bytes) -> None:
        """PROMISE: the client will put the object later. Tasks may depend on it from now on.

        Raises:
            ValueError: an object with this ID exists, or the ID names another maker.
        """
        check_new(object_id, client)
        client.promised[object_id] = self.objects.expect(object_id, client, None)

    def keep_promise(self, entry: ObjectEntry, kind: int, payload: Any, contained: Sequence[bytes] | None) -> None:
        """The promised object has a value, or an error in its place."""
        del entry.maker.promised[entry.id]
        for task in self.objects.resolve(entry, kind, payload, contained):
            self.dependency_resolved(task, entry)

    def break_promises(self, client: Client) -> None:
        """The client ended before it put what it had promised."""
        for entry in list(client.promised.values()):
            message = f"The process that was about to put the object {entry.id.hex()} has died."
            self.keep_promise(entry, FAULT, ["OwnerDiedError", {"object_id": entry.id.hex(), "message": message}], None)

    # Dependencies -----------------------------------------------------------------------------------------------------

    def dependency_resolved(self, task: Task, entry: ObjectEntry) -> None:
        """A dependency of the task is resolved."""
        task.missing -= 1
        if task.state != WAITING:
            return
        if entry.kind in (ERROR, FAULT):
            self._end_with(task, entry)
        elif not task.missing:
            self._ready(task)

    def _wait_again(self, task: Task) -> None:
        """Dependencies that were resolved have lost their values: the task waits for them as before."""
        for entry in task.dependencies:
            if entry.kind == UNRESOLVED:
                task.missing += 1
                entry.dependents = [*(entry.dependents or ()), task]

    # Ends -------------------------------------------------------------------------------------------------------------

    def constructor_failed(self, actor: Actor, kind: int, payload: Any) -> None:
        """The actor's constructor raised, or cannot run: the actor is dead."""
        message = ActorDiedError.CREATION_FAILED
        fields: dict[str, Any] = {"actor_id": actor.id.hex(), "message": message}
        if kind == ERROR:
            fields["cause"] = payload
        elif kind == FAULT:
            fields["message"] = f"{message}: {payload[0]}: {payload[1].get('message', '')}"
        fault = ["ActorDiedError", fields]
        # If calls are pending, their errors report the failure.
        if not actor.pending:
            self.objects.unread.report(actor.task.template, actor.task.name, FAULT, fault)
        self.actors.retire(actor, fault, "its constructor failed")

    def _end_with(self, task: Task, failed: ObjectEntry) -> None:
        """Ends the task with the error of a dependency, and the actor if the task is its constructor."""
        self.objects.unread.read(failed.id)
        made = task.constructed_actor
        if made is not None:
            self.constructor_failed(made, failed.kind, failed.payload)
        else:
            self.finish(task, failed.kind, failed.payload, [entry.id for entry in failed.contained] or None)

    def finish(self, task: Task, kind: int, payload: Any, contained: Sequence[bytes] | None = None) -> None:
        """Ends the task: every return value becomes this one, an error or nothing."""
        if kind in ERRORS and not task.is_guest and task.id in task.template.job.tasks:
            self.objects.unread.failed(task, kind, payload)
        self.finish_all(task, ((kind, payload, contained),) * len(task.returns))

    def finish_all(self, task: Task, values: Sequence[Value]) -> None:
        """Ends the task with these return values."""
        if self._in_loop:
            self._ending.append((task, values))
            return
        self._in_loop = True
        try:
            self._end(task, values)
            while self._ending:
                self._end(*self._ending.popleft())
        finally:
            self._in_loop = False

    def _end(self, task: Task, values: Sequence[Value]) -> None:
        template = task.template
        if template.job.tasks.pop(task.id, None) is None:
            return
        if task.state == QUEUED and task.actor is None:
            self._shapes.forget(task)
        task.state = FINISHED
        if task.parent is not None or task.children is not None:
            self._leave_family(task)
        if task.is_guest:
            self._end_guest(task, values)
            return
        returns = task.returns
        # The hot path does without ``zip``, whose keyword costs 0.1 us.
        pairs = ((returns[0], values[0]),) if len(returns) == len(values) == 1 else zip(returns, values, strict=True)
        for entry, (kind, payload, contained) in pairs:
            for dependent in self.objects.resolve(entry, kind, payload, contained):
                self.dependency_resolved(dependent, entry)
        if self.keep is None or not self.keep(task):
            # As ``let_go``, without a call on the hot path.
            if task.dependencies:
                if self.arguments is not None:
                    self.arguments.ended(task)
                self.objects.unuse_all(task.dependencies)
            if task.nested:
                self.objects.unuse_all(task.nested)
            template.users -= 1
            if not template.users:
                self.functions.settle(template)
        elif self.arguments is not None:
            self.arguments.ended(task)
        if task.actor is not None and not task.is_constructor:
            self.mailboxes.call_finished(task)

    def _end_guest(self, guest: Task, values: Sequence[Value]) -> None:
        assert self.guests is not None
        self.guests.ended(guest, values)
        template = guest.template
        template.users -= 1
        self.functions.settle(template)
        if guest.actor is not None and not guest.is_constructor:
            self.mailboxes.call_finished(guest)

    def welcome(self, guest: Task) -> None:
        """A task, a constructor or a call of another node has come, with the values of its arguments."""
        guest.template.users += 1
        guest.template.job.tasks[guest.id] = guest
        if guest.actor is None or guest.is_constructor:
            self._ready(guest)
        else:
            if self.arguments is not None:
                self.arguments.bring(guest)
            self.mailboxes.submit(guest)

    @staticmethod
    def _leave_family(task: Task) -> None:
        """Unlinks a task from its parent and children.

        Otherwise a task that submits its successor, which submits the next, would keep all of them in memory.
        """
        if task.parent is not None and task.parent.children is not None:
            task.parent.children.pop(task.id, None)
        for child in (task.children or {}).values():
            child.parent = None
        task.parent = task.children = None

    # Second runs ------------------------------------------------------------------------------------------------------

    def run_again(self, task: Task, lost: Sequence[ObjectEntry]) -> None:
        """Runs a finished function once more, because values that it returned are lost.

        Those objects are pending as before. Its other return values stay: the second values for them are dropped.

        Args:
            task: a function of a job that has not ended. It was not cancelled, and ``keep`` wanted it.
            lost: the objects that are wanted again. Tasks that depend on them may be waiting, but were not queued or
                sent yet: from then on a task has the values of its arguments.
        """
        assert task.state == FINISHED and task.actor is None and not task.cancelled, f"{task} cannot run again"
        self.reruns += 1
        task.template.job.tasks[task.id] = task
        task.state = WAITING
        self.objects.unresolve(task, lost)
        self._ready(task)

    def let_go(self, task: Task) -> None:
        """A task that ``keep`` wanted will not run again: ends its uses of objects, and of its function."""
        self.objects.unuse_all(task.dependencies)
        self.objects.unuse_all(task.nested)
        task.template.users -= 1
        self.functions.settle(task.template)

    def check(self) -> None:
        """Raises AssertionError if the tables of tasks contradict each other."""
        self.actors.check()
        dependents = Counter(task.id for entry in self.objects.table.values() for task in entry.dependents or ())
        for task in self.tasks.values():
            assert self.tasks.get(task.id) is task is task.template.job.tasks[task.id], f"{task} is not its job's"
            waits = sum(1 for entry in task.dependencies if entry.kind == UNRESOLVED)
            comes = self.arguments is not None and self.arguments.brings(task)
            # A value may be lost while its task waits for another.
            assert task.missing == waits + comes or (self.reruns and task.state == WAITING), f"{task} waits for {waits}"
            assert task.missing == dependents[task.id] + comes, (
                f"{task} waits for {task.missing} and is not known there"
            )
            assert task.state != FINISHED or task.is_constructor, f"{task} has finished and is in the tables"
            is_away = task.worker is None and self.elsewhere is not None and self.elsewhere.has(task)
            assert task.state != SENT or task.worker is not None or is_away, f"{task} was sent to nobody"


def _holds_memory(task: Task) -> bool:
    return any(entry.block is not None for entry in task.dependencies)


def _has_read_memory(task: Task) -> bool:
    worker = task.worker
    return task.actor is None and worker is not None and worker.client is not None and bool(worker.client.pinned)
