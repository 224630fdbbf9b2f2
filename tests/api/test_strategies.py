"""Strategies: their checks, and the lists that they become in the specs of templates."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from asyncray.api.options import validate_task_options
from asyncray.api.placement_groups import PlacementGroup
from asyncray.api.strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
    place,
    where_of,
)
from asyncray.core.placements import read_where
from asyncray.ids import PlacementGroupID

NODE = "0123456789abcdef"
ID = b"g" * 22
GROUP = PlacementGroup(PlacementGroupID(ID), [{"CPU": 1}, {"CPU": 2, "GPU": 1}])


def wrong(argument: object) -> Any:
    """An argument as a program without type checks may give it."""
    return argument


def where(strategy: Any = None, demand: dict[str, float] | None = None, **options: Any) -> list[Any] | None:
    named = validate_task_options({"scheduling_strategy": strategy, **options}, in_options=True)
    found = where_of(named, {"CPU": 1} if demand is None else demand, "function f")
    if found is not None:
        read_where(found)
    return found


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (None, None),
        ("DEFAULT", None),
        ("SPREAD", ["spread"]),
        (NodeAffinitySchedulingStrategy(NODE, soft=True), ["affinity", bytes.fromhex(NODE), True]),
        (
            NodeLabelSchedulingStrategy({"zone": In("a", "b"), "disk": Exists()}, soft={"old": DoesNotExist()}),
            ["labels", [["zone", "in", ["a", "b"]], ["disk", "exists", []]], [["old", "absent", []]]],
        ),
        (
            NodeLabelSchedulingStrategy(None, soft={"zone": NotIn("a")}),
            ["labels", [], [["zone", "not_in", ["a"]]]],
        ),
        (PlacementGroupSchedulingStrategy(GROUP), ["bundle", ID, -1]),
        (PlacementGroupSchedulingStrategy(GROUP, 1), ["bundle", ID, 1]),
        (PlacementGroupSchedulingStrategy(None), None),
        (PlacementGroupSchedulingStrategy(PlacementGroup.empty()), None),
    ],
    ids=repr,
)
def test_where_a_strategy_leads(strategy: Any, expected: Any) -> None:
    assert where(strategy) == expected


@pytest.mark.parametrize(
    ("expression", "operator", "values"),
    [("a", "in", ["a"]), ("!a", "not_in", ["a"]), ("in(a, b)", "in", ["a", "b"]), ("!in(a,b)", "not_in", ["a", "b"])],
)
def test_label_selectors(expression: str, operator: str, values: list[str]) -> None:
    assert where(label_selector={"zone": expression}) == ["selectors", [[["zone", operator, values]]]]


def test_fallbacks_follow_the_selector_in_their_order() -> None:
    found = where(label_selector={"k": "a"}, fallback_strategy=[{"label_selector": {"k": "b"}}, {"label_selector": {}}])
    assert found == ["selectors", [[["k", "in", ["a"]]], [["k", "in", ["b"]]], []]]
    assert where(label_selector={}) is None


def test_a_selector_and_a_strategy_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        where(NodeAffinitySchedulingStrategy(NODE, soft=True), label_selector={"k": "v"})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NodeLabelSchedulingStrategy({}), "cannot both be empty"),
        (
            lambda: NodeLabelSchedulingStrategy(wrong({1: In("a")})),
            "The map key of the hard parameter must be of type str",
        ),
        (lambda: NodeLabelSchedulingStrategy(None, soft=wrong([1])), "The soft parameter must be a map"),
        (
            lambda: NodeLabelSchedulingStrategy({"k": "a"}),
            "must be one of the `In`, `NotIn`, `Exists` or `DoesNotExist`",
        ),
        (lambda: In(), "The variadic parameter of the In operator must be a non-empty tuple"),
        (lambda: NotIn(), "The variadic parameter of the NotIn operator must be a non-empty tuple"),
        (lambda: In(wrong(1)), "Type of value in position 0 for the In operator must be str"),
        (lambda: NodeAffinitySchedulingStrategy("node", soft=True), "non-hexadecimal"),
    ],
)
def test_bad_arguments(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_node_id_is_text() -> None:
    with pytest.raises(TypeError, match="hexadecimal"):
        NodeAffinitySchedulingStrategy(b"node", soft=True)  # type: ignore[arg-type]  # as a program may


@pytest.mark.parametrize(
    ("strategy", "demand", "match"),
    [
        (PlacementGroupSchedulingStrategy(GROUP, 2), {}, "placement group bundle index 2 is invalid"),
        (PlacementGroupSchedulingStrategy(GROUP, -2), {}, "placement group bundle index -2 is invalid"),
        (PlacementGroupSchedulingStrategy(None, 0), {}, "must be -1"),
        (PlacementGroupSchedulingStrategy(GROUP), {"CPU": 3}, "cannot fit into any bundles"),
        (PlacementGroupSchedulingStrategy(GROUP, 0), {"GPU": 1}, "cannot fit into bundle 0"),
    ],
)
def test_requests_that_no_bundle_meets(strategy: Any, demand: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        where(strategy, demand)


def test_equal_strategies_are_equal_keys() -> None:
    copy = PlacementGroup(PlacementGroupID(ID))
    pairs: list[tuple[Any, Any]] = [
        (NodeAffinitySchedulingStrategy(NODE, soft=True), NodeAffinitySchedulingStrategy(NODE, soft=True)),
        (NodeLabelSchedulingStrategy({"a": In("b")}), NodeLabelSchedulingStrategy({"a": In("b")})),
        (PlacementGroupSchedulingStrategy(GROUP, 1), PlacementGroupSchedulingStrategy(copy, 1)),
    ]
    for one, other in pairs:
        assert one == other
        assert hash(one) == hash(other)
        assert pickle.loads(pickle.dumps(one)) == one
    assert len({one for one, _ in pairs}) == 3
    assert PlacementGroupSchedulingStrategy(GROUP, 1) != PlacementGroupSchedulingStrategy(GROUP, 1, True)
    assert In("a") != NotIn("a")


@pytest.mark.parametrize("captures", [None, False, True])
def test_a_spec_names_the_group_for_the_worker(captures: bool | None) -> None:
    spec: Any = {"options": {}}
    place(spec, {"scheduling_strategy": PlacementGroupSchedulingStrategy(GROUP, 0, captures)}, {}, "function f")
    assert spec == {"where": ["bundle", ID, 0], "options": {"group": [ID, bool(captures)]}}
    plain: Any = {"options": {}}
    place(plain, {}, {}, "function f")
    assert plain == {"options": {}}
