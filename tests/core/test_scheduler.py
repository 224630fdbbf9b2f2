"""The choice of a worker for each task: leases, tasks sent ahead and taken back, blocked workers, devices."""

from __future__ import annotations

from random import Random

import pytest

from asyncray.core.machine import NodeMachine
from asyncray.core.resources import Resources
from asyncray.ids import TASK_SIZE
from asyncray.messages import (
    BLOCKED,
    CANCEL,
    DONE,
    FORGET,
    LEASE,
    PLAIN,
    RETURN_QUEUED,
    RUN,
    SUBMIT,
    TEMPLATE,
    UNBLOCKED,
    VALUE,
)
from asyncray.units import fixed, plain
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import World
from tests.greeting import SETUP

QUICK = Recipe(takes=5, retries=1)


def queued(world: World) -> int:
    return sum(len(worker.queue) for worker in world.workers)


def finish(world: World, worker: Worker) -> None:
    """The worker runs what it has, to its end."""
    while worker.queue or worker.running:
        worker.step()
    world.deliver()


def measured(world: World, driver: Driver, recipe: Recipe) -> None:
    """The function has run once, so that its mean is known."""
    driver.submit(recipe)
    world.settle()


def messages_out(world: World) -> list[tuple[str, int]]:
    """What the machine has sent and the world has not taken: to which role, and the kind."""
    machine = world.machine
    return [(machine.clients[p.number].role, message[0]) for p in machine.outbox.dirty for message in p.out]


def test_a_task_takes_one_message_each_way_per_hop() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    (worker,) = world.workers
    finish(world, worker)
    assert driver.values[ref] == world.truth[ref]
    machine = world.machine
    sent: list[tuple[str, int]] = []
    machine.receive(driver.client, [(SUBMIT, driver.next_id(), 2, PLAIN, b"", None, None, None, None)])
    machine.flush()
    sent += messages_out(world)
    worker.client.out.clear()
    machine.outbox.dirty.clear()
    (task_id,) = machine.work.tasks
    machine.receive(worker.client, [(DONE, task_id, 5, PLAIN, b"", None)])
    sent += messages_out(world)
    assert sent == [("worker", RUN), ("driver", VALUE)]


def test_short_tasks_are_sent_ahead_once_their_length_is_known() -> None:
    world = World(CPU=1)
    driver = world.driver()
    for _ in range(5):
        driver.submit(QUICK)
    world.deliver()
    assert queued(world) == 1
    world.settle()
    assert not world.unresolved()
    for _ in range(5):
        driver.submit(QUICK)
    world.deliver()
    assert queued(world) == 5


@pytest.mark.parametrize("recipe", [Recipe(takes=10_000, retries=1), Recipe(takes=5, retries=0)])
def test_long_tasks_and_those_that_may_start_only_once_are_sent_singly(recipe: Recipe) -> None:
    world = World(CPU=1)
    driver = world.driver()
    measured(world, driver, recipe)
    for _ in range(3):
        driver.submit(recipe)
    world.deliver()
    assert queued(world) == 1


def test_tasks_behind_a_long_task_are_taken_back_once_and_run_elsewhere() -> None:
    world = World(CPU=2)
    driver = world.driver()
    measured(world, driver, QUICK)
    refs = [driver.submit(QUICK) for _ in range(4)]
    world.deliver()
    busy = next(worker for worker in world.workers if worker.queue)
    busy.step()  # and never again
    world.wait(0.02)
    world.deliver()
    assert not busy.queue
    other = next(worker for worker in world.workers if worker.queue)
    finish(world, other)
    assert set(refs[1:]) <= driver.values.keys()


def test_nothing_is_sent_again_behind_a_task_that_is_stuck() -> None:
    world = World(CPU=1)
    driver = world.driver()
    measured(world, driver, QUICK)
    for _ in range(4):
        driver.submit(QUICK)
    driver.submit(cpus=0.5)
    world.deliver()
    (worker,) = world.workers
    worker.step()
    orders = []
    for _ in range(5):
        world.wait(0.02)
        orders += [message[0] for message in worker.inbox]
        world.deliver()
    assert orders.count(RETURN_QUEUED) == 1
    assert not worker.queue
    world.settle()
    assert not world.unresolved()


def recursion(depth: int, cpus: float = 1) -> Recipe:
    recipe = Recipe(cpus=cpus)
    for _ in range(depth):
        recipe = Recipe(steps=(("spawn", recipe), ("get", 0)), cpus=cpus)
    return recipe


@pytest.mark.parametrize("cpus", [1, 0])
def test_deep_recursion_needs_few_processes(cpus: float) -> None:
    world = World(CPU=1)
    driver = world.driver()
    result = driver.submit(recursion(40, cpus=cpus))
    most = 0
    while world.talk() | world.chores() | world.run():
        most = max(most, len(world.workers))
    assert result in driver.values
    assert most <= 14
    world.end()


def test_a_flood_of_free_tasks_gets_a_bounded_number_of_processes_and_threads() -> None:
    world = World(CPU=1)
    driver = world.driver()
    waiting = Recipe(steps=(("flood", Recipe(steps=(("spawn", Recipe()), ("get", 0)), cpus=0)), ("get", 0)), cpus=0)
    for _ in range(30):
        driver.submit(waiting)
    world.deliver()
    limit = world.machine.scheduler.most_free
    while world.talk() | world.chores() | world.run():
        active = [thread for worker in world.workers for thread in worker.running if not thread.blocked]
        assert len(active) <= 2 * limit + 4  # those that run, and those that were nested; and CPU tasks
    world.resolve_all()


def flood_beside_an_actor(*, forks_fail: bool) -> tuple[Worker, set[int]]:
    """A flood of tasks has used up the slice of its lease, and an actor waits for a process.

    Returns the first worker of the flood, and the numbers of the workers that run it afterwards.
    """
    world = World(CPU=2)
    driver = world.driver()
    flood = Recipe(cpus=2, takes=900, retries=1)
    measured(world, driver, flood)
    for _ in range(100):
        driver.submit(flood)
    world.talk()
    (worker,) = [worker for worker in world.workers if worker.queue]
    idle = [other for other in world.workers if other is not worker]
    for other in idle:
        world.die(other)
        world.host.exit_seen()
    driver.create(cpus=0)
    world.talk()
    for _ in range(30):
        if forks_fail and world.host.unborn:
            world.host.fork(works=False)
            world.host.miss_seen()
        worker.step()
        world.talk()
    return worker, {other.number for other in world.workers if other.queue}


def test_an_actor_that_lacks_only_a_process_takes_none_from_a_lease() -> None:
    worker, at_work = flood_beside_an_actor(forks_fail=False)
    assert at_work == {worker.number}
    assert not worker.is_actor


def test_an_actor_gets_a_process_from_a_lease_if_none_can_start() -> None:
    worker, _ = flood_beside_an_actor(forks_fail=True)
    assert worker.is_actor


def test_a_new_actor_that_lacks_only_a_process_takes_none_from_a_lease() -> None:
    """CREATE arrives in one batch with the end of a task, after which the slice of the lease is used up."""
    world = World(CPU=1)
    driver = world.driver()
    flood = Recipe(takes=9000, retries=1)
    for _ in range(3):
        driver.submit(flood)
    world.deliver()
    (worker,) = world.workers
    while worker.queue or worker.running:
        worker.step()
    driver.create(cpus=0)
    for process in (worker, driver):
        world.machine.receive(process.client, [message for message, _ in process.wire])
        process.wire.clear()
    world.host.after()
    world.talk()
    assert [order.how for order in worker.queue] == [RUN]


def test_ticks_are_fast_while_tasks_are_sent_ahead() -> None:
    world = World(CPU=1)
    driver = world.driver()
    measured(world, driver, QUICK)
    fast = [world.machine.needs_fast_tick]
    for _ in range(2):
        driver.submit(QUICK)
    world.deliver()
    fast.append(world.machine.needs_fast_tick)
    (worker,) = world.workers
    while len(worker.queue) == 2 or worker.running:
        worker.step()
    world.deliver()
    world.wait(0)
    fast.append(world.machine.needs_fast_tick)
    assert (fast, len(worker.queue)) == ([False, True, False], 1)


def test_a_task_whose_function_has_crashed_gets_a_process_and_those_behind_it_are_nested() -> None:
    world = World(CPU=1)
    world.machine.scheduler.nest_after = 1
    driver = world.driver()
    driver.submit(cpus=0.75, ending="crash")
    world.settle()
    driver.submit(steps=(("spawn", Recipe(extra=("moon", 1))), ("get", 0)))
    driver.submit(cpus=0.75, ending="crash")
    driver.submit(cpus=0.25)
    world.deliver()
    (worker,) = world.workers
    while worker.main is None or not worker.main.blocked:
        worker.step()
        world.talk()
    assert len(world.host.unborn) == 1
    assert [nested.order.recipe.cpus for nested in worker.threads] == [0.25]


def test_a_parked_shape_is_served_in_the_round_that_drops_the_last_other_one() -> None:
    """One batch: a task finishes, the next one of its function is cancelled, and the function is forgotten."""
    world = World(CPU=1)
    driver = world.driver()
    recipe = Recipe(takes=10_000)
    _, second = driver.submit(recipe), driver.submit(recipe)
    driver.submit(cpus=0.5)
    world.deliver()
    (worker,) = world.workers
    while worker.queue or worker.running:
        worker.step()
    world.machine.receive(worker.client, [message for message, _ in worker.wire])
    worker.wire.clear()
    forget = (FORGET, [driver.template(recipe.spec("spawn"))])
    world.machine.receive(driver.client, [(CANCEL, second[:TASK_SIZE], False, False), forget])
    world.host.after()
    world.talk()
    assert [order.recipe.cpus for order in worker.queue] == [0.5]


def test_a_task_that_waits_in_several_places_lends_its_cpu_until_the_last_wait_has_ended() -> None:
    """For instance, a signal handler calls ``get`` while the task waits. One end too many changes nothing."""
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(takes=10_000)
    world.deliver()
    (worker,) = world.workers
    available = world.machine.resources.available

    def after(kind: int) -> int:
        world.machine.receive(worker.client, [(kind, worker.queue[0].task)])
        world.machine.check()
        return available["CPU"]

    assert [after(BLOCKED), after(BLOCKED), after(UNBLOCKED)] == [10_000] * 3
    assert [after(UNBLOCKED), after(UNBLOCKED), after(BLOCKED), after(UNBLOCKED)] == [0, 0, 10_000, 0]


def test_devices_go_with_the_lease_and_gpu_workers_do_no_other_work() -> None:
    world = World(CPU=2, GPU=2)
    driver = world.driver()
    for _ in range(2):
        driver.submit(extra=("GPU", 1), takes=10_000)
    world.deliver()
    assert sorted(worker.devices for worker in world.workers if worker.queue) == [(0,), (1,)]
    gpu_workers = {worker.number for worker in world.workers if worker.queue}
    for worker in world.workers:
        finish(world, worker)
    driver.submit()
    world.deliver()
    assert {worker.number for worker in world.workers if worker.queue}.isdisjoint(gpu_workers)


def test_a_lease_is_announced_only_when_it_changes() -> None:
    world = World(CPU=1)
    driver = world.driver()
    measured(world, driver, QUICK)
    (worker,) = world.workers
    announced = [worker.last_told.keys() & {RUN, LEASE}]
    for recipe in (QUICK, Recipe(cpus=0.5)):
        worker.last_told.clear()
        measured(world, driver, recipe)
        announced.append(worker.last_told.keys() & {RUN, LEASE})
    assert announced == [{RUN, LEASE}, {RUN}, {RUN, LEASE}]


@pytest.mark.parametrize("spec", [{"demand": [("CPU", -1)]}, {"demand": [("CPU", 1)], "life": [("CPU", 2)]}])
def test_demands_that_make_no_sense_are_the_clients_fault(spec: dict[str, object]) -> None:
    machine = NodeMachine(b"thisnode", {"CPU": 1}, "seg", 8192, {})
    client = machine.driver_connected(1, "ns", SETUP)
    whole = {"name": "f", "function": b"", "returns": 1, "retries": 0, **spec}
    with pytest.raises(ValueError, match="to start, and for life"):
        machine.receive(client, [(TEMPLATE, 1, b"digest", whole)])


def test_an_actor_lives_on_the_account_of_its_placement() -> None:
    world = World(CPU=2)
    machine, driver = world.machine, world.driver()
    aside = machine.resources.acquire(fixed({"CPU": 1}))
    assert aside is not None
    part = machine.scheduler.shapes.accounts["part"] = Resources(plain(aside.demand))
    number = driver.template(Recipe(lives_on=1).spec("make"))
    world.talk()
    driver.client.templates[number].where = "part"
    handles = [driver.create(lives_on=1) for _ in range(2)]
    world.settle()
    assert [account.available["CPU"] for account in (part, machine.resources)] == [0, 10_000]
    assert machine.stalls.rows()[0]["why"] == "needs 1 CPU, and actors hold 1 CPU of 1 CPU"
    for handle in handles:
        driver.lose(handle)
    world.settle()
    assert part.available == part.total
    aside.release()
    world.end()


def test_a_lease_ends_that_only_late_puts_of_its_process_block() -> None:
    """The tasks that were sent ahead go back, and another worker takes them. The lease would keep half of the GPU."""
    world = World(CPU=2.0, GPU=1.0)
    driver, random = world.driver(), Random(3)
    driver.state.do(("share", 7001))
    recipe = Recipe(steps=(("promise", 900),), extra=("GPU", 0.5), takes=5)
    world.settle()
    driver.submit(recipe)
    world.settle()
    for _ in range(3):
        driver.state.do(("flood", recipe))
    for _ in range(400):
        if random.random() < 0.03:
            world.wait(0.02)
        if moves := world.moves():
            random.choice(moves)()
        world.check()
