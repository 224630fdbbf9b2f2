"""A lane belongs to a caller, known by its ID: the calls of two callers may come through one connection.

``test_actors`` tests how a mailbox handles calls when actors start, restart and end.
"""

from __future__ import annotations

from asyncray.ids import TASK_SIZE
from tests.core.test_actors import alive
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
