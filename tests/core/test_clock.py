"""All machines share one time: that of the event that the daemon handles."""

from __future__ import annotations

from asyncray.core.pauses import LONGEST_PAUSE
from tests.core.world import World


def test_all_machines_record_the_time_that_the_node_was_given() -> None:
    world = World(CPU=1)
    world.wait(5.0)
    driver = world.driver()
    driver.submit()
    world.deliver()
    (worker,) = world.machine.pool.workers.values()
    assert worker.lease is not None
    assert worker.lease.finished_at == world.now == world.machine.now == 5.0
    world.machine.now = 5.0 + LONGEST_PAUSE
    while world.workers[0].running or world.workers[0].queue:
        world.workers[0].step()
    world.deliver()
    assert worker.idle_since == 5.0 + LONGEST_PAUSE
