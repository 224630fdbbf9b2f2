"""The machine that decides about placement groups, with nodes that are scripts: each race is one test, in steps."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.group_choice import NodeRoom, load_of
from asyncray.core.group_records import (
    CREATED,
    GROUP_PENDING,
    GROUP_PREPARED,
    MOST_REMOVED,
    REMOVED,
    RESCHEDULING,
    Pairs,
)
from asyncray.core.groups import PATIENT_AGAIN_AFTER, Groups
from asyncray.core.questions import Refusal
from asyncray.units import UNIT, Demand, fixed

HOME = b"homehome"
GROUP = HOME + b"-group"
ONE = fixed({"CPU": 1})


class Cluster:
    """The head's machine, and nodes that answer when the test says so."""

    def __init__(self, **cpus: float) -> None:
        self.rooms = {name.encode(): [fixed({"CPU": amount})[0][1]] * 2 for name, amount in cpus.items()}
        self.groups = Groups(self._list_rooms, self)
        self.now = 0.0
        self.sent: list[tuple[Any, ...]] = []
        self.shown: list[str] = []

    def _list_rooms(self) -> list[NodeRoom]:
        found = []
        for node, (total, free) in self.rooms.items():
            amounts = {"CPU": total}
            found.append(NodeRoom(node, amounts, {"CPU": free}, {}, load_of(amounts, {"CPU": free})))
        return found

    def prepare(self, node: bytes, group: bytes, bundles: list[tuple[int, int, Demand]], patient: bool) -> None:
        word = "patient" if patient else "prepare"
        self.sent.append((word, node.decode(), [(index, attempt) for index, attempt, _ in bundles]))

    def commit(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        self.sent.append(("commit", node.decode(), pairs))

    def abort(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        self.sent.append(("abort", node.decode(), pairs))

    def release(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        self.sent.append(("release", node.decode(), pairs))

    def changed(self, row: Any) -> None:
        self.shown.append(row["state"])

    def make(self, *cpus: float, group: bytes = GROUP, name: str = "", detached: bool = False) -> None:
        bundles = [(fixed({"CPU": amount}), ()) for amount in cpus]
        self.groups.create(group, "ns", name, "STRICT_SPREAD", bundles, detached)
        self.flush()

    def flush(self) -> list[tuple[Any, ...]]:
        """Returns the messages to nodes since the last time."""
        self.groups.flush(self.now)
        self.groups.check()
        sent, self.sent = self.sent, []
        self.last = sent
        return sent

    def later(self, seconds: float) -> list[tuple[Any, ...]]:
        self.now += seconds
        self.groups.tick(self.now)
        return self.flush()

    def says(self, node: str, *pairs: tuple[int, int], ready: bool = True) -> list[tuple[Any, ...]]:
        self.groups.answered(node.encode(), GROUP, list(pairs), ready=ready, now=self.now)
        return self.flush()

    def committed(self, node: str, *pairs: tuple[int, int]) -> list[tuple[Any, ...]]:
        self.groups.committed(node.encode(), GROUP, list(pairs))
        return self.flush()

    def lose(self, node: str) -> list[tuple[Any, ...]]:
        self.rooms.pop(node.encode(), None)
        self.groups.node_ended(node.encode(), self.now)
        return self.flush()

    @property
    def state(self) -> str:
        row = self.groups.look(GROUP)
        assert row is not None
        return row["state"]

    def created(self) -> None:
        """Brings a group with two bundles, on the nodes a and b, to CREATED."""
        self.make(1, 1)
        self.says("a", (0, 1))
        self.says("b", (1, 1))
        self.committed("a", (0, 1))
        self.committed("b", (1, 1))
        assert self.state == CREATED


def test_two_phases() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    assert cluster.last == [("prepare", "a", [(0, 1)]), ("prepare", "b", [(1, 1)])]
    assert cluster.says("a", (0, 1)) == []
    assert cluster.state == GROUP_PENDING
    assert cluster.says("b", (1, 1)) == [("commit", "a", [(0, 1)]), ("commit", "b", [(1, 1)])]
    assert cluster.state == GROUP_PREPARED
    cluster.committed("a", (0, 1))
    assert cluster.state == GROUP_PREPARED
    cluster.committed("b", (1, 1))
    assert cluster.state == CREATED
    row = cluster.groups.look(GROUP)
    assert row is not None
    assert (row["nodes"], row["attempts"]) == ([b"a", b"b"], 1)


def test_a_refusal_aborts_the_others_and_is_tried_again_after_a_pause() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    assert cluster.says("b", (1, 1), ready=False) == [("abort", "a", [(0, 1)])]
    cluster.groups.nodes_changed()
    assert cluster.flush() == []
    assert cluster.later(0.1) == [("prepare", "a", [(0, 2)]), ("prepare", "b", [(1, 2)])]


def test_a_late_answer_of_an_earlier_round_means_nothing() -> None:
    """1. b refuses, a gets ABORT. 2. The second round begins. 3. The first answer of a arrives."""
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    cluster.says("b", (1, 1), ready=False)
    cluster.later(1)
    assert cluster.says("a", (0, 1)) == []
    cluster.says("b", (1, 2))
    assert cluster.state == GROUP_PENDING
    cluster.says("a", (0, 2))
    assert cluster.state == GROUP_PREPARED


def test_r41_removed_while_a_commit_is_under_way() -> None:
    """1. COMMIT goes out. 2. The group is removed: RELEASE follows on the same links. 3. The answers to COMMIT come."""
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    cluster.says("b", (1, 1))
    cluster.committed("a", (0, 1))
    cluster.groups.remove(GROUP)
    assert cluster.flush() == [("release", "a", [(0, 1)]), ("release", "b", [(1, 1)])]
    assert cluster.committed("b", (1, 1)) == []
    assert cluster.state == REMOVED


def test_removed_while_it_is_prepared() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    cluster.groups.remove(GROUP)
    assert cluster.flush() == [("abort", "a", [(0, 1)]), ("abort", "b", [(1, 1)])]
    assert cluster.says("b", (1, 1)) == []
    cluster.groups.remove(GROUP)
    assert cluster.flush() == []


def test_r42_a_node_is_lost_before_the_decision() -> None:
    """1. a has prepared. 2. b is lost. 3. a gets ABORT, and both bundles go elsewhere with further attempts."""
    cluster = Cluster(a=1, b=1, c=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    assert cluster.lose("b") == [
        ("abort", "a", [(0, 1)]),
        ("prepare", "a", [(0, 2)]),
        ("prepare", "c", [(1, 2)]),
    ]


def test_a_node_is_lost_after_the_decision() -> None:
    """The decision stands: the bundle of the lost node goes elsewhere, and the other stays where it is."""
    cluster = Cluster(a=1, b=1, c=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    cluster.says("b", (1, 1))
    assert cluster.lose("b") == [("prepare", "c", [(1, 2)])]
    assert cluster.state == RESCHEDULING
    cluster.committed("a", (0, 1))
    assert cluster.state == RESCHEDULING
    assert cluster.says("c", (1, 2)) == [("commit", "c", [(1, 2)])]
    cluster.committed("c", (1, 2))
    assert cluster.state == CREATED


def test_h20_only_the_attempt_of_the_lost_bundle_grows() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.created()
    assert cluster.lose("b") == []
    assert cluster.state == RESCHEDULING
    assert cluster.groups.table[GROUP].pairs([0, 1]) == [(0, 1), (1, 1)]
    cluster.rooms[b"c"] = [UNIT, UNIT]
    cluster.groups.nodes_changed()
    assert cluster.flush() == [("prepare", "c", [(1, 2)])]


def test_the_node_of_a_round_for_a_lost_bundle_is_lost_too() -> None:
    cluster = Cluster(a=1, b=1, c=1)
    cluster.created()
    cluster.lose("b")
    assert cluster.lose("c") == []
    assert cluster.state == RESCHEDULING
    cluster.rooms[b"d"] = [UNIT, UNIT]
    cluster.groups.nodes_changed()
    assert cluster.flush() == [("prepare", "d", [(1, 3)])]


def test_the_node_of_another_bundle_is_lost_during_the_round_for_a_lost_bundle() -> None:
    cluster = Cluster(a=1, b=1, c=1, d=1)
    cluster.created()
    assert cluster.lose("b") == [("prepare", "c", [(1, 2)])]
    assert cluster.lose("a") == []
    assert cluster.says("c", (1, 2)) == [("commit", "c", [(1, 2)]), ("prepare", "d", [(0, 2)])]
    cluster.committed("c", (1, 2))
    assert cluster.state == RESCHEDULING
    cluster.says("d", (0, 2))
    cluster.committed("d", (0, 2))
    assert cluster.state == CREATED


def test_presumed_abort() -> None:
    """A node asks about bundles that it holds prepared: it gets COMMIT, ABORT, or nothing while nothing is decided."""
    cluster = Cluster(a=1, b=1)
    cluster.make(1, 1)
    cluster.says("a", (0, 1))
    cluster.groups.unsure(b"a", GROUP, [(0, 1)])
    assert cluster.flush() == []
    cluster.groups.unsure(b"a", GROUP, [(0, 0), (1, 1)])
    assert cluster.flush() == [("abort", "a", [(0, 0), (1, 1)])]
    cluster.groups.unsure(b"a", b"unknown-", [(0, 1)])
    assert cluster.flush() == [("abort", "a", [(0, 1)])]
    cluster.says("b", (1, 1))
    cluster.groups.unsure(b"a", GROUP, [(0, 1)])
    assert cluster.flush() == [("commit", "a", [(0, 1)])]


def test_a_group_that_would_fit_an_idle_node_gets_a_patient_round() -> None:
    cluster = Cluster(a=2)
    cluster.rooms[b"a"][1] = UNIT
    cluster.make(2)
    assert cluster.last == [("patient", "a", [(0, 1)])]
    cluster.make(2, group=HOME + b"-other")
    assert cluster.last == []  # one at a time
    assert cluster.says("a", (0, 1), ready=False) == []
    # The other has its turn.
    assert cluster.later(1) == [("patient", "a", [(0, 1)])]


def test_a_patient_round_goes_to_another_node_after_a_refusal() -> None:
    cluster = Cluster(a=2, b=2)
    cluster.rooms[b"a"][1] = cluster.rooms[b"b"][1] = UNIT
    cluster.make(2)
    assert cluster.last == [("patient", "a", [(0, 1)])]
    cluster.says("a", (0, 1), ready=False)
    assert cluster.later(0.1) == [("patient", "b", [(0, 2)])]
    cluster.says("b", (0, 2), ready=False)
    assert cluster.later(1) == []
    assert cluster.later(PATIENT_AGAIN_AFTER) == [("patient", "a", [(0, 3)])]


def test_why_a_group_can_never_be_met_is_shown_and_ends_with_a_new_node() -> None:
    cluster = Cluster(a=1)
    cluster.make(1, 1)
    row = cluster.groups.look(GROUP)
    assert row is not None
    assert row["why"] == "STRICT_SPREAD needs 2 nodes that fit, and the cluster has 1 node"
    cluster.rooms[b"b"] = [UNIT, UNIT]
    cluster.groups.nodes_changed()
    assert cluster.flush() == [("prepare", "a", [(0, 1)]), ("prepare", "b", [(1, 1)])]
    row = cluster.groups.look(GROUP)
    assert row is not None
    assert row["why"] == ""


def test_bundles_that_are_under_way_are_counted() -> None:
    cluster = Cluster(a=2)
    cluster.make(1)
    assert cluster.last == [("prepare", "a", [(0, 1)])]
    cluster.make(1, group=HOME + b"-other")
    assert cluster.last == [("prepare", "a", [(0, 1)])]
    cluster.make(2, group=HOME + b"-third")
    assert cluster.last == [("patient", "a", [(0, 1)])]


@pytest.mark.parametrize("detached", [False, True])
def test_a_group_ends_with_the_node_of_its_creator_unless_it_is_detached(detached: bool) -> None:
    cluster = Cluster(a=1)
    cluster.make(1, detached=detached)
    cluster.groups.node_ended(HOME, cluster.now)
    assert cluster.state == (GROUP_PENDING if detached else REMOVED)
    cluster.groups.check()


def test_names() -> None:
    cluster = Cluster(a=4)
    cluster.make(1, name="training")
    with pytest.raises(Refusal, match="'training' already exists"):
        cluster.make(1, name="training", group=HOME + b"-other")
    found = cluster.groups.find("ns", "training")
    assert found is not None
    assert found["group_id"] == GROUP
    assert cluster.groups.find("elsewhere", "training") is None
    cluster.groups.remove(GROUP)
    assert cluster.groups.find("ns", "training") is None
    cluster.make(1, name="training", group=HOME + b"-other")


@pytest.mark.parametrize(
    ("strategy", "bundles"),
    [("EVERYWHERE", [(ONE, ())]), ("PACK", []), ("PACK", [((), ())]), ("PACK", [((("CPU", 0),), ())])],
)
def test_arguments_that_no_client_of_ours_sends_are_refused(strategy: str, bundles: Any) -> None:
    with pytest.raises(ValueError, match=r"no group has|asks for nothing"):
        Cluster(a=1).groups.create(GROUP, "ns", "", strategy, bundles, detached=False)


def test_only_so_many_removed_groups_are_shown() -> None:
    cluster = Cluster(a=1)
    for number in range(MOST_REMOVED + 1):
        group = HOME + number.to_bytes(4, "big")
        cluster.groups.create(group, "ns", "", "PACK", [(ONE, ())], detached=False)
        cluster.groups.remove(group)
    assert len(cluster.groups.rows()) == MOST_REMOVED
