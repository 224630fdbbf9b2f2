"""Detached actors of other nodes: the head's node makes them."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import ADOPT, ADOPTED, ANSWER, ASK, CONSTRUCT_AT, OUTPUT_OF
from asyncray.core.cluster.adoptions import Adoptions
from asyncray.core.states import ALIVE
from asyncray.messages import OUTPUT
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.processes import Driver
from tests.core.programs import Recipe

R: Any = ("R", 1.0)


class Adopting(Pair):
    """A has the head, which gives each name that a node asks for."""

    def __init__(self, *resources: dict[str, float]) -> None:
        super().__init__(*resources)
        for node, member in self.members.items():
            part = member.part
            made = Adoptions(
                member.host.machine, part.imports, None if node == A else A, part._peer_of, part.templates.over
            )
            part.adoptions = member.host.machine.requests.of_cluster["create_named"].__self__.adoptions = made  # type: ignore[attr-defined]
            part.handlers |= {ADOPT: made.adopt, ADOPTED: made.adopted}
        self._answered = 0

    def talk(self) -> bool:
        moved = super().talk()
        head = self.members[A]
        while self._answered < len(head.said):
            message = head.said[self._answered]
            self._answered += 1
            if message[0] == ASK and message[2] == "claim_name":
                head.hear_head(ANSWER, message[1], True, None)
                head.host.after()
                moved = super().talk() or moved
        return moved


def made(world: Pair, **changes: Any) -> Driver:
    driver = world.members[B].host.driver()
    driver.state.make(Recipe(detached=True, **changes))
    world.settle()
    return driver


def test_the_heads_node_makes_a_detached_actor_of_another_node() -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0})
    driver = made(world, name="ann", lives_on=1)
    assert not world.members[B].host.machine.actors.table
    (actor,) = world.machine.actors.table.values()
    assert (actor.state, actor.name, actor.id[:8]) == (ALIVE, ("ns", "ann"), A)
    assert world.kinds(A, B).count(ADOPTED) == 1
    assert driver.state.uncounted == [actor.id + b"\0\0\0\0"]
    driver.state.call(Recipe())
    world.settle()
    assert not world.unresolved()
    world.end()


def test_it_survives_its_driver_and_the_node_of_that_and_starts_again_elsewhere() -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = made(world, extra=R, restarts=1)
    (actor,) = world.machine.actors.table.values()
    assert world.kinds(A, C).count(CONSTRUCT_AT) == 1
    world.die(driver)
    world.settle()
    world.lose(B)
    world.settle()
    assert actor.state == ALIVE
    world.die(next(worker for worker in world.members[C].host.workers if worker.is_actor))
    world.settle()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    assert world.kinds(A, C).count(CONSTRUCT_AT) == 2
    world.end_graces()
    world.end()


def test_one_of_a_task_at_the_heads_node_starts_again_elsewhere_after_the_driver_of_that_task_has_ended() -> None:
    """All nodes forget the job of the task, so the actor must belong to another one, whose tasks go anywhere."""
    world = Adopting({"CPU": 2.0, "S": 1.0}, {"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.members[B].host.driver()
    detached = Recipe(detached=True, name="ann", extra=R, restarts=1, arguments=(0,), captures=(0,))
    driver.submit(Recipe(extra=("S", 1.0), steps=(("put", 0), ("make", detached), ("forget", 0))))
    world.settle()
    (actor,) = world.machine.actors.table.values()
    assert (actor.state, actor.name) == (ALIVE, ("ns", "ann"))
    assert world.machine.jobs.rows(A) == []
    world.die(driver)
    world.settle()
    assert actor.job.id not in world.members[A].part.templates.over, "no node may take the actor any more"
    world.die(next(worker for worker in world.members[C].host.workers if worker.is_actor))
    world.settle()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    assert world.kinds(A, C).count(CONSTRUCT_AT) == 2
    world.end()


def test_its_small_arguments_and_captured_refs_are_with_the_head() -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.members[B].host.driver()
    driver.state.put(0)
    driver.state.make(Recipe(detached=True, extra=R, restarts=1, arguments=(0,), captures=(0,)))
    driver.state.forget(0)
    world.settle()
    (actor,) = world.machine.actors.table.values()
    assert actor.state == ALIVE
    world.lose(B)
    world.settle()
    world.die(next(worker for worker in world.members[C].host.workers if worker.is_actor))
    world.settle()
    assert (actor.state, actor.restarted) == (ALIVE, 1)
    world.end_graces()
    world.end()


def test_an_actor_of_the_heads_own_node_needs_no_message() -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    driver.state.make(Recipe(detached=True, lives_on=1))
    world.settle()
    assert not world.kinds(A, B)
    assert len(world.machine.actors.table) == 1
    world.end()


def test_it_runs_a_call_to_the_end_after_the_driver_that_has_called_it_has_ended() -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0})
    driver = made(world, lives_on=1)
    driver.state.call(Recipe(steps=(("put", 0), ("keep", 0), ("put", 0))))
    world.talk()
    world.run()
    (worker,) = [worker for host in world.hosts for worker in host.workers if worker.running]
    world.die(driver)
    world.talk()
    world.chores()
    assert worker.running
    world.settle()
    assert not worker.running
    assert worker.alive
    world.end()


def output_of(world: Adopting, driver: Driver, node: bytes, text: str) -> list[str]:
    """The process of the detached actor prints a line at a node. Returns all lines that a driver has got."""
    (actor,) = world.machine.actors.table.values()
    member = world.members[node]
    job = member.host.machine.jobs.table[actor.job.id]
    reader = job.output_reader
    if reader is not None and reader.is_node:
        member.part.output.send(job, [("out", "(ann pid=7)", text)])
    elif reader is not None:
        member.host.machine.outbox.send(reader, (OUTPUT, [("out", "(ann pid=7)", text)]))
    member.host.after()
    world.settle()
    batches = [message[1] for message in (*driver.news, *driver.inbox) if message[0] == OUTPUT]
    return [text for lines in batches for _, _, text in lines]


@pytest.mark.parametrize("place", [A, C])
def test_the_output_of_a_detached_actor_reaches_the_driver_of_its_creator_while_that_lives(place: bytes) -> None:
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    driver = made(world, where=("affinity", place, False))
    assert output_of(world, driver, place, "hello") == ["hello"]
    machine = world.machine
    assert machine.jobs.rows(A) == [], "the job of the actor is for nobody's eyes"
    assert world.kinds(A, B).count(OUTPUT_OF) == 1
    world.die(driver)
    world.settle()
    output_of(world, driver, place, "nobody reads this")
    assert world.kinds(A, B).count(OUTPUT_OF) == 1
    world.end()


def test_a_task_elsewhere_makes_a_detached_actor_whose_output_reaches_the_driver() -> None:
    """The driver is at the head's node, and its task at B makes the actor."""
    world = Adopting({"CPU": 2.0}, {"CPU": 2.0, "R": 1.0})
    driver = world.driver()
    driver.submit(Recipe(extra=R, steps=(("make", Recipe(detached=True, where=("affinity", A, False))),)))
    world.settle()
    assert output_of(world, driver, A, "hello") == ["hello"]
    assert [row["pid"] for row in world.machine.jobs.rows(A)] == [driver.client.pid]
    world.die(driver)
    world.settle()
    (actor,) = world.machine.actors.table.values()
    assert actor.job.output_reader is None
    world.end()
