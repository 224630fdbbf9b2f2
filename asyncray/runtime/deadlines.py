"""One deadline for several steps that follow one another."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time.

    Args:
        seconds: from now.

    Example::

        deadline = Deadline(3.0)
        first.join(deadline.left())
        second.join(deadline.left())
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Deadline in {self.left():g} s>"

    def left(self) -> float:
        """The seconds that are left, at least 0."""
        return max(0.0, self._until - time.monotonic())


def share(seconds: float, *steps: Callable[[float], object]) -> None:
    """Does one step after the other; each gets the seconds that those before it have left.

    Example::

        share(3.0, first.join, second.join)
    """
    deadline = Deadline(seconds)
    for step in steps:
        step(deadline.left())
