"""Tasks of other nodes: arrival, ends, slots."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import BACK, CANCEL_TASK, RESULT, SLOTS, TASK
from asyncray.cluster_words import OVER
from asyncray.core.cluster import guests
from asyncray.units import UNIT
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe
from tests.core.test_growth import steps

AT_B = ("affinity", B, False)


def pair(**there: float) -> Pair:
    return Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 4.0} | there)


def far(**changes: Any) -> Recipe:
    return Recipe(extra=("R", 1), **changes)


def until(world: Pair, kind: int, count: int = 1) -> None:
    """Messages and forks happen until node B has got so many messages of a kind. No program runs."""
    for _ in range(100):
        if world.kinds(A, B).count(kind) >= count:
            return
        world.host.talk()
        for wire, messages in world.wires.items():
            if messages:
                world.deliver_one(*wire)
    raise AssertionError(f"message {kind} does not come")


def test_a_home_learns_how_many_of_its_tasks_can_run_side_by_side() -> None:
    world = pair(CPU=3.0)
    driver = world.driver()
    driver.state.spawn(far())
    world.settle()
    slots = [message[2] for _, _, message in world.written if message[0] == SLOTS]
    assert slots
    assert max(slots) == 3
    world.end()


def test_h1_children_of_a_guest_that_waits_for_them_find_a_slot() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    child = Recipe()
    parent = Recipe(extra=None, steps=(("spawn", child), ("get", 0)), cpus=1)
    for _ in range(3):
        driver.state.spawn(parent)
    world.settle()
    assert not world.unresolved()
    world.end()


def test_h1_a_recursion_that_goes_to_and_fro_between_two_nodes_finds_slots() -> None:
    """The first task at B belongs to A, and all others there belong to C."""
    world = Pair({"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 2.0})
    recipe = Recipe(where=("affinity", B, False))
    for node in (C, B) * 4:
        recipe = Recipe(where=("affinity", node, False), steps=(("spawn", recipe), ("get", 0)))
    driver = world.driver()
    driver.state.spawn(recipe)
    world.settle()
    assert not world.unresolved()
    world.end()


def test_a_guest_that_waits_in_the_queue_is_cancelled_at_once_and_one_that_runs_is_stopped() -> None:
    world = pair(CPU=2.0)
    driver = world.driver()
    driver.state.spawn(far())
    driver.state.spawn(far())
    until(world, TASK, 2)
    for index in (0, 1):
        driver.state.cancel(index)
    until(world, CANCEL_TASK, 2)
    world.settle()
    assert not world.unresolved()
    assert world.kinds(B, A).count(RESULT) == 2
    assert all(value[0] == "TaskCancelledError" for value in driver.values.values())
    world.end()


def test_a_task_of_an_unknown_template_comes_back() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far())
    world.settle()
    part = world.members[A].part
    peer = part.peer(B, 0.0)
    world.machine.outbox.send(peer, (TASK, 77, b"t" * 22, 999, 0, None, None, None, None, 0, False))
    part.away._there.setdefault(peer, {})
    world.host.after()
    message: Any = None
    while world.wires[A, B]:
        world.deliver_one(A, B)
    while world.wires[B, A]:
        message = world.wires[B, A].popleft()
    assert message == (BACK, 77, OVER, False)


def test_guests_of_a_lost_home_end() -> None:
    world = pair()
    driver = world.driver()
    driver.state.put(1)
    for _ in range(3):
        driver.state.spawn(far(nested=(0,), steps=(("put", 2),), ending="refs"))
    until(world, TASK, 1)
    world.lose(A)
    world.host = world.members[B].host
    world.settle()
    assert not world.members[B].part.guests.table
    world.end_graces()
    world.nothing_is_left()


def test_slots_name_a_template_that_the_home_still_knows() -> None:
    """1. The tasks of a function end, and the home forgets it. 2. Tasks of another one, of the same shape, are here."""
    world = pair(CPU=2.0)
    driver = world.driver()
    driver.state.spawn(far())
    until(world, TASK)
    guests = world.members[B].part.guests
    (visit,) = [visit for visits in guests._visits.values() for visit in visits.values() if visit.count]
    known, visit.number = visit.number, 9999
    world.wires[B, A].clear()
    guests.flush()
    world.members[B].host.after()
    assert visit.number == known
    assert [message[:2] for message in world.wires[B, A]] == [(SLOTS, known)]
    world.settle()
    world.end()


def waiting_guests(shapes: int) -> Pair:
    """Guests of so many different demands wait at node B, whose CPU an actor has."""
    world = pair()
    driver = world.driver()
    driver.create(where=AT_B, lives_on=1)
    world.settle()
    for number in range(1, shapes + 1):
        driver.state.spawn(Recipe(where=AT_B, extra=("R", number / 100)))
    world.settle()
    assert len(world.members[B].host.machine.scheduler.shapes.ready) == shapes
    return world


def test_homes_learn_their_slots_also_if_a_flush_does_not_look_at_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "_LOOKS", 2)
    world = waiting_guests(7)
    machine, part = world.members[B].host.machine, world.members[B].part
    while part.guests.needs_fast_tick:
        part.guests.flush()
    machine.resources.available["CPU"] += UNIT  # the actor lends its CPU
    for looks in (2, 4, 6, 7):
        part.guests.flush()
        assert len([message for message in part.peers[A].out if message[0] == SLOTS]) == looks
        assert part.guests.needs_fast_tick == (looks < 7)
        assert part.tick_wanted_at is not None or looks == 7
    machine.resources.available["CPU"] -= UNIT
    driver = world.drivers[0]
    driver.lose(driver.state.handles[0])
    world.end()


def test_a_flush_costs_the_same_beside_guests_of_many_demands() -> None:
    def cost(shapes: int) -> int:
        world = waiting_guests(shapes)
        member = world.members[B].part.guests
        member.flush()
        with steps() as count:
            member.flush()
        driver = world.drivers[0]
        driver.lose(driver.state.handles[0])
        world.end()
        return count[0]

    assert cost(100) == cost(50)
