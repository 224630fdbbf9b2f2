"""The time of the events that a node works on. The node's door writes it, and the machines read it."""

from __future__ import annotations


class Clock:
    """The time of the present batch of events, in seconds on any steady clock."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        # ``NodeMachine.now`` writes it.
        self.now = 0.0

    def __repr__(self) -> str:
        return f"<Clock {self.now}>"
