"""The protocol of references as a model: one object, some nodes, some tasks, and all that may happen next.

Node 0 owns the object, and its process begins with the only ref. Tasks carry the ref to other nodes, which may keep it,
send it on and return it; a node may be lost. The rules are those in the head of ``asyncray.core.cluster.imports``. The
model is a second implementation of them, small enough that a search (``search``) sees every state. A state is plain
data, so two ways to the same state meet.

A cover is a pair: the node that gave it, and the number of the task. A negative number is the claim that the node which
ran the task keeps for what the task returned. ``Rules`` can be broken on purpose, to see that the search notices it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

OWNER = 0

TASK, RESULT, BORROW, BORROWED, UNBORROW, GIVE_UP = "TASK", "RESULT", "BORROW", "BORROWED", "UNBORROW", "GIVE_UP"

Cover = tuple[int, int]
"""Giver, and number of the task."""

Message = tuple[str, int, bool, bool]
"""Kind; number of a task or batch; of a RESULT: it gives up its cover later; of a RESULT: the ref is in it."""

NO_COVERS: frozenset[Cover] = frozenset()


@dataclass(frozen=True)
class Rules:
    """The rules, and what the world allows."""

    nodes: int = 3
    tasks: int = 2
    losses: int = 0
    returns: bool = False
    # Rules that can be broken.
    registers_at_each_cover: bool = True
    waits_for_registration: bool = True
    has_grace: bool = True


class Place(NamedTuple):
    """The object as one node knows it."""

    # A process of the node has a ref.
    held: bool = False
    # Tasks at other nodes, and claims for them, that keep the object here: (the other node, number).
    uses: frozenset[Cover] = NO_COVERS
    # Tasks of other nodes that run here.
    guests: frozenset[Cover] = NO_COVERS
    # Living covers; only at nodes that do not own the object.
    covers: frozenset[Cover] = NO_COVERS
    # Ended covers that are given up when the owner knows of this node.
    late: frozenset[Cover] = NO_COVERS
    registered: bool = False
    # The number of the BORROW that is under way.
    batch: int = 0
    # Only at the owner: the nodes that have refs.
    borrowers: frozenset[int] = frozenset()

    @property
    def needed(self) -> bool:
        return self.held or bool(self.uses or self.guests or self.borrowers)


NOTHING = Place()

Wires = tuple[tuple[tuple[int, int], tuple[Message, ...]], ...]


class State(NamedTuple):
    """Everything."""

    exists: bool
    places: tuple[Place, ...]
    # (sender, receiver) -> messages under way; without empty ones, in order.
    wires: Wires
    tasks: int
    dead: frozenset[int]
    # (node, lost node): the node has learned of the loss; it waits for the end of the lost node's grace.
    heard: frozenset[tuple[int, int]]
    graces: frozenset[tuple[int, int]]


def first_state(rules: Rules) -> State:
    places = (Place(held=True), *[NOTHING] * (rules.nodes - 1))
    return State(True, places, (), 0, frozenset(), frozenset(), frozenset())


class Draft:
    """A state that is being changed by one event."""

    def __init__(self, rules: Rules, state: State) -> None:
        self.rules = rules
        self.exists = state.exists
        self.places = list(state.places)
        self.wires = dict(state.wires)
        self.tasks = state.tasks
        self.dead = state.dead
        self.heard = state.heard
        self.graces = state.graces

    def state(self) -> State:
        """The finished state. Batches are numbered again, so that histories meet that differ only in these numbers."""
        under_way = {m[1] for messages in self.wires.values() for m in messages if m[0] in (BORROW, BORROWED)}
        batches = sorted(under_way | {place.batch for place in self.places if place.batch})
        number = {old: new + 1 for new, old in enumerate(batches)} | {0: 0}
        wires = tuple(
            sorted(
                (ends, tuple((m[0], number[m[1]], *m[2:]) if m[0] in (BORROW, BORROWED) else m for m in messages))
                for ends, messages in self.wires.items()
                if messages
            )
        )
        places = tuple(p._replace(batch=number[p.batch]) if p.batch else p for p in self.places)
        return State(self.exists, places, wires, self.tasks, self.dead, self.heard, self.graces)

    # Steps of nodes ---------------------------------------------------------------------------------------------------

    def send(
        self, sender: int, receiver: int, kind: str, number: int = 0, *, later: bool = False, ref: bool = False
    ) -> None:
        if receiver not in self.dead and (sender, receiver) not in self.heard:
            self.wires[sender, receiver] = (*self.wires.get((sender, receiver), ()), (kind, number, later, ref))

    def change(self, node: int, **fields: object) -> Place:
        place = self.places[node] = self.places[node]._replace(**fields)  # type: ignore[arg-type]  # its fields
        return place

    def hand_over(self, node: int, to: int) -> None:
        self.tasks += 1
        self.change(node, uses=self.places[node].uses | {(to, self.tasks)})
        self.send(node, to, TASK, self.tasks)

    def hold(self, node: int) -> None:
        self.change(node, held=True)

    def drop(self, node: int) -> None:
        self.change(node, held=False)
        self.release(node)

    def finish(self, node: int, guest: Cover, *, returns: bool) -> None:
        giver, number = guest
        place = self.places[node]
        if returns:
            place = self.change(node, uses=place.uses | {(giver, -number)})
        self.change(node, guests=place.guests - {guest})
        later = self.end_cover(node, guest)
        self.send(node, giver, RESULT, number, later=later, ref=returns)

    def end_cover(self, node: int, cover: Cover) -> bool:
        """The reason for a cover has ended. True if it is given up later."""
        if node == OWNER:
            self.release(node)
            return False
        place = self.change(node, covers=self.places[node].covers - {cover})
        if not place.needed:
            self.release(node)
            return False
        if place.registered or (place.covers and not self.rules.registers_at_each_cover):
            return False
        place = self.borrow(node)
        if cover[0] == OWNER:
            self.change(node, registered=True)
            return False
        if not self.rules.waits_for_registration:
            return False
        self.change(node, late=place.late | {cover})
        return True

    def borrow(self, node: int) -> Place:
        place = self.places[node]
        if place.batch:
            return place
        numbers = [m[1] for messages in self.wires.values() for m in messages if m[0] in (BORROW, BORROWED)]
        batch = max([*numbers, *(other.batch for other in self.places)]) + 1
        self.send(node, OWNER, BORROW, batch)
        return self.change(node, batch=batch)

    def release(self, node: int) -> None:
        """Frees the object at its owner, or forgets it elsewhere, if nothing needs it."""
        place = self.places[node]
        if place.needed:
            return
        if node == OWNER:
            self.exists = False
        elif not place.covers:
            if place.registered or place.batch:
                self.send(node, OWNER, UNBORROW)
            self.give_up_late(node)
            self.places[node] = NOTHING

    def give_up_late(self, node: int) -> None:
        for giver, number in sorted(self.places[node].late):
            self.send(node, giver, GIVE_UP, number)
        self.change(node, late=NO_COVERS)

    # Messages ---------------------------------------------------------------------------------------------------------

    def deliver(self, sender: int, receiver: int, *, keeps: bool) -> None:
        """The next message arrives. ``keeps``: the caller keeps the ref in a result."""
        message, *rest = self.wires[sender, receiver]
        self.wires[sender, receiver] = tuple(rest)
        kind, number, later, ref = message
        place = self.places[receiver]
        if kind == TASK:
            guest = (sender, number)
            covers = place.covers if receiver == OWNER else place.covers | {guest}
            self.change(receiver, guests=place.guests | {guest}, covers=covers)
        elif kind == RESULT:
            self._result(sender, receiver, number, later=later, ref=ref, keeps=keeps)
        elif kind == GIVE_UP:
            self._unuse(receiver, (sender, number))
        elif kind == BORROW:
            if self.exists:
                self.change(receiver, borrowers=place.borrowers | {sender})
            self.send(receiver, sender, BORROWED, number)
        elif kind == UNBORROW:
            self.change(receiver, borrowers=place.borrowers - {sender})
            self.release(receiver)
        elif place.batch == number:
            self.change(receiver, batch=0, registered=True)
            self.give_up_late(receiver)

    def _result(self, there: int, node: int, number: int, *, later: bool, ref: bool, keeps: bool) -> None:
        claim = (there, -number)
        if ref:
            place = self.places[node]
            covers = place.covers if node == OWNER else place.covers | {claim}
            self.change(node, held=place.held or keeps, covers=covers)
        if not later:
            self._unuse(node, (there, number))
        if ref and not self.end_cover(node, claim):
            self.send(node, there, GIVE_UP, -number)

    def _unuse(self, node: int, use: Cover) -> None:
        self.change(node, uses=self.places[node].uses - {use})
        self.release(node)

    # Losses -----------------------------------------------------------------------------------------------------------

    def crash(self, node: int) -> None:
        """Messages to a dead node are lost. Those that it has sent may arrive until the receiver learns of the loss."""
        self.dead |= {node}
        self.places[node] = NOTHING
        self.wires = {ends: messages for ends, messages in self.wires.items() if ends[1] != node}

    def hear_loss(self, node: int, lost: int) -> None:
        """Registers what was learned from the lost node. Uses and borrows that end by the loss stay until its grace."""
        self.heard |= {(node, lost)}
        self.graces |= {(node, lost)}
        place = self.places[node]
        self.change(node, guests=frozenset(guest for guest in place.guests if guest[0] != lost))
        for cover in sorted(place.covers):
            if cover[0] == lost:
                self.end_cover(node, cover)
        self.release(node)
        if not self.rules.has_grace:
            self.end_grace(node, lost)

    def end_grace(self, node: int, lost: int) -> None:
        self.graces -= {(node, lost)}
        place = self.places[node]
        uses = frozenset(use for use in place.uses if use[0] != lost)
        self.change(node, uses=uses, borrowers=place.borrowers - {lost})
        self.release(node)


# Events ---------------------------------------------------------------------------------------------------------------

Event = tuple[str, Callable[[Draft], None]]


def events(rules: Rules, state: State) -> Iterator[Event]:
    """Everything that may happen next, with a name."""
    living = [node for node in range(rules.nodes) if node not in state.dead]
    for node in living:
        yield from _events_of(rules, state, node, living)
    for (sender, receiver), messages in state.wires:
        if (receiver, sender) not in state.heard:
            name = f"{receiver} hears {messages[0][0]} of {sender}"
            for keeps in (True, False) if messages[0][3] else (False,):
                text = f"{name} and keeps the ref" if keeps else name
                yield text, lambda d, s=sender, r=receiver, k=keeps: d.deliver(s, r, keeps=k)  # type: ignore[misc]
        if sender in state.dead:
            yield f"the words of {sender} to {receiver} are lost", lambda d, e=(sender, receiver): d.wires.pop(e)  # type: ignore[misc]
    if len(state.dead) < rules.losses:
        for node in living[1:]:
            yield f"{node} crashes", lambda d, n=node: d.crash(n)  # type: ignore[misc]
    for lost in state.dead:
        yield from _events_of_a_loss(state, lost, living)


def _events_of(rules: Rules, state: State, node: int, living: list[int]) -> Iterator[Event]:
    place = state.places[node]
    if place.held:
        yield f"{node} drops its ref", lambda d: d.drop(node)
    if place.guests and not place.held:
        yield f"the process of {node} keeps the ref of its task", lambda d: d.hold(node)
    if state.tasks < rules.tasks and (place.held or place.guests):
        for to in living:
            if to != node and (node, to) not in state.heard:
                yield f"{node} sends task {state.tasks + 1} to {to}", lambda d, t=to: d.hand_over(node, t)  # type: ignore[misc]
    for guest in place.guests:
        yield f"task {guest[1]} ends at {node}", lambda d, g=guest: d.finish(node, g, returns=False)  # type: ignore[misc]
        if rules.returns:
            text = f"task {guest[1]} ends at {node} and returns the ref"
            yield text, lambda d, g=guest: d.finish(node, g, returns=True)  # type: ignore[misc]


def _events_of_a_loss(state: State, lost: int, living: list[int]) -> Iterator[Event]:
    wires = dict(state.wires)
    for node in living:
        if (node, lost) not in state.heard and (lost, node) not in wires:
            yield f"{node} learns of the loss of {lost}", lambda d, n=node: d.hear_loss(n, lost)  # type: ignore[misc]
    settled = all(
        (node, lost) in state.heard and not any(giver == lost for giver, _ in state.places[node].late)
        for node in living
    )
    for node in living:
        if settled and (node, lost) in state.graces:
            yield f"the grace of {lost} ends at {node}", lambda d, n=node: d.end_grace(n, lost)  # type: ignore[misc]


# Properties -----------------------------------------------------------------------------------------------------------


def violation(state: State) -> str | None:
    """The reason why a state must not be."""
    if state.exists:
        return None
    for node, place in enumerate(state.places):
        if place.held or place.uses or place.guests:
            return f"the object is freed, and node {node} needs it: {place}"
    for (sender, receiver), messages in state.wires:
        if any(message[0] == TASK or message[3] for message in messages) and (receiver, sender) not in state.heard:
            return f"the object is freed, and a ref is under way from {sender} to {receiver}"
    return None


def leak(state: State) -> str | None:
    """The reason why a state in which nothing can happen any more must not be."""
    if state.exists:
        return "the object exists, and nothing can happen any more"
    left = [f"node {node} keeps {place}" for node, place in enumerate(state.places) if place != NOTHING]
    return left[0] if left else None
