"""Queues by shape: the scheduler serves them in a fair order, and none blocks or starves another."""

from __future__ import annotations

from asyncray.core.outbox import LogLine
from asyncray.core.records import HERE
from asyncray.core.resources import Resources
from asyncray.messages import BLOCKED, TEMPLATE, UNBLOCKED
from asyncray.units import fixed, plain
from tests.core.programs import Recipe
from tests.core.test_scheduler import recursion
from tests.core.world import World

QUICK = Recipe(takes=5, retries=1)


def test_a_shape_that_starves_gets_its_share() -> None:
    world = World(CPU=1)
    driver = world.driver()
    flood = Recipe(takes=900, retries=1)
    for _ in range(40):
        driver.submit(flood)
    rare = driver.submit(cpus=0.5, takes=900)
    done = 0
    while rare not in driver.values:
        world.deliver()
        for worker in world.workers:
            worker.step()
        done += 1
        assert done < 40, "the rare one comes last"


def test_shapes_that_wait_for_the_same_take_turns() -> None:
    world = World(CPU=1)
    driver = world.driver()
    demands = [0.75, 0.6, 1]
    for cpus in demands:
        for _ in range(3):
            driver.submit(cpus=cpus, takes=10_000)
    served: list[float] = []
    while len(served) < 3 * len(demands):
        world.deliver()
        (worker,) = [worker for worker in world.workers if worker.queue]
        served.append(worker.queue[0].recipe.cpus)
        while worker.queue or worker.running:
            worker.step()
    assert served == 3 * demands


def test_children_come_before_their_parents_siblings() -> None:
    world = World(CPU=1)
    driver = world.driver()
    parent = Recipe(steps=(("spawn", Recipe(cpus=0.5)), ("get", 0)))
    refs = [driver.submit(parent) for _ in range(20)]
    most = 0
    while world.talk() | world.chores() | world.run():
        most = max(most, len(world.workers))
    assert set(refs) <= driver.values.keys()
    assert most <= 6


def test_children_of_calls_do_not_overtake_others() -> None:
    world = World(CPU=1)
    driver = world.driver()
    actor = driver.create()
    driver.call(actor, steps=(("spawn", Recipe()),))
    world.deliver()
    hog = driver.submit(takes=10_000)
    world.settle()
    assert hog in driver.values
    assert all(task.depth == 0 for task in world.machine.work.tasks.values())


def test_a_blocked_shape_that_waits_for_its_own_kind_is_not_starved_by_a_flood() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit(recursion(3))
    flood = Recipe(cpus=0.5, takes=900, retries=1)
    steps = 0
    while ref not in driver.values:
        driver.submit(flood)
        world.deliver()
        for worker in world.workers:
            worker.step()
        steps += 1
        assert steps < 300, "the recursion never gets the CPU back"


def test_a_placement_has_shapes_of_its_own_and_an_account() -> None:
    """Tasks that ask for a part of the node neither use resources outside of that part nor lend theirs to it."""
    world = World(CPU=2, GPU=2)
    machine, driver = world.machine, world.driver()
    aside = machine.resources.acquire(fixed({"CPU": 1, "GPU": 1}))
    assert aside is not None
    part = machine.scheduler.shapes.accounts["part"] = Resources(plain(aside.demand), dict(aside.devices))
    there = Recipe(extra=("GPU", 1.0), returns=2)
    number = driver.template(there.spec("spawn"))
    world.talk()
    driver.client.templates[number].where = "part"
    for recipe in (there, there, Recipe(extra=("GPU", 1.0))):
        driver.submit(recipe)
    world.deliver()
    assert sorted(worker.devices for worker in world.workers if worker.queue) == [(0,), (1,)]
    assert [shape.where for shape in machine.scheduler.shapes.table.values()] == ["part", HERE]
    assert [account.available["CPU"] for account in (part, machine.resources)] == [0, 0]
    inside = next(worker for worker in world.workers if worker.devices == (0,))
    machine.receive(inside.client, [(BLOCKED, inside.queue[0].task)])
    assert [account.available["CPU"] for account in (part, machine.resources)] == [10_000, 0]
    machine.receive(inside.client, [(UNBLOCKED, inside.queue[0].task)])
    world.settle()
    assert part.available == part.total
    aside.release()
    world.end()


def test_a_task_that_never_fits_blocks_no_other_and_is_logged() -> None:
    world = World(CPU=1)
    driver = world.driver()
    template = {"name": "f", "function": b"", "returns": 1, "retries": 0, "demand": [("moon", 1)]}
    world.machine.receive(driver.client, [(TEMPLATE, 99, b"digest", template)])
    assert any(isinstance(command, LogLine) and "moon" in command.text for command in world.machine.outbox.commands)
    never = driver.submit(extra=("moon", 1))
    soon = driver.submit()
    world.settle()
    assert soon in driver.values
    assert never not in driver.values
