"""The half of a node that belongs to a cluster: its row, its peers, their ends, and complaints about broken links."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import ACK, BEAT, COMPLAINT, JOB_OF, JOIN, JOINED, RESUME, TURNED_AWAY, VIEW
from asyncray.core.cluster.cluster import LONGEST_QUEUE, ClusterMachine
from asyncray.core.cluster.commands import CloseConnection, Dial, SendControl
from asyncray.core.cluster.members import CUT_OFF_AFTER, JOINING, MEMBER, OUTSIDE
from asyncray.core.cluster.peers import Peer
from asyncray.core.leases import Shape
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import StopNode
from asyncray.core.records import HERE, Job
from asyncray.ids import JOB_SIZE, OBJECT_SIZE
from tests.core.cluster.nodes import done, facts, row, taken
from tests.core.test_growth import Table, steps
from tests.greeting import SETUP

HEAD = b"headnode"
HELLO: Any = (900, 1)


class Stage:
    """A node of a cluster. The test plays its head and the other members."""

    def __init__(self, *others: bytes, head: bytes | None = HEAD) -> None:
        self.node = NodeMachine(b"thisnode", {"CPU": 2.0}, "seg", 1 << 20, {})
        self.part = ClusterMachine(self.node, facts(b"thisnode"), 0.0, head)
        self.heard: list[Any] = []
        self.part.handlers[HELLO[0]] = lambda peer, message: self.heard.append((peer.id, message))
        self.part.members.join()
        self.head = self.part.members.head
        self.joined = taken(self.part.outbox, self.head)
        entries = [(facts(other, joined=place), 0, row()) for place, other in enumerate(others, 2)]
        self.part.receive_from_head([(JOINED, b"cluster", 1, 0.5, 8192, 4096, 0, 1, entries)], 0.0)
        self.part.outbox.commands.clear()

    def said(self, kind: int) -> list[Any]:
        return [message for message in taken(self.part.outbox, self.head) if message[0] == kind]

    def opened(self, peer: Peer, connection: int, now: float = 0.0) -> None:
        peer.link.control(connection, (RESUME, connection, 0), 0, now)
        self.part.outbox.commands.clear()


def test_a_member_numbers_its_jobs_from_the_block_that_the_head_gave() -> None:
    stage = Stage()
    assert [message[0] for message in stage.joined] == [JOIN]
    assert stage.part.members.state == MEMBER
    assert stage.node.jobs.block == range(8192, 12288)


def test_a_job_of_another_node_may_come_before_the_answer_of_the_head() -> None:
    """1. The head takes this node. 2. Others learn of it and send tasks. 3. The answer arrives here."""
    node = NodeMachine(b"thisnode", {"CPU": 2.0}, "seg", 1 << 20, {})
    part = ClusterMachine(node, facts(b"thisnode"), 0.0, HEAD)
    part.members.join()
    assert part.members.state == JOINING
    job = (4096).to_bytes(JOB_SIZE, "big")
    part.receive(part.peer(b"other", 0.0), [(JOB_OF, job, "ns", SETUP, b"other")], 0.0)
    assert list(node.jobs.table) == [job]


def test_the_row_of_a_node_says_what_is_free_and_never_less_than_nothing() -> None:
    stage = Stage()
    assert stage.joined[0][2] == {
        "available": {"CPU": 20_000},
        "held": {},
        "queued": [],
        "store_free": 1 << 20,
        "draining": False,
    }
    stage.node.resources.available["CPU"] = -10_000  # tasks woke up from a get and took their CPUs back
    stage.part.tick(1.0, 0.0)
    assert stage.said(BEAT) == [(BEAT, 1, {"available": {"CPU": 0}}, [])]


def test_a_peer_exists_from_the_first_need() -> None:
    stage = Stage(b"other")
    peer = stage.part.peer(b"other", 1.0)
    assert stage.part.peer(b"other", 2.0) is peer
    assert peer.number != stage.head.number
    peer.link.push([HELLO], 10, 1.0)
    assert done(stage.part.outbox, Dial) == [Dial(b"other", to_head=False)]


def test_messages_of_a_peer_go_to_their_handlers_until_it_ends() -> None:
    stage = Stage(b"other")
    peer = stage.part.peer(b"other", 0.0)
    stage.opened(peer, 5)
    stage.part.receive(peer, [HELLO], 3.0)
    assert stage.heard == [(b"other", HELLO)]
    assert stage.node.now == 3.0
    with pytest.raises(KeyError):
        stage.part.receive(peer, [(901,)], 3.0)
    stage.part.receive_from_head([(VIEW, 1, [], [(b"other", "lost", "it was silent")], [], [])], 4.0)
    stage.part.receive(peer, [HELLO], 5.0)
    assert stage.heard == [(b"other", HELLO)]
    assert b"other" not in stage.part.peers
    assert done(stage.part.outbox, CloseConnection) == [
        CloseConnection(5, f"node {b'other'.hex()} at other:7000 is lost: it was silent")
    ]
    assert stage.part.fenced(b"other") == "the cluster has declared this node lost: it was silent"
    assert stage.part.fenced(b"stranger") is None
    stage.part.check()


def test_the_error_of_a_lost_owner_names_the_node_its_address_and_how_it_ended() -> None:
    stage = Stage(b"nodelost", b"nodelive")
    fault = stage.node.objects.dead_refs.fault
    stage.part.receive_from_head([(VIEW, 1, [], [(b"nodelost", "lost", "it was silent")], [], [])], 4.0)
    for node, what in (
        (b"nodelost", "at nodelost:7000 is lost: it was silent"),
        (b"nodelive", "at nodelive:7000 does not have it any more"),
        (b"stranger", "is no member of this cluster"),
    ):
        ref = node.ljust(OBJECT_SIZE, b"x")
        message = f"The object {ref.hex()} is lost with its owner: node {node.hex()} {what}."
        assert fault(ref) == ["OwnerDiedError", {"object_id": ref.hex(), "message": message}]


def test_a_node_that_is_no_member_any_more_stops() -> None:
    stage = Stage()
    stage.part.receive_from_head([(TURNED_AWAY, "it was cloned")], 1.0)
    (command,) = done(stage.part.outbox, StopNode)
    assert "no part of its cluster any more: it was cloned" in command.reason


def test_a_node_that_cannot_reach_its_head_stops_after_a_while() -> None:
    stage = Stage()
    assert isinstance(stage.head, Peer)
    stage.opened(stage.head, 1)
    stage.head.link.disconnected(1, 10.0)
    stage.part.tick(10.0 + CUT_OFF_AFTER - 1, 0.0)
    assert stage.part.members.state == MEMBER
    stage.part.tick(10.0 + CUT_OFF_AFTER, 0.0)
    assert stage.part.members.state == OUTSIDE


def test_the_head_hears_of_a_broken_link_to_a_member_each_second_and_of_no_other() -> None:
    stage = Stage(b"broken", b"sound")
    for connection, node in enumerate((b"broken", b"sound", b"stranger"), 1):
        peer = stage.part.peer(node, 0.0)
        stage.opened(peer, connection)
        if node != b"sound":
            peer.link.disconnected(connection, 0.5)
    complaints = []
    for now in (1.0, 1.75, 2.0, 2.25, 3.0):
        stage.part.tick(now, 0.0)
        complaints += stage.said(COMPLAINT)
    assert complaints == [(COMPLAINT, b"broken", 1.5), (COMPLAINT, b"broken", 2.5)]


def costs_with_links(count: int) -> dict[str, int]:
    """The steps of a quick tick, and of the question when the next one is due, beside so many quiet links."""
    nodes = [b"node%04d" % number for number in range(count)]
    stage = Stage(*nodes)
    for connection, node in enumerate(nodes, 1):
        stage.opened(stage.part.peer(node, 1.0), connection, 1.0)
    stage.part.tick(1.0, 0.0)
    stage.said(BEAT)
    assert stage.part.peers[nodes[0]].link.take(1, 1, 0, 10, 1.01)  # this one owes an acknowledgement
    stage.part.peers = Table(stage.part.peers)
    with steps() as tick:
        stage.part.tick(1.02, 0.0)
    with steps() as question:
        assert stage.part.tick_wanted_at is None
    assert done(stage.part.outbox, SendControl) == [SendControl(1, (ACK,))]
    stage.part.check()
    return {"tick": tick[0], "when": question[0]}


def test_a_quick_tick_costs_the_same_beside_many_links() -> None:
    assert costs_with_links(200) == costs_with_links(20)


def test_the_node_of_the_head_has_no_link_to_it() -> None:
    stage = Stage(head=None)
    assert not isinstance(stage.head, Peer)
    stage.part.tick(2 * CUT_OFF_AFTER, 0.0)
    assert stage.part.members.state == MEMBER
    assert stage.part.tick_wanted_at is None


def test_the_row_names_the_largest_demands_that_wait() -> None:
    stage = Stage()
    job = Job(b"\0\0\0\1", "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
    for size in range(LONGEST_QUEUE + 3):
        shape = Shape(job, (("CPU", size * 10_000),), HERE, stage.node.resources, lives=False)
        shape.count = size
        stage.node.scheduler.shapes.ready[shape] = None
    stage.part.tick(1.0, 0.0)
    ((_, _, changes, _),) = stage.said(BEAT)
    assert changes["queued"] == [((("CPU", size * 10_000),), size) for size in range(LONGEST_QUEUE + 2, 2, -1)]
