"""Measures: repeats work, times it, and checks that it was done.

A row hands its call to a ``Bench``, which warms up, repeats and returns ``Figures``. It checks the result of the call
in every repetition, outside of the measured time. Sized for about two seconds a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

REPETITIONS = 4
"""As Ray's own benchmark."""

_PERIOD = 0.5
_WARM_UP = 0.4

_MOST_LATENCIES = 20_000


@dataclass(frozen=True)
class Figures:
    """What was measured: a value for each repetition, and the median time of a single call in seconds, if known."""

    values: list[float]
    p50: float | None = None

    @property
    def value(self) -> float:
        """The median of the repetitions: other programs on the machine spoil single ones."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Row:
    """A line of the benchmark.

    Args:
        name: Ray's, where Ray has it.
        unit: of the figure. Less is better unless it is a rate.
        measure: does the work.
        session: measure inside a session of its own; otherwise the row starts what it needs.
        slow: takes a minute; not measured unless named.
    """

    name: str
    unit: str
    measure: Callable[[Bench], Figures]
    session: bool = True
    slow: bool = False

    @property
    def is_rate(self) -> bool:
        """True if more is better."""
        return self.unit.endswith("/s")


class Bench:
    """Measures one row.

    Args:
        scale: 1 for figures that mean something; less makes time, counts and sizes smaller, to try the code.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.checks = 0

    def __repr__(self) -> str:
        return f"<Bench scale={self.scale:g}, {self.checks} checks>"

    def sized(self, number: int) -> int:
        """A count or a size, scaled."""
        return max(1, int(number * self.scale))

    def check(self, right: bool, what: str = "the result") -> None:  # noqa: FBT001 - a result, not a flag
        """Raises RuntimeError where a row did not do its work."""
        self.checks += 1
        if not right:
            raise RuntimeError(f"{what} is wrong: the work was not done")

    def rate(self, call: Callable[[], Any], right: Callable[[Any], bool], work: float = 1) -> Figures:
        """Calls for a while; the units of work per second.

        Args:
            right: whether what the call returned is right.
            work: units that one call does.
        """
        steps = self._warm_up(call, right) // 10 + 1
        values = []
        for _ in range(REPETITIONS):
            result, count, began = None, 0, perf_counter()
            while (elapsed := perf_counter() - began) < _PERIOD * self.scale or not count:
                for _ in range(steps):
                    result = call()
                count += steps
            self.check(right(result))
            values.append(work * count / elapsed)
        return Figures(values)

    def rate_with_latency(self, call: Callable[[], Any], right: Callable[[Any], bool]) -> Figures:
        """The same, and the median time of a call."""
        self._warm_up(call, right)
        values: list[float] = []
        latencies: list[float] = []
        for _ in range(REPETITIONS):
            result, count, began = None, 0, perf_counter()
            last = began
            while last - began < _PERIOD * self.scale or not count:
                result = call()
                now = perf_counter()
                if len(latencies) < _MOST_LATENCIES:
                    latencies.append(now - last)
                last = now
                count += 1
            self.check(right(result))
            values.append(count / (last - began))
        return Figures(values, statistics.median(latencies))

    def seconds(self, call: Callable[[], Any], right: Callable[[Any], bool], times: int = REPETITIONS) -> Figures:
        """Calls a few times; the seconds that each took."""
        self.check(right(call()))
        return Figures([self.time(call, right) for _ in range(times if self.scale >= 1 else 1)])

    def time(self, call: Callable[[], Any], right: Callable[[Any], bool]) -> float:
        """Calls once; the seconds that it took."""
        began = perf_counter()
        result = call()
        elapsed = perf_counter() - began
        self.check(right(result))
        return elapsed

    def _warm_up(self, call: Callable[[], Any], right: Callable[[Any], bool]) -> int:
        count, began, result = 0, perf_counter(), None
        while not count or perf_counter() - began < _WARM_UP * self.scale:
            result = call()
            count += 1
        self.check(right(result))
        return count
