"""Objects: the uses that keep an object alive, and the time from which its memory may be used again."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.messages import (
    ALLOCATE,
    FORGET,
    FUNCTION,
    PLAIN,
    PROMISE,
    PUT,
    SEAL,
    SUBMIT,
    SUBSCRIBE,
    VALUE,
    Received,
)
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World


def objects(world: World) -> set[bytes]:
    return set(world.machine.objects.table)


def put(driver: Driver, *inside: bytes) -> bytes:
    """A value with refs inside."""
    ref = driver.next_id() + b"\0\0\0\0"
    driver.send((PUT, ref, PLAIN, b"", list(inside) or None), [ref])
    return ref


def share(world: World, driver: Driver, size: int) -> bytes:
    """A value in shared memory. Not of a multiple of five bytes: ``Scope.share`` abandons the room of those."""
    while not driver.state.share(size):
        world.deliver()
    world.deliver()
    return driver.state.refs[-1]


def test_an_object_goes_with_the_last_ref_of_any_process() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    ref = put(one)
    world.talk()
    two.hold(ref)
    world.talk()
    one.drop(ref)
    world.talk()
    assert ref in objects(world)
    two.drop(ref)
    world.talk()
    assert ref not in objects(world)


def test_the_end_of_a_maker_names_no_object_that_another_one_has_freed() -> None:
    """The older object contains the younger one, because it was promised first."""
    world = World()
    driver = world.driver()
    outer = driver.next_id() + b"\0\0\0\0"
    driver.send((PROMISE, outer), [outer])
    inner = put(driver)
    driver.send((PUT, outer, PLAIN, b"", [inner]))
    driver.drop(inner)
    world.host.hear(driver, len(driver.wire))
    assert objects(world) == {outer, inner}
    world.die(driver)
    world.host.disconnect(driver)
    assert not objects(world)
    assert world.machine.objects.dead_refs.count == 0


def test_refs_inside_a_value_live_as_long_as_it_to_any_depth() -> None:
    world = World()
    driver = world.driver()
    refs = [put(driver)]
    for _ in range(2000):
        refs.append(put(driver, refs[-1]))
        driver.drop(refs[-2])
    world.host.hear(driver, len(driver.wire))
    assert objects(world) == set(refs)
    driver.drop(refs[-1])
    world.talk()
    assert not objects(world)


def test_what_a_function_captures_lives_as_long_as_its_exports() -> None:
    world = World(CPU=1)
    one, two = world.driver(), world.driver()
    ref, other = put(one), put(one)
    for number, nested in ((101, [ref, other]), (102, [ref])):  # exported twice: the second time says nothing new
        one.send((FUNCTION, number, b"digest", b"code", nested))
    one.drop(ref)
    one.drop(other)
    world.talk()
    assert objects(world) == {ref, other}
    one.submit()
    world.settle()
    world.die(two)
    world.settle()
    assert {ref, other} <= objects(world)
    one.send((FORGET, [101]))
    world.settle()
    assert {ref, other} <= objects(world)
    one.send((FORGET, [102]))
    world.settle()
    assert objects(world).isdisjoint((ref, other))


def test_what_a_function_captures_ends_with_the_process_that_exported_it() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = put(driver)
    driver.send((FUNCTION, 1, b"digest", b"code", [ref]))
    driver.drop(ref)
    world.settle()
    assert objects(world) == {ref}
    world.die(driver)
    world.settle()
    assert not objects(world)


def test_refs_inside_an_error_live_as_long_as_it_and_as_what_depends_on_it() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.state.put(0)
    inner = driver.state.refs[0]
    first = driver.submit(nested=(0,), ending="raise")  # with a ref that it got
    dependent = driver.submit(arguments=(1,))
    driver.drop(inner)
    world.settle()
    assert objects(world) == {inner, first, dependent}
    driver.drop(first)
    world.talk()
    assert objects(world) == {inner, dependent}
    driver.drop(dependent)
    world.talk()
    assert not objects(world)


def test_a_pending_task_keeps_its_arguments_and_the_refs_inside_them() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(takes=10_000)  # occupies the worker
    driver.state.put(0)
    driver.state.put(0)
    ref = driver.submit(arguments=(1,), nested=(2,))
    kept = driver.state.refs[1:3]
    driver.state.forget(2)
    driver.state.forget(1)
    world.talk()
    assert set(kept) <= objects(world)
    world.settle()
    assert ref in driver.values
    assert objects(world).isdisjoint(kept)


def test_a_result_that_nobody_wants_is_freed_when_it_comes() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(ending="shared")
    driver.state.forget(0)
    world.settle()
    assert not objects(world)
    assert world.machine.store.allocator.used == 0


def test_a_process_that_ends_gives_its_refs_and_room_back() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    mine, theirs = put(one), put(two)
    world.talk()
    two.hold(mine)
    one.hold(theirs)
    share(world, two, 101)
    world.machine.receive(two.client, [(ALLOCATE, 77, 100)])
    world.talk()
    world.die(two)
    world.settle()
    assert objects(world) == {mine, theirs}
    assert world.machine.store.allocator.used == 0
    one.drop(mine)
    one.drop(theirs)
    world.talk()
    assert not objects(world)


def test_an_object_of_a_worker_that_died_lives_on_with_those_who_have_it() -> None:
    world = World(CPU=1)
    driver = world.driver()
    outer = driver.submit(steps=(("put", 0),), ending="refs")
    world.settle()
    driver.state.get(driver.state.refs.index(outer))
    world.talk()
    for worker in world.workers:
        world.die(worker)
    world.settle()
    assert driver.state.refs[-1] in objects(world)
    world.end()


def test_a_value_is_pushed_to_its_maker_and_to_those_who_asked() -> None:
    world = World(CPU=1)
    one, two = world.driver(), world.driver()
    ref = one.submit()
    world.talk()
    two.hold(ref)
    two.subscribe(ref)
    world.settle()
    assert one.values[ref] == two.values[ref]
    late = world.driver()
    late.hold(ref)
    late.subscribe(ref)
    world.talk()
    assert late.values[ref] == one.values[ref]


def test_who_asks_for_what_is_gone_is_told_so() -> None:
    world = World()
    driver = world.driver()
    gone, of_another_node = driver.next_id() + b"\0\0\0\0", b"\1" * 26
    for ref, error in ((gone, "ObjectLostError"), (of_another_node, "OwnerDiedError")):
        world.machine.receive(driver.client, [(SUBSCRIBE, [ref])])
        told: Received = driver.client.out[-1]
        assert told[:3] == (VALUE, ref, 4)
        assert told[3][0] == error


def test_an_argument_of_another_node_is_told_as_that() -> None:
    world = World(CPU=1)
    driver = world.driver()
    task, number = driver.next_id(), driver.template(Recipe().spec("spawn"))
    result = task + b"\0\0\0\1"
    driver.has_foreign_refs = True
    driver.send((SUBMIT, task, number, PLAIN, b"", [b"\1" * 26], None, None, None), [result])
    world.settle()
    assert driver.error(result) == "OwnerDiedError"
    assert "argument of spawn" in driver.message(result)
    assert "belongs to another node" in driver.message(result)
    world.end()


def test_a_dropped_ref_that_is_made_again_counts_again() -> None:
    world = World(CPU=1)
    driver = world.driver()
    inner = driver.submit()
    outer = put(driver, inner)
    driver.state.forget(0)
    world.settle()
    driver.hold(inner)
    driver.drop(outer)
    driver.subscribe(inner)
    world.talk()
    assert inner in driver.values
    world.end()


@pytest.mark.parametrize("kind", ["put", "seal"])
def test_an_object_is_made_once(kind: str) -> None:
    world = World()
    driver = world.driver()
    ref = put(driver)
    world.talk()
    message: tuple[Any, ...] = (PUT, ref, PLAIN, b"", None)
    if kind == "seal":
        message = (SEAL, ref, f"{NODE_ID.decode()}-0", 0, None)  # room that the client does not own
    with pytest.raises(ValueError, match="again"):
        world.machine.receive(driver.client, [message])
    world.check()


# Shared memory --------------------------------------------------------------------------------------------------------


def test_memory_is_used_again_when_the_object_and_all_views_are_gone() -> None:
    world = World()
    one, two = world.driver(), world.driver()
    ref = share(world, one, 501)
    two.hold(ref)
    two.subscribe(ref)
    world.talk()
    one.drop(ref)
    two.drop(ref)
    world.talk()
    assert ref not in objects(world)
    assert world.machine.store.allocator.used > 0
    one.collect()
    world.talk()
    assert world.machine.store.allocator.used > 0
    two.collect()
    world.talk()
    assert world.machine.store.allocator.used == 0


def test_arguments_in_shared_memory_stay_while_a_worker_looks_at_them() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = share(world, driver, 501)
    driver.submit(Recipe(arguments=(0,)))
    world.deliver()
    driver.drop(ref)
    driver.state.refs.remove(ref)
    driver.collect()
    world.talk()
    (worker,) = (worker for worker in world.workers if worker.queue)
    assert worker.pins
    world.check()
    world.settle()
    worker.collect()
    world.settle()
    assert world.machine.store.allocator.used == 0
