"""Routes: calls of this node to actors of other nodes.

The home of an actor says where its process is, and again when that changes (SEAT_OF). Until then calls wait here. All
calls of one node to one actor go this way, so those of one caller keep their order: each step from the caller to its
daemon, over the link, and into the mailbox of the actor does.

A call comes back if the actor is not at that node (any more). When its process has ended, calls that had begun come
back, too. Only the home knows whether the actor starts again, so they wait for SEAT_OF: then those with retries
run again, in front of all others and in their old order, and the others fail. While a call may still come back, no
later one is sent to the next process.

The life of the actor, an object of its home, is in use here while calls are unfinished: an actor with calls lives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.cluster_messages import FORGET_ACTOR, KILL_ACTOR, LOCATE
from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.peers import Peer
from asyncray.core.lives import GuestActor, Route, Seat
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Fault, Task
from asyncray.core.states import ALIVE, DEAD, FINISHED, PENDING, QUEUED, RESTARTING
from asyncray.exceptions import ActorDiedError, ActorUnavailableError
from asyncray.ids import NODE_SIZE, PUT_INDEX
from asyncray.messages import FAULT

MOST_KILLED = 10_000
"""The number of killed actors that a node remembers."""


class Routes:
    """The ways to actors of other nodes."""

    def __init__(self, machine: NodeMachine, away: AwayTasks, peer: Callable[[bytes], Peer]) -> None:
        self._node = machine.node_id
        self._outbox = machine.outbox
        self._objects = machine.objects
        self._work = machine.work
        self._actors = machine.actors
        self._mailboxes = machine.actors.mailboxes
        self._away = away
        self._peer = peer
        self.table: dict[bytes, Route] = {}
        # Actor -> calls that came back, in order, and whether each had begun, until the home has decided.
        self._returned: dict[Seat, list[tuple[Task, bool]]] = {}
        # Actors of other nodes that are here, as long as earlier calls wait in a route to them.
        self.hidden: dict[bytes, GuestActor] = {}
        # Route -> the place to which calls go once all earlier ones have come back: node, incarnation, window.
        self._next: dict[Route, tuple[bytes, int, int]] = {}
        # Actors of other nodes that a client here has killed for good, the latest. They may still have their names.
        self.killed: dict[bytes, None] = {}
        self._mailboxes.elsewhere = machine.work.routes = self

    def __repr__(self) -> str:
        return f"<Routes {len(self.table)}>"

    def open(self, actor_id: bytes) -> Route:
        """Makes a route, and asks the home of the actor where it is."""
        home = self._peer(actor_id[:NODE_SIZE])
        route = self.table[actor_id] = Route(actor_id, home)
        route.window = 0
        entry = self._objects.table.get(actor_id + PUT_INDEX)
        if entry is not None:
            entry.actor = route
        if home.alive:
            self._outbox.send(home, (LOCATE, actor_id))
        else:
            self._end(route, _home_lost(actor_id, "its node has ended"))
        return route

    def submit(self, call: Task, actor_id: bytes) -> bool:
        """A call of this node to an actor of another node: the first makes the route. False: it is an own actor."""
        if actor_id[:NODE_SIZE] == self._node:
            return False
        route = self.table.get(actor_id) or self.open(actor_id)
        if not route.pending:
            route.life = self._objects.use_all([route.id + PUT_INDEX])
            for entry in route.life:
                entry.actor = route
        call.actor = route
        self._mailboxes.submit(call)
        return True

    def send_call(self, call: Task, seat: Seat) -> None:
        self._away.send_call(call, seat)

    def is_idle(self, route: Route) -> None:
        life, route.life = route.life, ()
        self._objects.unuse_all(life)
        self._forget_if_unneeded(route)

    def unreferenced(self, route: Seat) -> None:
        """The last handle of the actor on this node has ended."""
        if isinstance(route, Route):
            self._forget_if_unneeded(route)

    def _forget_if_unneeded(self, route: Route) -> None:
        if route.pending or self.table.get(route.id) is not route:
            return
        entry = self._objects.table.get(route.id + PUT_INDEX)
        if entry is not None:
            entry.actor = route  # a handle has come again since the last one was dropped
            return
        del self.table[route.id]
        self._next.pop(route, None)
        self._returned.pop(route, None)
        hidden = self.hidden.pop(route.id, None)
        if hidden is not None:
            self._actors.table[route.id] = hidden
        if route.state != DEAD:
            self._outbox.send(route.home, (FORGET_ACTOR, route.id))

    def kill(self, actor_id: bytes, *, no_restart: bool) -> None:
        """KILL of a client, for an actor of another node."""
        if no_restart:
            self.killed[actor_id] = None
            if len(self.killed) > MOST_KILLED:
                del self.killed[next(iter(self.killed))]
        self._outbox.send(self._peer(actor_id[:NODE_SIZE]), (KILL_ACTOR, actor_id, no_restart))

    # Calls that come back ---------------------------------------------------------------------------------------------

    def call_came_back(self, call: Task, *, begun: bool) -> None:
        """A call has not run to its end: that node does not have the actor, or its process has ended."""
        seat = call.actor
        assert seat is not None
        seat.inflight.pop(call.id, None)
        if seat.state == DEAD:
            self._work.finish(call, FAULT, seat.cause)
            return
        call.state = QUEUED
        seat.window = 0
        self._returned.setdefault(seat, []).append((call, begun))

    def take_returned(self, seat: Seat) -> list[tuple[Task, bool]]:
        """Takes the calls that came back and have not ended since, in order, and whether each had begun."""
        return [(call, begun) for call, begun in self._returned.pop(seat, ()) if call.state != FINISHED]

    def fail_returned(self, seat: Seat, fault: Fault) -> None:
        """The actor is dead, so the calls that came back will not run."""
        self._fail([call for call, _ in self.take_returned(seat)], fault)

    def seat_of(self, peer: Peer, message: Any) -> None:
        """SEAT_OF: the home of an actor says where the actor is."""
        _, actor_id, state, node, incarnation, ordered, window, fault = message
        route = self.table.get(actor_id)
        if route is None or route.state == DEAD:
            return
        if not ordered and route.ordered:
            self._mailboxes.keeps_no_order(route)
        if state == DEAD:
            self._end(route, fault)
        elif state == RESTARTING:
            self._interrupt(route, fault)
        elif state == ALIVE:
            self._next[route] = node, incarnation, window
            self.go_on(route)

    def _interrupt(self, route: Route, fault: Fault) -> None:
        """The actor starts again: calls without retries that were sent to it, or wait here, fail."""
        route.state = RESTARTING
        route.window = 0
        self._next.pop(route, None)
        calls = [call for call, _ in self.take_returned(route)]
        calls += [call for call in route.mailbox if call.state != FINISHED]
        route.mailbox.clear()
        self._fail(self._mailboxes.interrupted(route, calls), fault)

    def _fail(self, calls: Sequence[Task], fault: Fault) -> None:
        for call in calls:
            self._work.finish(call, FAULT, call.cancelled_fault() if call.cancelled else fault)

    def go_on(self, route: Route) -> None:
        """Sends calls to the present place of the actor, once all that were sent to the one before are back."""
        place = self._next.get(route)
        if place is None or route.inflight:
            return
        del self._next[route]
        node, route.restarted, window = place
        waiting = list(route.mailbox)
        route.mailbox.clear()
        back = self.take_returned(route)
        begun = [call for call, had_begun in back if had_begun]
        # Calls that had not begun are as good as new. The others have used up a retry.
        lost = self._mailboxes.interrupted(route, begun)
        kept = dict.fromkeys(route.mailbox)
        route.mailbox.clear()
        route.mailbox.extend(call for call, had_begun in back if not had_begun or call in kept)
        route.mailbox.extend(waiting)
        self._fail(lost, route.fault("ActorUnavailableError", ActorUnavailableError.RESTARTING))
        if node == self._node:
            self._come_home(route)
            return
        route.peer, route.state, route.window = self._peer(node), ALIVE, window
        if not route.peer.alive:
            # The home does not know of the loss yet, and will send SEAT_OF again.
            route.state, route.window = PENDING, 0
            return
        self._mailboxes.pump(route)

    def _come_home(self, route: Route) -> None:
        """The process of the actor is on this node: its calls go to it directly."""
        actor = self.hidden.pop(route.id, None)
        if actor is None:
            route.state = PENDING  # it has ended, and its home will send SEAT_OF again
            return
        self._actors.table[route.id] = actor
        del self.table[route.id]
        self._outbox.send(route.home, (FORGET_ACTOR, route.id))
        calls = [*route.mailbox, *(call for lane in route.lanes.values() for call in lane)]
        route.mailbox.clear()
        route.lanes.clear()
        for entry in route.life:
            entry.actor = None
        for call in calls:
            if call.state != FINISHED:  # the call may have failed with an argument, or was cancelled
                call.actor = actor
                arguments = self._work.arguments
                if arguments is not None and not call.missing:
                    # A call that was away has given up what was brought here for it.
                    arguments.bring(call)
                self._mailboxes.submit(call)
        self._objects.unuse_all(route.life)
        route.life = ()

    def _end(self, route: Route, fault: Fault) -> None:
        """The actor is dead."""
        route.state, route.cause = DEAD, fault
        self._next.pop(route, None)
        calls = [call for call, _ in self.take_returned(route)]
        calls += self._mailboxes.close(route)
        self._fail(calls, fault)

    # Actors that leave this node, and losses --------------------------------------------------------------------------

    def left(self, actor: GuestActor, begun: Sequence[Task], calls: Sequence[Task]) -> None:
        """The process of an actor on this node has ended: calls of this node wait until its home says more.

        Args:
            begun: those of the calls that were sent to the process.
        """
        own = [call for call in calls if not (call.is_guest or call.state == FINISHED)]
        entry = self._objects.table.get(actor.id + PUT_INDEX)
        if not own:
            if entry is not None:
                entry.actor = self.table.get(actor.id)
            return
        route = self.open(actor.id)
        if route.state == DEAD:
            self._fail(own, route.cause or [])
            self._forget_if_unneeded(route)
            return
        was_begun = dict.fromkeys(begun)
        route.ordered = actor.ordered
        route.pending = len(own)
        route.life = self._objects.use_all([route.id + PUT_INDEX])
        for call in own:
            call.actor = route
            if call in was_begun:
                call.state = QUEUED
                self._returned.setdefault(route, []).append((call, True))
            elif call.missing:
                route.lanes.setdefault(call.submitter.id, deque()).append(call)
            else:
                route.mailbox.append(call)
            call.worker = call.lease = None

    def home_lost(self, peer: Peer, why: str) -> None:
        """The home of actors is lost, and the actors with it."""
        for route in [route for route in self.table.values() if route.home is peer]:
            self._end(route, _home_lost(route.id, why))
            self._forget_if_unneeded(route)

    def check(self) -> None:
        """Raises AssertionError if a route keeps an actor alive without calls, or the reverse."""
        for actor_id, route in self.table.items():
            assert route.id == actor_id, f"{route} is under the wrong ID"
            assert bool(route.pending) == bool(route.life) or route.state == DEAD, f"{route} has {route.pending} calls"
        for route in self._next:
            assert self.table.get(route.id) is route, f"{route} is forgotten"


def _home_lost(actor_id: bytes, why: str) -> Fault:
    message = f"{ActorDiedError.OWNER_DIED} {why}"
    return ["ActorDiedError", {"actor_id": actor_id.hex(), "message": message}]
