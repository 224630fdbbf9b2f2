"""Bundles of placement groups on one node: their accounts, what runs on them, and how they return."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.bundles import PATIENCE, UNSURE_AFTER, Bundles
from asyncray.core.clock import Clock
from asyncray.core.group_records import CREATED, GROUP_PENDING
from asyncray.core.group_views import GroupViews
from asyncray.core.machine import NodeMachine
from asyncray.core.placements import Bundle
from asyncray.core.resources import Resources
from asyncray.core.shapes import Shapes
from asyncray.core.states import DEAD
from asyncray.ids import TASK_SIZE
from asyncray.messages import BLOCKED, UNBLOCKED
from asyncray.units import UNIT, Demand, fixed
from tests.core.grouping import ask, here, inside, make, ready, state, why
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import World


def free(machine: NodeMachine) -> dict[str, float]:
    return {name: amount / UNIT for name, amount in machine.resources.available.items()}


def made(world: World, driver: Driver, *bundles: dict[str, float], strategy: str = "PACK") -> bytes:
    group = make(driver, *bundles, strategy=strategy)
    world.settle()
    assert state(world, group) == CREATED
    return group


def collects(world: World) -> bool:
    """The node collects what a bundle lacks."""
    return world.machine.scheduler.shapes.collect is not None


def removed(world: World, driver: Driver, group: bytes) -> None:
    ask(driver, "remove_group", group)
    world.settle()


def test_a_group_takes_its_bundles_out_of_the_node_and_gives_them_back() -> None:
    world = World(CPU=4, GPU=2)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1, "GPU": 1}, {"CPU": 2})
    assert free(world.machine) == {"CPU": 1, "GPU": 1}
    parts = here(world, group).parts
    assert [part.total for part in parts.values()] == [{"CPU": UNIT, "GPU": UNIT}, {"CPU": 2 * UNIT}]
    assert parts[0].devices == {0: UNIT}
    removed(world, driver, group)
    assert free(world.machine) == {"CPU": 4, "GPU": 2}
    assert state(world, group) == "REMOVED"
    world.end()


def test_tasks_run_in_the_bundle_that_they_name_and_nowhere_else() -> None:
    world = World(CPU=4, GPU=2)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1, "GPU": 1}, {"CPU": 2})
    refs = [driver.submit(where=inside(group, 0)) for _ in range(2)]
    world.deliver()
    first, second = (world.machine.work.tasks.get(ref[:TASK_SIZE]) for ref in refs)
    assert first is not None
    assert second is not None
    assert first.lease is not None
    assert first.lease.grant.account is here(world, group).parts[0]
    assert second.lease is None
    assert free(world.machine)["CPU"] == 1
    world.settle()
    assert all(ref in driver.values for ref in refs)
    world.end()


def test_any_bundle_is_the_first_that_fits() -> None:
    world = World(CPU=4)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1}, {"CPU": 2})
    refs = [driver.submit(where=inside(group)) for _ in range(4)]
    world.deliver()
    accounts = [task.lease.grant.account for task in world.machine.work.tasks.values() if task.lease is not None]
    parts = here(world, group).parts
    assert accounts.count(parts[0]) == 1
    assert accounts.count(parts[1]) == 2
    world.settle()
    assert all(ref in driver.values for ref in refs)
    assert all(part.available == part.total for part in parts.values())
    world.end()


def test_gpus_keep_their_numbers_inside_of_bundles() -> None:
    world = World(CPU=2, GPU=2)
    driver = world.driver()
    group = made(world, driver, {"GPU": 1}, {"GPU": 1, "CPU": 1})
    for index in (1, 0):
        driver.submit(where=inside(group, index), cpus=0, extra=("GPU", 1))
    world.deliver()
    devices = {worker.devices for worker in world.workers if worker.queue}
    assert devices == {(0,), (1,)}
    world.end()


def test_a_task_that_waits_lends_its_cpu_to_its_bundle() -> None:
    world = World(CPU=2)
    machine, driver = world.machine, world.driver()
    group = made(world, driver, {"CPU": 1})
    driver.submit(where=inside(group, 0))
    driver.submit()
    world.deliver()
    task = next(task for task in machine.work.tasks.values() if task.template.where != "here")
    assert task.worker is not None
    assert task.worker.client is not None
    part = here(world, group).parts[0]
    assert part.available["CPU"] == 0
    machine.receive(task.worker.client, [(BLOCKED, task.id)])
    assert (part.available["CPU"], machine.resources.available["CPU"]) == (UNIT, 0)
    machine.receive(task.worker.client, [(UNBLOCKED, task.id)])
    assert part.available["CPU"] == 0
    world.end()


def test_the_removal_of_a_group_ends_what_runs_and_what_waits() -> None:
    world = World(CPU=4)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1}, {"CPU": 1})
    running = driver.submit(where=inside(group, 0), retries=3)
    waiting = driver.submit(where=inside(group, 0), retries=3)
    actor = driver.create(where=inside(group, 1), cpus=1, lives_on=1, restarts=-1)
    call = driver.call(actor)
    outside = driver.submit()
    world.deliver()
    removed(world, driver, group)
    assert driver.error(running) == driver.error(waiting) == "TaskPlacementGroupRemoved"
    assert "was removed" in driver.message(running)
    assert driver.error(call) == "ActorDiedError"
    assert driver.message(call).startswith("The actor died because its placement group was removed.")
    assert outside in driver.values
    assert world.machine.actors.table[actor[:TASK_SIZE]].state == DEAD
    late = driver.submit(where=inside(group, 0))
    pending = driver.call(driver.create(where=inside(group)))
    world.settle()
    assert driver.error(late) == "TaskPlacementGroupRemoved"
    assert driver.error(pending) == "ActorPlacementGroupRemoved"
    assert free(world.machine)["CPU"] == 4
    world.end()


def test_a_bundle_returns_when_its_processes_have_ended_and_not_before() -> None:
    world = World(CPU=2)
    driver = world.driver()
    group = made(world, driver, {"CPU": 2})
    driver.submit(where=inside(group))
    world.deliver()
    ask(driver, "remove_group", group)
    world.talk()
    assert free(world.machine)["CPU"] == 0
    world.settle()
    assert free(world.machine)["CPU"] == 2
    world.end()


def test_an_actor_without_resources_holds_its_bundle_until_its_process_has_ended() -> None:
    world = World(CPU=2)
    driver = world.driver()
    group = made(world, driver, {"CPU": 2})
    driver.create(where=inside(group), cpus=1)
    world.settle()
    ask(driver, "remove_group", group)
    world.talk()
    assert free(world.machine)["CPU"] == 0
    world.settle()
    assert free(world.machine)["CPU"] == 2
    world.end()


def test_an_actor_restarts_in_its_bundle() -> None:
    world = World(CPU=2)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1})
    handle = driver.create(where=inside(group, 0), cpus=1, lives_on=1, restarts=1)
    world.settle()
    actor = world.machine.actors.table[handle[:TASK_SIZE]]
    assert actor.worker is not None
    number = actor.worker.number
    world.die(next(worker for worker in world.workers if worker.number == number))
    world.settle()
    assert actor.lease is not None
    assert actor.lease.grant.account is here(world, group).parts[0]
    removed(world, driver, group)
    world.end()


def test_tasks_wait_for_a_group_that_does_not_fit_yet() -> None:
    world = World(CPU=2)
    driver = world.driver()
    actor = driver.create(lives_on=1)
    world.settle()
    group = make(driver, {"CPU": 2})
    ref = driver.submit(where=inside(group, 0))
    object_ref = ready(driver, group)
    world.settle()
    assert state(world, group) == GROUP_PENDING
    assert ref not in driver.values
    assert [row["why"] for row in world.machine.stalls.rows()] == [f"the placement group {group.hex()} is pending"]
    assert why(world, group) == ""
    driver.lose(actor)
    world.settle()
    assert state(world, group) == CREATED
    assert ref in driver.values
    assert driver.values[object_ref] == b"the group"
    world.end()


def test_a_large_bundle_gets_its_place_beside_a_stream_of_small_tasks() -> None:
    world = World(CPU=2)
    driver = world.driver()
    small = Recipe(takes=4000, retries=1)
    driver.submit(small)
    world.settle()
    for _ in range(40):
        driver.submit(small)
    world.deliver()
    group = make(driver, {"CPU": 2})
    steps = 0
    while state_of(world, group) != CREATED:
        driver.submit(small)  # so that there are always more tasks than there is room for
        driver.submit(small)
        world.run()
        world.deliver()
        steps += 1
        assert steps < 60, "the bundle never fits"
    removed(world, driver, group)
    world.end()


def state_of(world: World, group: bytes) -> str:
    row = world.machine.group_views.rows.get(group)
    return "" if row is None else row["state"]


def test_collecting_for_a_bundle_ends_after_a_while() -> None:
    world = World(CPU=2)
    driver = world.driver()
    for _ in range(2):
        driver.submit()
    world.deliver()
    make(driver, {"CPU": 2})
    world.deliver()
    next(worker for worker in world.workers if worker.queue).step()
    assert collects(world)
    world.wait(PATIENCE)
    assert not collects(world)
    assert world.machine.resources.bundles == 0
    world.end()


def test_what_actors_hold_is_not_waited_for() -> None:
    """Otherwise a group that waits for the end of an actor would keep the rest of the node idle for ten seconds."""
    world = World(CPU=2)
    driver = world.driver()
    driver.create(lives_on=1)
    world.settle()
    make(driver, {"CPU": 2})
    world.deliver()
    assert not collects(world)
    ref = driver.submit()
    world.settle()
    assert ref in driver.values
    world.end()


def test_a_task_of_a_bundle_is_not_nested_into_a_process_outside_of_it() -> None:
    world = World(CPU=2)
    machine, driver = world.machine, world.driver()
    group = made(world, driver, {"CPU": 1})
    driver.submit()
    driver.submit(where=inside(group))
    world.deliver()
    outside, within = (task.worker for task in machine.work.tasks.values())
    assert outside is not None
    assert within is not None
    shapes = {shape.where: shape for shape in machine.scheduler.shapes.table.values()}
    assert outside.may_host(shapes["here"])
    assert within.may_host(shapes[Bundle(group, -1)])
    assert not outside.may_host(shapes[Bundle(group, -1)])
    assert not within.may_host(shapes["here"])
    world.end()


# The machine alone ----------------------------------------------------------------------------------------------------


class Stage:
    """Bundles without a node around them."""

    def __init__(self, **amounts: float) -> None:
        self.clock = Clock()
        self.resources = Resources(amounts)
        self.shapes = Shapes(self.resources)
        self.views = GroupViews(lambda method, arguments, reply: None)
        self.evicted: list[Resources] = []
        self.bundles = Bundles(
            self.clock, self.resources, self.shapes, self.views, lambda part, fault: self.evicted.append(part)
        )
        self.answers: list[bool] = []

    def prepare(self, group: bytes, *bundles: tuple[int, int, Demand], patient: bool = False) -> None:
        self.bundles.prepare(group, list(bundles), self.answers.append, patient=patient)
        self.bundles.check()


ONE, TWO = fixed({"CPU": 1}), fixed({"CPU": 2})
GROUP, OTHER = b"group", b"other"


def test_all_bundles_of_a_prepare_are_set_aside_or_none() -> None:
    stage = Stage(CPU=2)
    stage.prepare(GROUP, (0, 1, ONE), (1, 1, TWO))
    assert stage.answers == [False]
    assert stage.resources.available["CPU"] == 2 * UNIT
    stage.prepare(GROUP, (0, 2, ONE), (1, 2, ONE))
    assert stage.answers == [False, True]
    assert stage.resources.available["CPU"] == 0


def test_words_about_an_earlier_attempt_mean_nothing() -> None:
    stage = Stage(CPU=2)
    stage.prepare(GROUP, (0, 2, ONE))
    stage.bundles.commit(GROUP, [(0, 1)])
    stage.bundles.abort(GROUP, [(0, 1)])
    stage.bundles.release(GROUP, [(0, 1)])
    assert not stage.bundles.groups[GROUP].parts
    assert stage.resources.available["CPU"] == UNIT
    stage.bundles.commit(GROUP, [(0, 2)])
    assert stage.bundles.groups[GROUP].parts.keys() == {0}
    stage.bundles.check()


def test_an_aborted_bundle_returns() -> None:
    stage = Stage(CPU=2)
    stage.prepare(GROUP, (0, 1, ONE))
    stage.bundles.abort(GROUP, [(0, 1)])
    assert stage.bundles.flush()
    assert stage.resources.available["CPU"] == 2 * UNIT
    assert not stage.evicted
    stage.bundles.check()


def test_a_node_asks_about_a_bundle_that_stays_prepared() -> None:
    stage = Stage(CPU=2)
    stage.prepare(GROUP, (0, 1, ONE), (3, 4, ONE))
    asked: list[Any] = []
    stage.bundles.unsure = lambda group, pairs: asked.append((group, pairs))
    stage.clock.now = UNSURE_AFTER - 1
    stage.bundles.tick()
    assert asked == []
    stage.clock.now = UNSURE_AFTER
    stage.bundles.tick()
    stage.bundles.tick()
    assert asked == [(GROUP, [(0, 1), (3, 4)])]
    stage.bundles.commit(GROUP, [(0, 1), (3, 4)])
    stage.clock.now = 3 * UNSURE_AFTER
    stage.bundles.tick()
    assert len(asked) == 1


def test_a_patient_prepare_takes_what_becomes_free() -> None:
    stage = Stage(CPU=3, GPU=2)
    grants = [stage.resources.acquire(fixed({"CPU": 1, "GPU": 1})) for _ in range(2)]
    stage.prepare(GROUP, (0, 1, fixed({"CPU": 3, "GPU": 2})), patient=True)
    assert stage.answers == []
    stage.bundles.flush()
    assert stage.resources.available["CPU"] == 0
    stage.prepare(OTHER, (0, 1, fixed({"CPU": 3})), patient=True)
    assert stage.answers == [False]  # one at a time
    for number, grant in enumerate(grants):
        assert grant is not None
        grant.release()
        stage.bundles.flush()
        stage.bundles.check()
        assert len(stage.answers) == 1 + number
    assert stage.answers == [False, True]
    assert stage.bundles.groups[GROUP].held[0, 1].grant.devices == ((0, UNIT), (1, UNIT))


def test_an_abort_ends_a_patient_prepare() -> None:
    stage = Stage(CPU=2)
    grant = stage.resources.acquire(ONE)
    assert grant is not None
    stage.prepare(GROUP, (0, 1, TWO), patient=True)
    stage.bundles.flush()
    stage.bundles.abort(GROUP, [(0, 1)])
    assert stage.answers == []
    assert stage.resources.available["CPU"] == UNIT
    stage.bundles.check()


@pytest.mark.parametrize("index", [-1, 0])
def test_an_account_without_parts_serves_nothing(index: int) -> None:
    stage = Stage(CPU=2)
    account = stage.bundles.account_for(Bundle(GROUP, index))
    assert account.acquire(()) is None
    assert account.shortage(()) == ("a bundle", 1)
    assert account.room("a bundle") == account.room("CPU") == 0
    assert account.obstacle == f"the placement group {GROUP.hex()} is not known yet"
    assert account.feasible(TWO)
    stage.prepare(GROUP, (0, 1, ONE))
    stage.bundles.commit(GROUP, [(0, 1)])
    assert (account.obstacle, account.room("a bundle"), account.room("CPU")) == ("", 1, UNIT)
    assert account.shortage(TWO) == ("CPU", 2 * UNIT)
    grant = account.acquire(ONE)
    assert grant is not None
    assert not account.fits(ONE)
    assert account.describe(TWO, held=False).startswith("needs 2 CPU, more than ")


def test_a_lease_in_a_bundle_names_the_resources_plainly() -> None:
    world = World(CPU=2, GPU=1)
    driver = world.driver()
    group = made(world, driver, {"CPU": 1, "GPU": 1})
    driver.submit(where=inside(group), extra=("GPU", 1))
    world.deliver()
    task = next(iter(world.machine.work.tasks.values()))
    assert task.lease is not None
    assert dict(task.lease.grant.demand) == {"CPU": UNIT, "GPU": UNIT}

    world.end()
