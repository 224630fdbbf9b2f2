"""Actors: their lives, and the mailboxes in front of them.

::

    PENDING --placed--> STARTING --constructed--> ALIVE --process ended--> RESTARTING --placed--> STARTING
       |                   |                        |                          |
       +-------------------+------------------------+--------------------------+---------------> DEAD

Calls of one caller are posted in the order in which they were submitted: one that waits for its arguments holds back
the later ones of its *lane*, not those of other callers. Actors that run calls concurrently have no order to keep.
Posted calls are sent ahead to the actor's process up to a window; the rest stays in the mailbox.

Invariants (``check``): only an ALIVE actor has calls in flight; a dead one has no calls, no worker and no resources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from asyncray.core.records import Actor, Client, Fault, Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import ACTOR, ALIVE, DEAD, LEAVING, OVER, PENDING, QUEUED, RESTARTING, SENT, STARTING
from asyncray.messages import FAULT, INVOKE


class Actors:
    """All actors of the node.

    Args:
        finish: ends a call with a value: ``finish(call, kind, payload)``.
    """

    def __init__(self, scheduler: Scheduler, finish: Callable[[Task, int, Any], None]) -> None:
        self._scheduler = scheduler
        self._finish = finish
        self.table: dict[bytes, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}

    def __repr__(self) -> str:
        return f"<Actors {len(self.table)}>"

    def add(self, actor: Actor, name: tuple[str, str] | None, handle: bytes) -> None:
        """A new actor, its constructor not queued yet."""
        self.table[actor.id] = actor
        actor.handle = handle
        if name is not None:
            actor.name = name
            self.names[name] = actor

    # Calls ------------------------------------------------------------------------------------------------------------

    def submit(self, call: Task) -> None:
        """A call arrives; its dependencies may be missing still."""
        actor = call.actor
        assert actor is not None
        actor.pending += 1
        if actor.state == DEAD:
            self._finish(call, FAULT, actor.cause)
            return
        if self._unreachable(actor) and not call.retries:
            self._finish(call, FAULT, actor.fault("ActorUnavailableError", "The actor is restarting."))
            return
        if actor.ordered:
            lane = actor.lanes.get(call.submitter)
            if lane is not None:
                lane.append(call)
                return
            if call.missing:
                actor.lanes[call.submitter] = deque((call,))
                return
        if not call.missing:
            self._post(actor, call)

    @staticmethod
    def _unreachable(actor: Actor) -> bool:
        return actor.state == RESTARTING or (actor.state == STARTING and actor.restarted > 0)

    def dependencies_ready(self, call: Task) -> None:
        """What the call waited for is there."""
        actor = call.actor
        assert actor is not None
        if actor.state == DEAD:
            self._finish(call, FAULT, actor.cause)
        elif actor.ordered:
            self._advance(actor, call.submitter)
        else:
            self._post(actor, call)

    def _advance(self, actor: Actor, caller: Client) -> None:
        lane = actor.lanes.get(caller)
        if lane is None:
            return
        while lane and (lane[0].state == OVER or not lane[0].missing):
            call = lane.popleft()
            if call.state != OVER:
                self._post(actor, call)
        if not lane:
            actor.lanes.pop(caller, None)

    def _post(self, actor: Actor, call: Task) -> None:
        if actor.state == ALIVE and not actor.mailbox and len(actor.inflight) < actor.window:
            self._send(actor, call)
        else:
            call.state = QUEUED
            actor.mailbox.append(call)

    def _send(self, actor: Actor, call: Task) -> None:
        worker = actor.worker
        assert worker is not None
        call.state = SENT
        call.worker = worker
        call.lease = actor.lease
        actor.inflight[call.id] = call
        self._scheduler.message(call, worker, INVOKE)

    def _pump(self, actor: Actor) -> None:
        mailbox = actor.mailbox
        while mailbox and actor.state == ALIVE and len(actor.inflight) < actor.window:
            call = mailbox.popleft()
            if call.state == QUEUED:
                self._send(actor, call)

    def call_over(self, call: Task) -> None:
        """A call has its result, whatever it is."""
        actor = call.actor
        assert actor is not None
        actor.pending -= 1
        call.worker = call.lease = None
        if call.id in actor.inflight:
            del actor.inflight[call.id]
            if actor.mailbox:
                self._pump(actor)
        elif actor.lanes:
            self._advance(actor, call.submitter)
        if actor.unreferenced and not actor.pending:
            self._end_unreferenced(actor)

    def resend(self, call: Task) -> None:
        """A call failed and may be tried again."""
        actor = call.actor
        assert actor is not None
        actor.inflight.pop(call.id, None)
        self._post(actor, call)
        self._pump(actor)

    # Life -------------------------------------------------------------------------------------------------------------

    def constructed(self, actor: Actor) -> None:
        """The constructor has returned: calls flow."""
        actor.move(ALIVE)
        actor.task.state = OVER
        self._pump(actor)
        if actor.unreferenced and not actor.pending:
            self._end_unreferenced(actor)

    def unreferenced(self, actor: Actor) -> None:
        """The last handle is gone: the actor ends when it has done what was submitted."""
        actor.unreferenced = True
        if actor.state == DEAD:
            self.free_name(actor)
        elif not actor.detached and not actor.pending:
            self._end_unreferenced(actor)

    def _end_unreferenced(self, actor: Actor) -> None:
        if actor.state == DEAD or actor.detached:
            return
        if actor.state == STARTING:
            return  # when it is constructed
        fault = actor.fault("ActorDiedError", "The actor is dead because all references to it were removed.")
        self.retire(actor, fault, "it is out of scope")

    def retire(self, actor: Actor, fault: Fault, why: str) -> None:
        """A graceful end: exit handlers run."""
        worker = actor.worker
        self.die(actor, fault)
        if worker is not None:
            self._scheduler.pool.retire(worker, why, self._scheduler.now)

    def kill(self, actor: Actor, fault: Fault, why: str) -> None:
        """An end at once."""
        worker = actor.worker
        self.die(actor, fault)
        if worker is not None:
            self._scheduler.pool.kill(worker, why, self._scheduler.now)

    def die(self, actor: Actor, fault: Fault) -> None:
        """For good: every call, now and later, fails with the fault."""
        if actor.state == DEAD:
            return
        if actor.state in (PENDING, RESTARTING):
            self._scheduler.forget(actor.task)
        actor.move(DEAD)
        actor.cause = fault
        self._leave_worker(actor)
        if actor.detached or actor.unreferenced:
            self.free_name(actor)
        for call in self._take_calls(actor):
            self._finish(call, FAULT, fault)
        self._finish(actor.task, FAULT, fault)  # its arguments are not needed for another restart

    def _leave_worker(self, actor: Actor) -> None:
        worker, actor.worker, actor.lease = actor.worker, None, None
        if worker is None:
            return
        worker.actor = None
        if worker.state == ACTOR:
            worker.state = LEAVING
        self._scheduler.worker_gone(worker)

    def _take_calls(self, actor: Actor) -> list[Task]:
        calls = [*actor.inflight.values(), *actor.mailbox]
        for lane in actor.lanes.values():
            calls += lane
        actor.inflight.clear()
        actor.mailbox.clear()
        actor.lanes.clear()
        return [call for call in calls if call.state != OVER]

    def free_name(self, actor: Actor) -> None:
        """The name may be given again."""
        if actor.name is not None and self.names.get(actor.name) is actor:
            del self.names[actor.name]

    def lost(self, actor: Actor, message: str) -> None:
        """The actor's process ended and nobody had asked for it: a restart if one is left."""
        if actor.state == DEAD:
            return
        if not actor.restarts:
            self.die(actor, actor.fault("ActorDiedError", message))
            return
        if actor.restarts > 0:
            actor.restarts -= 1
        actor.restarted += 1
        self._leave_worker(actor)
        actor.move(RESTARTING)
        again = []
        for call in self._take_calls(actor):
            if call.missing or call.submitter in actor.lanes:
                actor.lanes.setdefault(call.submitter, deque()).append(call)  # it was not on its way yet
            elif call.retries and not call.cancelled:
                call.retries -= call.retries > 0
                call.worker = call.lease = None
                call.state = QUEUED
                again.append(call)
            else:
                fault = actor.fault("ActorUnavailableError", f"The actor is restarting. {message}")
                self._finish(call, FAULT, fault)
        actor.mailbox.extendleft(reversed(again))
        self._scheduler.enqueue(actor.task)

    def remove(self, actor: Actor) -> None:
        """Nobody can ask for the dead actor any more."""
        self.table.pop(actor.id, None)

    def check(self) -> None:
        """Raises AssertionError where the lives contradict themselves."""
        for actor in self.table.values():
            assert not actor.inflight or actor.state == ALIVE, f"{actor} has calls in flight"
            assert (actor.worker is not None) == (actor.state in (STARTING, ALIVE)), f"{actor} and {actor.worker}"
            if actor.worker is not None:
                assert actor.worker.actor is actor, f"{actor} is not its worker's"
            if actor.state == DEAD:
                assert not (actor.mailbox or actor.lanes), f"{actor} has calls"
                assert actor.cause is not None, f"{actor} died of nothing"
