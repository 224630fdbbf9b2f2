"""Guest actors: actors of other nodes that have their processes here.

A guest actor never restarts here, and lives until its home ends it, or its process ends. Then each call for it goes
back to the node of its caller: those that had begun as RESULT, so that their nodes know it, the others as BACK. The
constructor goes last: its RESULT tells the home that the process has ended.

A constructor for which there is no room waits here, because this node may be the only one that ever has room for it.
The home learns of that once (CONSTRUCTOR_WAITS), and may ask the constructor back (TAKE_BACK) as long as no process has
it: then it goes back as BACK.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from asyncray.cluster_messages import BACK, CONSTRUCTOR_WAITS, SEATED
from asyncray.cluster_words import NOT_HERE
from asyncray.core.cluster.guests import Guests
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.routes import Routes
from asyncray.core.cluster.task_lines import units
from asyncray.core.leases import Shape
from asyncray.core.lives import Actor, GuestActor
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Guest, Task
from asyncray.core.states import CRASHED, DEAD, FINISHED, QUEUED, STARTING, WAITING, WITHDRAWN
from asyncray.exceptions import ActorDiedError
from asyncray.messages import FAULT


class GuestActors:
    """The processes of actors of other nodes."""

    def __init__(self, machine: NodeMachine, guests: Guests, routes: Routes) -> None:
        self._outbox = machine.outbox
        self._work = machine.work
        self._actors = machine.actors
        self._guests = guests
        self._routes = routes
        # Constructors that have no process yet, and whose homes do not know that they wait for room.
        self._unplaced: dict[Guest, None] = {}
        machine.actors.guests = self
        guests.withdraw = self.withdraw

    def __repr__(self) -> str:
        return f"<GuestActors of {self._guests}>"

    def construct_at(self, peer: Peer, message: Any) -> None:
        """CONSTRUCT_AT: gives an actor of another node a process."""
        _, attempt, actor_id, number, kind, payload, values, nested, depth, restarted, name = message
        guest = self._guests.welcome(peer, attempt, actor_id, number)
        if guest is None:
            return
        guest.kind, guest.payload, guest.depth = kind, payload, depth
        actor = GuestActor(guest, guest.submitter, restarted, name)
        guest.actor = actor
        self._guests.take_arguments(guest, values, nested)
        if actor_id in self._routes.table:
            # Calls of this node wait for the actor: later ones must not overtake them.
            actor.job.actors[actor_id] = actor.creator.actors[actor_id] = actor
            self._routes.hidden[actor_id] = actor
        else:
            self._actors.add(actor, None, b"")
        self._unplaced[guest] = None
        self._work.welcome(guest)

    def flush(self) -> None:
        """All events of a batch have been handled, and the node has started what it can."""
        room: dict[Shape, int] = {}
        for guest in list(self._unplaced):
            if guest.state == WAITING:
                continue  # for its arguments
            if guest.state == QUEUED and (shape := guest.template.shape) is not None:
                if shape not in room:
                    room[shape] = units(shape)
                room[shape] -= 1
                if room[shape] >= 0:
                    continue  # a process for it is about to start
                self._outbox.send(guest.home, (CONSTRUCTOR_WAITS, guest.attempt))
            del self._unplaced[guest]

    def withdraw(self, guest: Guest) -> None:
        """The home has asked a constructor back that has not begun: the actor leaves this node."""
        actor = guest.constructed_actor
        assert actor is not None
        guest.how = WITHDRAWN
        self._actors.die(actor, actor.fault("ActorDiedError", "The actor starts at another node."))

    def constructed(self, actor: GuestActor) -> None:
        """The constructor of an actor of another node has returned here."""
        guest = actor.task
        assert isinstance(guest, Guest)
        self._outbox.send(guest.home, (SEATED, guest.attempt, actor.worker.pid if actor.worker else 0))

    def end_seat(self, peer: Peer, message: Any) -> None:
        """END_SEAT: the home wants the process of an actor to end."""
        _, attempt, graceful, why = message
        guest = self._guests.table.get(peer, {}).get(attempt)
        actor = None if guest is None else guest.constructed_actor
        if actor is None or actor.state == DEAD:
            return
        if graceful and actor.state == STARTING:
            # The constructor uses its arguments until it returns. After SEATED the home says this again.
            return
        fault = actor.fault("ActorDiedError", f"The actor is dead because {why}.")
        if isinstance(guest, Guest):
            guest.how = CRASHED
        if graceful:
            self._actors.retire(actor, fault, why)
        else:
            self._actors.kill(actor, fault, why)

    def guest_died(self, actor: GuestActor, begun: Sequence[Task], calls: Sequence[Task]) -> None:
        """An actor of another node has ended here: each call goes back to its node."""
        self._routes.hidden.pop(actor.id, None)
        if self._actors.table.get(actor.id) is actor:
            del self._actors.table[actor.id]
        self.send_home(actor, begun, calls)
        self._routes.left(actor, begun, calls)

    def send_home(self, actor: Actor, begun: Sequence[Task], calls: Sequence[Task]) -> list[Task]:
        """The process of an actor has ended: sends the calls of other nodes back. Returns the other ``calls``.

        Their nodes decide which of them run again, and send them to the next process, which may be at another node.
        """
        was_begun = dict.fromkeys(begun)
        in_lanes = [call for lane in actor.lanes.values() for call in lane]
        for call in (*calls, *in_lanes):
            if not isinstance(call, Guest) or call.state == FINISHED:
                continue
            if call in was_begun:
                call.how = CRASHED
                self._work.finish(call, FAULT, actor.fault("ActorDiedError", ActorDiedError.WORKER_DIED))
            else:
                self._guests.send_back(call, NOT_HERE)
                actor.pending -= 1
        lanes = [(caller, deque(call for call in lane if not call.is_guest)) for caller, lane in actor.lanes.items()]
        actor.lanes = {caller: lane for caller, lane in lanes if lane}
        return [call for call in calls if not call.is_guest]

    def call_at(self, peer: Peer, message: Any) -> None:
        """CALL_AT: a process of another node calls an actor that is here."""
        _, attempt, call_id, number, kind, payload, values, nested, name, actor_id, incarnation, again = message
        actor = self._actors.table.get(actor_id) or self._routes.hidden.get(actor_id)
        is_here = actor is not None and actor.restarted == incarnation and actor.peer is None
        if actor is None or not is_here or actor.state == DEAD:
            self._outbox.send(peer, (BACK, attempt, NOT_HERE, False))
            return
        guest = self._guests.welcome(peer, attempt, call_id, number)
        if guest is None:
            return
        guest.kind, guest.payload, guest.given_name, guest.retries = kind, payload, name, int(again)
        self._guests.take_arguments(guest, values, nested)
        guest.actor = actor
        self._work.welcome(guest)
