"""Tasks of this node that are at other nodes: how they go, come back, and survive the loss of a node.

A task that is away is SENT and has no worker. It leaves these books by exactly one of RESULT, BACK, or the loss of the
node. This node decides about retries.

A task may start once more than its retries allow: behind another in a process that dies before it reports the start.
From then on it is sent alone (its estimate is ``UNKNOWN``), so each further start is reported. That holds on all nodes
together. A node that gives such a task back says so (``MAY_HAVE_STARTED``), and a task that is tried again after it was
at another node is sent alone in any case.

The objects that a task names stay in use here until the last message of the other node about it, also if the task was
cancelled and nobody waits for it any more: code there may use them until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from asyncray.cluster_messages import CALL_AT, CANCEL_AT_HOME, CANCEL_TASK, CLAIMED, CONSTRUCT_AT, TASK
from asyncray.cluster_words import MAY_HAVE_STARTED, NEVER_FITS, OVER
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.known_templates import KnownTemplates
from asyncray.core.cluster.large_objects import LargeObjects
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.task_arguments import TaskArguments
from asyncray.core.cluster.task_lines import Away, TaskLine
from asyncray.core.lives import Actor, Seat
from asyncray.core.machine import NodeMachine
from asyncray.core.pauses import pause_before_retry
from asyncray.core.placements import Bundle
from asyncray.core.records import ObjectEntry, Task
from asyncray.core.scheduler import UNKNOWN
from asyncray.core.states import CRASHED, DIED_WITH_ZYGOTE, FINAL, FINISHED, SENT
from asyncray.ids import NODE_SIZE
from asyncray.messages import ERRORS, FAULT, SHARED, Value


class ActorReports(Protocol):
    """Learns how constructors and calls at other nodes have ended: ``Homes``."""

    def constructor_ended(self, task: Task, values: Sequence[Value], how: int) -> None:
        """An actor has ended at another node, before or after its constructor has returned."""

    def call_came_back(self, call: Task, *, begun: bool) -> None:
        """A call has not run to its end: that node does not have the actor, or its process has ended."""

    def call_left(self, seat: Seat) -> None:
        """A call of an actor is not at another node any more."""


class AwayTasks:
    """The books about the tasks of this node that are at other nodes."""

    def __init__(
        self,
        machine: NodeMachine,
        imports: Imports,
        templates: KnownTemplates,
        large: LargeObjects,
        arguments: TaskArguments,
        peer: Callable[[bytes], Peer],
    ) -> None:
        self._outbox = machine.outbox
        self._clock = machine.clock
        self._node = machine.node_id
        self._cancelling = machine.cancelling
        self._objects = machine.objects
        self._work = machine.work
        self._scheduler = machine.scheduler
        self._imports = imports
        self._templates = templates
        self._large = large
        self._peer = peer
        self._arguments = arguments
        self._views = machine.group_views
        # Node -> attempt -> task there.
        self._there: dict[Peer, dict[int, Away]] = {}
        self._of_task: dict[Task, Away] = {}
        # Node -> attempt -> objects that the node still needs of a task whose result is here.
        self._late: dict[Peer, dict[int, tuple[ObjectEntry, ...]]] = {}
        # Lost node -> objects that are kept until its grace has ended.
        self._graces: dict[Peer, list[tuple[ObjectEntry, ...]]] = {}
        # Constructors that wait for room at other nodes -> the node that has room for it, if it was asked back.
        # ``AskingBack`` fills it.
        self.waiting: dict[Away, bytes | None] = {}
        self._attempts = 0
        # A task has come back since the reader last reset it.
        self.changed = False
        # Decides about actors and calls. ``ClusterMachine`` sets it: it needs these books itself.
        self.actors: ActorReports
        machine.work.elsewhere = machine.cancelling.elsewhere = self

    def __repr__(self) -> str:
        return f"<AwayTasks {len(self._of_task)}>"

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self, task: Task, line: TaskLine) -> None:
        """Sends a task to the node of a line."""
        peer, template = line.peer, task.template
        away, values, nested = self._enter(task, peer)
        away.line = line
        line.sent[away.attempt] = away
        self._outbox.send(
            peer,
            (
                TASK, away.attempt, task.id, template.number, task.kind, task.payload, values, nested, task.given_name,
                task.depth, bool(task.retries) and task.estimate != UNKNOWN,
            ),
        )  # fmt: skip

    def send_call(self, call: Task, seat: Seat) -> None:
        """Sends a call to the node that has the process of the actor."""
        peer = seat.peer
        assert isinstance(peer, Peer)
        away, values, nested = self._enter(call, peer)
        self._outbox.send(
            peer,
            (
                CALL_AT, away.attempt, call.id, call.template.number, call.kind, call.payload, values, nested,
                call.given_name, seat.id, seat.restarted, bool(call.retries),
            ),
        )  # fmt: skip

    def send_constructor(self, actor: Actor, peer: Peer) -> None:
        """Sends the constructor of an actor to the node that is to have its process."""
        task = actor.task
        away, values, nested = self._enter(task, peer)
        self._outbox.send(
            peer,
            (
                CONSTRUCT_AT, away.attempt, task.id, task.template.number, task.kind, task.payload, values, nested,
                task.depth, actor.restarted, actor.registered_name,
            ),
        )  # fmt: skip

    def _enter(self, task: Task, peer: Peer) -> tuple[Away, list[Any] | None, list[bytes] | None]:
        """Enters a task in the books. Returns its record, the values of its arguments, and the refs inside them."""
        self._templates.describe(peer, task.template)
        self._attempts += 1
        values = nested = None
        uses: tuple[ObjectEntry, ...] = ()
        if task.dependencies:
            self._arguments.ended(task)  # those that were brought here
            payload_of = self._large.values.payload_of
            values = [
                (entry.id, entry.kind, payload_of(entry), [inner.id for inner in entry.contained] or None)
                for entry in task.dependencies
            ]
            uses = task.dependencies
        if task.nested:
            nested = [entry.id for entry in task.nested]
            uses += task.nested
        for entry in uses:
            entry.uses += 1
        task.state = SENT
        away = Away(task, self._attempts, peer, uses)
        self._of_task[task] = away
        self._there.setdefault(peer, {})[away.attempt] = away
        return away, values, nested

    def has(self, task: Task) -> bool:
        """True if the task is at another node."""
        return task in self._of_task

    def cancel(self, task: Task, *, force: bool, recursive: bool) -> None:
        """Stops a task that was sent to another node. Its end comes as RESULT or BACK."""
        away = self._of_task.get(task)
        if away is not None:
            self._outbox.send(away.peer, (CANCEL_TASK, away.attempt, force, recursive))

    def cancel_at_home(self, task_id: bytes, *, force: bool, recursive: bool) -> None:
        """A process of this node cancels a task that this node does not know: passes that on to its home."""
        home = task_id[:NODE_SIZE]
        if home != self._node:
            self._outbox.send(self._peer(home), (CANCEL_AT_HOME, task_id, force, recursive))

    def cancelled_elsewhere(self, peer: Peer, message: Any) -> None:
        """CANCEL_AT_HOME: a process of another node cancels a task of this one."""
        _, task_id, force, recursive = message
        self._cancelling.cancel(task_id, force=force, recursive=recursive)

    def at(self, peer: Peer, attempt: int) -> Away | None:
        """Returns the record of the task that is at another node by this attempt."""
        return self._there.get(peer, {}).get(attempt)

    def find(self, task: Task) -> Away | None:
        """Returns the record of a task that is at another node."""
        return self._of_task.get(task)

    # Answers of other nodes -------------------------------------------------------------------------------------------

    def _take_out(self, peer: Peer, attempt: int) -> Away:
        away = self._there[peer].pop(attempt)
        del self._of_task[away.task]
        self.waiting.pop(away, None)
        if away.line is not None:
            del away.line.sent[attempt]
            self.changed = True
        return away

    def _end_uses(self, peer: Peer, away: Away, *, later: bool) -> None:
        if later:
            self._late.setdefault(peer, {})[away.attempt] = away.uses
        elif away.uses:
            self._objects.unuse_all(away.uses)

    def result(self, peer: Peer, message: Any) -> None:
        """RESULT: a task has ended at another node."""
        _, attempt, mean, values, how, later = message
        away = self._take_out(peer, attempt)
        task = away.task
        if mean and away.line is not None:
            task.template.ran(mean)
        contained = [object_id for _, _, refs in values for object_id in refs or ()]
        cover = Cover(peer, partial(self._outbox.send, peer, (CLAIMED, attempt)))
        if contained:
            self._imports.learn(cover, contained)
        kinds = [kind for kind, _, _ in values]
        if SHARED in kinds:
            self._large.holders.results(task, peer.id, attempt, values)
        if task.is_constructor:
            self.actors.constructor_ended(task, values, how)
        elif task.state == FINISHED:
            pass  # it was ended from outside, and nobody needs the values
        elif task.actor is not None and how == CRASHED:
            self.actors.call_came_back(task, begun=True)
        elif how != FINAL and task.retries and not task.cancelled:
            task.retries -= 1
            if task.actor is None:
                self._retry(task, how)
            else:
                self._work.mailboxes.resend(task)
        else:
            self._finish(task, values)
        if task.actor is not None and not task.is_constructor:
            self.actors.call_left(task.actor)
        self._end_uses(peer, away, later=later)
        if contained and not self._imports.end(cover):
            cover.give_up()

    def _finish(self, task: Task, values: Sequence[Any]) -> None:
        kind, payload, contained = values[0]
        if task.cancelled and kind in ERRORS:
            self._work.finish(task, FAULT, task.cancelled_fault())
        elif kind in ERRORS:
            self._work.finish(task, kind, payload, contained)
        elif not task.returns:
            self._work.finish_all(task, ())
        else:
            self._work.finish_all(task, values)

    def _retry(self, task: Task, how: int) -> None:
        task.estimate = UNKNOWN
        pause = pause_before_retry(task.template.retries - task.retries) if how == CRASHED else 0.0
        if pause:
            self._scheduler.pauses.add(task, self._clock.now + pause)
        else:
            self._scheduler.shapes.enqueue(task, first=how in (CRASHED, DIED_WITH_ZYGOTE))

    def back(self, peer: Peer, message: Any) -> None:
        """BACK: a task has not started at another node, and waits here again."""
        _, attempt, why, later = message
        away = self._take_out(peer, attempt)
        task = away.task
        if task.state != FINISHED and task.cancelled:
            self._work.finish(task, FAULT, task.cancelled_fault())
        elif task.state != FINISHED and why == OVER and not task.is_constructor:
            self._work.finish(task, FAULT, ["OwnerDiedError", {"message": "The driver of the task's job has ended."}])
        elif task.state != FINISHED and task.actor is not None and not task.is_constructor:
            self.actors.call_came_back(task, begun=False)
        elif task.state != FINISHED:
            if why == NEVER_FITS and away.line is not None:
                away.line.slots = 0
            if away.line is not None and isinstance(task.template.where, Bundle):
                away.line.misled_by = self._views.rows.get(task.template.where.group)
            if why == MAY_HAVE_STARTED:
                task.estimate = UNKNOWN
            self._scheduler.shapes.enqueue(task, first=True)
        if task.actor is not None and not task.is_constructor:
            self.actors.call_left(task.actor)
        self._end_uses(peer, away, later=later)

    def done_with(self, peer: Peer, message: Any) -> None:
        """DONE_WITH: the objects that came with a task are not needed at the other node any more, or registered."""
        _, attempt = message
        self._objects.unuse_all(self._late[peer].pop(attempt))

    # Losses -----------------------------------------------------------------------------------------------------------

    def lost(self, peer: Peer, why: str, lines: Iterable[TaskLine]) -> None:
        """Another node has ended: its tasks run again, or fail.

        Args:
            lines: the former lines to the node.
        """
        there = self._there.pop(peer, {})
        kept = [uses for uses in self._late.pop(peer, {}).values() if uses]
        self.changed = True
        started = {attempt: None for line in lines for attempt in list(line.sent)[: max(1, line.slots or 0)]}
        for away in there.values():
            del self._of_task[away.task]
            self.waiting.pop(away, None)
            if away.uses:
                kept.append(away.uses)
        for attempt, away in reversed(there.items()):
            if away.line is not None and away.task.state != FINISHED:
                self._lose(away.task, why, started=attempt in started)
        self._lose_calls([away.task for away in there.values() if away.line is None], why)
        if kept:
            self._graces[peer] = kept

    def _lose_calls(self, tasks: Sequence[Task], why: str) -> None:
        """The calls come before the constructors: an actor that starts again has to know its calls."""
        for task in tasks:
            if not task.is_constructor and task.state != FINISHED:
                self.actors.call_came_back(task, begun=True)
            if task.actor is not None and not task.is_constructor:
                self.actors.call_left(task.actor)
        for task in tasks:
            if task.is_constructor:
                self.actors.constructor_ended(task, [(FAULT, ["NodeDiedError", {"message": why}], None)], CRASHED)

    def _lose(self, task: Task, why: str, *, started: bool) -> None:
        if task.cancelled:
            self._work.finish(task, FAULT, task.cancelled_fault())
        elif not task.retries:
            self._work.finish(task, FAULT, ["NodeDiedError", {"message": f"{task.name} failed with its node: {why}"}])
        else:
            # Which tasks had started is a guess: a node runs them in its own order, and says later how many it runs. So
            # a loss that costs nothing counts as a start without a report, and the next one costs a retry.
            if started or task.estimate == UNKNOWN:
                task.retries -= 1
            task.estimate = UNKNOWN
            self._scheduler.shapes.enqueue(task, first=True)

    def grace_over(self, peer: Peer) -> None:
        """No node needs anything of a lost node any more: what its tasks used is freed."""
        for uses in self._graces.pop(peer, ()):
            self._objects.unuse_all(uses)

    def check(self, lines: Iterable[TaskLine]) -> None:
        """Raises AssertionError if the books contradict each other."""
        sent = {away for line in lines for away in line.sent.values()}
        there = {away for table in self._there.values() for away in table.values()}
        assert there == set(self._of_task.values()), "a task is in one book and not in the other"
        assert sent == {away for away in there if away.line is not None}, "a line and the books disagree"
        assert there.issuperset(self.waiting), "a task that is not elsewhere waits there"
        for away in there:
            assert away.peer.alive, f"{away} is at a lost node"
            assert away.task.state in (SENT, FINISHED), f"{away} is elsewhere and here"
