"""Covers and imports: the records of references that cross nodes. ``imports`` decides about them.

A node that hands a ref to another keeps something alive that keeps the object: the *cover*. The node that received it
gives the cover up, and only then, when each ref that it learned under the cover and still needs is registered with the
owner of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncray.core.records import ObjectEntry, Party


class Cover:
    """Something that another node keeps alive for this one until this one gives it up. ``Imports`` writes it."""

    __slots__ = ("_give_up", "ended", "given_up", "giver", "learned", "waiting")

    def __init__(self, giver: Party, give_up: Callable[[], None]) -> None:
        # The node that keeps it.
        self.giver = giver
        # Sends the message that ends it, unless the result could end it.
        self._give_up = give_up
        # Objects of other nodes to which refs came under it.
        self.learned: dict[ObjectEntry, None] = {}
        # The reason for it has ended: the task has run, the container is dropped.
        self.ended = False
        # How many of the objects are still needed and not registered yet.
        self.waiting = 0
        # ``give_up`` was called.
        self.given_up = False

    def __repr__(self) -> str:
        state = f"waits for {self.waiting}" if self.ended else "living"
        return f"<Cover of {self.giver} {len(self.learned)} objects, {state}>"

    def replace_give_up(self, give_up: Callable[[], None]) -> None:
        """The giver is lost: its grace waits for the end of the cover."""
        self._give_up = give_up

    def registered(self) -> None:
        """One of the objects is registered, or not needed any more: gives the cover up if it was the last."""
        self.waiting -= 1
        if not self.waiting:
            self.give_up()

    def give_up(self) -> None:
        """Sends the message that ends the cover at its giver."""
        assert not self.given_up, f"{self} is given up twice"
        self.given_up = True
        self._give_up()


class Import:
    """How this node may keep an object of another node. ``Imports`` writes it."""

    __slots__ = ("batch", "container", "covers", "late", "owner", "registered", "watched")

    def __init__(self, owner: Party) -> None:
        # The node that the object belongs to.
        self.owner = owner
        # The owner knows that this node has refs to it.
        self.registered = False
        # The number of the BORROW whose answer is awaited; 0: none.
        self.batch = 0
        # Living covers under which a ref to it came.
        self.covers: dict[Cover, None] = {}
        # Ended covers that are given up when the object is registered.
        self.late: list[Cover] = []
        # The cover of the refs inside its value: the value itself, which the owner keeps for this node.
        self.container: Cover | None = None
        # The owner was asked for the value.
        self.watched = False

    def __repr__(self) -> str:
        state = "registered" if self.registered else f"asked in {self.batch}" if self.batch else "not registered"
        return f"<Import of {self.owner} {state}, {len(self.covers)} covers>"
