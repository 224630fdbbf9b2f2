"""Messages that name objects which the node does not have: counted, and some of them logged."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.config import REPORTED_SINGLY
from asyncray.core.outbox import LogLine
from asyncray.ids import OBJECT_SIZE, PUT_INDEX
from asyncray.messages import (
    ADD_REFS,
    ERROR_SEEN,
    FAULT,
    FUNCTION,
    PLAIN,
    PUT,
    RELEASE_REFS,
    SUBMIT,
    SUBSCRIBE,
    UNPIN,
    VALUE,
)
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World

LOST = NODE_ID.ljust(OBJECT_SIZE, b"x")
FOREIGN = b"othernod".ljust(OBJECT_SIZE, b"x")


def lines(world: World) -> list[str]:
    return [command.text for command in world.machine.outbox.commands if isinstance(command, LogLine)]


@pytest.mark.parametrize(
    "message",
    [
        (ADD_REFS, [LOST]),
        (RELEASE_REFS, [LOST]),
        (SUBSCRIBE, [LOST]),
        (ERROR_SEEN, [LOST]),
        (UNPIN, [[LOST, 1]]),
        (FUNCTION, 1, b"digest", b"code", [LOST]),
        (PUT, None, PLAIN, b"", [LOST]),
    ],
)
def test_each_message_with_a_dead_ref_is_counted_and_logged(message: Any) -> None:
    world = World()
    driver = world.driver()
    if message[0] == PUT:
        message = (PUT, driver.next_id() + PUT_INDEX, *message[2:])
    world.machine.receive(driver.client, [message])
    assert world.machine.objects.dead_refs.count == 1
    (line,) = lines(world)
    assert LOST.hex() in line


@pytest.mark.parametrize("field", ["dependencies", "nested"])
def test_a_dead_ref_in_arguments_is_counted(field: str) -> None:
    world = World()
    driver = world.driver()
    number = driver.template(Recipe().spec("spawn"))
    refs = ([LOST], None) if field == "dependencies" else (None, [LOST])
    world.talk()
    world.machine.receive(driver.client, [(SUBMIT, driver.next_id(), number, PLAIN, b"", *refs, None, None)])
    assert world.machine.objects.dead_refs.count == 1


def test_a_pin_that_another_party_has_is_not_taken_back() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    while not one.state.share(501):
        world.deliver()
    world.deliver()
    (ref,) = one.state.refs
    world.machine.receive(two.client, [(UNPIN, [[ref, 1]])])
    assert world.machine.objects.dead_refs.count == 1
    assert list(world.machine.store.blocks[ref].pins) == [one.client]


def test_of_many_dead_refs_few_are_logged() -> None:
    world = World()
    driver = world.driver()
    world.machine.receive(driver.client, [(RELEASE_REFS, [LOST] * 150)])
    assert world.machine.objects.dead_refs.count == 150
    assert len(lines(world)) == REPORTED_SINGLY + 1
    assert lines(world)[-1].endswith("(100 dead refs so far)")


@pytest.mark.parametrize(("ref", "name"), [(LOST, "ObjectLostError"), (FOREIGN, "OwnerDiedError")])
def test_a_dead_ref_has_a_fault_for_a_value(ref: bytes, name: str) -> None:
    world = World()
    driver = world.driver()
    world.machine.receive(driver.client, [(SUBSCRIBE, [ref])])
    (message,) = [message for message in driver.client.out if message[0] == VALUE]
    assert message[:3] == (VALUE, ref, FAULT)
    assert message[3][0] == name
