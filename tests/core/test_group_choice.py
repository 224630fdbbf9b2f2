"""The choice of nodes for bundles, by strategy."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asyncray.core.group_choice import (
    PACK,
    SPREAD,
    STRATEGIES,
    STRICT_PACK,
    STRICT_SPREAD,
    NodeRoom,
    Wish,
    choose,
    load_of,
    obstacle,
)
from asyncray.core.placements import IN
from asyncray.units import UNIT, fixed

NOTHING: Mapping[bytes, int] = {}


def room(name: str, cpus: float, used: float = 0, **labels: str) -> NodeRoom:
    total = dict(fixed({"CPU": cpus}))
    free = {"CPU": round((cpus - used) * UNIT)}
    return NodeRoom(name.encode(), total, free, labels, load_of(total, free))


def wishes(*cpus: float) -> list[Wish]:
    return [Wish(index, fixed({"CPU": amount}), ()) for index, amount in enumerate(cpus)]


def nodes(found: Mapping[int, bytes] | None) -> str:
    """The nodes of the bundles, in their order."""
    return "none" if found is None else "".join(found[index].decode() for index in sorted(found))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(PACK, "aaa"), (STRICT_PACK, "aaa"), (SPREAD, "abc"), (STRICT_SPREAD, "abc")],
)
def test_each_strategy_on_three_idle_nodes(strategy: str, expected: str) -> None:
    rooms = [room("a", 4), room("b", 4), room("c", 4)]
    assert nodes(choose(strategy, wishes(1, 1, 1), rooms, NOTHING)) == expected
    assert [r.free["CPU"] for r in rooms] == 3 * [4 * UNIT]


def test_pack_takes_the_fullest_node_that_has_room_for_all() -> None:
    assert (
        nodes(choose(PACK, wishes(1, 1), [room("a", 4), room("b", 4, used=2), room("c", 4, used=3)], NOTHING)) == "bb"
    )


def test_pack_uses_few_nodes_where_one_is_not_enough() -> None:
    assert sorted(nodes(choose(PACK, wishes(1, 1, 1, 1), [room("a", 3), room("b", 1), room("c", 2)], NOTHING))) == [
        *"aaab"
    ]


def test_pack_joins_the_bundles_that_have_a_place() -> None:
    assert nodes(choose(PACK, wishes(1), [room("a", 2), room("b", 2)], {b"b": 1})) == "b"


def test_spread_puts_several_bundles_on_a_node_if_there_are_too_few_nodes() -> None:
    assert sorted(nodes(choose(SPREAD, wishes(1, 1, 1, 1, 1), [room("a", 4), room("b", 4)], NOTHING))) in (
        [*"aaabb"],
        [*"aabbb"],
    )


def test_spread_prefers_nodes_that_are_used_little() -> None:
    assert nodes(choose(SPREAD, wishes(1), [room("a", 4, used=2), room("b", 4, used=1)], NOTHING)) == "b"


def test_strict_pack_needs_room_for_all_on_one_node() -> None:
    assert choose(STRICT_PACK, wishes(2, 2), [room("a", 3), room("b", 3)], NOTHING) is None
    assert nodes(choose(STRICT_PACK, wishes(2, 2), [room("a", 3), room("b", 5)], NOTHING)) == "bb"


def test_strict_spread_moves_bundles_aside_until_all_fit() -> None:
    """The least used node comes first for the small bundle, but it is the only one that the large bundle fits on."""
    rooms = [room("a", 8, used=4), room("b", 2, used=1), room("c", 16)]
    assert nodes(choose(STRICT_SPREAD, wishes(1, 4, 9), rooms, NOTHING)) == "bac"
    assert choose(STRICT_SPREAD, wishes(1, 1, 1, 1), rooms, NOTHING) is None


def test_strict_spread_of_many_bundles_does_not_recurse_deeply() -> None:
    rooms = [room(chr(1000 + number), 1 + number % 3) for number in range(600)]
    found = choose(STRICT_SPREAD, wishes(*[1] * 600), rooms, NOTHING)
    assert found is not None
    assert len(set(found.values())) == 600


def test_strict_spread_avoids_nodes_that_have_a_bundle_of_the_group() -> None:
    assert nodes(choose(STRICT_SPREAD, wishes(1), [room("a", 4), room("b", 4, used=3)], {b"a": 1})) == "b"
    assert choose(STRICT_SPREAD, wishes(1), [room("a", 4)], {b"a": 1}) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_labels_of_nodes_are_kept(strategy: str) -> None:
    wish = Wish(0, fixed({"CPU": 1}), (("zone", IN, ("east",)),))
    rooms = [room("a", 4), room("b", 4, used=3, zone="east"), room("c", 4, zone="west")]
    assert nodes(choose(strategy, [wish], rooms, NOTHING)) == "b"


@pytest.mark.parametrize(
    ("strategy", "cpus", "expected"),
    [
        (PACK, (1, 1), ""),
        (PACK, (1, 5), "no node has the 5 CPU of bundle 1"),
        (STRICT_PACK, (4, 4), "no node has room for all its bundles together"),
        (STRICT_SPREAD, (1, 1, 1), "STRICT_SPREAD needs 3 nodes that fit, and the cluster has 2 nodes"),
        (SPREAD, (4, 4, 4), "the cluster of 2 nodes has no room for all its bundles"),
    ],
)
def test_an_obstacle_is_one_that_idle_nodes_would_have_too(strategy: str, cpus: tuple[int, ...], expected: str) -> None:
    assert obstacle(strategy, wishes(*cpus), [room("a", 4, used=4), room("b", 4)]) == expected
