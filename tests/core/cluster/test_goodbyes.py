"""The last output of all nodes before a driver ends, and the ends of the wait for it."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import LAST_DONE, LAST_OUTPUT
from asyncray.core.cluster.commands import ReadLastOutput
from asyncray.core.cluster.goodbyes import PATIENCE
from asyncray.core.outbox import Command
from asyncray.core.records import Job
from asyncray.messages import REPLY, REQUEST, UNREAD
from tests.core.cluster.pair import A, B, C, Member, Pair
from tests.core.cluster.test_far_output import pair, printed
from tests.core.processes import Driver
from tests.core.programs import Recipe


class Printing:
    """The shell of a node whose worker has printed a last line."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._do = member.do
        member.do = self  # type: ignore[method-assign]  # the test stands before it

    def __call__(self, command: Command) -> None:
        if isinstance(command, ReadLastOutput):
            self._print(command.job)
        self._do(command)

    def _print(self, job: Job) -> None:
        self._member.part.output.send(job, [("out", "(f pid=7)", f"last words of {self._member.id.decode()}")])


def say_goodbye(world: Pair, driver: Driver) -> list[Any]:
    """The driver says goodbye to its home. Returns the answers, which come later."""
    answers: list[Any] = []
    driver.ask(REQUEST, "goodbye", [], answers.append)
    world.host.hear(driver, len(driver.wire))
    return answers


def chain() -> tuple[Pair, Driver]:
    """A told a job to B, B told it to C, and C told it to B."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    back = Recipe(extra=("R", 1))
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1), steps=(("spawn", back),))),)))
    world.settle()
    return world, driver


def test_a_driver_gets_the_last_output_of_all_nodes_before_the_answer() -> None:
    world, driver = chain()
    for node in (B, C):
        Printing(world.members[node])
    answers: list[int] = []
    driver.ask(REQUEST, "goodbye", [], lambda _: answers.append(len(printed(driver))))
    world.deliver()
    assert answers == [2], "the output comes first"
    assert [text for _, text in printed(driver)] == ["last words of node000B", "last words of node000C"]
    for node in (B, C):
        assert world.kinds(A, node).count(LAST_OUTPUT) == 1
        assert world.kinds(node, A).count(LAST_DONE) == 1
    assert LAST_OUTPUT not in world.kinds(B, C)
    world.end()


def test_errors_that_nobody_has_read_come_before_the_answer() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(ending="raise")),), ending="refs"))
    world.settle()
    assert not [message for message in driver.news if message[0] == UNREAD]
    say_goodbye(world, driver)
    world.deliver()
    assert [message for message in driver.news if message[0] == UNREAD]
    world.end()


def test_a_driver_whose_job_is_nowhere_else_gets_its_answer_at_once() -> None:
    world, _ = pair()
    answers = say_goodbye(world, world.driver())
    world.host.talk()
    assert answers == [None]
    assert LAST_OUTPUT not in world.kinds(A, B)
    world.end()


def test_a_node_that_is_lost_holds_up_nobody() -> None:
    world, driver = chain()
    answers = say_goodbye(world, driver)
    world.deliver_one(A, B)
    world.wires[B, A].clear()  # it dies before it says more
    world.lose(B)
    world.host.talk()
    assert answers == [None]


def test_a_node_that_does_not_answer_costs_a_moment() -> None:
    world, driver = pair()
    answers = say_goodbye(world, driver)
    goodbyes = world.members[A].part.goodbyes
    assert goodbyes.tick_wanted_at == world.now + PATIENCE
    assert world.members[A].part.tick_wanted_at is not None
    held = world.wires.pop((A, B))
    world.wait(PATIENCE / 2)
    world.host.talk()
    assert not answers
    world.wait(PATIENCE)
    world.host.talk()
    assert answers == [None]
    assert repr(goodbyes) == "<Goodbyes 0 open>"
    world.wires[A, B] = held
    world.deliver()
    assert world.kinds(B, A).count(LAST_DONE) == 1, "it comes too late, and nobody minds"
    world.end()


def test_a_driver_that_says_it_twice_gets_two_answers_and_one_that_dies_none() -> None:
    world, driver = pair()
    first = say_goodbye(world, driver)
    second = say_goodbye(world, driver)
    world.host.talk()
    assert (first, second) == ([None], [])
    world.die(driver)
    world.settle()
    assert repr(world.members[A].part.goodbyes) == "<Goodbyes 0 open>"
    world.end()


def test_a_tool_that_says_goodbye_has_no_job() -> None:
    world, _ = pair()
    world.machine.receive(world.host.tool, [(REQUEST, 1, "goodbye", [])])
    assert world.host.tool.out == [(REPLY, 1, None)]
    world.host.tool.out.clear()
    world.end()


def test_a_node_where_the_job_has_ended_answers_at_once() -> None:
    world, driver = pair()
    job_id = driver.job_id
    member = world.members[B]
    member.part.goodbyes.last_output(member.part.peers[A], (LAST_OUTPUT, b"none"))
    assert (LAST_DONE, b"none", []) in member.part.peers[A].out
    member.host.after()
    world.deliver()
    assert job_id in member.host.machine.jobs.table
    world.end()
