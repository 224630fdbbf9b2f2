"""Which nodes belong to a cluster: joining, rows, views by number, silence and verdicts, on a head alone."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import FENCED, JOINED, LEFT_CLUSTER, PACE, TURNED_AWAY, VIEW
from asyncray.core.cluster.commands import Probe
from asyncray.core.cluster.members import MOST_ENDED
from asyncray.core.head import membership
from asyncray.core.head.membership import (
    BEAT_EVERY,
    JOB_BLOCK,
    LEFT,
    LOST,
    MEMBER_ALIVE,
    NEWS_EVERY,
    PUSH_EVERY,
    SILENCE,
    SUSPECT,
    Membership,
)
from asyncray.core.outbox import Outbox
from asyncray.core.records import Party
from tests.core.cluster.nodes import done, facts, row, taken
from tests.core.test_growth import Table, steps


class Stage:
    """A membership and the parties of its nodes."""

    def __init__(self, *nodes: bytes) -> None:
        self.outbox = Outbox()
        # The nodes that have ended, and how, as the other tables of the head learn it.
        self.endings: list[tuple[bytes, str]] = []
        self.members = Membership(self.outbox, b"cluster", 3, lambda node, how: self.endings.append((node, how)))
        self.parties: dict[bytes, Party] = {}
        for node in nodes:
            self.join(node)

    def join(self, node: bytes, now: float = 0.0) -> Party:
        party = self.parties[node] = Party(self.outbox.new_party_number())
        self.members.join(party, facts(node), row(), now)
        return party

    def said(self, node: bytes) -> list[tuple[object, ...]]:
        return taken(self.outbox, self.parties[node])

    def quiet(self, now: float = 0.0) -> None:
        """Sends all views; the nodes read them."""
        self.members.flush(now)
        for node in self.parties:
            self.said(node)
        self.outbox.commands.clear()


def test_a_node_that_joins_gets_a_block_of_job_numbers_its_place_and_the_others() -> None:
    stage = Stage(b"one")
    stage.quiet()
    stage.join(b"two")
    ((kind, cluster, epoch, beat_every, first, count, view, place, others),) = stage.said(b"two")
    assert (kind, cluster, epoch, beat_every) == (JOINED, b"cluster", 3, BEAT_EVERY)
    assert (first, count, view, place) == (2 * JOB_BLOCK, JOB_BLOCK, 1, 2)
    assert others == [(facts(b"one", joined=1), 0, row())]


def test_a_node_that_joins_twice_is_turned_away_and_the_member_stays() -> None:
    stage = Stage(b"one")
    stage.quiet()
    twin = Party(stage.outbox.new_party_number())
    assert stage.members.join(twin, facts(b"one"), row(), 1.0) is None
    ((kind, why),) = taken(stage.outbox, twin)
    assert kind == TURNED_AWAY
    assert "another node has the same ID" in why
    assert stage.members.table[b"one"].party is stage.parties[b"one"]
    assert stage.members.push_wanted_at is None
    stage.members.check()


def test_a_node_that_has_ended_does_not_join_again() -> None:
    stage = Stage(b"one", b"two")
    stage.members.lose(b"two", "a test says so", 1.0)
    stage.quiet()
    stage.join(b"two", 2.0)
    assert stage.said(b"two") == [(TURNED_AWAY, "the cluster has declared this node lost: a test says so")]
    assert stage.members.fenced(b"two") == "the cluster has declared this node lost: a test says so"
    assert stage.members.fenced(b"one") is None


def test_job_numbers_of_an_ended_node_are_not_given_again() -> None:
    stage = Stage(b"one", b"two")
    stage.members.leave(b"two", "", 1.0)
    stage.join(b"three")
    (joined,) = [message for message in stage.said(b"three") if message[0] == JOINED]
    assert joined[4] == 3 * JOB_BLOCK


def test_beats_out_of_order_change_nothing_and_show_that_the_node_lives() -> None:
    stage = Stage(b"one")
    stage.quiet()
    stage.members.beat(b"one", 2, {"store_free": 20}, 1.0)
    stage.members.beat(b"one", 1, {"store_free": 10}, 2.0)
    stage.members.beat(b"one", 2, {"store_free": 30}, 3.0)
    member = stage.members.table[b"one"]
    assert (member.version, member.row["store_free"], member.heard_at) == (2, 20, 3.0)
    assert member.row["available"] == row()["available"]


def test_a_beat_of_a_node_that_was_lost_changes_nothing() -> None:
    stage = Stage(b"one", b"two")
    stage.members.lose(b"two", "", 1.0)
    stage.quiet(1.0)
    stage.members.beat(b"two", 1, {"draining": True}, 2.0)
    stage.members.leave(b"two", "late", 2.0)
    stage.members.lose(b"two", "again", 2.0)
    stage.members.disconnected(b"two", 2.0)
    assert stage.members.push_wanted_at is None
    assert done(stage.outbox, object) == []
    assert stage.members.ended[b"two"].state == LOST


def test_views_are_numbered_and_every_member_gets_each() -> None:
    stage = Stage(b"one", b"two")
    stage.quiet()
    views = []
    for now in (1.0, 2.0):
        stage.members.beat(b"one", int(now), {"store_free": int(now)}, now)
        stage.members.flush(now)
        (view,) = stage.said(b"two")
        assert stage.said(b"one") == [view]
        views.append(view)
    assert views == [
        (VIEW, 2, [], [], [(b"one", 1, {"store_free": 1})], []),
        (VIEW, 3, [], [], [(b"one", 2, {"store_free": 2})], []),
    ]


def test_the_number_in_joined_is_that_of_the_view_before_the_next() -> None:
    stage = Stage(b"one")
    stage.quiet()
    stage.join(b"two")
    stage.members.flush(0.0)
    joined, view = stage.said(b"two")
    assert view[:2] == (VIEW, joined[6] + 1)  # type: ignore[operator]  # a number


def test_rows_wait_for_others_and_news_of_members_does_not() -> None:
    stage = Stage(b"one", b"two")
    stage.quiet(0.0)
    stage.members.beat(b"one", 1, {"store_free": 1}, 0.0)
    stage.members.flush(PUSH_EVERY / 2)
    assert stage.said(b"two") == []
    assert stage.members.push_wanted_at is not None
    stage.members.beat(b"one", 2, {"draining": True}, 0.0)
    stage.members.flush(PUSH_EVERY)
    assert stage.said(b"two") == [(VIEW, 2, [], [], [(b"one", 2, {"store_free": 1, "draining": True})], [])]
    stage.members.lose(b"one", "why", PUSH_EVERY)
    stage.members.flush(PUSH_EVERY)
    assert stage.said(b"two") == [(VIEW, 3, [], [(b"one", LOST, "why")], [], [])]
    assert stage.members.push_wanted_at is None


def test_a_large_cluster_gets_some_rows_in_each_view_and_each_row_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FULL_VIEWS", 3)
    monkeypatch.setattr(membership, "ROWS_IN_VIEW", 2)
    nodes = [b"one", b"two", b"three", b"four", b"five"]
    stage = Stage(*nodes)
    stage.quiet(NEWS_EVERY)
    for node in nodes:
        stage.members.beat(node, 1, {"store_free": 1}, 1.0)
    stage.members.beat(b"one", 2, {"draining": True}, 1.0)
    seen: list[Any] = []
    for view in range(1, 5):
        stage.members.flush(view * PUSH_EVERY + 1.0)
        stage.members.check()
        if view == 1:
            stage.members.beat(b"one", 3, {"store_free": 3}, 1.3)  # it was in this view: the others come first
        seen += [[node for node, _, _ in message[4]] for message in stage.said(b"two")]  # type: ignore[attr-defined]
    assert seen == [[b"one", b"two"], [b"three", b"four"], [b"five", b"one"]]
    assert stage.members.push_wanted_at is None


def test_news_of_a_large_cluster_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FULL_VIEWS", 1)
    stage = Stage(b"one", b"two")
    stage.quiet(NEWS_EVERY)
    stage.join(b"three", NEWS_EVERY)
    stage.members.flush(1.5 * NEWS_EVERY)
    stage.join(b"four", 1.5 * NEWS_EVERY)
    assert stage.said(b"one") == []
    stage.members.flush(2 * NEWS_EVERY)
    ((_, _, joined, *_),) = stage.said(b"one")
    assert [facts["node"] for facts, _, _ in joined] == [b"three", b"four"]  # type: ignore[attr-defined]


def test_nodes_that_join_a_large_cluster_share_one_list_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FULL_VIEWS", 2)
    stage = Stage(b"one", b"two")
    stage.quiet(NEWS_EVERY)
    newcomers = [b"three", b"four", b"five"]
    for node in newcomers:
        stage.join(node, NEWS_EVERY)
        ((kind, *_, view, _, others),) = stage.said(node)
        assert (kind, others) == (JOINED, None)
    stage.members.lose(b"two", "why", NEWS_EVERY)
    stage.members.lose(b"five", "why", NEWS_EVERY)  # the others learn of it before they learn that it has ended
    stage.members.flush(2 * NEWS_EVERY)
    stage.members.check()
    lists = [stage.said(node)[0] for node in newcomers[:2]]
    assert lists[0] is lists[1]
    _, number, members, gone, rows, _ = lists[0]
    assert number == view + 1  # type: ignore[operator]
    assert [facts["node"] for facts, _, _ in members] == [b"one", b"three", b"four"]  # type: ignore[attr-defined]
    assert (gone, rows) == ([(b"two", LOST, "why")], [])
    assert [message[0] for message in stage.said(b"five")] == [FENCED]


def test_the_work_for_a_node_that_joins_does_not_grow_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FULL_VIEWS", 2)

    def costs(members: int) -> int:
        stage = Stage(*(b"node%d" % number for number in range(members)))
        stage.quiet(NEWS_EVERY)
        stage.members.table = Table(stage.members.table)
        with steps() as count:
            stage.join(b"newcomer", NEWS_EVERY)
        return count[0]

    assert costs(members=300) == costs(members=30)


def test_a_large_cluster_beats_more_slowly_and_waits_longer_for_the_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "SLOW_FROM", 3)
    stage = Stage(b"one", b"two", b"three")
    stage.quiet()
    assert stage.members.beat_every == BEAT_EVERY
    stage.join(b"four")
    assert (PACE, 4 * BEAT_EVERY) in stage.said(b"one")
    assert stage.said(b"four")[0][3] == 4 * BEAT_EVERY
    stage.quiet()
    stage.members.tick(SILENCE, 0.0)
    assert set(stage.members.table) == {b"one", b"two", b"three", b"four"}
    for node in (b"one", b"two", b"three"):
        stage.members.heard(node, 4 * SILENCE)
    stage.members.tick(4 * SILENCE, 0.0)
    assert set(stage.members.table) == {b"one", b"two", b"three"}
    assert stage.members.beat_every == 4 * BEAT_EVERY  # it does not change back at once
    stage.members.lose(b"one", "", 4 * SILENCE)
    assert stage.members.beat_every == BEAT_EVERY
    assert (PACE, BEAT_EVERY) in stage.said(b"two")


def test_a_node_that_joins_and_ends_within_a_turn_is_seen_to_do_both_in_that_order() -> None:
    stage = Stage(b"one")
    stage.quiet()
    stage.join(b"two")
    stage.members.leave(b"two", "changed its mind", 0.0)
    stage.members.flush(0.0)
    first, second = stage.said(b"one")
    assert [entry[0]["node"] for entry in first[2]] == [b"two"]  # type: ignore[attr-defined]  # a list
    assert second[3] == [(b"two", LEFT, "changed its mind")]
    assert stage.said(b"two")[-1] == (LEFT_CLUSTER,)


def test_a_silent_node_is_suspect_then_lost_and_fenced() -> None:
    stage = Stage(b"one", b"two")
    stage.quiet()
    stage.members.beat(b"one", 0, {}, SILENCE - 1)
    stage.members.tick(SILENCE / 2, 0.0)
    assert stage.members.table[b"two"].state == SUSPECT
    assert stage.members.table[b"one"].state == MEMBER_ALIVE
    stage.members.tick(SILENCE - 0.1, 0.0)
    assert b"two" in stage.members.table
    stage.members.tick(SILENCE, 0.0)
    assert stage.members.ended[b"two"].state == LOST
    assert stage.said(b"two") == [(FENCED, f"it was silent for {SILENCE:.1f} s")]


def test_a_suspect_that_is_heard_again_is_alive_and_a_second_break_counts_from_its_own_time() -> None:
    stage = Stage(b"one")
    stage.members.disconnected(b"one", 1.0)
    stage.members.heard(b"one", SILENCE)
    assert stage.members.table[b"one"].state == MEMBER_ALIVE
    stage.members.disconnected(b"one", SILENCE + 0.5)
    stage.members.tick(2 * SILENCE - 0.1, 0.0)
    assert b"one" in stage.members.table


def test_a_port_that_was_not_closed_yet_is_probed_again() -> None:
    stage = Stage(b"one", b"two")
    stage.quiet()
    stage.members.disconnected(b"two", 1.0)
    stage.members.tick(1.5, 0.0)
    assert done(stage.outbox, Probe) == [Probe(b"two", "two", 7000)]  # the node has not ended
    stage.members.probed(b"two", refused=False, now=1.6)
    stage.outbox.commands.clear()
    stage.members.tick(2.0, 0.0)
    assert done(stage.outbox, Probe) == [Probe(b"two", "two", 7000)]
    stage.members.probed(b"two", refused=True, now=2.1)
    assert stage.members.ended[b"two"].state == LOST
    stage.outbox.commands.clear()
    stage.members.disconnected(b"one", 3.0)
    stage.members.heard(b"one", 3.1)
    stage.members.probed(b"one", refused=False, now=3.2)
    stage.outbox.commands.clear()
    stage.members.tick(3.5, 0.0)
    assert done(stage.outbox, Probe) == []  # the node answers again


def test_a_closed_connection_is_probed_and_a_refusal_is_the_verdict() -> None:
    stage = Stage(b"one", b"two")
    stage.quiet()
    for _ in range(2):
        stage.members.disconnected(b"two", 1.0)
    assert done(stage.outbox, Probe) == [Probe(b"two", "two", 7000)]
    stage.members.probed(b"two", refused=False, now=1.1)
    assert b"two" in stage.members.table
    stage.members.probed(b"two", refused=True, now=1.2)
    assert stage.members.ended[b"two"].how == "its daemon has ended: its port refuses connections"
    assert stage.endings == [(b"two", "it is lost: its daemon has ended: its port refuses connections")]


def test_a_probe_that_ends_after_the_node_came_back_changes_nothing() -> None:
    stage = Stage(b"one")
    stage.members.disconnected(b"one", 1.0)
    stage.members.heard(b"one", 1.1)
    stage.members.probed(b"one", refused=True, now=1.2)
    assert stage.members.table[b"one"].state == MEMBER_ALIVE


def test_time_in_which_the_head_did_not_run_counts_against_nobody() -> None:
    stage = Stage(b"one", b"two")
    stage.members.disconnected(b"two", 0.0)
    stage.members.tick(SILENCE + 1, late=SILENCE)
    assert set(stage.members.table) == {b"one", b"two"}
    stage.members.tick(2 * SILENCE, late=0.0)
    assert not stage.members.table


def test_the_ring_of_the_ended_keeps_the_youngest() -> None:
    assert MOST_ENDED == 10_000
    stage = Stage()
    nodes = [f"node{number}".encode() for number in range(MOST_ENDED + 2)]
    for node in nodes:
        stage.members.join(Party(0), facts(node), row(), 0.0)
        stage.members.lose(node, "", 0.0)
    assert list(stage.members.ended) == nodes[2:]
    assert stage.members.fenced(nodes[0]) is None
    assert stage.members.fenced(nodes[2]) is not None
