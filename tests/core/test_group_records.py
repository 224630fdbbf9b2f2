"""The record of a placement group."""

from __future__ import annotations

import pytest

from asyncray.core.group_records import (
    COMMITTED,
    CREATED,
    GROUP_PREPARED,
    PREPARING,
    REMOVED,
    PlacedBundle,
    PlacedGroup,
)

HOME = b"homehome"


def group() -> PlacedGroup:
    bundles = [PlacedBundle((("CPU", 1),), ()) for _ in range(3)]
    for bundle, node, stage in zip(bundles, (b"a", b"b", b"a"), (COMMITTED, PREPARING, COMMITTED), strict=True):
        bundle.node, bundle.stage, bundle.attempt = node, stage, 2
    return PlacedGroup(HOME + b"-group", ("ns", ""), "PACK", bundles, detached=False)


def test_states_follow_one_another_as_the_table_says() -> None:
    found = group()
    with pytest.raises(AssertionError, match="cannot become CREATED"):
        found.move(CREATED)
    found.move(GROUP_PREPARED)
    found.move(CREATED)
    found.move(REMOVED)
    with pytest.raises(AssertionError, match="cannot become CREATED"):
        found.move(CREATED)


def test_bundles_are_found_by_stage_and_attempt() -> None:
    found = group()
    assert found.home == HOME
    assert found.where(COMMITTED) == {b"a": [0, 2]}
    assert found.pairs([0, 1]) == [(0, 2), (1, 2)]
    assert found.is_at(b"a", (2, 2)) is found.bundles[2]
    assert found.is_at(b"a", (2, 1)) is None
    assert found.is_at(b"b", (2, 2)) is None


def test_a_row_shows_only_places_that_are_decided() -> None:
    found = group()
    assert found.row()["nodes"] == [b"a", None, b"a"]
    found.bundles[0].leave()
    assert found.row()["nodes"] == [None, None, b"a"]
