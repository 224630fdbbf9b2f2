"""Jobs, functions and templates that nodes tell each other."""

from __future__ import annotations

from asyncray.cluster_messages import ANSWER, FORGET_OF, FUNCTION_OF, JOB_OF, RELEASED, TASK, TEMPLATE_OF
from asyncray.ids import PUT_INDEX
from asyncray.messages import FUNCTION
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe
from tests.greeting import SETUP

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


def test_nodes_that_tell_each_other_a_job_and_its_functions_forget_both() -> None:
    """The parent runs at B and its child at A, so each node knows the job and a function by the other."""
    world = Pair({"CPU": 1.0, "S": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    world.settle()
    assert JOB_OF in world.kinds(A, B)
    assert JOB_OF in world.kinds(B, A)
    world.die(driver)
    world.settle()
    assert [member.host.machine.jobs.table for member in world.members.values()] == [{}, {}]
    world.end()


def test_a_job_ends_where_the_node_that_told_it_is_lost() -> None:
    """A told B, B told C, and B is lost. The end comes from the head."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    world.settle()
    world.lose(B)
    world.settle()
    jobs = world.members[C].host.machine.jobs
    assert jobs.table
    world.die(driver)
    world.settle()
    assert not jobs.table


def test_definitions_of_a_job_that_has_ended_are_not_taken() -> None:
    world = pair()
    driver = world.driver()
    world.settle()
    world.die(driver)
    world.settle()
    templates, machine = world.members[B].part.templates, world.members[B].host.machine
    peer = world.members[B].part.peers.get(A) or world.members[B].part.peer(A, 0.0)
    job_id = driver.job_id
    spec = {"name": "f", "function": b"digest", "returns": 1, "retries": 0, "demand": [], "options": {}}
    templates.job_of(peer, (JOB_OF, job_id, "ns", SETUP, A))
    templates.function_of(peer, (FUNCTION_OF, job_id, 1, b"digest", b"code", [driver.next_id() + PUT_INDEX]))
    templates.template_of(peer, (TEMPLATE_OF, job_id, 2, b"spec", spec))
    assert templates.find(peer, 2) is None
    templates.forget_of(peer, (FORGET_OF, job_id, [2, 1]))
    assert peer.out == [(RELEASED, 1)], "the other node waits for it"
    peer.out.clear()
    assert not machine.functions.functions


def test_a_job_that_has_ended_is_not_told_any_more() -> None:
    """A worker of it submits a task before it is killed, and no other node would learn of the end."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    there, late = world.members[B], world.members[C].host.machine.jobs.table
    world.deliver()  # no program runs
    world.die(driver)
    world.host.disconnect(driver)
    world._end_jobs()
    assert there.host.doomed, "the job has ended at B, and the worker lives"
    while there.host.run():
        there.host.talk()
    world.talk()
    assert TASK in world.kinds(B, C)
    assert not late
    assert not there.part.templates.told(driver.job_id)
    world.settle()
    world.end()


def test_a_job_ends_whose_driver_is_at_a_node_that_had_ended_when_this_one_joined() -> None:
    """1. X is lost. 2. B joins. 3. A, which has not learned of the loss, sends a job of X to B."""
    world = pair()
    member = world.members[B]
    gone = b"node000X"
    member.part.templates.job_of(member.part.peer(A, 0.0), (JOB_OF, b"\0\0\x90\0", "ns", SETUP, gone))
    assert member.host.machine.jobs.table
    member.host.after()
    _, number, method, arguments = world.questions(B)[-1]
    assert (method, arguments) == ("member", [gone])
    member.hear_head(ANSWER, number, True, "lost")
    member.host.after()
    assert not member.host.machine.jobs.table
    world.end()
