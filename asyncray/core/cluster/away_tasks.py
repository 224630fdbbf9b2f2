"""Tasks of this node that are at other nodes: how they go, come back, and survive the loss of a node.

A task that is away is SENT and has no worker. It leaves these books by exactly one of RESULT, BACK, or the loss of the
node. This node decides about retries.

The objects that a task names stay in use here until the last word of the other node about it, also when the task was
cancelled and nobody waits for it any more: code there may use them until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from asyncray.cluster_messages import CANCEL_TASK, CLAIMED, TASK
from asyncray.cluster_words import NEVER_FITS, OVER
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.known_templates import KnownTemplates
from asyncray.core.cluster.large_objects import LargeObjects
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.task_arguments import TaskArguments
from asyncray.core.cluster.task_lines import Away, TaskLine
from asyncray.core.machine import NodeMachine
from asyncray.core.pauses import pause_before_retry
from asyncray.core.records import ObjectEntry, Task
from asyncray.core.scheduler import UNKNOWN
from asyncray.core.states import CRASHED, FINAL, FINISHED, SENT
from asyncray.messages import ERRORS, FAULT, SHARED


class AwayTasks:
    """The books about the tasks of this node that are at other nodes."""

    def __init__(
        self,
        machine: NodeMachine,
        imports: Imports,
        templates: KnownTemplates,
        large: LargeObjects,
        arguments: TaskArguments,
    ) -> None:
        self._outbox = machine.outbox
        self._clock = machine.clock
        self._objects = machine.objects
        self._work = machine.work
        self._scheduler = machine.scheduler
        self._imports = imports
        self._templates = templates
        self._large = large
        self._arguments = arguments
        # Node -> attempt -> task there.
        self._there: dict[Peer, dict[int, Away]] = {}
        self._of_task: dict[Task, Away] = {}
        # Node -> attempt -> objects that the node still needs of a task whose result is here.
        self._late: dict[Peer, dict[int, tuple[ObjectEntry, ...]]] = {}
        # Lost node -> objects that are kept until its grace has ended.
        self._graces: dict[Peer, list[tuple[ObjectEntry, ...]]] = {}
        self._attempts = 0
        # A task has come back since the reader last reset it.
        self.changed = False
        machine.work.elsewhere = machine.cancelling.elsewhere = self

    def __repr__(self) -> str:
        return f"<AwayTasks {len(self._of_task)}>"

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self, task: Task, line: TaskLine) -> None:
        """Sends a task to the node of a line."""
        peer, template = line.peer, task.template
        self._templates.describe(peer, template)
        self._attempts += 1
        attempt = self._attempts
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
        away = Away(task, attempt, line, uses)
        line.sent[attempt] = self._of_task[task] = away
        self._there.setdefault(peer, {})[attempt] = away
        again = bool(task.retries) and task.estimate != UNKNOWN
        name, depth = task.given_name, task.depth
        kind, payload = task.kind, task.payload
        self._outbox.send(
            peer, (TASK, attempt, task.id, template.number, kind, payload, values, nested, name, depth, again)
        )

    def has(self, task: Task) -> bool:
        """True if the task is at another node."""
        return task in self._of_task

    def cancel(self, task: Task, *, force: bool, recursive: bool) -> None:
        """Stops a task that was sent to another node. Its end comes as RESULT or BACK."""
        away = self._of_task.get(task)
        if away is not None:
            self._outbox.send(away.line.peer, (CANCEL_TASK, away.attempt, force, recursive))

    # What comes back --------------------------------------------------------------------------------------------------

    def _take_out(self, peer: Peer, attempt: int) -> Away:
        away = self._there[peer].pop(attempt)
        del away.line.sent[attempt], self._of_task[away.task]
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
        if mean:
            task.template.ran(mean)
        contained = [object_id for _, _, refs in values for object_id in refs or ()]
        cover = Cover(peer, partial(self._outbox.send, peer, (CLAIMED, attempt)))
        if contained:
            self._imports.learn(cover, contained)
        kinds = [kind for kind, _, _ in values]
        if SHARED in kinds:
            self._large.holders.results(task, peer.id, attempt, values)
        if task.state == FINISHED:
            pass  # it was ended from outside, and nobody needs the values
        elif how != FINAL and task.retries and not task.cancelled:
            task.retries -= 1
            self._retry(task, crashed=how == CRASHED)
        else:
            self._finish(task, values)
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

    def _retry(self, task: Task, *, crashed: bool) -> None:
        pause = pause_before_retry(task.template.retries - task.retries) if crashed else 0.0
        if pause:
            self._scheduler.pauses.add(task, self._clock.now + pause)
        else:
            self._scheduler.shapes.enqueue(task, first=crashed)

    def back(self, peer: Peer, message: Any) -> None:
        """BACK: a task has not started at another node, and waits here again."""
        _, attempt, why, later = message
        away = self._take_out(peer, attempt)
        task = away.task
        if task.state != FINISHED and task.cancelled:
            self._work.finish(task, FAULT, task.cancelled_fault())
        elif task.state != FINISHED and why == OVER:
            self._work.finish(task, FAULT, ["OwnerDiedError", {"message": "The driver of the task's job has ended."}])
        elif task.state != FINISHED:
            if why == NEVER_FITS:
                away.line.slots = 0
            self._scheduler.shapes.enqueue(task, first=True)
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
        for attempt, away in reversed(there.items()):
            del self._of_task[away.task]
            if away.uses:
                kept.append(away.uses)
            if away.task.state != FINISHED:
                self._lose(away.task, why, started=attempt in started)
        if kept:
            self._graces[peer] = kept

    def _lose(self, task: Task, why: str, *, started: bool) -> None:
        if task.cancelled:
            self._work.finish(task, FAULT, task.cancelled_fault())
        elif not task.retries:
            self._work.finish(task, FAULT, ["NodeDiedError", {"message": f"{task.name} failed with its node: {why}"}])
        else:
            if started:
                task.retries -= 1
            else:
                # It may have started without a word: from now on it is sent alone.
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
        assert sent == there == set(self._of_task.values()), "a task is in one book and not in the other"
        for away in there:
            assert away.line.peer.alive, f"{away} is at a lost node"
            assert away.task.state in (SENT, FINISHED), f"{away} is elsewhere and here"
