"""The door of a node: clients that connect and leave, late messages of the dead, and the news that drivers get."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.outbox import LogLine, StopNode
from asyncray.core.workers import REPORT_AGAIN_AFTER
from asyncray.messages import NOTICE, OUTPUT_LOST, PLAIN, PUT, WELCOME
from tests.core.world import NODE_ID, World
from tests.greeting import SETUP


def test_each_process_is_welcomed_with_an_id_that_no_other_has() -> None:
    machine = World(CPU=1).machine
    driver, tool = machine.driver_connected(1, "ns", SETUP), machine.observer_connected(2)
    welcomes: Any = [driver.out[0], tool.out[0]]
    (kind, to_driver), (_, to_tool) = welcomes
    assert kind == WELCOME
    assert driver.job is not None
    assert (to_driver["job_id"], to_driver["namespace"], to_driver["node_id"]) == (driver.job.id, "ns", NODE_ID)
    assert "job_id" not in to_tool
    assert to_driver["client_id"] != to_tool["client_id"]
    assert {client.id for client in machine.clients.values()} >= {to_driver["client_id"], to_tool["client_id"]}


def test_a_worker_that_nobody_expects_gets_no_welcome() -> None:
    machine = World(CPU=1).machine
    before = dict(machine.clients)
    assert machine.worker_connected(77, 1) is None
    assert machine.clients == before


def test_messages_of_a_process_that_is_known_to_have_ended_change_nothing() -> None:
    """The node has seen the process exit and has given its work to others; then its last batch arrives."""
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.next_id() + b"\0\0\0\0"
    world.machine.client_disconnected(driver.client)
    world.machine.receive(driver.client, [(PUT, ref, PLAIN, b"", None), (99,)])
    assert not world.machine.objects.table
    world.machine.client_disconnected(driver.client)
    world.machine.check()


def test_a_message_of_an_unknown_kind_is_the_clients_fault() -> None:
    world = World(CPU=1)
    with pytest.raises(KeyError):
        world.machine.receive(world.driver().client, [(99,)])


def test_drivers_hear_seldom_that_output_is_lost() -> None:
    world = World(CPU=1)
    drivers = [world.driver(), world.driver()]
    for now in (0.0, REPORT_AGAIN_AFTER / 2, REPORT_AGAIN_AFTER):
        world.machine.now = now
        world.machine.receive(drivers[0].client, [(OUTPUT_LOST, f"at {now}")])
    logged = [command.text for command in world.machine.outbox.commands if isinstance(command, LogLine)]
    assert logged == [f"what workers print is lost: at {now}" for now in (0.0, REPORT_AGAIN_AFTER)]
    for driver in drivers:
        assert [message[2] for message in driver.client.out if message[0] == NOTICE] == logged


def test_a_node_stops_once_and_starts_no_more_workers() -> None:
    world = World(CPU=1)
    driver = world.driver()
    world.settle()
    for reason in ("first", "second"):
        world.machine.stop(reason)
    assert [c for c in world.machine.outbox.commands if isinstance(c, StopNode)] == [StopNode("first")]
    world.machine.outbox.commands.clear()
    for worker in world.workers:
        world.die(worker)
    driver.submit()
    world.deliver()
    assert world.host.unborn == []
    assert world.workers == []


def test_the_story_of_a_workers_end_says_all_that_is_known() -> None:
    world = World(CPU=1)
    driver = world.driver()
    ref = driver.submit()
    world.deliver()
    (worker,) = (worker for worker in world.workers if worker.queue)
    record = world.machine.pool.workers[worker.number]
    record.why = "it was told to"
    world.die(worker)
    world.host.corpses.clear()
    world.machine.worker_exited(worker.number, "exit code 3", "the last words")
    world.host.processes.pop(worker.client.number)
    world.host.after()
    world.talk()
    assert "exit code 3 (it was told to). The last lines of its log:\nthe last words" in driver.message(ref)


def test_a_node_is_idle_while_no_task_is_unfinished_and_no_claim_waits() -> None:
    world = World(CPU=1)
    driver = world.driver()
    idle = [world.machine.is_idle]
    driver.allocate(64, lambda place: None)
    world.host.hear(driver)
    idle.append(world.machine.is_idle)
    world.settle()
    idle.append(world.machine.is_idle)
    driver.submit()
    world.deliver()
    idle.append(world.machine.is_idle)
    world.settle()
    idle.append(world.machine.is_idle)
    assert idle == [True, False, True, False, True]


def test_ticks_are_asked_for_while_a_claim_waits() -> None:
    world = World(CPU=1)
    driver = world.driver()
    wanted = [world.machine.needs_fast_tick]
    driver.allocate(64, lambda place: None)
    world.host.hear(driver)
    wanted.append(world.machine.needs_fast_tick)
    world.settle()
    wanted.append(world.machine.needs_fast_tick)
    assert wanted == [False, True, False]
