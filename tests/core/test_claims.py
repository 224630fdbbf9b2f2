"""Claims for room: each ends once, and reports when it begins and ends to wait."""

from __future__ import annotations

from typing import Any

from asyncray.core.allocator import Allocation, Allocator, MissingSegment
from asyncray.core.claims import Claim


def room() -> Allocation:
    allocator = Allocator("seg", 8192)
    missing = allocator.allocate(64)
    assert isinstance(missing, MissingSegment)
    allocator.segment_created(missing.name)
    found = allocator.allocate(64)
    assert isinstance(found, Allocation)
    return found


def claim(heard: list[Any], *, waits: bool = True) -> Claim:
    def record(name: str) -> Any:
        return lambda value: heard.append((name, value))

    return Claim(64, record("granted"), record("refused"), record("waits") if waits else None)


def test_a_claim_ends_with_room_or_with_a_reason() -> None:
    heard: list[Any] = []
    found = room()
    claim(heard).answer(found)
    claim(heard).answer("the store is full")
    assert heard == [("granted", found), ("refused", "the store is full")]


def test_a_claim_that_had_to_wait_says_when_it_begins_and_ends_before_the_answer() -> None:
    for waits, said in ((True, [("waits", True), ("waits", False)]), (False, [])):
        heard: list[Any] = []
        waiting = claim(heard, waits=waits)
        waiting.block()
        waiting.answer("no")
        assert heard == [*said, ("refused", "no")]


def test_a_withdrawn_claim_says_nothing_any_more() -> None:
    heard: list[Any] = []
    early, late = claim(heard), claim(heard)
    early.withdrawn = True
    early.block()
    late.block()
    late.withdrawn = True
    for each in (early, late):
        each.answer(room())
        each.answer("no")
    assert heard == [("waits", True)]
