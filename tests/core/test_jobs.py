"""Jobs: their numbers, and the party through which the node speaks to their drivers."""

from __future__ import annotations

import pytest

from asyncray.core.machine import NodeMachine
from asyncray.core.records import Party
from asyncray.messages import ERROR, FUNCTION, NOTICE, TEMPLATE, UNREAD
from tests.core.programs import Recipe
from tests.core.world import World
from tests.greeting import SETUP


def machine(numbers: range) -> NodeMachine:
    node = NodeMachine(b"thisnode", {"CPU": 1.0}, "seg", 8192, {})
    node.jobs.number_from(numbers)
    return node


def jobs_of(machine: NodeMachine, count: int) -> list[bytes]:
    """The IDs of the jobs of so many drivers."""
    jobs = [machine.driver_connected(1, "ns", SETUP).job for _ in range(count)]
    return [job.id for job in jobs if job is not None]


def test_jobs_are_numbered_from_the_block_of_the_node() -> None:
    one, other = machine(range(4096, 8192)), machine(range(8192, 12288))
    assert jobs_of(one, 2) == [b"\0\0\x10\0", b"\0\0\x10\1"]
    assert jobs_of(other, 1) == [b"\0\0\x20\0"]


def test_a_node_that_joins_a_cluster_numbers_its_further_jobs_from_another_block() -> None:
    node = machine(range(1, 4096))
    before = jobs_of(node, 1)
    node.jobs.number_from(range(4096, 8192))
    assert before + jobs_of(node, 2) == [b"\0\0\0\1", b"\0\0\x10\0", b"\0\0\x10\1"]


def test_a_lone_node_has_a_block_of_its_own() -> None:
    world = World(CPU=1)
    assert [world.driver().job_id for _ in range(2)] == [b"\0\0\0\1", b"\0\0\0\2"]


def test_a_number_is_never_used_again() -> None:
    node = machine(range(1, 3))
    client = node.driver_connected(1, "ns", SETUP)
    node.client_disconnected(client)
    assert jobs_of(node, 1) == [b"\0\0\0\2"]
    with pytest.raises(OverflowError, match="no more numbers"):
        jobs_of(node, 1)


def test_messages_for_a_driver_go_to_the_party_that_its_job_reports_to() -> None:
    world = World(CPU=1)
    driver = world.driver()
    job = driver.client.job
    assert job is not None
    assert job.reports_to is driver.client
    party = job.reports_to = Party(99)
    driver.client.out.clear()
    spec = Recipe(extra=("moon", 1)).spec("spawn")
    function = (FUNCTION, 1, spec["function"], b"code", None)
    world.machine.receive(driver.client, [function, (TEMPLATE, 2, b"digest", spec)])
    world.machine.notify_drivers("something is wrong")
    world.machine.objects.unread.report(job.templates[b"digest"], "f", ERROR, b"")
    assert [message[0] for message in party.out] == [NOTICE, NOTICE, UNREAD]
    assert not driver.client.out
    party.out.clear()


def test_a_job_without_its_driver_reports_to_nobody() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.create(detached=True)
    world.settle()
    job = driver.client.job
    assert job is not None
    world.die(driver)
    world.settle()
    assert job.lasts
    assert job.reports_to is None
    world.machine.notify_drivers("something is wrong")
    assert not world.machine.outbox.dirty
    world.end()
