"""One deadline for several steps."""

from __future__ import annotations

import time

import pytest

from asyncray.runtime import deadlines
from asyncray.runtime.deadlines import Deadline


class Clock:
    """The time, which passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_each_step_gets_what_those_before_it_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(left: float) -> None:
        got.append(left)
        clock.now += left / 2

    clock = Clock()
    got: list[float] = []
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    deadlines.share(4.0, last, last, last)
    assert got == [4.0, 2.0, 1.0]
    deadline = Deadline(1.0)
    clock.now += 2.0
    assert deadline.left() == 0.0
