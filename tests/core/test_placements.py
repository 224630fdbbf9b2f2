"""Placements as values and as lists in messages."""

from typing import Any

import msgpack
import pytest

from asyncray.core.placements import (
    ABSENT,
    EXISTS,
    IN,
    NOT_IN,
    SPREAD,
    Affinity,
    Bundle,
    Condition,
    Conditions,
    Labels,
    Selectors,
    meets,
    read_where,
    written,
)

NODE = b"\x01" * 8

PLACEMENTS = [
    SPREAD,
    Affinity(NODE, soft=True),
    Affinity(NODE, soft=False),
    Labels(hard=(("zone", IN, ("a", "b")),), soft=(("disk", EXISTS, ()),)),
    Selectors(alternatives=((("zone", NOT_IN, ("a",)),), (("zone", ABSENT, ()),))),
    Bundle(NODE * 2, 3),
    Bundle(NODE * 2, -1),
]


@pytest.mark.parametrize("where", PLACEMENTS, ids=repr)
def test_a_placement_travels_in_a_message(where: Any) -> None:
    assert read_where(msgpack.unpackb(msgpack.packb(written(where)))) == where


def test_placements_of_different_kinds_are_different_keys() -> None:
    # As tuples these two would be the same key.
    assert len({Affinity(NODE, soft=True), Bundle(NODE, 1)}) == 2
    assert len(dict.fromkeys(PLACEMENTS)) == len(PLACEMENTS)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["nowhere"],
        ["spread", 1],
        ["bundle", "text", 0],
        ["bundle", NODE],
        ["affinity", NODE, 1],
        ["affinity", "node", True],
        ["labels", [["zone", "like", ["a"]]], []],
        ["labels", [["zone", IN, [1]]], []],
        ["selectors", 1],
    ],
)
def test_a_list_that_is_no_placement_is_refused(parts: list[Any]) -> None:
    with pytest.raises(ValueError, match="is no placement"):
        read_where(parts)


@pytest.mark.parametrize(
    ("condition", "with_a", "with_b", "without"),
    [
        (("zone", IN, ("a", "c")), True, False, False),
        (("zone", NOT_IN, ("a", "c")), False, True, True),
        (("zone", EXISTS, ()), True, True, False),
        (("zone", ABSENT, ()), False, False, True),
    ],
)
def test_conditions_on_a_label(condition: Condition, with_a: bool, with_b: bool, without: bool) -> None:
    assert [meets(labels, (condition,)) for labels in ({"zone": "a"}, {"zone": "b"}, {})] == [with_a, with_b, without]


def test_all_conditions_must_hold() -> None:
    conditions: Conditions = (("zone", IN, ("a",)), ("disk", EXISTS, ()))
    assert not meets({"zone": "a"}, conditions)
    assert meets({"zone": "a", "disk": "ssd"}, conditions)
    assert meets({}, ())
