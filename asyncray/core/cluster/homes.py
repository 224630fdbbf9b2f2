"""Homes: actors of this node, which may have their processes at other nodes.

The *home* of an actor is the node of its creator. It decides about the life: where the actor starts, whether it starts
again, when it ends, and it reports the place of the actor to all nodes with calls for it. The actor itself is at its
home, or at another node as a *guest actor* (``guest_actors``): an actor that never restarts there.

The constructor travels as a task does (CONSTRUCT_AT), and its books stay open until the process has ended: SEATED says
that the constructor has returned, RESULT that the constructor has failed, or the process has ended. Before that RESULT
each call goes back to its node, so the home knows all of its own calls when it decides about a restart.

An actor without resources goes to the next node in turn; any other stays at home while it fits, and then goes to the
node that is used least. A placement that the program names comes first. A constructor that finds no room where it was
sent is asked back once there is room elsewhere (``asking_back``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.cluster_messages import END_SEAT, SEAT_OF
from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.members import OtherNode
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.placing import Placing
from asyncray.core.cluster.routes import Routes
from asyncray.core.lives import Actor, Route, Seat
from asyncray.core.machine import NodeMachine
from asyncray.core.placements import SPREAD
from asyncray.core.records import HERE, Task
from asyncray.core.shapes import Shapes
from asyncray.core.states import ALIVE, CRASHED, DEAD, DIED_WITH_ZYGOTE, RAISED, RESTARTING, STARTING
from asyncray.exceptions import ActorDiedError
from asyncray.ids import NODE_SIZE
from asyncray.messages import FAULT, Value


class Homes:
    """The lives of actors in a cluster."""

    def __init__(
        self,
        machine: NodeMachine,
        away: AwayTasks,
        routes: Routes,
        placing: Placing,
        peer: Callable[[bytes], Peer],
    ) -> None:
        self._node = machine.node_id
        self._outbox = machine.outbox
        self._work = machine.work
        self._actors = machine.actors
        self._pool = machine.pool
        self._shapes = machine.scheduler.shapes
        self._away = away
        self._routes = routes
        self._placing = placing
        self._peer = peer
        # Actor of this node -> the nodes that have calls for it.
        self._watchers: dict[bytes, dict[Peer, None]] = {}
        # Actor whose process at another node has ended, while calls may still come back from there -> how it ended.
        self._ended: dict[Seat, tuple[Sequence[Value], int]] = {}
        machine.actors.elsewhere = self
        away.actors = self

    def __repr__(self) -> str:
        return f"<Homes, {len(self._watchers)} actors are watched>"

    # At home ----------------------------------------------------------------------------------------------------------

    def route_constructor(self, task: Task, *, waits: bool = False) -> bool | None:
        """Decides where an actor starts.

        Args:
            waits: it is in the queue of this node, which has no room for it.

        Returns: True if another node has it from now on, False if this one starts it, None if no node can at present.
        """
        actor = task.constructed_actor
        assert actor is not None
        if not actor.is_wanted:
            # It came back from a node that was to end it.
            self._actors.die(actor, actor.fault("ActorDiedError", ActorDiedError.OUT_OF_SCOPE))
            return True
        found = self._place(task, waits=waits)
        if isinstance(found, str):
            message = f"{task.name} cannot run: {found}."
            self._actors.die(actor, ["ActorUnschedulableError", {"message": message}])
            return True
        if found is None:
            return None
        if found == self._node:
            return False
        self._placing.debit(found, task.template.demand)
        self._away.send_constructor(actor, self._peer(found))
        return True

    def _place(self, task: Task, *, waits: bool = False) -> bytes | str | None:
        template = task.template
        where = template.where
        chosen: OtherNode | str | None
        if waits:
            chosen = self._placing.move_to(where, template.demand, self._node, {})
        elif where is not HERE:
            chosen = self._placing.choose(where, template.demand)
        elif template.life:
            chosen = self._placing.own_or_best(template.demand, queued_lives(self._shapes))
        else:
            chosen = self._placing.choose(SPREAD, template.demand)
        return chosen if chosen is None or isinstance(chosen, str) else chosen.facts["node"]

    def seated(self, peer: Peer, message: Any) -> None:
        """SEATED: the constructor has returned at another node."""
        _, attempt, pid = message
        away = self._away.at(peer, attempt)
        if away is not None:
            self._away.waiting.pop(away, None)
        actor = None if away is None else away.task.constructed_actor
        if actor is None or actor.state in (DEAD, ALIVE):
            return
        actor.move(STARTING)
        actor.peer, actor.pid = peer, pid
        actor.window = actor.full_window
        self._actors.constructed(actor)

    def constructor_ended(self, task: Task, values: Sequence[Value], how: int) -> None:
        """An actor has ended at another node, before or after its constructor has returned."""
        actor = task.constructed_actor
        assert actor is not None
        kind, payload, _ = values[0]
        if actor.state == DEAD:
            return
        if actor.inflight:
            # These calls were under way when the actor ended.
            actor.window = 0
            self._ended[actor] = values, how
            return
        if how in (CRASHED, DIED_WITH_ZYGOTE):
            self._call_back(actor)
            message = payload[1].get("message", "")
            node_died = payload[0] == "NodeDiedError"
            if node_died:
                message = f"{ActorDiedError.NODE_DIED} {message[:1].upper()}{message[1:]}"
            if actor.state != ALIVE:
                actor.move(STARTING)
            self._actors.lost(actor, message, blameless=node_died or how == DIED_WITH_ZYGOTE)
        elif how == RAISED:
            self._work.constructor_failed(actor, kind, payload)
        else:
            self._call_back(actor)
            self._actors.die(actor, payload if kind == FAULT else actor.fault("ActorDiedError", "It has ended."))

    def _call_back(self, actor: Actor) -> None:
        """Calls of this node that came back stand in front of the mailbox, as if they had never left."""
        returned = [call for call, _ in self._routes.take_returned(actor)]
        actor.mailbox.extendleft(reversed(returned))
        actor.window = actor.full_window

    def call_came_back(self, call: Task, *, begun: bool) -> None:
        self._routes.call_came_back(call, begun=begun)

    def call_left(self, seat: Seat) -> None:
        """A call of this node has left another node. After the last one, the next process may get calls."""
        if isinstance(seat, Route):
            self._routes.go_on(seat)
        elif not seat.inflight and isinstance(seat, Actor) and seat in self._ended:
            self.constructor_ended(seat.task, *self._ended.pop(seat))

    def end_process(self, actor: Actor, why: str, *, graceful: bool) -> bool:
        """Ends the process of an actor at another node. Returns False if it neither has nor gets one there."""
        away = self._away.find(actor.task)
        if away is not None:
            self._outbox.send(away.peer, (END_SEAT, away.attempt, graceful, why))
        return away is not None

    def unreferenced(self, route: Seat) -> None:
        self._routes.unreferenced(route)

    # Watchers ---------------------------------------------------------------------------------------------------------

    def locate(self, peer: Peer, message: Any) -> None:
        """LOCATE: another node has calls for an actor of this one."""
        _, actor_id = message
        actor = self._actors.table.get(actor_id)
        if actor is None:
            fault = self._actors.absent(actor_id)
            self._outbox.send(peer, (SEAT_OF, actor_id, DEAD, self._node, 0, True, 0, fault))
            return
        if actor.state != DEAD:
            self._watchers.setdefault(actor_id, {})[peer] = None
        self._say(actor, peer)

    def forget_actor(self, peer: Peer, message: Any) -> None:
        """FORGET_ACTOR: another node has no calls for an actor any more."""
        _, actor_id = message
        watchers = self._watchers.get(actor_id)
        if watchers is not None:
            watchers.pop(peer, None)
            if not watchers:
                del self._watchers[actor_id]

    def changed(self, actor: Actor) -> None:
        """An actor of this node is alive, restarts or is dead."""
        for peer in self._watchers.get(actor.id, ()):
            self._say(actor, peer)
        if actor.state == DEAD:
            self._watchers.pop(actor.id, None)
            self._ended.pop(actor, None)
            self._routes.fail_returned(actor, actor.cause or [])

    def _say(self, actor: Actor, peer: Peer) -> None:
        node = actor.peer.id if isinstance(actor.peer, Peer) else self._node
        fault = actor.cause
        if actor.state == RESTARTING:
            fault = actor.fault("ActorUnavailableError", "The actor is restarting.")
        self._outbox.send(
            peer, (SEAT_OF, actor.id, actor.state, node, actor.restarted, actor.ordered, actor.full_window, fault)
        )

    def kill_for_client(self, actor_id: bytes, *, no_restart: bool) -> None:
        """KILL: a client of this node kills an actor of any node."""
        actor = self._actors.table.get(actor_id)
        if actor_id[:NODE_SIZE] != self._node:
            self._routes.kill(actor_id, no_restart=no_restart)
        elif actor is not None:
            self.kill(actor, no_restart=no_restart)

    def kill_actor(self, peer: Peer, message: Any) -> None:
        """KILL_ACTOR: a process of another node kills an actor of this one."""
        _, actor_id, no_restart = message
        actor = self._actors.table.get(actor_id)
        if actor is not None:
            self.kill(actor, no_restart=no_restart)

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        """Kills an actor of this node, as KILL of a client does."""
        why = "it was killed by `ray.kill`"
        if no_restart or not actor.restarts:
            self._actors.kill(actor, actor.fault("ActorDiedError", ActorDiedError.KILLED), why)
            self._actors.free_name(actor)
        elif actor.worker is not None:
            self._pool.kill(actor.worker, why)
        else:
            self.end_process(actor, why, graceful=False)

    # Losses -----------------------------------------------------------------------------------------------------------

    def lost(self, peer: Peer, why: str) -> None:
        """Another node has ended: actors that it was the home of end here."""
        for watchers in list(self._watchers.values()):
            watchers.pop(peer, None)
        for actor_id in [actor_id for actor_id, watchers in self._watchers.items() if not watchers]:
            del self._watchers[actor_id]
        self._routes.home_lost(peer, why)

    def check(self) -> None:
        """Raises AssertionError if a dead actor is watched, or nobody watches an entry."""
        for actor_id, watchers in self._watchers.items():
            assert watchers, f"nobody watches {actor_id.hex()}"
            actor = self._actors.table.get(actor_id)
            assert actor is None or actor.state != DEAD, f"{actor} is dead and watched"


def queued_lives(shapes: Shapes) -> Counter[str]:
    """The demands of the actors that came with the same events, and will start here. They hold nothing yet."""
    amounts: Counter[str] = Counter()
    for shape in shapes.active:
        if shape.lives and shape.where is HERE:
            amounts.update({name: amount * shape.count for name, amount in shape.demand})
    return amounts
