"""A whole cluster in one thread: a head, some nodes, a network, and an oracle that checks them after every event.

The machines are the real ones. Hosts do what the daemon's shell does: they number and write frames, dial, and let time
pass. The oracle is outside of the machines: it knows the living hosts, all messages, and the head's decisions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from asyncray.cluster_messages import ACK, PING, RESUME
from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.cluster.commands import CloseConnection, Dial, Probe, SendAgain, SendControl
from asyncray.core.cluster.members import MEMBER
from asyncray.core.cluster.peers import Peer
from asyncray.core.head.head import HeadMachine
from asyncray.core.head.membership import LOST
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import Outbox, StopNode
from tests.sim.net import Clock, Net

CONTROL = (RESUME, PING, ACK)
HELLO = 900
"""A message between nodes that only the simulation knows: it carries a number."""

TICK = 0.5
FAST_TICK = 0.01
CLUSTER_ID = b"c" * 16


class Use:
    """The use that a host makes of a connection: the link that it belongs to."""

    def __init__(self, party: Peer, *, with_head: bool) -> None:
        self.party = party
        self.with_head = with_head


class Host:
    """One machine with one daemon. The first one has the head in it."""

    def __init__(self, cluster: Cluster, number: int, *, is_head: bool = False) -> None:
        self.cluster = cluster
        self.net = cluster.net
        self.clock = cluster.clock
        self.name = f"host{number}"
        self.id = f"node{number:04}".encode()
        self.alive = True
        self.why = ""  # the reason for its end
        self.uses: dict[int, Use] = {}
        self.machine = NodeMachine(self.id, {"CPU": 2.0}, "seg", 1 << 20, {})
        self.machine.now = self.clock.now
        self.head = HeadMachine(self.id, CLUSTER_ID, 1, self.clock.now) if is_head else None
        self.jobs: range = range(0)
        self.heard: dict[bytes, list[int]] = {}
        self.said: dict[bytes, int] = {}
        self._ticked_at = self.clock.now
        facts: Any = {"node": self.id, "host": self.name, "port": 1, "joined": 0}
        self.part = ClusterMachine(self.machine, facts, self.clock.now, None if is_head else cluster.head_host.id)
        self.part.handlers[HELLO] = self._hello
        self.part.members.join()
        self.after()
        self.clock.after(self.clock.random.random() * TICK, self._tick)

    def __repr__(self) -> str:
        return f"<Host {self.name} {'alive' if self.alive else self.why or 'dead'}>"

    # What programs of the node do -------------------------------------------------------------------------------------

    def say_hello(self, node: bytes) -> None:
        """Sends a numbered message to another node."""
        peer = self.part.peer(node, self.clock.now)
        self.said[node] = self.said.get(node, 0) + 1
        self.machine.outbox.send(peer, (HELLO, self.said[node]))  # type: ignore[arg-type]
        self.after()

    def _hello(self, peer: Peer, message: Any) -> None:
        assert peer.id not in self.part.members.ended, f"{self} hears the words of {peer}, which is buried"
        self.heard.setdefault(peer.id, []).append(message[1])

    # The shell --------------------------------------------------------------------------------------------------------

    def after(self) -> None:
        """Takes the messages and commands that the daemon has after an event."""
        now = self.clock.now
        self.machine.flush()
        self.part.flush(now)
        self._drain(self.machine.outbox)
        if self.head is not None:
            self.head.flush(now)
            self._drain(self.head.outbox)
        self.part.check()
        if self.head is not None:
            self.head.check()

    def _drain(self, outbox: Outbox) -> None:
        commands, outbox.commands = outbox.commands, []
        for command in commands:
            self._do(command)
        dirty, outbox.dirty = outbox.dirty, []
        for party in dirty:
            batch, party.out = party.out, []
            if not batch:
                continue  # the daemon buried the party in this turn
            if isinstance(party, Peer):
                number = party.link.push(batch, len(batch), self.clock.now)
                if party.link.connection is not None:
                    self._write(party.link.connection, number, party.link.received, batch)
            elif self.head is not None and party in (self.head.own, self.part.members.head):
                self.clock.after(0.0, partial(self._carry, party, batch))
        if outbox.commands:
            self._drain(outbox)

    def _carry(self, party: Any, batch: list[Any]) -> None:
        """Carries messages from the head to its own node, or back."""
        if not self.alive or self.head is None:
            return
        if party is self.head.own:
            self.part.receive_from_head(batch, self.clock.now)
        else:
            self.head.receive(self.head.own, batch, self.clock.now)
        self.after()

    def _write(self, connection: int, number: int, acknowledged: int, body: Any) -> None:
        self.net.write(self, connection, (number, acknowledged, body))

    def _do(self, command: Any) -> None:
        if isinstance(command, Dial):
            self._dial(command)
        elif isinstance(command, SendControl):
            use = self.uses.get(command.connection)
            if use is not None:
                self._write(command.connection, 0, use.party.link.received, command.message)
        elif isinstance(command, SendAgain):
            received = self.uses[command.connection].party.link.received
            for number, body in command.frames:
                self._write(command.connection, number, received, body)
        elif isinstance(command, CloseConnection):
            self.uses.pop(command.connection, None)
            self.net.close(self, command.connection)
        elif isinstance(command, Probe):
            target = self.cluster.hosts[command.node]
            self.net.dial(self, target, partial(self._probed, command.node))
        elif isinstance(command, StopNode):
            self.cluster.ends(self, command.reason)

    def _dial(self, command: Dial) -> None:
        target = self.cluster.hosts[command.node]
        peer: Any = self.part.members.head if command.to_head else self.part.peers[command.node]

        def done(connection: int | None, refused: bool) -> None:
            why = None if connection is None else self._shake_hands(target, connection, to_head=command.to_head)
            if connection is None or why is not None:
                if why is not None and command.to_head:
                    self.part.members.turned_away(why)
                peer.link.dial_failed(self.clock.now)
            else:
                self.uses[connection] = Use(peer, with_head=command.to_head)
                peer.link.dialled(connection, self.clock.now)
            self.after()

        self.net.dial(self, target, done)

    def _shake_hands(self, target: Host, connection: int, *, to_head: bool) -> str | None:
        """Both sides prove their identity. Returns the reason if the other side refuses."""
        if to_head:
            assert target.head is not None
            why = target.head.members.fenced(self.id)
        else:
            why = target.part.fenced(self.id)
        if why is not None:
            self.net.close(target, connection)
            self.net.close(self, connection)
            return why
        if to_head:
            assert target.head is not None
            party = target.head.peer(self.id, self.clock.now)
        else:
            party = target.part.peer(self.id, self.clock.now)
        target.uses[connection] = Use(party, with_head=to_head)
        return None

    def _probed(self, node: bytes, connection: int | None, refused: bool) -> None:
        assert self.head is not None
        if connection is not None:
            self.net.close(self, connection)
        self.head.members.probed(node, refused=refused, now=self.clock.now)
        self.after()

    def arrived(self, connection: int, frame: Any) -> None:
        use = self.uses.get(connection)
        if use is None:
            return
        number, acknowledged, body = frame
        now, link = self.clock.now, use.party.link
        if number == 0:
            link.control(connection, body, acknowledged, now)
        elif link.take(connection, number, acknowledged, len(body), now):
            if self.head is not None and use.with_head:
                self.head.receive(use.party, body, now)
            elif use.with_head:
                self.part.receive_from_head(body, now)
            else:
                self.part.receive(use.party, body, now)
        self.after()

    def closed(self, connection: int) -> None:
        use = self.uses.pop(connection, None)
        if use is None:
            return
        if self.head is not None and use.with_head:
            self.head.disconnected(use.party, connection, self.clock.now)
        else:
            use.party.link.disconnected(connection, self.clock.now)
        self.after()

    def _tick(self) -> None:
        if not self.alive:
            return
        now = self.clock.now
        late = max(0.0, now - self._ticked_at - TICK)
        self._ticked_at = now
        self.machine.now = now
        self.machine.tick()
        self.part.tick(now, late)
        if self.head is not None:
            self.head.tick(now, late)
        self.after()
        wanted = [self.part.tick_wanted_at, None if self.head is None else self.head.tick_wanted_at]
        pause = min((at - now for at in wanted if at is not None), default=TICK)
        self.clock.after(min(TICK, max(FAST_TICK, pause)), self._tick)

    def pause(self, seconds: float) -> None:
        """The daemon's loop stands still: it reads nothing and does not tick."""
        self.cluster.paused[self.name] = self.clock.now + seconds


class Cluster:
    """Some hosts, the first with the head, and the oracle."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.clock = Clock(seed)
        self.net = Net(self.clock)
        self.hosts: dict[bytes, Host] = {}
        self.paused: dict[str, float] = {}
        self.dead: list[Host] = []
        self._count = 0
        self.head_host = self.add(is_head=True)
        for _ in range(nodes - 1):
            self.add()

    def add(self, *, is_head: bool = False) -> Host:
        self._count += 1
        host = Host(self, self._count, is_head=is_head)
        self.hosts[host.id] = host
        return host

    @property
    def head(self) -> HeadMachine:
        assert self.head_host.head is not None
        return self.head_host.head

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.alive]

    def kill(self, host: Host) -> None:
        """SIGKILL ends a daemon."""
        host.alive = False
        self.net.died(host)
        self.dead.append(host)

    def ends(self, host: Host, why: str) -> None:
        """A daemon ends by itself."""
        host.why = why
        host.alive = False
        self.clock.after(0.0, lambda: self.net.died(host))

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)
        self.check()

    def heal(self) -> None:
        self.net.cuts.clear()

    # The oracle -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Checks the rules that hold at every moment."""
        blocks = [host.machine.jobs.block for host in self.hosts.values() if host.part.members.state == MEMBER]
        firsts = [block.start for block in blocks]
        assert len(set(firsts)) == len(firsts), "two nodes have the same job numbers"
        for host in self.hosts.values():
            for node, heard in host.heard.items():
                assert heard == list(range(1, len(heard) + 1)), f"{host} heard {heard} of {node.decode()}"
                assert len(heard) <= self.hosts[node].said.get(host.id, 0)

    def settle(self) -> None:
        """The network heals. In the end all hosts agree, and every message between members has arrived."""
        self.heal()
        self.run(30.0)
        members = set(self.head.members.table)
        living = {host.id for host in self.living}
        assert members == living, f"members {sorted(members)}, living {sorted(living)}"
        for host in self.living:
            assert set(host.part.members.table) == members, f"{host} knows other members"
            for node, said in host.said.items():
                if node in members:
                    assert len(self.hosts[node].heard.get(host.id, ())) == said, (
                        f"{node.decode()} lacks words of {host}"
                    )
        for host in self.dead:
            ended = self.head.members.ended.get(host.id)
            assert ended is None or ended.state == LOST or host.why, f"{host} was killed and is {ended}"
        for host in self.hosts.values():
            if not host.alive and host not in self.dead:
                assert host.id in self.head.members.ended or not host.part.members.table, f"{host} ended by itself"
