"""The node's side of the head: joining, beats, views, questions, and the end, on a node alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from asyncray.cluster_messages import (
    ANSWER,
    ASK,
    BEAT,
    FENCED,
    HEAD_ENDS,
    JOIN,
    JOINED,
    LEAVING_CLUSTER,
    LEFT_CLUSTER,
    PACE,
    TURNED_AWAY,
    VIEW,
)
from asyncray.core.cluster import members
from asyncray.core.cluster.members import (
    CUT_OFF_AFTER,
    EARLIEST_BEAT,
    JOINING,
    LEAVING,
    MEMBER,
    MISSED_AFTER,
    OUTSIDE,
    Members,
    OtherNode,
    Watcher,
)
from asyncray.core.outbox import Outbox
from asyncray.core.questions import Answer
from asyncray.core.records import Party
from tests.core.cluster.nodes import facts, row, taken

BEAT_EVERY = 0.5
JOB_NUMBERS = (4096, 4096)


class Story(Watcher):
    """Records the changes of membership that it learns, as the machines of the node would."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def became_member(self, jobs: range) -> None:
        self.events.append(("member", jobs))

    def member_joined(self, member: OtherNode) -> None:
        self.events.append(("joined", member.facts["node"]))

    def member_ended(self, node: bytes, state: str, how: str) -> None:
        self.events.append(("ended", node, state, how))

    def must_end(self, why: str) -> None:
        self.events.append(("must end", why))


class Stage:
    """A node and its head, which the test plays."""

    def __init__(self, *others: bytes, view: int = 7) -> None:
        self.outbox = Outbox()
        self.story = Story()
        self.head = Party(self.outbox.new_party_number())
        self.row = row()
        self.members = Members(self.outbox, self.head, facts(b"me"), lambda: self.row, self.story)
        self.members.join()
        self.joined = (
            JOINED, b"cluster", 2, BEAT_EVERY, *JOB_NUMBERS, view, 1,
            [(facts(other, joined=9), 4, row()) for other in others],
        )  # fmt: skip

    def said(self) -> list[Any]:
        return taken(self.outbox, self.head)

    def view(self, number: int, joined: Any = (), gone: Any = (), rows: Any = ()) -> None:
        self.members.receive((VIEW, number, joined, gone, rows, []), 0.0)
        self.members.check()


def member(*others: bytes) -> Stage:
    stage = Stage(*others)
    stage.members.receive(stage.joined, 0.0)
    stage.said()
    stage.story.events.clear()
    return stage


def test_a_node_joins_a_large_cluster_with_the_first_view() -> None:
    stage = Stage(b"other")
    *joined, others = stage.joined
    stage.members.receive((*joined, None), 0.0)
    assert (stage.members.state, stage.members.table) == (JOINING, {})
    assert stage.story.events == []
    stage.view(8, joined=[*others, (facts(b"me", joined=1), 0, row())], gone=[(b"third", "lost", "")])
    assert (stage.members.state, list(stage.members.table)) == (MEMBER, [b"me", b"other"])
    assert stage.story.events == [("member", range(4096, 8192)), ("joined", b"other")]
    stage.members.flush(1.0)
    assert stage.said()[-1] == (BEAT, 0, {}, [b"third"])


def test_a_node_joins_with_its_facts_and_row() -> None:
    stage = Stage(b"other")
    assert stage.members.state == JOINING
    assert stage.said() == [(JOIN, facts(b"me"), row())]
    stage.members.receive(stage.joined, 0.0)
    assert (stage.members.state, stage.members.cluster, stage.members.epoch) == (MEMBER, b"cluster", 2)
    assert [node.facts["node"] for node in stage.members.others()] == [b"other"]
    assert stage.members.table[b"me"].facts["joined"] == 1
    assert stage.story.events == [("member", range(4096, 8192)), ("joined", b"other")]


def test_a_node_that_is_turned_away_ends_once() -> None:
    stage = Stage()
    for _ in range(2):
        stage.members.receive((TURNED_AWAY, "it was cloned"), 0.0)
    assert stage.members.state == OUTSIDE
    assert stage.story.events == [("must end", "it was cloned")]


def test_a_beat_has_the_fields_that_changed_and_a_number_that_grows() -> None:
    stage = member()
    stage.row = {**row(), "store_free": 60}
    stage.members.tick(BEAT_EVERY)
    stage.members.tick(2 * BEAT_EVERY)
    stage.row = {**row(), "draining": True}
    stage.members.tick(3 * BEAT_EVERY)
    assert stage.said() == [
        (BEAT, 1, {"store_free": 60}, []),
        (BEAT, 1, {}, []),
        (BEAT, 2, {"store_free": 100, "draining": True}, []),
    ]


def test_a_change_is_said_early_but_not_at_once_and_no_change_is_not_said() -> None:
    stage = member()
    stage.members.flush(EARLIEST_BEAT)
    stage.row = row(cpus=1)
    stage.members.flush(EARLIEST_BEAT / 2)
    assert stage.said() == []
    stage.members.flush(EARLIEST_BEAT)
    assert stage.said() == [(BEAT, 1, {"available": {"CPU": 10_000}}, [])]
    stage.members.tick(EARLIEST_BEAT + BEAT_EVERY / 2)
    assert stage.said() == []


def test_the_head_sets_the_pace_and_a_slow_one_leaves_no_room_for_early_beats() -> None:
    stage = member()
    stage.members.receive((PACE, 2.0), 0.0)
    stage.members.tick(BEAT_EVERY)
    stage.row = row(cpus=1)
    stage.members.flush(1.9)
    assert stage.said() == []
    stage.members.flush(2.0)
    assert stage.said() == [(BEAT, 1, {"available": {"CPU": 10_000}}, [])]
    stage.members.receive((PACE, BEAT_EVERY), 2.0)
    stage.members.tick(2.0 + BEAT_EVERY)
    assert stage.said() == [(BEAT, 1, {}, [])]


def test_nobody_beats_before_it_is_a_member() -> None:
    stage = Stage()
    stage.said()
    stage.row = row(cpus=1)
    stage.members.flush(100.0)
    stage.members.tick(100.0)
    assert stage.said() == []


def test_a_view_brings_members_rows_and_ends() -> None:
    stage = member(b"a", b"b")
    stage.view(
        8, [(facts(b"c", joined=10), 0, row())], [(b"b", "lost", "it was silent")], [(b"a", 5, {"draining": True})]
    )
    assert set(stage.members.table) == {b"me", b"a", b"c"}
    assert stage.members.table[b"a"].row == {**row(), "draining": True}
    assert stage.members.ended == {b"b": ("lost", "it was silent")}
    assert stage.story.events == [("joined", b"c"), ("ended", b"b", "lost", "it was silent")]


def test_views_come_in_the_order_of_their_numbers() -> None:
    for number in (7, 9):
        stage = member()
        with pytest.raises(AssertionError, match=f"view {number} follows view 7"):
            stage.view(number)


def test_a_row_that_joined_already_had_is_not_taken_again() -> None:
    stage = member(b"a")
    stage.view(8, rows=[(b"a", 4, {"store_free": 1}), (b"stranger", 1, {"store_free": 1})])
    assert stage.members.table[b"a"].row == row()


def test_a_member_that_is_known_does_not_join_twice_and_one_that_ended_does_not_come_back() -> None:
    stage = member(b"a")
    entry = (facts(b"a", joined=9), 4, row())
    stage.view(8, [entry], [(b"a", "left", "")])
    stage.view(9, [entry], [(b"unknown", "lost", "")])
    assert set(stage.members.table) == {b"me"}
    assert stage.story.events == [("ended", b"a", "left", "")]


def test_a_node_remembers_the_last_members_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_ENDED", 3)
    monkeypatch.setattr(members, "MOST_PAST", 2)
    nodes = [b"a", b"b", b"c", b"d", b"e"]
    stage = member(*nodes)
    for number, node in enumerate(nodes, 8):
        stage.view(number, gone=[(node, "lost", "it was silent")])
    assert list(stage.members.ended) == [b"c", b"d", b"e"]
    assert list(stage.members.past) == [b"d", b"e"]


def test_questions_get_their_own_answers() -> None:
    stage = member()
    answers: dict[str, Answer] = {}
    for name in ("first", "second"):
        stage.members.ask("member", [name], partial(answers.__setitem__, name))
    assert stage.said() == [(ASK, 1, "member", ["first"]), (ASK, 2, "member", ["second"])]
    stage.members.receive((ANSWER, 2, True, "alive"), 0.0)
    stage.members.receive((ANSWER, 1, False, ["InternalError", {"message": "no"}]), 0.0)
    assert answers == {"first": (False, "InternalError", {"message": "no"}), "second": (True, "alive")}


def test_after_the_end_all_questions_have_an_answer_and_the_words_of_the_head_change_nothing() -> None:
    stage = member()
    answers: list[Any] = []
    stage.members.ask("member", [b"x"], answers.append)
    stage.members.receive((FENCED, "it was silent"), 0.0)
    stage.members.ask("member", [b"y"], answers.append)
    fault = {"message": "The node of this process ends: it was silent."}
    assert answers == [(False, "LocalNodeDiedError", fault)] * 2
    stage.said()
    stage.members.receive((ANSWER, 1, True, "alive"), 0.0)
    stage.members.receive(stage.joined, 0.0)
    stage.view(8, [(facts(b"c", joined=10), 0, row())])
    stage.members.tick(100.0)
    stage.members.leave("late")
    assert (stage.members.state, answers[2:], stage.said()) == (OUTSIDE, [], [])
    assert stage.story.events == [("must end", "it was silent")]


def test_a_node_leaves_once_and_ends_when_the_head_knows() -> None:
    stage = member()
    for _ in range(2):
        stage.members.leave("its user stopped it")
    assert stage.members.state == LEAVING
    assert stage.said() == [(LEAVING_CLUSTER, "its user stopped it")]
    stage.members.tick(BEAT_EVERY)
    assert stage.said() == [(BEAT, 0, {}, [])]
    assert stage.story.events == []
    stage.members.receive((LEFT_CLUSTER,), 0.0)
    assert stage.story.events == [("must end", "its user stopped it")]


def test_drivers_hear_once_that_the_head_is_away_and_once_that_it_is_back() -> None:
    stage = member()
    heard: list[str] = []
    stage.members.notify_drivers = heard.append
    stage.members.head_is_away(MISSED_AFTER - 1)
    stage.members.head_is_away(None)
    assert heard == []
    for seconds in (MISSED_AFTER, MISSED_AFTER + 1):
        stage.members.head_is_away(seconds)
    for _ in range(2):
        stage.members.head_is_away(None)
    away, back = heard
    assert "cannot be reached" in away
    assert "within 55 s" in away
    assert back == "the head of the cluster is back"


def test_a_node_that_cannot_reach_the_head_ends_after_a_while() -> None:
    stage = member()
    stage.members.head_is_away(CUT_OFF_AFTER - 1)
    assert stage.members.state == MEMBER
    stage.members.head_is_away(CUT_OFF_AFTER)
    assert stage.story.events == [("must end", "it could not reach the head for 60 s")]


def test_a_node_ends_with_its_head() -> None:
    for stage in (member(), Stage()):
        stage.members.receive((HEAD_ENDS, "it got SIGTERM"), 0.0)
        assert stage.members.state == OUTSIDE
        assert stage.story.events == [("must end", "the head has ended: it got SIGTERM")]


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="of kind 99"):
        member().members.receive((99,), 0.0)
