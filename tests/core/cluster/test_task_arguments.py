"""Large arguments and results of tasks that cross nodes, with whole nodes."""

from __future__ import annotations

import pytest

from asyncray.cluster_messages import FETCH, FREE, RESULT, SLOTS, TASK
from asyncray.core.cluster import locality
from asyncray.messages import SHARED
from tests.core.cluster.pair import A, B, Pair
from tests.core.processes import Driver
from tests.core.programs import Recipe


def far(**changes: object) -> Recipe:
    """A function that only node B can run."""
    return Recipe(extra=("R", 1), **changes)  # type: ignore[arg-type]  # as tests give them


def step(world: Pair) -> None:
    """Processes and their daemons exchange messages, and programs run."""
    for host in world.hosts:
        host.talk()
    world.chores()
    world.run()


def run_without_chunks(world: Pair) -> None:
    """Messages arrive and programs run, and no chunk of an object moves."""
    for _ in range(200):
        step(world)
        for wire, messages in world.wires.items():
            if messages:
                world.deliver_one(*wire)


def until_result(world: Pair) -> None:
    """Programs run until node A has got a result of node B."""
    for _ in range(1000):
        for wire, messages in world.wires.items():
            if messages:
                world.deliver_one(*wire)
            if RESULT in world.kinds(B, A):
                return
        step(world)
    raise AssertionError("no result comes")


def share(world: Pair, driver: Driver) -> None:
    """The driver puts a value in shared memory."""
    while not driver.state.share(701):
        world.settle()
    world.settle()


def pair() -> Pair:
    return Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 2.0})


def test_a_task_waits_for_its_large_argument_and_the_next_one_finds_the_copy() -> None:
    world = pair()
    driver = world.driver()
    share(world, driver)
    for _ in range(2):
        driver.state.spawn(far(arguments=(0,)))
        world.settle()
    assert not world.unresolved()
    assert world.kinds(A, B).count(TASK) == 2
    assert world.kinds(B, A).count(FETCH) == 1
    driver.state.clear()
    world.settle()
    assert FREE in world.kinds(A, B)
    world.end()


def test_h14_a_guest_that_waits_for_its_argument_leaves_its_slot_to_others() -> None:
    """B can run one task at a time. While the argument of the first is on its way, the second runs."""
    world = Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    share(world, driver)
    first = driver.submit(far(arguments=(0,)))
    others = [driver.submit(far()) for _ in range(3)]
    run_without_chunks(world)
    assert all(other in driver.values for other in others)
    assert first not in driver.values
    guests = world.members[B].part.guests
    assert [guest.home for guest in guests._arguments.guests_waiting] == [world.members[B].part.peers[A]]
    told = [message[2] for one, _, message in world.written if one == B and message[0] == SLOTS]
    assert told[0] == 2
    world.settle()
    assert first in driver.values
    assert not guests._arguments.guests_waiting
    world.end()


def test_as_many_guests_as_a_home_has_slots_wait_for_arguments_beside_them() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    share(world, driver)
    for _ in range(5):
        driver.submit(far(arguments=(0,)))
    run_without_chunks(world)
    assert world.kinds(A, B).count(TASK) == 2
    world.settle()
    assert not world.unresolved()
    world.end()


def test_a_large_result_stays_where_it_is_until_something_wants_it() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="shared"))
    until_result(world)
    machine = world.host.machine
    entry = machine.objects.table[driver.state.refs[-1]]
    assert entry.kind == SHARED
    assert machine.store.allocator.used == 0
    world.settle()
    driver.state.get(0)
    world.settle()
    assert not world.unresolved()
    assert machine.store.allocator.used > 0
    world.end()


def test_a_chain_of_tasks_with_large_values_over_two_nodes() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="shared"))
    driver.state.spawn(Recipe(ending="shared", arguments=(0,)))
    driver.state.spawn(far(ending="shared", arguments=(0, 1)))
    driver.state.spawn(Recipe(arguments=(2,)))
    world.settle()
    assert not world.unresolved()
    world.end()


def test_a_node_does_not_bring_arguments_of_a_task_that_it_cannot_run() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="shared"))
    until_result(world)
    ref = driver.state.refs[-1]
    driver.state.spawn(far(arguments=(0,)))
    driver.state.forget(0)  # the driver itself does not read it
    world.settle()
    assert not world.unresolved()
    assert FETCH not in world.kinds(A, B)
    assert ref not in driver.values
    world.end()


def test_a_task_goes_to_the_node_that_has_its_large_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locality, "LEAST", 1)
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="shared"))
    until_result(world)
    driver.state.spawn(Recipe(arguments=(0,)))
    driver.state.forget(0)
    world.settle()
    assert not world.unresolved()
    assert world.kinds(A, B).count(TASK) == 2
    assert FETCH not in world.kinds(A, B)
    world.end()


def test_calls_of_an_actor_keep_their_order_while_a_large_argument_comes() -> None:
    world = pair()
    driver = world.driver()
    driver.create()
    driver.state.spawn(far(ending="shared"))
    until_result(world)
    driver.state.call(Recipe(arguments=(1,)))
    driver.state.call(Recipe())
    world.settle()
    assert not world.unresolved()
    world.end()


def test_calls_of_an_actor_at_another_node_bring_their_arguments_there() -> None:
    world = pair()
    driver = world.driver()
    driver.state.make(Recipe(extra=("R", 1)))
    world.settle()
    share(world, driver)
    driver.state.call(Recipe(arguments=(0,), ending="shared"))
    driver.state.call(Recipe())
    driver.state.call(Recipe(arguments=(1,)))
    world.settle()
    assert not world.unresolved()
    assert FETCH in world.kinds(B, A)
    world.end()


def test_a_call_that_brings_its_argument_is_no_guest_of_a_shape() -> None:
    """A guest without a demand has a slot at the node, which is counted."""
    world = pair()
    driver = world.driver()
    share(world, driver)
    actor = driver.create(where=("affinity", B, False))
    driver.submit(cpus=0, where=("affinity", B, False))
    world.settle()
    driver.call(actor, arguments=(0,))
    world.settle()
    assert not world.unresolved()
    (visits,) = world.members[B].part.guests._visits.values()
    assert [visit.count for visit in visits.values()] == [0]
    world.end()


def test_a_task_that_is_tried_again_at_another_node_finds_its_argument() -> None:
    world = pair()
    driver = world.driver()
    share(world, driver)
    driver.state.spawn(far(arguments=(0,), ending="crash", retries=2))
    world.settle()
    assert not world.unresolved()
    assert world.kinds(B, A).count(FETCH) == 1
    world.end()


def test_the_loss_of_the_node_with_the_argument_ends_the_task_that_waits_for_it() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(far(ending="shared"))
    until_result(world)
    driver.state.spawn(Recipe(arguments=(0,)))
    world.orphans.add(b"")  # the oracle must expect the loss of an object
    world.lose(B)
    world.end_graces()
    assert not world.unresolved()
