"""Placement groups as programs see them, with a daemon that the test plays."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from asyncray.api import placement_groups as groups
from asyncray.api.decorator import remote
from asyncray.api.placement_groups import PlacementGroup, captured_options
from asyncray.api.strategies import PlacementGroupSchedulingStrategy
from asyncray.ids import PlacementGroupID
from asyncray.messages import GROUP_READY, PLAIN, REPLY, REQUEST, TEMPLATE, VALUE
from asyncray.runtime import context
from asyncray.runtime.context import TaskContext
from asyncray.util import placement_group as function
from asyncray.util.placement_group import placement_group
from tests.runtime.daemon_side import DEADLINE, DaemonSide

T = TypeVar("T")
ID = b"g" * 22
ROW = {
    "group_id": ID,
    "namespace": "here",
    "name": "training",
    "strategy": "PACK",
    "state": "PENDING",
    "bundles": [[["CPU", 10_000]], [["CPU", 5000], ["GPU", 10_000]]],
    "nodes": [b"n" * 8, None],
    "attempts": 2,
    "detached": False,
    "why": "",
}


def answered(daemon: DaemonSide, call: Callable[[], T], *answers: Any) -> tuple[T, list[Any]]:
    """The result of a call while the daemon gives these answers, and the requests."""
    asked: list[Any] = []

    def play() -> None:
        for answer in answers:
            _, number, method, arguments = daemon.next(REQUEST)
            asked.append([method, *arguments])
            daemon.send((REPLY, number, answer))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        return call(), asked
    finally:
        thread.join(DEADLINE)


def test_a_group_is_registered_with_its_bundles_in_fixed_point(daemon: DaemonSide) -> None:
    def make() -> PlacementGroup:
        return placement_group(
            [{"CPU": 1, "GPU": 0}, {"CPU": 0.5}],
            strategy="SPREAD",
            name="training",
            lifetime="detached",
            bundle_label_selector=[{"zone": "!a"}, {}],
        )

    group, asked = answered(daemon, make, None)
    assert asked == [
        [
            "create_group",
            group.id.binary(),
            "training",
            "SPREAD",
            (((("CPU", 10_000),), (("zone", "not_in", ("a",)),)), ((("CPU", 5000),), ())),
            True,
        ]
    ]
    assert (group.bundle_specs, group.bundle_count) == ([{"CPU": 1}, {"CPU": 0.5}], 2)
    assert function is placement_group


def test_a_name_that_is_taken(daemon: DaemonSide) -> None:
    with pytest.raises(ValueError, match="already exists"):
        answered(daemon, lambda: placement_group([{"CPU": 1}], name="x"), "name 'x' already exists")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (({"CPU": 1},), "must be a list"),
        (([],), "must be a non-empty list"),
        (([1],), "resource dictionaries"),
        (([{"CPU": "1"}],), "resource dictionaries"),
        (([{}],), "only 0 values"),
        (([{"CPU": 1}, {"CPU": 0}],), "only 0 values"),
        (([{"CPU": -1}],), "cannot be negative"),
        (([{"CPU": 1}], "EVERYWHERE"), "Invalid placement group strategy"),
        (([{"CPU": 1}], "PACK", "", "forever"), "lifetime"),
    ],
)
def test_bad_arguments(daemon: DaemonSide, arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        placement_group(*arguments)


@pytest.mark.parametrize("selectors", [{}, [], [{}, {}], [{"k": "!!"}]])
def test_bad_selectors_of_bundles(daemon: DaemonSide, selectors: Any) -> None:
    with pytest.raises(ValueError, match=r"bundle label selector|Invalid label selector"):
        placement_group([{"CPU": 1}], bundle_label_selector=selectors)


def test_ready_is_a_ref_that_gets_the_handle(daemon: DaemonSide) -> None:
    group = PlacementGroup(PlacementGroupID(ID), [{"CPU": 1}])
    ref = group.ready()
    _, group_id, object_id, value = daemon.next(GROUP_READY)
    assert (group_id, object_id) == (ID, ref.binary())
    assert pickle.loads(value) == group
    assert not group.wait(timeout_seconds=0)
    _, _, second, value = daemon.next(GROUP_READY)
    daemon.send((VALUE, object_id, PLAIN, value))
    assert ref.future().result(DEADLINE) == group
    assert second != object_id


def test_handles_are_equal_by_id_and_learn_their_bundles_when_they_need_them(daemon: DaemonSide) -> None:
    group = PlacementGroup(PlacementGroupID(ID))
    assert group == PlacementGroup(PlacementGroupID(ID), [])
    assert hash(group) == hash(PlacementGroup(PlacementGroupID(ID), []))
    assert group != ID
    specs, asked = answered(daemon, lambda: group.bundle_specs, ROW)
    assert asked == [["groups", ID]]
    assert specs == group.bundle_specs == [{"CPU": 1}, {"CPU": 0.5, "GPU": 1}]
    lost, _ = answered(daemon, lambda: PlacementGroup(PlacementGroupID(ID)).bundle_specs, None)
    assert lost == []
    assert repr(group) == f"PlacementGroup({ID.hex()})"
    assert (group.is_empty, PlacementGroup.empty().is_empty) == (False, True)


def test_removal(daemon: DaemonSide) -> None:
    group = PlacementGroup(PlacementGroupID(ID), [])
    _, asked = answered(daemon, lambda: groups.remove_placement_group(group), None)
    assert asked == [["remove_group", ID]]
    with pytest.raises(ValueError, match="takes a PlacementGroup"):
        groups.remove_placement_group(ID)  # type: ignore[arg-type]  # as a program may


def test_a_group_is_found_by_its_name(daemon: DaemonSide) -> None:
    group, asked = answered(daemon, lambda: groups.get_placement_group("training"), ROW)
    assert asked == [["find_group", "training"]]
    assert (group.id, group.bundle_count) == (ID, 2)
    with pytest.raises(ValueError, match="Failed to look up placement group with name: x"):
        answered(daemon, lambda: groups.get_placement_group("x"), None)
    with pytest.raises(ValueError, match="non-empty"):
        groups.get_placement_group("")


def test_the_table(daemon: DaemonSide) -> None:
    group = PlacementGroup(PlacementGroupID(ID), [])
    row, _ = answered(daemon, lambda: groups.placement_group_table(group), ROW)
    assert row["bundles"] == {0: {"CPU": 1}, 1: {"CPU": 0.5, "GPU": 1}}
    assert row["bundles_to_node_id"] == {0: (b"n" * 8).hex(), 1: ""}
    assert (row["state"], row["name"], row["stats"]["scheduling_attempt"]) == ("PENDING", "training", 2)
    states = [(None, "QUEUED"), ({"why": "no node"}, "INFEASIBLE"), ({"state": "CREATED"}, "FINISHED")]
    for change, state in states:
        table, asked = answered(daemon, groups.placement_group_table, [{**ROW, **(change or {})}])
        assert asked == [["groups", None]]
        assert table[ID.hex()]["stats"]["scheduling_state"] == state
    assert answered(daemon, lambda: groups.placement_group_table(group), None)[0] == {}


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task that runs in a group and captures its children."""
    monkeypatch.setattr(context, "capturing", True)
    task = TaskContext(b"t" * 22, "f", "m.f")
    task.group = (ID, True)
    context.enter(task)
    yield task
    context.leave(task)


def test_children_of_a_task_that_captures_go_to_its_group(daemon: DaemonSide, inside: TaskContext) -> None:
    assert groups.get_current_placement_group() == PlacementGroup(PlacementGroupID(ID))

    @remote
    def child() -> None: ...

    answered(daemon, child.remote, ROW)
    assert daemon.next(TEMPLATE)[3]["where"] == ("bundle", ID, -1)
    child.options(scheduling_strategy="DEFAULT").remote()
    assert "where" not in daemon.next(TEMPLATE)[3]
    inside.group = (ID, False)
    child.remote()
    assert captured_options({"num_cpus": 2}) == {"num_cpus": 2}
    inside.group = (ID, True)
    strategy: Any = captured_options({})["scheduling_strategy"]
    assert isinstance(strategy, PlacementGroupSchedulingStrategy)
    assert strategy.placement_group_capture_child_tasks
