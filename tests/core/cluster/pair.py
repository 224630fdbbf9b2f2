"""Nodes of a simulated world that form a cluster without a network: messages between them arrive when a test says so.

Each node has the real machines. There is no head: the test says who the members are, and who is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from asyncray.cluster_messages import ASK, BEAT, JOBS_OVER, JOINED, RESULT, VIEW
from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.cluster.commands import ReadLastOutput
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Command
from asyncray.core.records import Client, ObjectEntry, Party
from tests.core.cluster.bulk import Bulk
from tests.core.host import Host
from tests.core.world import World

A, B, C = b"node000A", b"node000B", b"node000C"


class Member:
    """A node of the cluster: what its shell does."""

    def __init__(self, pair: Pair, host: Host) -> None:
        self.pair = pair
        self.host = host
        self.id = host.machine.node_id
        self.said: list[Any] = []  # to the head
        self.views = 0
        self.part = ClusterMachine(host.machine, self.facts, 0.0, None)
        host.shell = self

    @property
    def facts(self) -> Any:
        total = dict(self.host.machine.resources.total)
        return {
            "node": self.id, "host": self.id.decode(), "port": 1, "joined": 0, "resources": total, "labels": {},
            "name": "", "hostname": "",
        }  # fmt: skip

    def hear_head(self, *message: Any) -> None:
        self.part.receive_from_head([message], self.pair.now)

    def flush(self) -> None:
        self.part.flush(self.pair.now)

    def end_turn(self) -> None:
        self.part.check()

    def do(self, command: Command) -> None:
        """Connections of links do not matter here, and no worker prints anything."""
        if isinstance(command, ReadLastOutput):
            self.part.goodbyes.last_lines_read(command.job, command.node)
        else:
            self.pair.bulk.do(self.id, command)

    def write(self, party: Party) -> None:
        batch, party.out = party.out, []
        if isinstance(party, Peer):
            if party.alive:
                self.pair.wires[self.id, party.id].extend(batch)
        else:
            self.said += batch
            jobs = [message[3][0] for message in batch if message[0] == ASK and message[2] == "job_ended"]
            self.pair.ended_jobs += map(bytes.fromhex, jobs)


class Pair(World):
    """Two nodes or more, which know each other.

    Args:
        resources: those of each node.
    """

    def __init__(self, *resources: dict[str, float]) -> None:
        super().__init__(**resources[0])
        self.hosts.clear()
        self.members: dict[bytes, Member] = {}
        self.wires: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.written: list[tuple[bytes, bytes, Any]] = []
        # Jobs whose end the head has learned of and has not said to all.
        self.ended_jobs: list[bytes] = []
        self.bulk = Bulk(self._living, lambda node: self.members[node].part.large)
        nodes = (A, B, C)[: len(resources)]
        for node, amounts in zip(nodes, resources, strict=True):
            self.members[node] = Member(self, self.add_host(node, **amounts))
        self.wires = {(one, other): deque() for one in nodes for other in nodes if one != other}
        self.host = self.members[A].host
        entries = [
            (member.facts | {"joined": place}, 0, member.part._row())
            for place, member in enumerate(self.members.values(), 1)
        ]
        for place, member in enumerate(self.members.values()):
            others = [entry for entry in entries if entry[0]["node"] != member.id]
            member.part.members.join()
            member.hear_head(JOINED, b"c" * 16, 1, 0.5, 4096 * (place + 1), 4096, 0, place + 1, others)
            member.host.after()

    # Messages ---------------------------------------------------------------------------------------------------------

    def deliver_one(self, one: bytes, other: bytes) -> Any:
        """The next message from one node to another arrives."""
        message = self.wires[one, other].popleft()
        self.written.append((one, other, message))
        member = self.members[other]
        peer = member.part.peer(one, self.now)
        if one not in member.part.members.ended:
            member.part.receive(peer, [message], self.now)
        member.host.after()
        return message

    def deliver_until(self, one: bytes, other: bytes, kind: int) -> bool:
        """Messages from one node to another arrive up to the first of a kind. False if there is none."""
        while self.wires[one, other]:
            if self.deliver_one(one, other)[0] == kind:
                return True
        return False

    def _living(self, node: bytes) -> Host | None:
        member = self.members.get(node)
        return None if member is None else member.host

    def talk(self) -> bool:
        moved = super().talk()
        while self.bulk.chunks:
            self.bulk.deliver_one(self.now)
            moved = True
        self._end_jobs()
        while busy := [wire for wire, messages in self.wires.items() if messages]:
            for wire in busy:
                self.deliver_one(*wire)
            super().talk()
            moved = True
        return moved

    def _end_jobs(self) -> None:
        ended, self.ended_jobs = self.ended_jobs, []
        for member in self.members.values() if ended else ():
            member.hear_head(JOBS_OVER, ended)
            member.host.after()

    def kinds(self, one: bytes, other: bytes) -> list[int]:
        """The kinds of the messages that have arrived, in order."""
        return [message[0] for start, end, message in self.written if (start, end) == (one, other)]

    def results(self) -> list[Any]:
        return [message for _, _, message in self.written if message[0] == RESULT]

    # Members ----------------------------------------------------------------------------------------------------------

    def share_rows(self) -> None:
        """Each node learns the present rows of all others."""
        rows = {node: member.part._row() for node, member in self.members.items()}
        for member in self.members.values():
            versions = {node: known.version + 1 for node, known in member.part.members.table.items()}
            self.view(member, rows=[(node, versions[node], row) for node, row in rows.items() if node in versions])

    def view(self, member: Member, *, gone: Any = (), rows: Any = (), over: Any = ()) -> None:
        member.views += 1
        member.hear_head(VIEW, member.views, [], gone, rows, over)
        member.host.after()

    def lose(self, node: bytes) -> None:
        """A daemon dies. The others learn of it at once, after its last messages."""
        lost = self.members.pop(node)
        for process in lost.host.processes.values():
            lost.host.die(process)
        self.hosts.remove(lost.host)
        for one, other in [wire for wire in self.wires if node in wire]:
            while one == node and self.wires[one, other]:
                self.deliver_one(one, other)
            del self.wires[one, other]
        for member in self.members.values():
            self.view(member, gone=[(node, "lost", "a test says so")])

    def end_graces(self) -> None:
        """The head learns that all members have settled, and says so."""
        self.settle()
        self.wait(0.5)
        settled = [[node for beat in m.said if beat[0] == BEAT for node in beat[3]] for m in self.members.values()]
        over = [node for node in settled[0] if all(node in others for others in settled)]
        for member in self.members.values():
            self.view(member, over=over)

    def questions(self, node: bytes) -> list[Any]:
        return [message for message in self.members[node].said if message[0] == ASK]

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        for member in self.members.values():
            member.part.tick(self.now, 0.0)
            member.host.after()
        if seconds:
            self.share_rows()

    # The oracle -------------------------------------------------------------------------------------------------------

    def used_for_other_nodes(self, host: Host) -> Iterable[ObjectEntry]:
        return used_for_other_nodes(self.members[host.machine.node_id].part)

    def visitors(self, host: Host) -> Iterable[Client]:
        return visitors(self.members[host.machine.node_id].part)

    def check(self) -> None:
        super().check()
        for member in self.members.values():
            member.part.check()

    def nothing_is_left(self) -> None:
        super().nothing_is_left()
        for member in self.members.values():
            assert not list(used_for_other_nodes(member.part)), f"{member.id!r} keeps objects for others"
            assert not list(visitors(member.part)), f"{member.id!r} keeps visitors"
            for peer in member.part.peers.values():
                assert not peer.borrowed, f"{peer} borrows"


def used_for_other_nodes(part: ClusterMachine) -> Iterator[ObjectEntry]:
    """The objects that a node uses because other nodes may need them, once for each use."""
    away, guests, templates = part.away, part.guests, part.templates
    for there in away._there.values():
        for task in there.values():
            yield from task.uses
    for table in (away._late, guests._claims):
        for kept in table.values():
            for uses in kept.values():
                yield from uses
    for machine in (away, guests, templates):
        for lost in machine._graces.values():
            for uses in lost:
                yield from uses
    for route in part.routes.table.values():
        yield from route.life
    yield from part.adoptions.uses
    for told in templates._told.values():
        for captured in told.functions.values():
            yield from captured
    for late in templates._late.values():
        for captured in late:
            yield from captured


def visitors(part: ClusterMachine) -> Iterator[Client]:
    """The clients that stand for processes of other nodes."""
    for visits in part.templates._visits.values():
        yield from visits.visitors.values()
