"""The daemon hands each message of a client to the right machine, and refuses messages that the client may not send."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.states import ALIVE, DEAD
from asyncray.ids import PUT_INDEX, TASK_SIZE
from asyncray.messages import (
    BLOCKED,
    DONE,
    DONE_MANY,
    FAILED,
    KILL,
    LEAVING,
    NOT_STARTED,
    PLAIN,
    PROMISE,
    PUT,
    REPLY,
    REQUEST,
    SEAL,
    SHARED,
    UNBLOCKED,
    Received,
)
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import World

TASK = b"t" * TASK_SIZE


@pytest.mark.parametrize(
    "message",
    [
        (DONE, TASK, 5, PLAIN, None, None),
        (DONE_MANY, TASK, 5, []),
        (FAILED, TASK, 5, PLAIN, b"", False, None),
        (NOT_STARTED, [TASK]),
        (BLOCKED, TASK),
        (UNBLOCKED, TASK),
        (LEAVING, "why"),
    ],
)
def test_reports_about_tasks_come_from_workers_only(message: Received) -> None:
    world = World(CPU=1)
    with pytest.raises(ValueError, match="is no worker"):
        world.machine.receive(world.driver().client, [message])


def test_a_message_of_a_wrong_length_is_refused() -> None:
    world = World(CPU=1)
    with pytest.raises(ValueError, match="unpack"):
        world.machine.receive(world.driver().client, [(KILL, TASK)])


def object_id(driver: Driver) -> bytes:
    return driver.next_id() + PUT_INDEX


def test_room_that_is_not_the_clients_cannot_be_sealed() -> None:
    world = World(CPU=1)
    owner, thief = world.driver(), world.driver()
    places: list[Any] = []
    owner.allocate(64, places.append)
    world.settle()
    ((segment, offset, _),) = places
    with pytest.raises(ValueError, match="not its own"):
        world.machine.receive(thief.client, [(SEAL, object_id(thief), segment, offset, None)])
    ref = object_id(owner)
    world.machine.receive(owner.client, [(SEAL, ref, segment, offset, None)])
    assert world.machine.objects.table[ref].kind == SHARED


def test_an_object_is_made_once_and_by_the_process_that_its_id_names() -> None:
    """A second one would take the place of the first one's memory in the store."""
    world = World(CPU=1)
    owner, other = world.driver(), world.driver()
    places: list[Any] = []
    for driver in (owner, owner, other):
        driver.allocate(64, places.append)
        world.settle()
    first, second, third = (place[:2] for place in places)
    ref = object_id(owner)
    world.machine.receive(owner.client, [(SEAL, ref, *first, None)])
    block = world.machine.store.blocks[ref]
    for client, message, why in (
        (owner.client, (SEAL, ref, *second, None), "again"),
        (owner.client, (PROMISE, ref), "again"),
        (other.client, (SEAL, ref, *third, None), "names another maker"),
        (other.client, (PUT, ref, PLAIN, b"", None), "names another maker"),
        (other.client, (PROMISE, ref), "names another maker"),
    ):
        with pytest.raises(ValueError, match=why):
            world.machine.receive(client, [message])
    assert world.machine.store.blocks == {ref: block}
    assert (len(owner.client.unsealed), len(other.client.unsealed)) == (1, 1)


@pytest.mark.parametrize("promised", [True, False])
def test_a_value_keeps_its_promise_or_makes_an_object(promised: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = object_id(driver)
    if promised:
        world.machine.receive(driver.client, [(PROMISE, ref)])
        assert ref in driver.client.promised
    world.machine.receive(driver.client, [(PUT, ref, PLAIN, b"value", None)])
    assert world.machine.objects.table[ref].payload == b"value"
    assert not driver.client.promised
    with pytest.raises(ValueError, match="again"):
        world.machine.receive(driver.client, [(PUT, ref, PLAIN, b"other", None)])


@pytest.mark.parametrize(("no_restart", "restarts", "lives"), [(True, 1, False), (False, 1, True), (False, 0, False)])
def test_kill_ends_an_actor_or_its_process(no_restart: bool, restarts: int, lives: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create(restarts=restarts)
    world.settle()
    actor = world.machine.actors.table[handle[:TASK_SIZE]]
    assert actor.state == ALIVE
    driver.send((KILL, actor.id, no_restart))
    driver.send((KILL, TASK, no_restart))  # an actor that the node has forgotten
    world.settle()
    assert (actor.state, actor.restarted) == ((ALIVE, 1) if lives else (DEAD, 0))


def test_an_answer_shows_the_effect_of_earlier_messages() -> None:
    """One batch drops the last handle and asks for the actor's name: the actor ends before the node answers."""
    world = World(CPU=1)
    driver = world.driver()
    driver.state.make(Recipe(name="ann", extra=("moon", 1)))
    world.deliver()
    driver.lose(driver.state.handles[-1])
    driver.send((REQUEST, 99, "get_actor", ["ns", "ann"]))
    world.machine.receive(driver.client, [message for message, _ in driver.wire])
    driver.wire.clear()
    assert (REPLY, 99, None) in driver.client.out
