"""The choice of nodes: rows and debits, use to half, placements."""

from __future__ import annotations

from typing import Any

from asyncray.core.bundles import Bundles
from asyncray.core.clock import Clock
from asyncray.core.cluster.members import Members, OtherNode, Watcher
from asyncray.core.cluster.placing import DEBITS_LAST, Placing
from asyncray.core.group_views import GroupViews
from asyncray.core.outbox import Outbox
from asyncray.core.placements import ANY_BUNDLE, IN, SPREAD, Affinity, Bundle, Labels, Selectors
from asyncray.core.records import HERE, Party
from asyncray.core.resources import Resources
from asyncray.core.shapes import Shapes
from tests.core.cluster.nodes import facts, row

CPU = (("CPU", 10_000),)


class Stage:
    def __init__(self, *others: bytes, cpus: int = 2) -> None:
        self.own = Resources({"CPU": cpus})
        outbox = Outbox()
        self.members = Members(outbox, Party(1), facts(b"own"), row, Watcher())
        for place, node in enumerate((b"own", *others)):
            self.members.table[node] = OtherNode(facts(node, place), 1, row())
        self.rows: dict[bytes, Any] = {}
        views = GroupViews(lambda method, arguments, reply: None)
        views.rows = self.rows
        self.clock = Clock()
        bundles = Bundles(self.clock, self.own, Shapes(self.own), views, lambda part, fault: None)
        self.placing = Placing(self.clock, b"own", self.own, self.members, bundles)

    def row(self, node: bytes, **changes: Any) -> None:
        member = self.members.table[node]
        member.row = {**member.row, **changes}  # type: ignore[typeddict-item]  # fields of a row
        member.version += 1

    def choose(self, where: Any) -> Any:
        found = self.placing.choose(where, CPU)
        return found.facts["node"] if isinstance(found, OtherNode) else found


def test_what_was_sent_counts_until_the_next_row() -> None:
    stage = Stage(b"a")
    assert stage.placing.room(b"a", CPU) == 2
    stage.placing.debit(b"a", CPU)
    stage.placing.debit(b"a", CPU)
    assert stage.placing.room(b"a", CPU) == 0
    stage.row(b"a", available={"CPU": 10_000})
    assert stage.placing.room(b"a", CPU) == 1
    assert stage.placing.room(b"unknown", CPU) == 0


def test_what_was_sent_counts_for_a_moment_if_no_row_comes() -> None:
    """A task that starts and ends between two beats changes no row."""
    stage = Stage(b"a")
    stage.placing.debit(b"a", CPU)
    stage.clock.now = DEBITS_LAST
    stage.placing.debit(b"a", CPU)
    assert stage.placing.room(b"a", CPU) == 0
    stage.clock.now = 2 * DEBITS_LAST + 0.1
    assert stage.placing.room(b"a", CPU) == 2
    stage.placing.debit(b"a", CPU)
    assert stage.placing.room(b"a", CPU) == 1


def test_the_node_that_is_used_least_is_best_and_a_draining_one_is_none() -> None:
    stage = Stage(b"a", b"b")
    stage.row(b"a", available={"CPU": 0})
    found = stage.placing.best(stage.placing.candidates(CPU), CPU)
    assert found is stage.members.table[b"b"]
    stage.row(b"b", draining=True)
    assert [m.facts["node"] for m in stage.placing.candidates(CPU)] == [b"a"]
    assert not list(stage.placing.candidates((("moon", 1),)))
    assert stage.placing.best([], CPU) is None


def test_equal_nodes_take_turns() -> None:
    stage = Stage(b"a", b"b", b"c")
    found = [stage.placing.best(stage.placing.candidates(CPU), CPU) for _ in range(6)]
    assert sorted(member.facts["node"] for member in found if member) == [b"a", b"a", b"b", b"b", b"c", b"c"]


def test_a_node_with_gpus_is_not_for_tasks_without() -> None:
    stage = Stage(b"a", b"b")
    stage.members.table[b"a"].facts["resources"] = {"CPU": 20_000, "GPU": 10_000}
    stage.row(b"b", available={"CPU": 10_000})
    assert stage.placing.best(stage.placing.candidates(CPU), CPU) is stage.members.table[b"b"]


def test_another_node_is_better_once_half_of_this_one_is_used() -> None:
    stage = Stage(b"a")
    assert not stage.placing.is_better_elsewhere(CPU)
    assert stage.own.acquire(CPU)
    assert stage.placing.is_better_elsewhere(CPU)
    stage.row(b"a", available={"CPU": 10_000})
    assert not stage.placing.is_better_elsewhere(CPU)
    stage.row(b"a", available={"CPU": 20_000})
    stage.placing.debit(b"a", CPU)
    assert not stage.placing.is_better_elsewhere(CPU)


def test_spread_goes_round_all_nodes_that_can() -> None:
    stage = Stage(b"a", b"b")
    assert [stage.choose(SPREAD) for _ in range(4)] == [b"own", b"a", b"b", b"own"]
    del stage.members.table[b"a"]
    assert [stage.choose(SPREAD) for _ in range(2)] == [b"b", b"own"]
    assert stage.placing.choose(SPREAD, (("moon", 1),)) is None


def test_affinity_names_a_node() -> None:
    stage = Stage(b"a")
    assert stage.choose(Affinity(b"a", soft=False)) == b"a"
    assert "has ended, is unknown" in stage.choose(Affinity(b"gone", soft=False))
    assert stage.choose(Affinity(b"gone", soft=True)) == b"own"
    stage.row(b"a", available={"CPU": 0})
    assert stage.choose(Affinity(b"a", soft=False)) == b"a", "it waits there"


def test_labels_must_or_should_fit() -> None:
    stage = Stage(b"a", b"b")
    for node, zone in ((b"a", "east"), (b"b", "west")):
        stage.members.table[node].facts["labels"] = {"zone": zone}
    east, west, south = ((("zone", IN, (zone,)),) for zone in ("east", "west", "south"))
    assert stage.choose(Labels(east, ())) == b"a"
    assert stage.choose(Labels((), west)) == b"b"
    assert "no node has both the labels" in stage.choose(Labels(south, ()))
    assert stage.choose(Selectors((south, west))) == b"b"
    assert stage.choose(Selectors((south,))) is None
    assert stage.choose(HERE) == b"own"


def test_a_demand_is_feasible_if_one_member_has_it() -> None:
    stage = Stage(b"a")
    assert stage.placing.feasible(CPU)
    assert not stage.placing.feasible((("CPU", 30_000),))
    assert not stage.placing.is_alone
    assert Stage().placing.is_alone


def group_row(*nodes: bytes | None, cpus: int = 1, state: str = "CREATED") -> dict[str, Any]:
    return {"state": state, "bundles": len(nodes) * [[("CPU", cpus * 10_000)]], "nodes": nodes}


def test_the_node_of_a_bundle() -> None:
    stage = Stage(b"a", b"b")
    assert stage.choose(Bundle(b"g", 0)) is None  # asked for
    stage.rows[b"g"] = group_row(b"a", b"own", None, b"lost")
    assert [stage.choose(Bundle(b"g", index)) for index in range(4)] == [b"a", b"own", None, None]
    stage.rows[b"g"] = group_row(b"a", state="REMOVED")
    assert stage.choose(Bundle(b"g", 0)) == b"own"  # where it fails


def test_any_bundle_of_several_nodes_goes_round_by_what_each_has() -> None:
    stage = Stage(b"a", b"b")
    stage.rows[b"g"] = {
        "state": "CREATED",
        "bundles": [[("CPU", 20_000)], [("CPU", 10_000)], [("CPU", 5000)]],
        "nodes": [b"a", b"b", b"b"],
    }
    assert sorted(stage.choose(Bundle(b"g", ANY_BUNDLE)) for _ in range(6)) == 4 * [b"a"] + 2 * [b"b"]


def test_the_node_of_a_driver_elsewhere_takes_no_work_but_what_names_it() -> None:
    stage = Stage(b"a", b"driver")
    for node in (b"own", b"driver"):
        stage.members.table[node].facts["for_driver"] = True
    for demand in (CPU, ()):
        assert [m.facts["node"] for m in stage.placing.candidates(demand)] == [b"a"]
    assert [stage.choose(SPREAD) for _ in range(3)] == [b"own", b"a", b"own"]
    stage.members.table[b"driver"].facts["resources"] = {"disk": 10_000}
    assert not stage.placing.feasible((("disk", 1),))
    assert stage.choose(Affinity(b"driver", soft=True)) in (b"own", b"a")
    found = stage.placing.choose(Affinity(b"driver", soft=False), (("disk", 1),))
    assert found is stage.members.table[b"driver"]


def test_a_node_with_gpus_is_better_than_a_full_one() -> None:
    stage = Stage(b"a", b"b")
    stage.members.table[b"a"].facts["resources"] = {"CPU": 20_000, "GPU": 10_000}
    others = list(stage.members.others())
    assert stage.placing.best(others, CPU) is stage.members.table[b"b"]
    stage.row(b"b", available={"CPU": 0})
    assert stage.placing.best(others, CPU) is stage.members.table[b"a"]


def moves_to(stage: Stage, where: Any, node: bytes, taken: int = 0) -> bytes | None:
    found = stage.placing.move_to(where, CPU, node, {b"own": {"CPU": taken}})
    return None if found is None else found.facts["node"]


def test_spread_leaves_out_full_nodes_while_others_have_room() -> None:
    stage = Stage(b"a", b"b")
    stage.row(b"a", available={"CPU": 0})
    assert [stage.choose(SPREAD) for _ in range(4)] == [b"own", b"b", b"own", b"b"]
    stage.placing.debit(b"b", CPU)
    stage.placing.debit(b"b", CPU)
    assert stage.choose(SPREAD) == b"own"
    assert stage.choose(SPREAD) == b"b", "the tasks there may have ended"
    stage.row(b"b", available={"CPU": 0})
    assert stage.own.acquire((("CPU", 20_000),))
    assert {stage.choose(SPREAD) for _ in range(3)} == {b"own", b"a", b"b"}


def test_a_node_with_preferred_labels_that_is_full_comes_after_one_with_room() -> None:
    stage = Stage(b"a", b"b")
    for node, zone in ((b"a", "east"), (b"b", "west")):
        stage.members.table[node].facts["labels"] = {"zone": zone}
    east, west = ((("zone", IN, (zone,)),) for zone in ("east", "west"))
    stage.row(b"a", available={"CPU": 0})
    assert stage.choose(Labels((), east)) == b"own"
    assert stage.choose(Selectors((east, west))) == b"b"
    assert stage.choose(Labels(east, ())) == b"a", "no other will do"
    stage.row(b"b", available={"CPU": 0})
    assert stage.choose(Selectors((east, west))) == b"a"


def test_a_task_that_waits_moves_to_a_node_that_its_placement_allows_and_that_has_room() -> None:
    stage = Stage(b"a", b"b")
    assert moves_to(stage, HERE, b"a") == b"own"
    assert moves_to(stage, HERE, b"a", taken=20_000) == b"b"
    assert moves_to(stage, SPREAD, b"own") in (b"a", b"b")
    assert moves_to(stage, Affinity(b"a", soft=True), b"a") is None
    assert moves_to(stage, Affinity(b"gone", soft=True), b"a") == b"own"
    assert moves_to(stage, Affinity(b"gone", soft=False), b"a") is None
    stage.placing.debit(b"b", CPU)
    stage.placing.debit(b"b", CPU)
    assert moves_to(stage, HERE, b"a", taken=20_000) is None
    assert stage.placing.others_for(HERE, CPU, b"a") == [b"own", b"b"]
    assert not stage.placing.others_for(Affinity(b"a", soft=True), CPU, b"a")
