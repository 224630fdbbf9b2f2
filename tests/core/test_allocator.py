"""The allocator against a model that knows only intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from asyncray.config import ALIGNMENT
from asyncray.core.allocator import LARGE, PAGE, Allocation, Allocator, MissingSegment, StoreFull

SLAB = 4 * PAGE
SIZES = st.one_of(
    st.integers(0, 3 * ALIGNMENT), st.integers(0, SLAB), st.integers(0, 3 * SLAB), st.sampled_from([PAGE, SLAB])
)


def aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def pages(allocation: Allocation) -> range:
    last = allocation.offset + max(allocation.size, 1) - 1
    return range(allocation.offset // PAGE, last // PAGE + 1)


@dataclass
class Model:
    """A segment as its users see it."""

    size: int
    live: list[Allocation] = field(default_factory=list)
    written: set[int] = field(default_factory=set)

    def longest_gap(self) -> int:
        longest = end = 0
        for one in sorted(self.live, key=lambda one: one.offset):
            longest = max(longest, one.offset - end)
            end = one.offset + aligned(one.size)
        return max(longest, self.size - end)


class AllocatorMachine(RuleBasedStateMachine):
    live: Bundle[Allocation] = Bundle("live")
    stale: Bundle[Allocation] = Bundle("stale")
    orders: Bundle[MissingSegment] = Bundle("orders")

    @initialize(capacity=st.sampled_from([SLAB, 3 * SLAB + PAGE, 5 * SLAB + 100]))
    def start(self, capacity: int) -> None:
        self.capacity = capacity
        self.allocator = Allocator("shm", capacity, SLAB)
        self.segments: dict[str, Model] = {}
        self.on_order: dict[str, int] = {}
        self.names: set[str] = set()

    def reserved(self) -> int:
        return sum(segment.size for segment in self.segments.values()) + sum(self.on_order.values())

    def unlink(self, name: str) -> None:
        assert not self.segments.pop(name).live

    def expect_order(self, answer: MissingSegment, size: int) -> None:
        for name in answer.retire:
            self.unlink(name)
        assert answer.name not in self.names
        assert answer.size % PAGE == 0
        assert answer.size >= aligned(size)
        room = (self.capacity - self.reserved()) // PAGE * PAGE
        needed = -(-aligned(size) // PAGE) * PAGE
        assert answer.size == min(needed if needed > SLAB // LARGE else SLAB, room)
        self.names.add(answer.name)
        self.on_order[answer.name] = answer.size

    def expect_full(self, answer: StoreFull, size: int) -> None:
        assert (answer.size, answer.capacity, answer.used) == (size, self.capacity, self.allocator.used)
        spare = sum(segment.size for segment in self.segments.values() if not segment.live)
        assert self.capacity - self.reserved() + spare < -(-aligned(size) // PAGE) * PAGE

    def expect_range(self, answer: Allocation, size: int) -> None:
        segment = self.segments[answer.segment]
        end = answer.offset + aligned(size)
        assert answer.size == size
        assert answer.offset % ALIGNMENT == 0
        assert end <= segment.size
        for other in segment.live:
            assert end <= other.offset or other.offset + aligned(other.size) <= answer.offset
        assert answer.warm == segment.written.issuperset(pages(answer))
        segment.live.append(answer)

    @rule(target=live, size=SIZES)
    def allocate(self, size: int) -> Allocation:
        """As the shell does it: orders are carried out at once, and then it fits."""
        answer = self.allocator.allocate(size)
        if isinstance(answer, MissingSegment):
            self.expect_order(answer, size)
            self.created(answer)
            answer = self.allocator.allocate(size)
            assert isinstance(answer, Allocation)
        if isinstance(answer, StoreFull):
            self.expect_full(answer, size)
            return multiple()  # type: ignore[return-value] # Hypothesis: nothing for the bundle
        assert isinstance(answer, Allocation)
        self.expect_range(answer, size)
        return answer

    @rule(target=orders, size=SIZES)
    def order(self, size: int) -> MissingSegment:
        """A slow shell: the order stays open over other events."""
        gaps = [segment.longest_gap() for segment in self.segments.values()]
        if any(gap >= aligned(size) for gap in gaps):
            return multiple()  # type: ignore[return-value] # Hypothesis: nothing for the bundle
        answer = self.allocator.allocate(size)
        if isinstance(answer, StoreFull):
            self.expect_full(answer, size)
            return multiple()  # type: ignore[return-value] # Hypothesis: nothing for the bundle
        assert isinstance(answer, MissingSegment)
        self.expect_order(answer, size)
        return answer

    @rule(order=consumes(orders))
    def created(self, order: MissingSegment) -> None:
        self.segments[order.name] = Model(self.on_order.pop(order.name))
        self.allocator.segment_created(order.name)

    @rule(order=consumes(orders))
    def failed(self, order: MissingSegment) -> None:
        del self.on_order[order.name]
        self.allocator.segment_failed(order.name)
        with pytest.raises(AssertionError, match=f"{order.name} is not on order"):
            self.allocator.segment_created(order.name)

    @rule(allocation=live)
    def written(self, allocation: Allocation) -> None:
        self.allocator.written(allocation)
        self.segments[allocation.segment].written.update(pages(allocation))
        assert allocation.warm

    @rule(target=stale, allocation=consumes(live))
    def release(self, allocation: Allocation) -> Allocation:
        self.allocator.release(allocation)
        self.segments[allocation.segment].live.remove(allocation)
        return allocation

    @rule(allocation=stale)
    def misuse(self, allocation: Allocation) -> None:
        with pytest.raises(AssertionError, match=r"cannot release .* not live"):
            self.allocator.release(allocation)
        with pytest.raises(AssertionError, match=r"cannot mark as written .* not live"):
            self.allocator.written(allocation)

    @rule(keep=st.sampled_from([0, SLAB, 3 * SLAB]))
    def trim(self, keep: int) -> None:
        for name in self.allocator.trim(keep):
            self.unlink(name)
        assert sum(segment.size for segment in self.segments.values() if not segment.live) <= keep

    @invariant()
    def agrees(self) -> None:
        self.allocator.check()
        assert self.allocator.reserved == self.reserved() <= self.capacity
        taken = sum(aligned(one.size) for segment in self.segments.values() for one in segment.live)
        assert self.allocator.used == taken
        for name, segment in self.segments.items():
            bounds = self.allocator._segments[name].warm  # seen through warm allocations too, but rarely at each edge
            ranges = zip(bounds[::2], bounds[1::2], strict=True)
            assert {page for first, after in ranges for page in range(first, after)} == segment.written


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def filled(capacity: int, *sizes: int, slab: int = SLAB) -> tuple[Allocator, list[Allocation]]:
    allocator = Allocator("shm", capacity, slab)
    taken = []
    for size in sizes:
        answer = allocator.allocate(size)
        if isinstance(answer, MissingSegment):
            allocator.segment_created(answer.name)
            answer = allocator.allocate(size)
        assert isinstance(answer, Allocation)
        taken.append(answer)
    return allocator, taken


def test_double_release_tells_the_story_of_the_range() -> None:
    allocator, (first, second) = filled(SLAB, 100, 200)
    allocator.release(first)
    again = allocator.allocate(100)
    assert isinstance(again, Allocation)
    assert (again.segment, again.offset) == (first.segment, first.offset)
    with pytest.raises(AssertionError) as caught:
        allocator.release(first)
    assert "recently in shm-0: created 0+16384, allocated 0+100, released 0+100, allocated 0+100" in str(caught.value)
    allocator.release(again)
    allocator.release(second)
    assert allocator.used == 0


@given(order=st.lists(st.integers(0, 15), unique=True))
def test_halves_of_pages_written_in_any_order_warm_whole_pages(order: list[int]) -> None:
    half = PAGE // 2
    allocator, taken = filled(2 * SLAB, *[half] * 16)
    for index in order:
        allocator.written(taken[index])
        allocator.check()
    for one in taken:
        allocator.release(one)
    warm = {(taken[index].segment, taken[index].offset // PAGE) for index in order}
    for _ in range(16):
        again = allocator.allocate(half)
        assert isinstance(again, Allocation)
        assert again.warm == ((again.segment, again.offset // PAGE) in warm)


def test_what_was_written_comes_back_warm_and_best_fit_spares_big_ranges() -> None:
    allocator, (big, small, _last) = filled(SLAB, 2 * PAGE, PAGE, PAGE // 2, slab=2 * LARGE * PAGE)
    allocator.written(big)
    allocator.release(big)
    allocator.release(small)  # its writer died: never written
    whole = allocator.allocate(3 * PAGE)
    assert isinstance(whole, Allocation)
    assert not whole.warm
    allocator.release(whole)
    tiny = allocator.allocate(1)
    assert isinstance(tiny, Allocation)
    assert tiny.offset == 3 * PAGE + PAGE // 2  # the short rest, not the long range before it
    again = allocator.allocate(2 * PAGE)
    assert isinstance(again, Allocation)
    assert (again.offset, again.warm) == (0, True)


def test_objects_that_would_waste_half_a_slab_fill_the_store() -> None:
    size = SLAB // 2 + PAGE
    allocator, taken = filled(8 * size, *[size] * 8)
    assert allocator.used == allocator.capacity
    assert len({one.segment for one in taken}) == 8


def test_free_segments_make_room_for_a_bigger_one_and_no_more_than_needed() -> None:
    allocator, taken = filled(4 * SLAB, SLAB, SLAB, 2 * SLAB)
    assert isinstance(allocator.allocate(1), StoreFull)
    for one in taken:
        allocator.release(one)
    answer = allocator.allocate(2 * SLAB + PAGE)
    assert answer == MissingSegment("shm-3", 2 * SLAB + PAGE, ("shm-2", "shm-0"))
    assert allocator.reserved == 3 * SLAB + PAGE
    allocator.segment_failed("shm-3")
    assert allocator.reserved == SLAB
    allocator.check()
    assert allocator.trim(keep=SLAB) == []
    assert allocator.trim(keep=SLAB - 1) == ["shm-1"]


def test_sizes_at_the_edges() -> None:
    allocator = Allocator("shm", 10 * PAGE, SLAB)
    with pytest.raises(ValueError, match="cannot allocate -1 bytes"):
        allocator.allocate(-1)
    assert allocator.allocate(10 * PAGE + 1) == StoreFull(10 * PAGE + 1, 10 * PAGE, 0)
    assert allocator.allocate(SLAB + 1) == MissingSegment("shm-0", SLAB + PAGE, ())
    assert allocator.allocate(0) == MissingSegment("shm-1", SLAB, ())
    assert allocator.allocate(1) == MissingSegment("shm-2", PAGE, ())  # what is left of the capacity
    assert isinstance(allocator.allocate(1), StoreFull)
