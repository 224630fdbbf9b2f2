"""Rules about the actors of all nodes together.

- A call is sent only to the place and the incarnation that the home of the actor has named last.
- No two actors that live have the same name, unless a program has killed the first of them.
- At rest every route agrees with the home of its actor, and no call that came back waits for a decision from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncray.cluster_messages import SEAT_OF
from asyncray.core.cluster.peers import Peer
from asyncray.core.lives import Actor, Route, Seat
from asyncray.core.records import Task
from asyncray.core.states import ALIVE, DEAD
from asyncray.ids import NODE_SIZE
from asyncray.messages import KILL, Received

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.cluster_host import ClusterHost


class ActorRules:
    """The rules about actors, for one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # Host, actor -> the last SEAT_OF: state, node, incarnation.
        self._heard: dict[tuple[bytes, bytes], tuple[str, bytes, int]] = {}
        self.killed: set[bytes] = set()

    def watch(self, host: ClusterHost) -> None:
        """Looks at all calls that a host sends to other nodes, and at what it learns of actors."""
        away, handlers = host.part.away, host.part.handlers
        send, take = away.send_call, handlers[SEAT_OF]

        def send_call(call: Task, seat: Seat) -> None:
            self._may_send(host, seat)
            send(call, seat)

        def seat_of(peer: Peer, message: Any) -> None:
            self._hears(host, message)
            take(peer, message)

        away.send_call = send_call  # type: ignore[method-assign]
        handlers[SEAT_OF] = seat_of

    def carried(self, message: Received) -> None:
        """A daemon has got a message of a process."""
        if message[0] == KILL and message[2]:
            self.killed.add(message[1])

    def _hears(self, host: ClusterHost, message: Any) -> None:
        _, actor, state, node, incarnation, *_ = message
        _, _, last = self._heard.get((host.id, actor), ("", b"", 0))
        assert incarnation >= last or state == DEAD, (
            f"{host} learns of incarnation {incarnation} of {actor.hex()} after {last}"
        )
        self._heard[host.id, actor] = (state, node, incarnation)

    def _may_send(self, host: ClusterHost, seat: Seat) -> None:
        assert seat.state == ALIVE, f"{host} calls {seat}"
        if isinstance(seat, Route):
            peer: Any = seat.peer
            named = self._heard[host.id, seat.id]
            assert named == (ALIVE, peer.id, seat.restarted), f"{host} calls {seat} at {peer}, its home said {named}"

    def check_names(self) -> None:
        """Checks that a name has one life."""
        lives: dict[tuple[str, str], Actor] = {}
        for host in self._cluster.living:
            if self._cluster.oracle.has_ended(host.id):
                continue  # it is fenced, and does not know it
            for actor in host.node.actors():
                if actor.name is None or actor.id in self.killed:
                    continue
                other = lives.setdefault(actor.name, actor)
                assert other is actor, f"{actor} and {other} have one name"

    def check_at_rest(self) -> None:
        """Checks that each route knows what the home of its actor knows."""
        for host in self._cluster.living:
            routes = host.part.routes
            for route in routes.table.values():
                home = self._cluster.hosts[route.id[:NODE_SIZE]]
                actor = home.machine.actors.table.get(route.id) if home.alive else None
                state = DEAD if actor is None else actor.state
                agrees = route.state == state if state in (ALIVE, DEAD) else route.state not in (ALIVE, DEAD)
                assert agrees, f"{route} of {host}, and at home {actor}"
            waiting = [seat for seat in (*routes._returned, *routes._next) if seat.state in (ALIVE, DEAD)]
            assert not waiting, f"{host} waits for a decision about {waiting}"
