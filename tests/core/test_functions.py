"""The daemon keeps functions and templates as long as a task or a process needs them, and no longer."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.messages import FORGET, FUNCTION, PLAIN, SUBMIT, TEMPLATE, UNDEFINE
from asyncray.units import UNIT
from tests.core.processes import Process
from tests.core.programs import Recipe
from tests.core.world import World

SPEC: dict[str, Any] = {"name": "f", "function": b"f", "returns": 1, "retries": 0, "demand": [("CPU", UNIT)]}


def kept(world: World) -> tuple[int, int, int]:
    """How many functions, templates and shapes the node has."""
    functions = world.machine.functions
    return len(functions.functions), len(functions.templates), len(world.machine.scheduler.shapes.table)


def known(world: World) -> list[tuple[int, int]]:
    """How many templates and functions each worker has that has any."""
    found = [worker.known for worker in world.workers if worker.known.templates]
    return [(len(known.templates), len(known.functions)) for known in found]


def forget_all(process: Process) -> None:
    """The program drops all functions."""
    while process.exports:
        process.unexport(0)


def step_all(world: World) -> None:
    """Each worker starts what it has."""
    world.deliver()
    world.run()
    world.deliver()


def test_functions_in_a_loop_are_kept_nowhere() -> None:
    world = World(CPU=2)
    driver = world.driver()
    for number in range(50):
        driver.submit(takes=number)
        driver.submit(takes=number, cpus=number / 100)  # and with other options
        world.settle()
        forget_all(driver)
    world.settle()
    assert kept(world) == (0, 0, 0)
    assert known(world) == []
    assert not driver.client.functions
    assert not driver.client.templates
    world.end()


def test_actor_classes_in_a_loop_are_kept_nowhere() -> None:
    world = World(CPU=2)
    driver = world.driver()
    for number in range(20):
        handle = driver.create(takes=number)
        driver.call(handle, takes=number)
        world.settle()
        driver.lose(handle)
        forget_all(driver)
    world.settle()
    assert kept(world) == (0, 0, 0)
    world.end()


def test_a_task_needs_its_function_until_it_has_ended_also_when_it_is_tried_again() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(retries=1)
    forget_all(driver)
    step_all(world)
    assert kept(world) == (1, 1, 1)
    (first,) = [worker for worker in world.workers if worker.running]
    world.die(first)
    world.settle()  # the world checks that the next worker was sent the function
    assert driver.values[ref] == world.truth[ref]
    assert kept(world) == (0, 0, 0)
    assert known(world) == []


@pytest.mark.parametrize("argument_comes", [True, False])
def test_a_task_that_waits_for_its_arguments_needs_its_function(argument_comes: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    first = driver.submit(takes=1, ending="plain" if argument_comes else "raise")
    ref = driver.submit(takes=2, arguments=(0,))
    forget_all(driver)
    world.talk()
    assert kept(world)[:2] == (2, 2)
    world.settle()
    assert {first, ref} <= driver.values.keys()
    assert kept(world) == (0, 0, 0)


def test_a_cancelled_task_needs_it_no_more() -> None:
    world = World(CPU=1)
    driver = world.driver()
    never = driver.submit(extra=("moon", 1))
    forget_all(driver)
    world.settle()
    assert kept(world) == (1, 1, 1)
    driver.state.cancel(driver.state.refs.index(never))
    world.settle()
    assert kept(world) == (0, 0, 0)


def test_an_actor_needs_its_class_while_it_may_be_restarted() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create(restarts=1)
    forget_all(driver)
    world.settle()
    assert kept(world)[:2] == (1, 1)
    (host,) = [worker for worker in world.workers if worker.is_actor]
    world.die(host)
    world.settle()
    assert kept(world)[:2] == (0, 0)  # its last restart
    ref = driver.call(handle)
    forget_all(driver)
    world.settle()
    assert driver.values[ref] == world.truth[ref]
    assert kept(world)[:2] == (0, 0)
    driver.lose(handle)
    world.end()


def test_a_function_that_is_exported_again_is_another_one_for_workers() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit()
    world.settle()
    before = set(driver.exports.values())
    forget_all(driver)
    driver.submit()  # in the same batch
    assert before.isdisjoint(driver.exports.values())
    world.settle()
    (worker,) = [worker for worker in world.workers if worker.known.templates]
    assert worker.last_told[UNDEFINE] is not None
    driver.send((FORGET, list(before)))  # late, and once more
    world.settle()
    assert kept(world) == (1, 1, 1)
    assert known(world) == [(1, 1)]


def test_what_two_processes_export_is_kept_for_both() -> None:
    world = World(CPU=1)
    driver = world.driver()
    child = Recipe(takes=7)
    driver.submit(steps=(("spawn", child),))  # the worker exports it
    driver.submit(child)
    world.settle()
    (worker,) = [worker for worker in world.workers if worker.exports]
    forget_all(driver)
    world.settle()
    assert kept(world) == (1, 1, 1)
    driver.submit(child)
    forget_all(driver)
    world.settle()
    assert kept(world) == (1, 1, 1)
    world.die(worker)
    world.settle()
    assert kept(world) == (0, 0, 0)


def test_methods_of_an_actor_of_another_job_are_kept_for_their_callers() -> None:
    world = World(CPU=1)
    one, two = world.driver(), world.driver()
    handle = one.create(detached=True)
    world.settle()
    two.hold(handle)
    two.state.handles.append(handle)
    two.call(handle)
    world.settle()
    (host,) = [worker for worker in world.workers if worker.is_actor]
    assert (len(host.known.templates), kept(world)[1]) == (2, 2)
    world.die(two)
    world.settle()
    assert (len(host.known.templates), kept(world)[1]) == (1, 1)
    world.end()


def test_a_template_that_is_needed_no_more_leaves_its_shape_when_the_lease_ends() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(cpus=0.5)
    step_all(world)
    forget_all(driver)
    world.talk()
    (shape,) = world.machine.scheduler.shapes.table.values()
    assert (shape.templates, len(shape.leases)) == (1, 1)
    world.settle()
    assert kept(world) == (0, 0, 0)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([(TEMPLATE, 1, b"t", SPEC)], "has not exported"),
        ([(FUNCTION, 1, b"f", b"code", None), (FUNCTION, 1, b"g", b"code", None)], "number 1 again"),
        ([(FUNCTION, 1, b"f", b"code", None), (TEMPLATE, 2, b"t", SPEC), (TEMPLATE, 2, b"u", SPEC)], "number 2 again"),
        ([(FUNCTION, 1, b"f", b"code", None), (FORGET, [1]), (TEMPLATE, 2, b"t", SPEC)], "has not exported"),
    ],
)
def test_what_no_client_of_ours_says_is_refused(messages: list[Any], complaint: str) -> None:
    world = World(CPU=1)
    driver = world.driver()
    with pytest.raises(ValueError, match=complaint):
        world.machine.receive(driver.client, messages)


def test_a_number_is_forgotten_once_and_others_are_not_touched() -> None:
    world = World(CPU=1)
    driver = world.driver()
    world.machine.receive(driver.client, [(FUNCTION, 1, b"f", b"code", None), (TEMPLATE, 2, b"t", SPEC)])
    world.machine.receive(driver.client, [(FORGET, [1, 1, 77])])
    assert kept(world)[:2] == (1, 1)
    submit = (SUBMIT, driver.next_id(), 2, PLAIN, b"", None, None, None, None)
    world.machine.receive(driver.client, [submit, (FORGET, [2])])
    assert kept(world)[:2] == (1, 1)
    with pytest.raises(KeyError):
        world.machine.receive(driver.client, [submit])
