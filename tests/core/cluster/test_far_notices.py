"""Notices and unread errors of jobs at other nodes, and the ends of nodes: each driver gets them, once."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import FOR_DRIVER, NODE_ENDED_FOR
from asyncray.config import LOG_ERROR, LOG_WARNING
from asyncray.core.cluster import far_notices
from asyncray.messages import ERROR, INVOKE, NOTICE, RUN_GC, UNREAD
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.cluster.test_far_output import FAR, job_at, pair
from tests.core.processes import Driver
from tests.core.programs import Recipe


def news(driver: Driver, kind: int) -> list[Any]:
    """The messages of a kind that a driver has got, without the kind."""
    return [message[1:] for message in (*driver.news, *driver.inbox) if message[0] == kind]


def report(world: Pair, node: bytes, *message: Any) -> None:
    """A node has something to say to the driver of its job, and it arrives."""
    member = world.members[node]
    member.host.machine.outbox.send_to_driver(job_at(world, node), message)
    member.host.after()
    world.deliver()


def test_a_notice_names_the_node_that_it_comes_from() -> None:
    world, driver = pair()
    world.members[B].host.machine.notify_drivers("no worker can start")
    world.members[B].host.after()
    world.deliver()
    assert news(driver, NOTICE) == [(LOG_ERROR, f"node {B.hex()} at node000B:1: no worker can start")]
    part = world.members[A].part
    part.notices.for_driver(part.peers[B], (FOR_DRIVER, driver.job_id, (RUN_GC,)))
    assert driver.client.out == [(RUN_GC,)]
    world.end()


def test_errors_of_tasks_that_a_guest_submits_reach_the_driver_from_the_home_of_the_tasks() -> None:
    """The guest drops the ref unread. The guest itself fails, too: its error is counted at its own home."""
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    child = Recipe(ending="raise")
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", child), ("forget", 0)), ending="raise"))
    world.settle()
    assert [count for *_, count in news(driver, UNREAD)] == [1], "that of the child"
    assert FOR_DRIVER in world.kinds(B, A)
    words = world.kinds(B, A).count(FOR_DRIVER)
    driver.state.forget(0)
    world.settle()
    assert [count for *_, count in news(driver, UNREAD)] == [1, 1]
    assert world.kinds(B, A).count(FOR_DRIVER) == words
    world.end()


def test_the_home_thins_out_the_errors_of_all_nodes() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    driver.state.spawn(FAR)
    driver.state.spawn(Recipe(extra=("S", 1)))
    world.settle()
    for count in (*range(1, 11), 100):
        for node in (B, C):
            report(world, node, UNREAD, "f", ERROR, b"", count)
    assert [count for *_, count in news(driver, UNREAD)] == [*range(1, 11), 110]
    world.end()


def test_the_count_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_notices, "MOST_NAMES", 2)
    world, driver = pair()
    for name in ("f", "g", "h"):
        report(world, B, UNREAD, name, ERROR, b"", 1)
    assert len(news(driver, UNREAD)) == 3
    (errors,) = world.members[A].part.notices._errors.values()
    assert list(errors) == ["g", "h"]
    world.end()
    assert not world.members[A].part.notices._errors


def test_only_words_for_people_reach_a_driver() -> None:
    world, driver = pair()
    part = world.members[A].part
    job = driver.job_id
    peer = part.peers[B]
    with pytest.raises(ValueError, match="has a message of kind"):
        part.notices.for_driver(peer, (FOR_DRIVER, job, (INVOKE, b"")))
    world.die(driver)
    world.settle()
    part.notices.for_driver(peer, (FOR_DRIVER, job, (NOTICE, LOG_ERROR, "late")))
    part.notices.node_ended_for(peer, (NODE_ENDED_FOR, job, C, "late"))
    world.end()


def test_a_driver_hears_once_of_a_lost_node_that_had_its_job() -> None:
    """A told the job to B and B told it to C, which A did not."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver, other = world.driver(), world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    world.settle()
    world.lose(C)
    world.settle()
    told = [text for _, text in news(driver, NOTICE)]
    assert told == [
        f"node {C.hex()} at node000C:1 is lost: a test says so. Tasks that it had run again or fail, and what they "
        "printed last may be missing."
    ]
    world.lose(B)
    world.settle()
    assert [text.split(".")[0] for _, text in news(driver, NOTICE)][1:] == [
        f"node {B.hex()} at node000B:1 is lost: a test says so"
    ]
    assert not news(other, NOTICE), "its job was never there"
    assert len(world.members[A].part.notices._ended) == 1
    world.die(driver)
    world.settle()
    assert not world.members[A].part.notices._ended


def test_the_head_is_missed_by_the_drivers_of_the_node_itself() -> None:
    """Each node has a connection to the head of its own, so none speaks for another."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1)))
    world.settle()
    world.members[B].part.notices.for_own_drivers("the head is away")
    world.settle()
    assert not news(driver, NOTICE)
    world.members[A].part.notices.for_own_drivers("the head is away")
    world.settle()
    assert news(driver, NOTICE) == [(LOG_WARNING, "the head is away")]


def test_two_nodes_that_know_of_a_loss_are_one_notice() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    driver.state.spawn(Recipe(extra=("S", 1)))
    world.settle()
    world.lose(C)
    world.settle()
    assert NODE_ENDED_FOR in world.kinds(B, A)
    assert len(news(driver, NOTICE)) == 1
    assert repr(world.members[A].part.notices) == "<FarNotices of 0 jobs>"
    world.members[A].part.notices.jobs_over([driver.job_id])
