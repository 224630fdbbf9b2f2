"""The lives of actors: order of calls, restarts, ends of every kind, names."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.actors import LIVED_A_WHILE, MOST_CAUSES
from asyncray.core.pauses import LONGEST_PAUSE
from asyncray.core.states import ALIVE, DEAD, PENDING, RESTARTING, STARTING
from asyncray.ids import TASK_SIZE
from asyncray.messages import CALL, CONSTRUCT, DONE, KILL, LEASE, LEAVE, PLAIN, REQUEST
from tests.core.processes import Driver, Worker
from tests.core.programs import Recipe
from tests.core.world import World


def host(world: World, handle: bytes) -> Worker:
    """The process of an actor."""
    record = world.machine.actors.table[handle[:TASK_SIZE]].worker
    assert record is not None
    return next(worker for worker in world.workers if worker.number == record.number)


def state(world: World, handle: bytes) -> str:
    actor = world.machine.actors.table.get(handle[:TASK_SIZE])
    return "forgotten" if actor is None else actor.state


def crash(world: World, handle: bytes) -> None:
    world.die(host(world, handle))
    world.deliver()


def alive(world: World, driver: Driver, **options: Any) -> bytes:
    """An actor that is constructed."""
    handle = driver.create(**options)
    world.settle()
    assert state(world, handle) == ALIVE
    return handle


def run_calls(world: World, handle: bytes, count: int) -> None:
    """The actor runs so many calls that have no steps."""
    for _ in range(2 * count):
        host(world, handle).step()
    world.deliver()


# Calls ----------------------------------------------------------------------------------------------------------------


def test_a_call_that_waits_for_its_argument_holds_back_its_callers_later_calls_only() -> None:
    world = World(CPU=2)
    one, two = world.driver(), world.driver()
    handle = alive(world, one, lives_on=1)
    blocker = one.submit(cpus=2)  # never fits beside the actor
    late = one.call(handle, arguments=(one.state.refs.index(blocker),))
    behind = one.call(handle)
    two.hold(handle)
    two.state.handles.append(handle)
    other = two.call(handle)
    world.settle()
    assert other in two.values
    assert behind not in one.values
    one.state.cancel(one.state.refs.index(blocker))
    world.settle()
    assert one.error(late) == "TaskCancelledError"
    assert behind in one.values


def test_an_unordered_actor_lets_ready_calls_pass() -> None:
    world = World(CPU=2)
    driver = world.driver()
    handle = alive(world, driver, lives_on=1, ordered=False)
    blocker = driver.submit(cpus=2)
    late = driver.call(handle, arguments=(driver.state.refs.index(blocker),))
    ready = driver.call(handle)
    world.settle()
    assert ready in driver.values
    assert late not in driver.values


def test_more_calls_than_the_window_are_all_done() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    refs = [driver.call(handle) for _ in range(600)]
    world.deliver()
    assert len(host(world, handle).queue) < 300
    world.settle()
    assert set(refs) <= driver.values.keys()


@pytest.mark.parametrize("where", ["lane", "mailbox", "sent"])
def test_a_call_can_be_cancelled_wherever_it_waits(where: str) -> None:
    world = World(CPU=2)
    driver = world.driver()
    handle = alive(world, driver, lives_on=1)
    if where == "lane":
        blocker = driver.submit(cpus=2)
        driver.call(handle, arguments=(driver.state.refs.index(blocker),))
    elif where == "mailbox":
        for _ in range(300):
            driver.call(handle)
    call, after = driver.call(handle), driver.call(handle)
    world.deliver()
    driver.state.cancel(driver.state.refs.index(call))
    world.deliver()
    assert driver.error(call) == "TaskCancelledError"
    world.resolve_all()
    assert after in driver.values
    world.end()


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("how", ["crash", "kill"])
def test_what_a_broken_off_call_has_submitted_and_nobody_else_wants_is_cancelled(how: str, restarts: int) -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=restarts)
    call = driver.call(handle, steps=(("spawn", Recipe(extra=("R", 1))), ("get", 0)))
    world.deliver()
    while len(world.machine.work.tasks) < 2 + (restarts > 0):
        host(world, handle).step()
        world.deliver()
    if how == "crash":
        crash(world, handle)
    else:
        driver.send((KILL, handle[:TASK_SIZE], True))
        world.deliver()
    assert driver.error(call) == ("ActorUnavailableError" if restarts and how == "crash" else "ActorDiedError")
    left = [task for task in world.machine.work.tasks.values() if not task.is_constructor]
    assert not left, left


# Construction ---------------------------------------------------------------------------------------------------------


def test_an_actor_whose_argument_has_failed_already_is_dead() -> None:
    world = World(CPU=1)
    driver = world.driver()
    bad = driver.submit(ending="raise")
    world.settle()
    handle = driver.create(arguments=(driver.state.refs.index(bad),))
    call = driver.call(handle)
    world.settle()
    assert driver.error(call) == "ActorDiedError"
    assert "creation task" in driver.message(call)


def test_an_actor_whose_constructor_fails_ends_in_order_and_its_calls_say_why() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create(ending="raise")
    call = driver.call(handle)
    world.deliver()
    worker = host(world, handle)
    worker.step()
    worker.step()
    world.talk()
    assert worker.leaving
    assert driver.error(call) == "ActorDiedError"
    assert driver.values[call][1]["cause"].startswith("error")
    world.end()


def test_arguments_of_a_constructor_are_kept_only_for_restarts() -> None:
    world = World(CPU=1)
    driver = world.driver()
    for restarts in (0, 1):
        driver.state.put(0)
        alive(world, driver, restarts=restarts, arguments=(0,))
        driver.state.forget(0)
        world.settle()
        kept = [entry for entry in world.machine.objects.table.values() if entry.actor is None]
        assert len(kept) == restarts


def test_a_constructor_that_says_done_twice_is_heard_once() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    worker = host(world, handle)
    world.machine.receive(worker.client, [(DONE, handle[:TASK_SIZE], 5, PLAIN, None, None)])
    world.host.after()
    assert state(world, handle) == ALIVE
    world.end()


# Out of scope ---------------------------------------------------------------------------------------------------------


def test_an_actor_without_handles_that_was_never_placed_is_forgotten() -> None:
    world = World(CPU=1)
    driver = world.driver()
    hog = driver.create(lives_on=1)
    handle = driver.create()
    world.settle()
    assert state(world, handle) == PENDING
    driver.lose(handle)
    world.settle()
    assert state(world, handle) == "forgotten"
    driver.lose(hog)
    world.end()


def test_an_actor_without_handles_is_first_constructed() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create()
    world.deliver()
    worker = host(world, handle)
    driver.lose(handle)
    world.deliver()
    assert state(world, handle) == STARTING
    worker.step()
    worker.step()
    world.talk()
    assert worker.leaving, "it ends in order"
    assert state(world, handle) == "forgotten"


def test_an_actor_without_handles_does_what_was_submitted_and_then_ends_in_order() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    worker = host(world, handle)
    refs = [driver.call(handle) for _ in range(2)]
    driver.lose(handle)
    world.talk()
    assert state(world, handle) == ALIVE
    run_calls(world, handle, 2)
    assert set(refs) <= driver.values.keys()
    assert worker.leaving
    world.end()


def test_a_handle_inside_a_value_or_a_pending_call_keeps_the_actor() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    driver.state.put(1)  # contains the handle
    container = driver.state.refs[-1]
    driver.lose(handle)
    world.settle()
    assert state(world, handle) == ALIVE
    driver.state.forget(driver.state.refs.index(container))
    world.settle()
    assert state(world, handle) == "forgotten"


# Restarts -------------------------------------------------------------------------------------------------------------


def test_calls_in_flight_are_sent_again_in_order_if_they_may() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    calls = [driver.call(handle, retries=1) for _ in range(3)]
    fragile = driver.call(handle)
    world.deliver()
    crash(world, handle)
    assert driver.error(fragile) == "ActorUnavailableError"
    host(world, handle).step()
    host(world, handle).step()
    world.deliver()
    assert [order.task for order in host(world, handle).queue] == [call[:TASK_SIZE] for call in calls]
    world.settle()
    assert set(calls) <= driver.values.keys()
    world.end()


def test_calls_while_it_restarts_fail_unless_they_may_be_retried() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    world.die(host(world, handle))
    world.chores()
    world.machine.flush()
    hasty, patient = driver.call(handle), driver.call(handle, retries=1)
    world.talk()
    assert driver.error(hasty) == "ActorUnavailableError"
    assert "The actor is restarting" in driver.message(hasty)
    world.settle()
    assert patient in driver.values


@pytest.mark.parametrize("retries", [0, 1])
def test_calls_before_the_constructor_is_done_survive_its_crash_and_use_no_retry(retries: int) -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create(restarts=2)
    calls = [driver.call(handle, retries=retries) for _ in range(3)]
    for _ in range(2):
        world.deliver()
        assert state(world, handle) == STARTING
        crash(world, handle)
    assert {world.machine.work.tasks[call[:TASK_SIZE]].retries for call in calls} == {retries}
    world.settle()
    assert set(calls) <= driver.values.keys()
    driver.lose(handle)
    world.end()


def test_a_call_that_waited_for_its_argument_survives_the_restart() -> None:
    world = World(CPU=2)
    driver = world.driver()
    handle = alive(world, driver, restarts=1, lives_on=1)
    slow = driver.submit()
    first = driver.call(handle, arguments=(driver.state.refs.index(slow),))
    second = driver.call(handle)
    world.deliver()
    crash(world, handle)
    world.settle()
    assert {first, second} <= driver.values.keys()


def test_an_actor_that_loses_its_last_call_with_its_process_and_has_no_handle_is_not_restarted() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=-1)
    call = driver.call(handle)
    driver.lose(handle)
    world.deliver()
    crash(world, handle)
    assert driver.error(call) in ("ActorUnavailableError", "ActorDiedError")
    assert state(world, handle) == "forgotten"
    world.end()


def test_without_restarts_left_calls_fail_for_good() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    crash(world, handle)
    call = driver.call(handle)
    world.settle()
    assert driver.error(call) == "ActorDiedError"
    assert "its worker process has died" in driver.message(call)


def test_a_worker_that_became_the_actor_that_a_task_on_it_had_made_is_restarted() -> None:
    world = World(CPU=1)
    driver = world.driver()
    made = driver.submit(steps=(("make", Recipe(restarts=1)),), ending="refs")
    world.settle()
    driver.state.get(driver.state.refs.index(made))
    handle = driver.state.handles[-1]
    assert world.machine.actors.table[handle[:TASK_SIZE]].creator is host(world, handle).client
    crash(world, handle)
    world.settle()
    assert state(world, handle) == ALIVE


# Ends of other kinds --------------------------------------------------------------------------------------------------


def test_killing_an_actor_that_waits_for_resources_gives_its_request_up() -> None:
    world = World(CPU=1)
    driver = world.driver()
    alive(world, driver, lives_on=1)
    handle = driver.create()
    call = driver.call(handle)
    world.settle()
    world.host.order(KILL, handle[:TASK_SIZE], True)
    world.settle()
    assert driver.error(call) == "ActorDiedError"
    assert "it was killed by `ray.kill`" in driver.message(call)
    assert not world.machine.scheduler.shapes.ready


def test_devices_of_a_killed_actor_are_free_when_its_process_is_gone() -> None:
    world = World(CPU=1, GPU=1)
    driver = world.driver()
    handle = alive(world, driver, extra=("GPU", 1))
    world.host.order(KILL, handle[:TASK_SIZE], True)
    assert world.machine.resources.available["GPU"] == 0
    world.settle()
    assert world.machine.resources.available["GPU"] > 0


def test_a_kill_that_allows_restarts_is_a_crash() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    world.host.order(KILL, handle[:TASK_SIZE], False)
    world.deliver()
    assert state(world, handle) in (RESTARTING, STARTING)
    world.settle()
    assert state(world, handle) == ALIVE
    world.host.order(KILL, handle[:TASK_SIZE], False)
    world.settle()
    assert state(world, handle) == DEAD


def test_an_actor_that_exits_fails_that_call_and_all_later_ones() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    calls = [driver.call(handle, ending="exit", retries=1), driver.call(handle)]
    world.settle()
    calls.append(driver.call(handle))
    world.settle()
    assert {driver.error(call) for call in calls} == {"ActorDiedError"}
    assert all("exit_actor()" in driver.message(call) for call in calls)
    world.end()


def test_actors_live_on_when_an_idle_creator_is_retired_and_die_when_it_crashes() -> None:
    world = World(CPU=1, GPU=1)
    world.machine.pool.spare = 0
    driver = world.driver()
    for crashes in (False, True):
        creation = driver.submit(steps=(("make", Recipe(extra=("GPU", 0.5))),), ending="refs")
        world.deliver()
        (creator,) = (worker for worker in world.workers if worker.queue)
        while creator.running or creator.queue:
            creator.step()
        if crashes:
            world.talk()
            world.die(creator)
        world.settle()
        driver.state.get(driver.state.refs.index(creation))
        world.settle()
        assert not creator.alive
        assert state(world, driver.state.handles[-1]) == (DEAD if crashes else ALIVE)
    world.end()


def test_what_a_forgotten_actor_died_of_is_known_for_a_while() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    world.host.order(KILL, handle[:TASK_SIZE], True)
    driver.lose(handle)
    number = driver.template(Recipe().spec("call"))
    task = driver.next_id()
    driver.send((CALL, task, number, PLAIN, b"", None, None, None, None, handle[:TASK_SIZE]), [task + b"\0\0\0\1"])
    world.settle()
    assert "it was killed by `ray.kill`" in driver.message(task + b"\0\0\0\1")
    for _ in range(MOST_CAUSES + 1):
        driver.lose(driver.create())
    world.settle()
    assert "it was killed" not in world.machine.actors.absent(handle[:TASK_SIZE])[1]["message"]


# Names ----------------------------------------------------------------------------------------------------------------


def taken(world: World, name: str = "ann") -> bool:
    return world.machine.directory.find(("ns", name)) is not None


def named(world: World, driver: Driver, **options: Any) -> bytes | None:
    before = len(driver.state.handles)
    driver.state.make(Recipe(name="ann", **options))
    world.settle()
    return driver.state.handles[-1] if len(driver.state.handles) > before else None


def test_a_name_is_taken_once_and_found() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = named(world, driver)
    assert handle is not None
    assert named(world, driver) is None
    answers: list[Any] = []
    driver.ask(REQUEST, "get_actor", ["ns", "ann"], answers.append)
    driver.ask(REQUEST, "list_named_actors", [None], answers.append)
    world.settle()
    assert answers == [[handle[:TASK_SIZE], b""], [{"name": "ann", "namespace": "ns"}]]


@pytest.mark.parametrize("detached", [False, True])
def test_a_killed_actors_name_is_free_at_once(detached: bool) -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = named(world, driver, detached=detached)
    assert handle is not None
    world.host.order(KILL, handle[:TASK_SIZE], True)
    assert not taken(world)
    assert named(world, driver)


def test_kill_frees_the_name_of_an_actor_that_has_crashed() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = named(world, driver)
    assert handle is not None
    crash(world, handle)
    world.host.order(KILL, handle[:TASK_SIZE], True)
    assert not taken(world)
    assert named(world, driver)


def test_nobody_has_the_name() -> None:
    world = World(CPU=1)
    driver = world.driver()
    answers: list[Any] = []
    driver.ask(REQUEST, "get_actor", ["ns", "ann"], answers.append)
    world.settle()
    assert answers == [None]


def test_an_actor_is_told_its_name_what_it_holds_and_whether_it_lived_before() -> None:
    world = World(CPU=1, R=1)
    driver = world.driver()
    driver.submit(cpus=0, extra=("R", 1))  # the worker that becomes the actor holds this first
    world.settle()
    for restarted in (0, 1):
        handle = named(world, driver, restarts=restarted)
        assert handle is not None
        if restarted:
            crash(world, handle)
            world.settle()
        worker = host(world, handle)
        assert worker.last_told[LEASE][1]["demand"] == ()
        assert worker.last_told[CONSTRUCT][6:] == (None, restarted, "ann")
        world.host.order(KILL, handle[:TASK_SIZE], True)


def test_a_crashed_actors_name_is_free_when_its_handle_is_gone_too() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = named(world, driver)
    assert handle is not None
    crash(world, handle)
    assert taken(world)
    driver.lose(handle)
    driver.state.make(Recipe(name="ann"))
    world.host.hear(driver, 2)  # in one batch
    world.settle()
    found = world.machine.directory.find(("ns", "ann"))
    assert found is not None
    assert world.machine.actors.table[found.actor].state == ALIVE


def test_the_daemon_tells_a_retired_actor_to_exit_and_does_not_kill_it() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver)
    worker = host(world, handle)
    driver.lose(handle)
    world.host.hear(driver, 1)
    assert [message[0] for message in worker.inbox] == [LEAVE]
    assert not world.host.doomed


def starts(world: World, handle: bytes, seconds: float) -> int:
    """The actor crashes as soon as its constructor is sent, for so long: how often that is."""
    count = 0
    for _ in range(round(seconds / 0.05)):
        world.talk()
        world.chores()
        if state(world, handle) == STARTING:
            crash(world, handle)
            count += 1
        world.wait(0.05)
    return count


def test_an_actor_that_dies_at_once_is_restarted_more_and_more_slowly() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = driver.create(restarts=-1)
    assert 3 < starts(world, handle, 3.0) < 9
    assert starts(world, handle, 2 * LONGEST_PAUSE) < 8
    world.host.order(KILL, handle[:TASK_SIZE], True)
    world.wait(LONGEST_PAUSE)
    assert state(world, handle) == DEAD


def test_the_death_of_the_zygote_restarts_an_actor_at_once_and_makes_no_pause_longer() -> None:
    world = World(CPU=1)
    handle = world.driver().create(restarts=-1)
    world.deliver()
    crash(world, handle)
    actor = world.machine.actors.table[handle[:TASK_SIZE]]
    pause = actor.restart_pause
    assert pause
    for _ in range(8):
        world.deliver()
        assert state(world, handle) == STARTING
        world.die(host(world, handle))
        world.host.exit_seen(with_zygote=True)
        assert actor.restart_pause == pause


def test_an_actor_that_lived_a_while_is_restarted_at_once() -> None:
    world = World(CPU=1)
    handle = alive(world, world.driver(), restarts=-1)
    for _ in range(4):
        world.wait(LIVED_A_WHILE)
        crash(world, handle)
        world.talk()
        while world.chores() | world.talk() | world.run():
            pass
        assert state(world, handle) == ALIVE
