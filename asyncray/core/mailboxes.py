"""Mailboxes: the calls of an actor, from their arrival until they end.

The node posts the calls of one caller in the order in which the caller submitted them: a call that waits for its
arguments holds back the later calls of its *lane*, but not the calls of other callers. An actor that runs calls
concurrently has no order to keep: only calls that wait for their arguments stand in its lanes, side by side. The node
sends posted calls ahead to the actor's process up to a window; the other calls stay in the mailbox.

Calls belong to a seat: the place of an actor. Nothing here decides whether an actor lives.

Invariants (``check``): only an ALIVE actor has calls in flight; a dead actor has no calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from asyncray.core.lives import Actor, Route, Seat
from asyncray.core.records import Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import ALIVE, DEAD, FINISHED, QUEUED, RESTARTING, SENT, STARTING
from asyncray.exceptions import ActorUnavailableError
from asyncray.ids import caller_of
from asyncray.messages import FAULT, INVOKE


class CallsElsewhere(Protocol):
    """The calls to actors of other nodes, for a node that belongs to a cluster."""

    def send_call(self, call: Task, seat: Seat) -> None:
        """Sends a call to the node that has the process of the actor."""

    def is_idle(self, route: Route) -> None:
        """The last unfinished call of this node to an actor of another node has ended."""


class Mailboxes:
    """The calls of all actors of the node.

    Args:
        finish: ends a call with a value: ``finish(call, kind, payload)``.
        unneeded: called with an actor that has no handle and no unfinished call left.
    """

    def __init__(
        self, scheduler: Scheduler, finish: Callable[[Task, int, Any], None], unneeded: Callable[[Actor], None]
    ) -> None:
        self._scheduler = scheduler
        self._finish = finish
        self._unneeded = unneeded
        # None on a node that belongs to no cluster.
        self.elsewhere: CallsElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Mailboxes of {self._scheduler}>"

    # Calls that arrive ------------------------------------------------------------------------------------------------

    def submit(self, call: Task) -> None:
        """A call arrives. Its dependencies may not be resolved yet."""
        seat = call.actor
        assert seat is not None
        seat.pending += 1
        if seat.state == DEAD:
            self._finish(call, FAULT, seat.cause)
            return
        if self._unreachable(seat) and not call.retries:
            self._finish(call, FAULT, seat.fault("ActorUnavailableError", ActorUnavailableError.RESTARTING))
            return
        if call.missing or (seat.ordered and seat.lanes):
            caller = caller_of(call.id)
            lane = seat.lanes.get(caller)
            if lane is not None:
                lane.append(call)
                return
            if call.missing:
                seat.lanes[caller] = deque((call,))
                return
        self._post(seat, call)

    @staticmethod
    def _unreachable(seat: Seat) -> bool:
        return seat.state == RESTARTING or (seat.state == STARTING and seat.restarted > 0)

    def dependencies_ready(self, call: Task) -> None:
        """The dependencies of the call are resolved."""
        seat = call.actor
        assert seat is not None
        if seat.state == DEAD:
            self._finish(call, FAULT, seat.cause)
        elif seat.ordered:
            self._advance(seat, caller_of(call.id))
        else:
            self._leave_lane(seat, call)
            self._post(seat, call)

    def keeps_no_order(self, seat: Seat) -> None:
        """The home of an actor has said that calls need no order: posts those that wait only behind others."""
        seat.ordered = False
        for lane in [*seat.lanes.values()]:
            for call in [*lane]:
                if call.state == FINISHED:
                    self._leave_lane(seat, call)
                elif not call.missing:
                    self._leave_lane(seat, call)
                    self._post(seat, call)

    @staticmethod
    def _leave_lane(seat: Seat, call: Task) -> None:
        """A call of an actor without order has what it needs, or has ended."""
        caller = caller_of(call.id)
        lane = seat.lanes.get(caller)
        if lane is not None and call in lane:
            lane.remove(call)
            if not lane:
                del seat.lanes[caller]

    def _advance(self, seat: Seat, caller: bytes) -> None:
        lane = seat.lanes.get(caller)
        if lane is None:
            return
        while lane and (lane[0].state == FINISHED or not lane[0].missing):
            call = lane.popleft()
            if call.state != FINISHED:
                self._post(seat, call)
        if not lane:
            seat.lanes.pop(caller, None)

    def _post(self, seat: Seat, call: Task) -> None:
        if seat.state == ALIVE and not seat.mailbox and len(seat.inflight) < seat.window:
            self._send(seat, call)
        else:
            call.state = QUEUED
            seat.mailbox.append(call)

    def _send(self, seat: Seat, call: Task) -> None:
        if seat.peer is not None:
            seat.inflight[call.id] = call
            assert self.elsewhere is not None
            self.elsewhere.send_call(call, seat)
            return
        worker = seat.worker
        assert worker is not None
        call.state = SENT
        call.worker = worker
        call.lease = seat.lease
        seat.inflight[call.id] = call
        self._scheduler.message(call, worker, INVOKE)

    def pump(self, seat: Seat) -> None:
        """Sends calls of the mailbox ahead, as far as the window allows."""
        mailbox = seat.mailbox
        while mailbox and seat.state == ALIVE and len(seat.inflight) < seat.window:
            call = mailbox.popleft()
            if call.state == QUEUED:
                self._send(seat, call)

    # Calls that end or come back --------------------------------------------------------------------------------------

    def call_finished(self, call: Task) -> None:
        """A call has ended, with a value or an error."""
        actor = call.actor
        assert actor is not None
        actor.pending -= 1
        call.worker = call.lease = None
        if call.id in actor.inflight:
            del actor.inflight[call.id]
            if actor.mailbox:
                self.pump(actor)
        elif actor.lanes and actor.ordered:
            self._advance(actor, caller_of(call.id))
        elif actor.lanes:
            self._leave_lane(actor, call)
        if not actor.pending:
            if isinstance(actor, Route):
                assert self.elsewhere is not None
                self.elsewhere.is_idle(actor)
            elif isinstance(actor, Actor) and actor.unreferenced:
                self._unneeded(actor)

    def resend(self, call: Task) -> None:
        """A call failed and is retried."""
        seat = call.actor
        assert seat is not None
        seat.inflight.pop(call.id, None)
        self._post(seat, call)
        self.pump(seat)

    @staticmethod
    def take_posted(seat: Seat) -> list[Task]:
        """Takes the calls that were sent and those of the mailbox, in the order in which they were posted."""
        calls = [*seat.inflight.values(), *(call for call in seat.mailbox if call.state != FINISHED)]
        seat.inflight.clear()
        seat.mailbox.clear()
        return calls

    def close(self, seat: Seat) -> list[Task]:
        """The actor is dead: takes all its calls, those of the lanes last."""
        calls = self.take_posted(seat)
        for lane in seat.lanes.values():
            calls += lane
        seat.lanes.clear()
        return calls

    def interrupted(self, seat: Seat, calls: Iterable[Task]) -> list[Task]:
        """Calls were taken because the process ended, and the actor starts again: posts those that may run once more.

        Returns:
            the calls that were lost.
        """
        lost = []
        for call in calls:
            call.worker = call.lease = None
            call.state = QUEUED
            if call.retries and not call.cancelled:
                call.retries -= call.retries > 0
                seat.mailbox.append(call)
            else:
                lost.append(call)
        return lost

    @staticmethod
    def check(seats: Iterable[Seat]) -> None:
        """Raises AssertionError if a seat has calls that it cannot have."""
        for seat in seats:
            assert not seat.inflight or seat.state == ALIVE, f"{seat} has calls in flight"
            assert not (seat.state == DEAD and (seat.mailbox or seat.lanes)), f"{seat} has calls"
