"""Processes of actors of other nodes."""

from __future__ import annotations

import pytest

from asyncray.cluster_messages import BACK, CALL_AT, END_SEAT, RESULT
from asyncray.cluster_words import NOT_HERE
from asyncray.core.lives import GuestActor
from tests.core.cluster.pair import A, B, Pair
from tests.core.programs import Recipe


def pair() -> Pair:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 2.0})
    world.driver().state.make(Recipe(extra=("R", 1)))
    world.settle()
    return world


def test_a_guest_actor_never_restarts_and_leaves_no_record() -> None:
    world = pair()
    machine = world.members[B].host.machine
    (actor,) = machine.actors.table.values()
    assert isinstance(actor, GuestActor)
    assert not actor.restarts
    assert machine.requests._list_actors(None) == [], "its home lists it"  # type: ignore[arg-type]
    world.die(next(worker for worker in world.members[B].host.workers if worker.is_actor))
    world.settle()
    assert not machine.actors.table
    assert RESULT in world.kinds(B, A)
    world.end()


def test_r33_a_call_of_another_incarnation_comes_back() -> None:
    world = pair()
    part, (actor,) = world.members[A].part, world.machine.actors.table.values()
    actor.restarted = 7  # the home has seen more restarts than the process has
    world.drivers[0].state.call(Recipe(target=0))
    world.talk()
    assert CALL_AT in world.kinds(A, B)
    assert [message[2] for _, _, message in world.written if message[0] == BACK] == [NOT_HERE]
    ((call, begun),) = part.routes.take_returned(actor)
    assert not begun
    assert actor.window == 0
    actor.restarted = 0
    actor.window = actor.full_window
    world.machine.work.mailboxes._post(actor, call)
    world.settle()
    assert not world.unresolved()
    world.end()


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_process_ends_in_order_unless_a_process_kills_the_actor(*, is_killed: bool) -> None:
    world = pair()
    driver = world.drivers[0]
    (worker,) = [worker for worker in world.members[B].host.workers if worker.is_actor]
    if is_killed:
        driver.state.kill(0)
    else:
        driver.drop(driver.state.handles.pop())
    world.talk()
    assert [message[2] for _, _, message in world.written if message[0] == END_SEAT] == [not is_killed]
    assert worker.leaving is not is_killed
    world.settle()
    world.end()
