"""Parked shapes: shapes without a lease that could not get one when the scheduler looked last.

A scheduler that looks at each waiting shape after each event needs milliseconds when thousands wait. So a shape that
gets no lease is parked in a group: the shapes of one kind (job, GPU or not, constructors or not) that lack the same
resource of the same account, or only a process. While an account has less of the resource than the smallest demand of
the group, the group costs one comparison. When the account has more, the group finds the first shape in the order of
service that fits, without a walk over those that do not fit: it keeps its shapes in blocks, and the smallest demand of
each block. If a shape finds no process, the scheduler skips the others of its kind in that round: they would find none
either.

Invariants (``check``): a parked shape has a task and no lease; its place is that of its depth and turn. After a round
it fits into its account only if no worker is free for it (``Scheduler.check_round``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from asyncray.core.leases import Shape
from asyncray.core.records import Job
from asyncray.core.resources import Account

_LONGEST_BLOCK = 64

Precedence = tuple[int, int]
"""A place in the order of service: the negative depth of the first task, and the turn of the shape."""

WorkerKind = tuple[Job, bool, bool]
"""Job, whether the shapes need GPUs, whether their tasks are constructors. Shapes of a kind use the same processes."""

GroupKey = tuple[WorkerKind, Account, str]
"""The kind of the shapes, the account, and what they lack there."""


def worker_kind(shape: Shape) -> WorkerKind:
    """Returns the kind of a shape."""
    return shape.job, shape.gpu, shape.lives


class _Block:
    """Up to 64 shapes with consecutive places."""

    __slots__ = ("amounts", "least", "places", "shapes")

    def __init__(self, places: list[Precedence], shapes: list[Shape], amounts: list[int]) -> None:
        self.places = places
        self.shapes = shapes
        self.amounts = amounts
        self.least = min(amounts)


class Group:
    """Parked shapes that lack the same.

    Args:
        key: what they have in common. ``lacking`` is empty if they lack only a process.
    """

    __slots__ = ("_account", "_amounts", "_blocks", "key", "lacking", "places")

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        _, self._account, self.lacking = key
        # The parked shapes, with their places and the amounts that they need.
        self.places: dict[Shape, tuple[Precedence, int]] = {}
        # The amounts, ascending.
        self._amounts: list[int] = []
        self._blocks: list[_Block] = []

    def __repr__(self) -> str:
        return f"<Group of {len(self.places)} that lack {self.lacking or 'a process'}>"

    def _room(self) -> int:
        return self._account.room(self.lacking) if self.lacking else 0

    @property
    def may_fit(self) -> bool:
        """True if the account has what a shape of the group lacks."""
        return self._amounts[0] <= self._room()

    @property
    def lacks_resources(self) -> bool:
        """True if the account does not have what a shape of the group lacks."""
        return self._amounts[-1] > self._room()

    def add(self, shape: Shape, place: Precedence, amount: int) -> None:
        """Parks a shape."""
        self.places[shape] = place, amount
        insort(self._amounts, amount)
        if not self._blocks:
            self._blocks.append(_Block([place], [shape], [amount]))
            return
        at = self._block_of(place)
        block = self._blocks[at]
        index = bisect_left(block.places, place)
        block.places.insert(index, place)
        block.shapes.insert(index, shape)
        block.amounts.insert(index, amount)
        block.least = min(block.least, amount)
        if len(block.places) > _LONGEST_BLOCK:
            half = _LONGEST_BLOCK // 2
            self._blocks[at : at + 1] = [
                _Block(block.places[:half], block.shapes[:half], block.amounts[:half]),
                _Block(block.places[half:], block.shapes[half:], block.amounts[half:]),
            ]

    def _block_of(self, place: Precedence) -> int:
        """Returns the index of the last block that begins at or before the place, or 0."""
        return max(0, bisect_right(self._blocks, place, key=lambda block: block.places[0]) - 1)

    def remove(self, shape: Shape) -> None:
        """The shape is parked no more."""
        place, amount = self.places.pop(shape)
        del self._amounts[bisect_left(self._amounts, amount)]
        at = self._block_of(place)
        block = self._blocks[at]
        index = bisect_left(block.places, place)
        del block.places[index], block.shapes[index], block.amounts[index]
        if not block.places:
            del self._blocks[at]
        elif amount == block.least:
            block.least = min(block.amounts)

    def first(self) -> tuple[Precedence, Shape] | None:
        """Returns the first shape for which the account has what it lacked, and its place."""
        room = self._room()
        for block in self._blocks:
            if block.least <= room:
                index = next(index for index, amount in enumerate(block.amounts) if amount <= room)
                return block.places[index], block.shapes[index]
        return None

    def check(self) -> None:
        """Raises AssertionError if the blocks contradict the places."""
        rows = [row for b in self._blocks for row in zip(b.places, b.shapes, b.amounts, strict=True)]
        assert rows == sorted(rows, key=lambda row: row[0]), f"{self} is out of order"
        assert {shape: (place, amount) for place, shape, amount in rows} == self.places, f"{self} is incomplete"
        assert self._amounts == sorted(amount for _, _, amount in rows), f"{self} has wrong amounts"
        assert all(block.least == min(block.amounts) for block in self._blocks), f"{self} has wrong minima"


class Parking:
    """All parked shapes."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, Group] = {}
        # Shapes whose demand is larger than the whole account.
        self._hopeless: dict[Shape, None] = {}
        # The group of each parked shape that is not hopeless.
        self._group_of: dict[Shape, Group] = {}

    def __repr__(self) -> str:
        return f"<Parking of {len(self)} shapes>"

    def __len__(self) -> int:
        return len(self._group_of) + len(self._hopeless)

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._group_of or shape in self._hopeless

    def __iter__(self) -> Iterator[Shape]:
        yield from self._group_of
        yield from self._hopeless

    def park(self, shape: Shape) -> None:
        """Parks a shape that has a task and no lease."""
        account = shape.account
        if not account.feasible(shape.demand):
            self._hopeless[shape] = None
            return
        lacking, amount = account.shortage(shape.demand) or ("", 0)
        key = (worker_kind(shape), account, lacking)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        group.add(shape, (-shape.depths[-1], shape.turn), amount)
        self._group_of[shape] = group

    def remove(self, shape: Shape) -> None:
        """The shape is parked no more."""
        group = self._group_of.pop(shape, None)
        if group is None:
            del self._hopeless[shape]
            return
        group.remove(shape)
        if not group.places:
            del self._groups[group.key]

    def first(self, skipped: dict[WorkerKind, None]) -> tuple[Precedence, Shape] | None:
        """Returns the first shape for which the account has what it lacked, and its place.

        Args:
            skipped: the kinds of shapes that found no process in this round.
        """
        best: tuple[Precedence, Shape] | None = None
        for (kind, _, _), group in self._groups.items():
            if group.may_fit and kind not in skipped:
                found = group.first()
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
        return best

    def starves(self, *, processes_start: bool) -> bool:
        """True if a shape waits for what the leases of others hold."""
        return any(not processes_start or group.lacks_resources for group in self._groups.values())

    def check(self) -> None:
        """Raises AssertionError if a shape is parked that has a lease or no task, or at a wrong place."""
        for group in self._groups.values():
            group.check()
            for shape, (place, _) in group.places.items():
                assert self._group_of.get(shape) is group, f"{shape} is in two groups"
                assert place == (-shape.depths[-1], shape.turn), f"{shape} is at a wrong place"
        for shape in self:
            assert not shape.leases, f"{shape} is parked and served"
            assert shape.peek() is not None, f"{shape} is parked without a task"
