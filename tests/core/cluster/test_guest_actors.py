"""Processes of actors of other nodes."""

from __future__ import annotations

import pytest

from asyncray.cluster_messages import BACK, CALL_AT, END_SEAT, RESULT
from asyncray.cluster_words import NOT_HERE
from asyncray.core.lives import GuestActor
from asyncray.core.states import DEAD, WAITING
from tests.core.cluster.pair import A, B, Pair
from tests.core.programs import Recipe
from tests.sim.script import Script


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


class Constructing:
    """An actor of A whose constructor B has just given to a process. Then the last handle ends.

    Its argument holds the only ref to an object of A besides those of the driver, which drops them.
    """

    def __init__(self, *, ending: str = "plain") -> None:
        self.world = world = Script({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
        self.driver = world.driver()
        self.inner = world.put(self.driver, "inner")
        spawn = ("spawn", Recipe(nested=(0,)))
        self.driver.state.make(Recipe((spawn,), ending, extra=("R", 1), nested=(0,), restarts=1))
        world.work(A)
        (self.actor,) = world.machine.actors.table.values()
        world.arrive(A, B)
        world.work(B, programs=False)
        (self.process,) = world.members[B].host.workers
        self.driver.state.release(0)
        self.driver.state.forget(0)
        world.work(A)
        assert world.under_way(A, B) == ["A > B: END_SEAT"]
        world.story()

    def end(self) -> list[str]:
        """Everything else happens. Returns what the nodes say about the actor."""
        self.world.settle()
        assert self.actor.state == DEAD
        assert not self.world.machine.actors.table
        assert not self.world.members[B].host.machine.actors.table
        lines = [line for line in self.world.story() if line.endswith(("SEAT", "SEATED", "AT", "the constructor"))]
        self.world.end()
        return lines


def test_a_constructor_that_has_begun_returns_before_the_actor_ends_without_handles() -> None:
    scene = Constructing()
    scene.world.arrive(A, B)
    scene.world.work(B, programs=False)
    assert not scene.process.leaving
    assert not scene.world.under_way(B, A)
    assert scene.inner in scene.world.machine.objects.table
    assert scene.end() == ["A > B: END_SEAT", "B > A: SEATED", "A > B: END_SEAT", "B > A: RESULT the constructor"]


def test_the_last_handle_ends_while_the_news_of_the_constructor_is_under_way() -> None:
    scene = Constructing()
    scene.world.work(B)
    assert scene.world.under_way(B, A)[-1:] == ["B > A: SEATED"]
    scene.world.arrive(A, B)
    assert scene.end() == ["A > B: END_SEAT", "B > A: SEATED", "A > B: END_SEAT", "B > A: RESULT the constructor"]


def test_a_constructor_raises_after_the_last_handle_has_ended() -> None:
    result, claimed = "B > A: RESULT the constructor", "A > B: CLAIMED the constructor"
    assert Constructing(ending="raise").end() == ["A > B: END_SEAT", result, claimed]


def test_the_process_of_a_constructor_dies_after_the_last_handle_has_ended() -> None:
    scene = Constructing()
    scene.world.die(scene.process)
    assert scene.end() == ["A > B: END_SEAT", "B > A: RESULT the constructor"]


def test_a_constructor_does_not_outlive_the_creator_of_its_actor() -> None:
    scene = Constructing()
    scene.world.arrive(A, B)
    scene.world.die(scene.driver)
    scene.world.work(A)
    assert scene.world.under_way(A, B)[:1] == ["A > B: END_SEAT"]
    scene.world.arrive(A, B)
    assert scene.process.number in scene.world.members[B].host.doomed
    scene.end()


def test_the_home_is_lost_after_the_last_handle_has_ended() -> None:
    scene = Constructing()
    scene.world.arrive(A, B)
    scene.world.lose(A)
    assert scene.process.number in scene.world.members[B].host.doomed
    assert not scene.world.members[B].host.machine.actors.table


def test_the_last_handle_ends_while_the_argument_of_the_constructor_is_under_way() -> None:
    world = Script({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    while not driver.state.share(101):
        world.work(A)
    driver.state.make(Recipe(extra=("R", 1), arguments=(0,)))
    world.work(A)
    world.arrive(A, B)
    world.work(B)
    (guest,) = world.members[B].part.guests.table[world.members[B].part.peer(A, world.now)].values()
    assert guest.state == WAITING
    driver.state.release(0)
    world.work(A)
    world.arrive(A, B)
    assert world.under_way(B, A) == ["B > A: RESULT the constructor"]
    world.settle()
    assert "B > A: SEATED" not in world.story()
    assert not world.machine.actors.table
    world.end()
