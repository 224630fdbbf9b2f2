"""The head's door: it passes messages of nodes on, answers questions, decides complaints, and forgets links."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import (
    ANSWER,
    ASK,
    BEAT,
    COMPLAINT,
    FENCED,
    HEAD_ENDS,
    JOIN,
    JOINED,
    LEAVING_CLUSTER,
    RESUME,
)
from asyncray.core.cluster.commands import CloseConnection, Dial, Probe
from asyncray.core.cluster.links import BROKEN_AFTER, BURIED, OPEN
from asyncray.core.cluster.members import CUT_OFF_AFTER
from asyncray.core.cluster.peers import Peer
from asyncray.core.head.head import COMPLAINT_AFTER, HeadMachine
from asyncray.core.head.membership import LEFT, LOST, PUSH_EVERY, SUSPECT
from asyncray.core.records import Party
from tests.core.cluster.nodes import done, facts, row, taken

OWN = b"head"


class Stage:
    """A head with members, in the order in which they joined. The head's own node is the first."""

    def __init__(self, *nodes: bytes) -> None:
        self.head = HeadMachine(OWN, b"cluster", 1, 0.0)
        self.head.receive(self.head.own, [(JOIN, facts(OWN), row())], 0.0)
        self.peers = {node: self.connect(node) for node in nodes}
        for node, peer in self.peers.items():
            self.head.receive(peer, [(JOIN, facts(node), row())], 0.0)
        self.quiet()

    def connect(self, node: bytes, now: float = 0.0) -> Peer:
        """A node has dialled and said who it is."""
        peer = self.head.peer(node, now)
        peer.link.control(peer.number, (RESUME, peer.link.received + 1, 0), 0, now)
        assert peer.link.state == OPEN
        return peer

    def pass_time(self, until: float, start: float = 0.0) -> None:
        """The head ticks, and its members are not silent."""
        for now in range(int(start) + 1, int(until) + 1):
            for node in self.head.members.table:
                self.head.members.heard(node, now)
            self.head.tick(now, 0.0)

    def said(self, party: Party) -> list[Any]:
        return taken(self.head.outbox, party)

    def quiet(self) -> None:
        self.head.flush(0.0)
        for party in (self.head.own, *self.peers.values()):
            self.said(party)
        self.head.outbox.commands.clear()


def test_a_node_has_one_record_however_often_it_connects_and_the_head_never_dials() -> None:
    stage = Stage(b"a")
    peer = stage.peers[b"a"]
    assert stage.head.peer(b"a", 1.0) is peer
    peer.link.disconnected(peer.number, 1.0)
    stage.head.tick(2.0, 0.0)
    assert done(stage.head.outbox, Dial) == []


def test_a_node_joins_under_its_own_name_only() -> None:
    stage = Stage()
    peer = stage.connect(b"a")
    with pytest.raises(ValueError, match="joins as another one"):
        stage.head.receive(peer, [(JOIN, facts(b"b"), row())], 0.0)
    assert b"b" not in stage.head.members.table


def test_messages_reach_the_membership_in_the_name_of_their_node() -> None:
    stage = Stage(b"a", b"b")
    stage.head.receive(stage.peers[b"a"], [(BEAT, 1, {"store_free": 1}, [])], 1.0)
    stage.head.receive(stage.head.own, [(BEAT, 1, {"store_free": 2}, [])], 1.0)
    rows = {node: member.row["store_free"] for node, member in stage.head.members.table.items()}
    assert rows == {OWN: 2, b"a": 1, b"b": 100}
    stage.head.receive(stage.peers[b"b"], [(LEAVING_CLUSTER, "done")], 1.0)
    assert stage.head.members.ended[b"b"].state == LEFT


def test_a_message_of_another_kind_is_refused() -> None:
    stage = Stage(b"a")
    with pytest.raises(ValueError, match="sent the head a message of kind 99"):
        stage.head.receive(stage.peers[b"a"], [(99,)], 0.0)


def test_the_head_says_what_became_of_a_node() -> None:
    stage = Stage(b"a", b"b", b"c")
    stage.head.members.lose(b"b", "", 0.0)
    stage.head.members.leave(b"c", "", 0.0)
    asker = stage.peers[b"a"]
    for number, node in enumerate((b"a", b"b", b"c", b"never")):
        stage.head.receive(asker, [(ASK, number, "member", [node])], 1.0)
    answers = [message for message in stage.said(asker) if message[0] == ANSWER]
    assert answers == [(ANSWER, n, True, state) for n, state in enumerate(("alive", LOST, LEFT, "unknown"))]


def test_a_question_without_a_service_is_answered_too() -> None:
    stage = Stage(b"a")
    stage.head.receive(stage.peers[b"a"], [(ASK, 4, "weather", [])], 1.0)
    ((kind, number, ok, (name, fields)),) = stage.said(stage.peers[b"a"])
    assert (kind, number, ok, name) == (ANSWER, 4, False, "InternalError")
    assert "weather" in fields["message"]


def test_words_of_a_node_that_is_no_member_change_nothing() -> None:
    """A verdict is final, and the messages of the node may still be on their way."""
    stage = Stage(b"a", b"b")
    stage.head.members.lose(b"a", "a test says so", 0.0)
    stage.said(stage.peers[b"a"])
    late: list[Any] = [
        (BEAT, 9, {}, []),
        (ASK, 1, "member", [b"b"]),
        (COMPLAINT, b"b", 99.0),
        (LEAVING_CLUSTER, ""),
        (99,),
    ]
    stage.head.receive(stage.peers[b"a"], late, 1.0)
    assert stage.said(stage.peers[b"a"]) == []
    assert set(stage.head.members.table) == {OWN, b"b"}
    assert stage.head.members.ended[b"a"].state == LOST


def test_of_two_nodes_that_cannot_reach_one_another_the_younger_is_lost() -> None:
    for accuser, accused in ((b"a", b"b"), (b"b", b"a")):
        stage = Stage(b"a", b"b")
        stage.pass_time(20.0)
        stage.head.receive(stage.peers[accuser], [(COMPLAINT, accused, COMPLAINT_AFTER - 1)], 20.0)
        assert set(stage.head.members.table) == {OWN, b"a", b"b"}
        stage.head.receive(stage.peers[accuser], [(COMPLAINT, accused, COMPLAINT_AFTER)], 20.0)
        assert set(stage.head.members.table) == {OWN, b"a"}
        assert "could not reach one another" in stage.said(stage.peers[b"b"])[-1][1]


def test_the_node_of_the_head_is_never_the_one_to_go() -> None:
    stage = Stage(b"a")
    own = stage.head.members.table[OWN]
    own.facts = {**own.facts, "joined": 99}  # the head's node is the younger one, because the head has started again
    stage.pass_time(20.0)
    stage.head.receive(stage.peers[b"a"], [(COMPLAINT, OWN, COMPLAINT_AFTER)], 20.0)
    assert set(stage.head.members.table) == {OWN}
    ((kind, _),) = stage.said(stage.peers[b"a"])
    assert kind == FENCED


def test_the_time_in_which_the_head_stood_still_does_not_count_in_complaints() -> None:
    stage = Stage(b"a", b"b")
    stage.pass_time(5.0)
    # The complaints come before the first tick, or after it.
    stage.head.receive(stage.peers[b"a"], [(COMPLAINT, OWN, 12.0), (COMPLAINT, OWN, 22.0)], 35.0)
    stage.head.tick(35.0, 29.5)
    stage.head.receive(stage.peers[b"b"], [(COMPLAINT, OWN, 12.0)], 35.0)
    assert set(stage.head.members.table) == {OWN, b"a", b"b"}
    stage.pass_time(45.0, start=35.0)
    stage.head.receive(stage.peers[b"b"], [(COMPLAINT, OWN, 40.0)], 45.0)
    assert set(stage.head.members.table) == {OWN, b"a"}


def test_a_complaint_about_a_node_that_has_ended_costs_nobody() -> None:
    stage = Stage(b"a", b"b")
    stage.head.members.leave(b"b", "", 0.0)
    stage.head.receive(stage.peers[b"a"], [(COMPLAINT, b"b", COMPLAINT_AFTER)], 20.0)
    assert b"a" in stage.head.members.table


def test_a_complaint_of_a_node_about_itself_is_refused() -> None:
    stage = Stage(b"a")
    for party, node in ((stage.peers[b"a"], b"a"), (stage.head.own, OWN)):
        with pytest.raises(ValueError, match="complains about itself"):
            stage.head.receive(party, [(COMPLAINT, node, COMPLAINT_AFTER)], 20.0)
    assert set(stage.head.members.table) == {OWN, b"a"}


def test_a_closed_connection_makes_a_suspect_unless_another_is_in_use() -> None:
    stage = Stage(b"a")
    peer = stage.peers[b"a"]
    stage.head.disconnected(peer, 77, 1.0)
    assert done(stage.head.outbox, Probe) == []
    stage.head.disconnected(peer, peer.number, 1.0)
    assert stage.head.members.table[b"a"].state == SUSPECT
    assert len(done(stage.head.outbox, Probe)) == 1


def test_the_link_of_a_node_that_has_ended_is_forgotten_once_it_is_closed() -> None:
    stage = Stage(b"a")
    peer = stage.peers[b"a"]
    stage.head.members.lose(b"a", "", 1.0)
    stage.head.tick(1.0, 0.0)
    assert stage.head.peers == {b"a": peer}, "FENCED has to reach it"
    stage.head.disconnected(peer, peer.number, 1.1)
    stage.head.tick(1.2, 0.0)
    assert stage.head.peers == {}
    assert (peer.alive, peer.link.state) == (False, BURIED)


def test_the_link_of_a_node_that_never_joined_is_kept_as_long_as_it_may_come_back() -> None:
    stage = Stage()
    peer = stage.connect(b"a")
    stage.head.disconnected(peer, peer.number, 1.0)
    stage.head.tick(CUT_OFF_AFTER + BROKEN_AFTER, 0.0)
    assert b"a" in stage.head.peers
    stage.head.receive(peer, [(JOIN, facts(b"a"), row())], 10.0)
    assert [message[0] for message in stage.said(peer)] == [JOINED]
    other = stage.head.peer(b"b", 1.0)
    stage.head.members.heard(b"a", 2 * CUT_OFF_AFTER)
    stage.head.tick(2 * CUT_OFF_AFTER, 0.0)
    assert set(stage.head.peers) == {b"a"}, "a member keeps its link"
    assert other.link.state == BURIED
    assert done(stage.head.outbox, CloseConnection) == []


def test_a_head_that_ends_says_so_to_all_members_but_its_own_node() -> None:
    stage = Stage(b"a", b"b", b"c")
    stage.head.members.lose(b"c", "", 0.0)
    stage.quiet()
    stage.head.stop("it got SIGTERM")
    said = [stage.said(party) for party in (stage.head.own, *stage.peers.values())]
    assert said == [[], [(HEAD_ENDS, "it got SIGTERM")], [(HEAD_ENDS, "it got SIGTERM")], []]


def test_a_node_that_comes_while_the_head_ends_hears_of_that_too() -> None:
    stage = Stage(b"a", b"b")
    stage.head.stop("it got SIGTERM")
    late = stage.connect(b"late")
    assert stage.said(late) == [(HEAD_ENDS, "it got SIGTERM")]


def test_a_head_that_ends_waits_for_members_without_a_connection_and_for_no_others() -> None:
    stage = Stage(b"a", b"b")
    stage.head.stop("it got SIGTERM")
    waits = [stage.head.awaits_members]
    away = stage.peers[b"a"]
    stage.head.disconnected(away, away.number, 1.0)
    waits.append(stage.head.awaits_members)
    away.link.control(99, (RESUME, 99, 0), 0, 1.5)
    waits.append(stage.head.awaits_members)
    stage.head.disconnected(away, 99, 2.0)
    stage.head.members.lose(b"a", "", 2.0)
    waits.append(stage.head.awaits_members)
    assert waits == [False, True, False, False]


def test_a_tick_is_wanted_when_a_view_is_due() -> None:
    stage = Stage(b"a")
    asked = [stage.head.flush_wanted_at]
    stage.head.receive(stage.peers[b"a"], [(BEAT, 1, {"store_free": 1}, [])], 0.1)
    asked.append(stage.head.flush_wanted_at)
    stage.head.flush(1.0)
    asked.append(stage.head.flush_wanted_at)
    assert asked == [None, PUSH_EVERY, None]
    stage.head.check()
