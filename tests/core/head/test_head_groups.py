"""Placement groups at the head: its messages to nodes, the nodes that watch, and nodes that end."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import (
    ANSWER,
    ASK,
    BEAT,
    COMMIT,
    COMMITTED,
    GROUP,
    PREPARE,
    PREPARED,
    RELEASE_BUNDLES,
    UNSURE,
)
from asyncray.core.groups import LOOK_EVERY
from asyncray.core.placements import IN
from tests.core.head.test_head import OWN, Stage

GROUP_ID = OWN + b"-group"
ONE = [("CPU", 10_000)]


class Groups(Stage):
    def ask(self, node: bytes, method: str, *arguments: Any) -> None:
        party = self.peers.get(node, self.head.own)
        self.head.receive(party, [(ASK, 1, method, arguments)], self.now)
        self.flush()

    now = 0.0

    def flush(self) -> None:
        self.head.flush(self.now)
        self.head.check()

    def make(self, *demands: Any, strategy: str = "STRICT_SPREAD", conditions: Any = ()) -> None:
        self.ask(b"a", "create_group", GROUP_ID, "ns", "", strategy, [(demand, conditions) for demand in demands], True)

    def words(self, node: bytes) -> list[Any]:
        """The messages for a node about groups, and the answers to it."""
        self.flush()
        said = self.said(self.peers.get(node, self.head.own))
        return [message for message in said if message[0] in (PREPARE, COMMIT, RELEASE_BUNDLES, GROUP, ANSWER)]

    def says(self, node: bytes, *message: Any) -> None:
        self.head.receive(self.peers.get(node, self.head.own), [message], self.now)
        self.flush()


def kinds(words: list[Any]) -> list[int]:
    return [message[0] for message in words]


def test_a_group_over_two_nodes() -> None:
    stage = Groups(b"a", b"b")
    stage.make(ONE, ONE, ONE)
    assert stage.words(b"b") == [(PREPARE, GROUP_ID, [(2, 1, tuple(ONE))], False)]
    assert kinds(stage.words(b"a")) == [ANSWER, GROUP, PREPARE]  # it watches, as it made the group
    for node, index in ((OWN, 0), (b"a", 1), (b"b", 2)):
        stage.says(node, PREPARED, GROUP_ID, [(index, 1)], True)
    assert stage.words(b"b") == [(COMMIT, GROUP_ID, [(2, 1)])]
    for node, index in ((OWN, 0), (b"a", 1), (b"b", 2)):
        stage.says(node, COMMITTED, GROUP_ID, [(index, 1)])
    shown = [message[1] for message in stage.words(b"a") if message[0] == GROUP]
    assert [row["state"] for row in shown] == ["PREPARED", "CREATED"]
    assert shown[-1]["nodes"] == [OWN, b"a", b"b"]


def test_a_node_watches_until_the_group_is_removed() -> None:
    stage = Groups(b"a", b"b")
    stage.make(ONE)
    stage.words(b"b")
    stage.ask(b"b", "watch_group", GROUP_ID)
    ((_, _, _, row),) = [message for message in stage.words(b"b") if message[0] == ANSWER]
    assert row["group_id"] == GROUP_ID
    stage.ask(b"a", "remove_group", GROUP_ID)
    (word,) = [message for message in stage.words(b"b") if message[0] == GROUP]
    assert word[1]["state"] == "REMOVED"
    stage.ask(b"b", "watch_group", GROUP_ID)
    stage.ask(b"b", "watch_group", b"unknown")
    assert [message[3] and message[3]["state"] for message in stage.words(b"b")] == ["REMOVED", None]


def test_bundles_go_to_no_node_that_leaves_or_is_for_a_driver() -> None:
    stage = Groups(b"a", b"b")
    stage.head.members.table[b"b"].facts["for_driver"] = True
    stage.says(b"a", BEAT, 1, {"draining": True}, [])
    stage.make(ONE, ONE)
    assert not {PREPARE} & {*kinds(stage.words(b"a")), *kinds(stage.words(b"b"))}
    assert stage.head.groups.groups.table[GROUP_ID].why.endswith("the cluster has 1 node")


def test_refusals_reach_the_asker() -> None:
    stage = Groups(b"a")
    stage.ask(b"a", "create_group", GROUP_ID, "ns", "one", "PACK", [(ONE, ())], True)
    stage.words(b"a")
    stage.ask(b"a", "create_group", b"other", "ns", "one", "PACK", [(ONE, ())], True)
    ((_, _, ok, (name, _)),) = [message for message in stage.words(b"a") if message[0] == ANSWER]
    assert (ok, name) == (False, "ValueError")


def test_a_lost_node_is_replaced_and_watches_no_more() -> None:
    stage = Groups(b"a", b"b", b"c")
    stage.make(ONE, conditions=[("ray.io/node-id", IN, [b"b".hex(), b"c".hex()])])
    first = b"b" if kinds(stage.words(b"b")) else b"c"
    other = b"c" if first == b"b" else b"b"
    stage.says(first, PREPARED, GROUP_ID, [(0, 1)], True)
    stage.says(first, COMMITTED, GROUP_ID, [(0, 1)])
    stage.ask(first, "watch_group", GROUP_ID)
    stage.words(other)
    stage.head.members.lose(first, "a test says so", 0.0)
    assert stage.words(other) == [(PREPARE, GROUP_ID, [(0, 2, tuple(ONE))], False)]
    assert [row["state"] for kind, row in (m for m in stage.words(b"a") if m[0] == GROUP)][-1] == "RESCHEDULING"


def test_a_node_that_asks_what_was_decided_hears_it() -> None:
    stage = Groups(b"a", b"b")
    stage.make(ONE)
    nodes = [node for node in (b"a", b"b", OWN) if PREPARE in kinds(stage.words(node))]
    (node,) = nodes
    stage.says(node, PREPARED, GROUP_ID, [(0, 1)], True)
    stage.words(node)
    stage.says(node, UNSURE, GROUP_ID, [(0, 1)])
    assert kinds(stage.words(node)) == [COMMIT]


def test_waiting_groups_are_tried_again_when_amounts_change_but_not_each_time() -> None:
    stage = Groups(b"a", b"b")
    for node in (b"a", b"b", OWN):
        stage.says(node, BEAT, 1, {"available": {"CPU": 5000}}, [])
    stage.make([("CPU", 20_000)])
    patient = next(node for node in (b"a", b"b", OWN) if PREPARE in kinds(stage.words(node)))
    stage.says(patient, PREPARED, GROUP_ID, [(0, 1)], False)
    other = next(node for node in (b"a", b"b", OWN) if node != patient)
    stage.says(other, BEAT, 2, {"available": {"CPU": 20_000}}, [])
    assert PREPARE not in kinds(stage.words(other))
    stage.now = LOOK_EVERY
    assert PREPARE in kinds(stage.words(other))
