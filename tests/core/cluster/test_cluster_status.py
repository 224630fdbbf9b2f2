"""The status of a node of a cluster: the tasks that wait at the others, and nodes that give no answer."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import ANSWER, INQUIRY, INQUIRY_ANSWER
from asyncray.core.cluster.cluster_status import PATIENCE
from asyncray.messages import REQUEST
from tests.core.cluster.pair import A, B, Pair
from tests.core.cluster.test_waiting_tasks import let_stall
from tests.core.processes import Driver


def pair() -> tuple[Pair, Driver]:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    return world, world.driver()


def ask(world: Pair, driver: Driver) -> list[Any]:
    """A client asks its node for the status. Returns the answers, which come later."""
    answers: list[Any] = []
    driver.ask(REQUEST, "status", [], answers.append)
    world.host.hear(driver, len(driver.wire))
    return answers


def answer(world: Pair, *value: Any) -> None:
    """The head answers the last question of node A."""
    (_, number, method, arguments) = world.questions(A)[-1]
    assert (method, arguments) == ("gather", ["waiting"])
    world.members[A].hear_head(ANSWER, number, *value)
    world.host.after()
    world.host.talk()


def test_the_status_has_the_tasks_that_wait_at_all_nodes() -> None:
    world, driver = pair()
    answers = ask(world, driver)
    assert not answers
    row = {"name": "f", "needs": {"R": 1.0}, "tasks": 2, "why": "its turn comes"}
    answer(world, True, [[(A, [row]), (B, [row])], [b"node000C"]])
    (status,) = answers
    assert status["waiting"] == []
    assert status["waiting_elsewhere"] == [{**row, "node_id": B.hex()}], "its own rows are not repeated"
    assert status["silent_nodes"] == [b"node000C".hex()]
    world.end()


def test_a_head_that_does_not_answer_costs_people_a_moment() -> None:
    world, driver = pair()
    answers = ask(world, driver)
    world.wait(PATIENCE)
    world.host.talk()
    (status,) = answers
    assert (status["waiting_elsewhere"], status["silent_nodes"]) == ([], [B.hex()])
    answer(world, True, [[], []])  # too late
    assert len(answers) == 1
    assert repr(world.members[A].part.statuses) == "<ClusterStatuses 0 open>"
    world.end()


def test_a_head_that_is_gone_costs_nothing() -> None:
    world, driver = pair()
    answers = ask(world, driver)
    answer(world, False, ["NodeDiedError", {"message": "gone"}])
    assert answers[0]["silent_nodes"] == [B.hex()]
    world.end()


def test_a_node_without_others_answers_at_once() -> None:
    world, driver = pair()
    world.lose(B)
    answers = ask(world, driver)
    world.host.talk()
    assert (answers[0]["waiting_elsewhere"], answers[0]["silent_nodes"]) == ([], [])


def test_each_node_tells_the_head_what_waits_there() -> None:
    world, driver = pair()
    driver.create(lives_on=0, extra=("R", 1))
    world.settle()
    driver.submit(extra=("R", 1))
    world.deliver()
    let_stall(world)
    member = world.members[B]
    member.hear_head(INQUIRY, 7, "waiting", [])
    member.host.after()
    (found,) = [message for message in member.said if message[0] == INQUIRY_ANSWER]
    _, number, ok, rows = found
    assert (number, ok) == (7, True)
    assert [row["why"] for row in rows] == ["needs 1 R, and actors hold 1 R of 1 R"]
    world.end()


def test_the_status_of_a_node_counts_the_jobs_that_it_knows() -> None:
    world, driver = pair()
    driver.submit(extra=("R", 1))
    world.settle()
    requests = world.members[B].host.machine.requests
    counts = ("jobs", "functions", "templates")
    asked: Any = None
    assert [requests.status(asked)[name] for name in counts] == [1, 1, 1]  # type: ignore[literal-required]
    world.die(driver)
    world.settle()
    assert [requests.status(asked)[name] for name in counts] == [0, 0, 0]  # type: ignore[literal-required]
    world.end()
