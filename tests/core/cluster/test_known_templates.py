"""Jobs, functions and templates that nodes tell each other."""

from __future__ import annotations

from asyncray.cluster_messages import FORGET_OF, FUNCTION_OF, JOB_OF, JOB_OVER, RELEASED, TEMPLATE_OF
from asyncray.messages import FUNCTION
from tests.core.cluster.pair import A, B, Pair
from tests.core.programs import Recipe

FAR = Recipe(extra=("R", 1))


def pair() -> Pair:
    return Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})


def test_a_node_hears_of_a_template_once_and_forgets_it_with_the_other() -> None:
    world = pair()
    driver = world.driver()
    for _ in range(3):
        driver.state.spawn(FAR)
    world.settle()
    assert [world.kinds(A, B).count(kind) for kind in (JOB_OF, FUNCTION_OF, TEMPLATE_OF)] == [1, 1, 1]
    assert world.members[B].host.machine.functions.templates
    for _ in range(2):
        driver.unexport(0)
    world.settle()
    assert FORGET_OF in world.kinds(A, B)
    assert not world.members[B].host.machine.functions.templates
    assert RELEASED not in world.kinds(B, A), "it captures nothing"
    world.end()


def test_the_end_of_a_job_reaches_the_nodes_that_know_it() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(FAR)
    world.settle()
    jobs = world.members[B].host.machine.jobs
    assert len(jobs.table) == 1
    world.die(driver)
    world.settle()
    assert world.kinds(A, B).count(JOB_OVER) == 1
    assert not jobs.table
    world.end()


def test_the_job_of_a_lost_node_ends() -> None:
    world = pair()
    driver = world.driver()
    driver.state.spawn(FAR)
    world.settle()
    world.lose(A)
    world.host = world.members[B].host
    world.settle()
    assert not world.machine.jobs.table
    assert not world.machine.functions.functions


def test_what_a_function_captures_is_kept_until_the_other_node_has_given_it_up() -> None:
    world = pair()
    driver = world.driver()
    driver.state.put(1)
    ref = driver.state.refs[0]
    world.settle()
    part, machine = world.members[A].part, world.machine
    driver.state.spawn(FAR)
    (kind, *fields, _), births = driver.wire[0]
    assert kind == FUNCTION
    driver.wire[0] = (kind, *fields, [ref]), births
    driver.state.forget(0)
    world.settle()
    assert ref in machine.objects.table
    for _ in range(2):
        driver.unexport(0)
    world.settle()
    assert world.kinds(B, A).count(RELEASED) == 1
    assert ref not in machine.objects.table
    assert not part.templates._late
    world.end()
