"""Calls of actors: lanes, which belong to callers by their IDs, and retries. ``test_actors`` has the ends of actors."""

from __future__ import annotations

from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL
from tests.core.test_actors import alive, crash
from tests.core.world import World


def test_a_lane_exists_while_a_caller_waits_and_is_known_by_the_callers_id() -> None:
    world = World(CPU=2)
    one, two = world.driver(), world.driver()
    handle = alive(world, one, lives_on=1)
    two.hold(handle)
    two.state.handles.append(handle)
    seat = world.machine.actors.table[handle[:TASK_SIZE]]
    blockers = [driver.submit(cpus=2) for driver in (one, two)]
    for driver, blocker in zip((one, two), blockers, strict=True):
        driver.call(handle, arguments=(driver.state.refs.index(blocker),))
        driver.call(handle)
    world.settle()
    assert {caller: len(lane) for caller, lane in seat.lanes.items()} == {one.client.id: 2, two.client.id: 2}
    # Between nodes, all calls of a node come through one connection. A call that goes on opens its own lane only.
    for call in seat.lanes[two.client.id]:
        call.submitter = one.client
    one.state.cancel(one.state.refs.index(blockers[0]))
    world.settle()
    assert {caller: len(lane) for caller, lane in seat.lanes.items()} == {two.client.id: 2}
    two.state.cancel(two.state.refs.index(blockers[1]))
    world.settle()
    assert seat.lanes == {}


def test_a_call_whose_process_crashes_runs_again_as_often_as_its_retries_allow() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=-1)
    call = driver.call(handle, ending="crash", retries=2)
    world.settle()
    assert driver.error(call) == "ActorUnavailableError"
    assert world.starts[call[:TASK_SIZE]] == 3


def test_a_cancelled_call_whose_process_crashes_does_not_run_again() -> None:
    world = World(CPU=1)
    driver = world.driver()
    handle = alive(world, driver, restarts=1)
    call = driver.call(handle, retries=1)
    world.deliver()
    world.host.order(CANCEL, call[:TASK_SIZE], False, False)
    crash(world, handle)
    world.settle()
    assert driver.error(call) == "TaskCancelledError"
    assert not world.starts[call[:TASK_SIZE]]
