"""A host of a simulated cluster: one machine with one daemon, its processes, and what the daemon's shell does.

The node in it, with its processes, forks and memory, is that of ``tests.core.host``. The host numbers and writes
frames, dials, and lets time pass. It *stirs* the node: as long as a process or the daemon has something to do, one of
these things happens after a short random time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.cluster_messages import ACK, PING, RESUME
from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.cluster.commands import CloseConnection, Dial, Probe, ReadLastOutput, SendAgain, SendControl
from asyncray.core.cluster.members import MEMBER
from asyncray.core.cluster.peers import Peer
from asyncray.core.head.head import HeadMachine
from asyncray.core.outbox import Command, StopNode
from asyncray.core.records import Job, Party
from tests.core.host import Host
from tests.core.processes import Driver
from tests.sim.bulk import Bulk

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

CONTROL = (RESUME, PING, ACK)
HELLO = 900
"""A message between nodes that only the simulation knows: it carries a number."""

TICK = 0.5
FAST_TICK = 0.02
CLUSTER_ID = b"c" * 16
RESOURCES = {"CPU": 2.0}
ZONES = ["east", "west"]
"""The values of the label of the hosts, in turn."""
CHECK_EVERY = 40
"""Turns of a host between two checks of all its machines."""


class Use:
    """The use that a host makes of a connection: the link that it belongs to."""

    def __init__(self, party: Peer, *, with_head: bool) -> None:
        self.party = party
        self.with_head = with_head


class ClusterHost:
    """One machine with one daemon. The first one has the head in it."""

    def __init__(
        self, cluster: Cluster, number: int, *, is_head: bool = False, resources: dict[str, float] | None = None
    ) -> None:
        self.cluster = cluster
        self.net = cluster.net
        self.clock = cluster.clock
        self.name = f"host{number}"
        self.id = f"node{number:04}".encode()
        self.alive = True
        self.why = ""  # the reason for its end
        self.uses: dict[int, Use] = {}
        self.node = Host(cluster.oracle, self.id, resources or RESOURCES)
        self.node.shell = self
        self.machine = self.node.machine
        self.machine.now = self.clock.now
        self.head = HeadMachine(self.id, CLUSTER_ID, 1, self.clock.now) if is_head else None
        self.bulk = Bulk(self)
        self.jobs: range = range(0)
        self.heard: dict[bytes, list[int]] = {}
        self.said: dict[bytes, int] = {}
        self.printed: dict[bytes, int] = {}  # lines of each job
        self._ticked_at = self.clock.now
        self._turns = 0
        self._stirring = False
        self._awake_at = 0.0
        self._deferred: list[Callable[[], None]] = []
        total = dict(self.machine.resources.total)
        self.labels = {"zone": ZONES[number % len(ZONES)]}
        facts: Any = {
            "node": self.id, "host": self.name, "port": 1, "joined": 0, "resources": total, "labels": self.labels
        }  # fmt: skip
        self.part = ClusterMachine(self.machine, facts, self.clock.now, None if is_head else cluster.head_host.id)
        self.part.handlers[HELLO] = self._hello
        cluster.oracle.actors.watch(self)
        self.part.handlers = {kind: partial(self._handle, handler) for kind, handler in self.part.handlers.items()}
        self.part.members.join()
        self.after()
        self.clock.after(self.clock.random.random() * TICK, self._tick)

    def __repr__(self) -> str:
        return f"<ClusterHost {self.name} {'alive' if self.alive else self.why or 'dead'}>"

    # Programs of the node ---------------------------------------------------------------------------------------------

    def say_hello(self, node: bytes) -> None:
        """Sends a numbered message to another node."""
        peer = self.part.peer(node, self.clock.now)
        self.said[node] = self.said.get(node, 0) + 1
        self.machine.outbox.send(peer, (HELLO, self.said[node]))  # type: ignore[arg-type]
        self.after()

    def print_line(self, job: Job) -> None:
        """A worker prints something for a driver at another node."""
        self.printed[job.id] = self.printed.get(job.id, 0) + 1
        self.part.output.send(job, [("out", f"({self.name} job {job.id.hex()})", str(self.printed[job.id]))])

    def _hello(self, peer: Peer, message: Any) -> None:
        assert peer.id not in self.part.members.ended, f"{self} takes messages of {peer}, which is buried"
        self.heard.setdefault(peer.id, []).append(message[1])

    def _handle(self, handler: Callable[[Peer, Any], None], peer: Peer, message: Any) -> None:
        """S10: a fenced node's messages change nothing."""
        assert peer.alive, f"{self} obeys {message} of {peer}"
        assert peer.id not in self.part.members.ended, f"{self} obeys {message} of {peer}, which has ended"
        handler(peer, message)

    # Processes --------------------------------------------------------------------------------------------------------

    def driver(self) -> Driver | None:
        """A driver connects. None: the node is no member yet, and answers no driver."""
        if not self.alive or self.part.members.state != MEMBER:
            return None
        driver = self.node.driver()
        self.wake()
        return driver

    def wake(self) -> None:
        """A test has let a process do something."""
        if self.alive and not self._stirring:
            self._stirring = True
            self.clock.after(self.clock.random.choice((0.0001, 0.0003, 0.001, 0.005)), self._stir)

    def _stir(self) -> None:
        if self.is_deferred(self._stir):
            return
        self._stirring = False
        if not self.alive:
            return
        self.machine.now = self.clock.now
        random = self.clock.random
        for _ in range(random.choice((1, 1, 2, 6))):
            if not self._move(self.node.moves()):
                return  # the end of the next turn wakes it
        self.wake()

    def _move(self, moves: list[Callable[[], object]]) -> bool:
        """Makes one of the moves. False: none of them could be made."""
        while moves:
            place = self.clock.random.randrange(len(moves))
            moves[place], moves[-1] = moves[-1], moves[place]
            if moves.pop()() is not False:
                self.cluster.moved += 1
                return self.alive
        return False

    def die(self) -> None:
        """The daemon ends, and all its processes with it."""
        self.alive = False
        for process in self.node.processes.values():
            self.node.die(process)
        self.node.processes.clear()

    # The shell --------------------------------------------------------------------------------------------------------

    def after(self) -> None:
        """The daemon has handled an event."""
        if self.alive:
            self.node.after()

    def flush(self) -> None:
        now = self.clock.now
        self.part.output.acknowledge(lambda driver: False)  # drivers read at once
        self.part.flush(now)
        if self.head is not None:
            self.head.flush(now)
            outbox = self.head.outbox
            while outbox.commands or outbox.dirty:
                commands, outbox.commands = outbox.commands, []
                for command in commands:
                    self.do(command)
                dirty, outbox.dirty = outbox.dirty, []
                for party in dirty:
                    self.write(party)

    def end_turn(self) -> None:
        self._turns += 1
        if self._turns % CHECK_EVERY == 0:
            self.check()
        self.wake()

    def check(self) -> None:
        """Checks all machines of this host."""
        self.node.check()
        self.part.check()
        if self.head is not None:
            self.head.check()

    def nothing_is_left(self) -> None:
        """Checks that no record of a task, object or function elsewhere is left, and that every frame has arrived."""
        left_over = {name: table for name, table in self._tables().items() if table}
        assert not left_over, f"{self} keeps {left_over}"
        for peer in self.part.peers.values():
            left = {
                "borrowed": peer.borrowed,
                "pinned": peer.pinned,
                "messages": peer.out,
                "frames": [*peer.link.kept()],
            }
            found = {name: table for name, table in left.items() if table}
            assert not found, f"{self} keeps {found} for {peer}"

    def _tables(self) -> dict[str, Any]:
        away, feeding, guests = self.part.away, self.part.feeding, self.part.guests
        templates, imports, routes = self.part.templates, self.part.imports, self.part.routes
        return {
            "routes": routes.table,
            "calls that came back": routes._returned,
            "next places": routes._next,
            "hidden actors": routes.hidden,
            "adoptions": self.part.adoptions._asked,
            "watchers": self.part.homes._watchers,
            "away": away._of_task,
            "away by node": [there for there in away._there.values() if there],
            "late": [late for late in away._late.values() if late],
            "graces": away._graces | guests._graces | templates._graces | imports._graces,
            "lines": [line for line in feeding.lines if line.sent or line.queue],
            "homeless": [*feeding.homeless, *feeding._hopeless, *feeding._filled],
            "guests": [table for table in guests.table.values() if table],
            "claims": [claims for claims in guests._claims.values() if claims],
            "visits": [visit for visits in guests._visits.values() for visit in visits.values() if visit.count],
            "told": [told for told in templates._told.values() if told.functions or told.templates or told.jobs],
            "visitors": [visits for visits in templates._visits.values() if visits.visitors or visits.templates],
            "captured": templates._late,
            "asked": imports._asked,
            "makers": imports._makers,
            "living covers": imports._living,
            "output": [sent for sent in self.part.output._sent.values() if sent],
            "owed": self.part.output.owed,
            "goodbyes": self.part.goodbyes._open,
            "notices": self.part.notices._ended | self.part.notices._errors,
        }

    def write(self, party: Party) -> None:
        batch, party.out = party.out, []
        if not batch:
            return  # the daemon buried the party in this turn
        if isinstance(party, Peer):
            other = self.cluster.hosts[party.id]
            for message in batch:
                self.cluster.oracle.recorder.record(self.clock.now, self.name, other.name, message)
            number = party.link.push(batch, len(batch), self.clock.now)
            if party.link.connection is not None:
                self._write(party.link.connection, number, party.link.received, batch)
        else:
            assert self.head is not None
            assert party in (self.head.own, self.part.members.head)
            self.clock.after(0.0, partial(self._carry, party, batch))

    def _carry(self, party: Any, batch: list[Any]) -> None:
        """Carries messages from the head to its own node, or back."""
        if self.is_deferred(partial(self._carry, party, batch)):
            return
        if not self.alive or self.head is None:
            return
        if party is self.head.own:
            self.part.receive_from_head(batch, self.clock.now)
        else:
            self.head.receive(self.head.own, batch, self.clock.now)
        self.after()

    def _write(self, connection: int, number: int, acknowledged: int, body: Any) -> None:
        self.net.write(self, connection, (number, acknowledged, body))

    def do(self, command: Command) -> None:
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
        elif isinstance(command, ReadLastOutput):
            self.print_line(command.job)
            self.part.goodbyes.last_lines_read(command.job, command.node)
        elif self.bulk.do(command):
            pass
        elif isinstance(command, StopNode):
            self.cluster.ends(self, command.reason)

    def _dial(self, command: Dial) -> None:
        target = self.cluster.hosts[command.node]
        peer: Any = self.part.members.head if command.to_head else self.part.peers[command.node]

        def done(connection: int | None, refused: bool) -> None:
            if self.is_deferred(partial(done, connection, refused)) or not self.alive:
                return
            if connection is not None and target.is_deferred(partial(done, connection, refused)):
                return  # the system has connected them, and the other daemon does not shake hands
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

    def _shake_hands(self, target: ClusterHost, connection: int, *, to_head: bool) -> str | None:
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
        if self.is_deferred(partial(self._probed, node, connection, refused)) or not self.alive:
            return
        assert self.head is not None
        if connection is not None:
            self.net.close(self, connection)
        self.head.members.probed(node, refused=refused, now=self.clock.now)
        self.after()

    def is_deferred(self, event: Callable[[], None]) -> bool:
        """True while the daemon's loop stands still: the event happens when the loop goes on."""
        if self.clock.now < self._awake_at:
            self._deferred.append(event)
            return True
        return False

    def arrived(self, connection: int, frame: Any) -> None:
        if self.is_deferred(partial(self.arrived, connection, frame)) or not self.alive:
            return
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
        if self.is_deferred(partial(self.closed, connection)) or not self.alive:
            return
        use = self.uses.pop(connection, None)
        if use is None:
            return
        if self.head is not None and use.with_head:
            self.head.disconnected(use.party, connection, self.clock.now)
        else:
            use.party.link.disconnected(connection, self.clock.now)
        self.after()

    def _tick(self) -> None:
        if self.is_deferred(self._tick) or not self.alive:
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
        wanted = [self.part.tick_wanted_at, None if self.head is None else self.head.flush_wanted_at]
        if self.machine.needs_fast_tick:
            wanted.append(now)
        pause = min((at - now for at in wanted if at is not None), default=TICK)
        self.clock.after(min(TICK, max(FAST_TICK, pause)), self._tick)

    def pause(self, seconds: float) -> None:
        """The whole host stands still: its daemon reads nothing and does not tick, and its processes do nothing."""
        self._awake_at = max(self._awake_at, self.clock.now + seconds)
        self.clock.at(self._awake_at, self._go_on)

    def _go_on(self) -> None:
        if self.clock.now >= self._awake_at:
            deferred, self._deferred = self._deferred, []
            for event in deferred:
                event()
