"""Golden scenarios: the races of tasks between nodes, one by one. R and H numbers are those of the design.

A is the home of the first tasks. Their resources or placements lead them to B and C.
"""

from __future__ import annotations

from typing import Any

from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL
from tests.core.cluster.pair import A, B, C
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.sim.script import Script

R: Any = ("R", 1.0)
AT_B, AT_C = ("affinity", B, False), ("affinity", C, False)


def three() -> Script:
    return Script({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "R": 1.0})


def cancel(driver: Driver, ref: bytes, *, recursive: bool) -> None:
    driver.send((CANCEL, ref[:TASK_SIZE], False, recursive))


def busy(world: Script, *nodes: bytes) -> None:
    """A task of the node's own takes its R, and does not begin to run."""
    for node in nodes:
        world.members[node].host.driver().state.spawn(Recipe(name="own", extra=R))
        world.work(node, programs=False)
    world.share_rows()


def guest_at_a_busy_node(world: Script) -> tuple[bytes, bytes]:
    """A task of A waits behind one at B or C. The other of the two becomes free, and A asks the task back."""
    busy(world, B, C)
    world.driver().state.spawn(Recipe(name="guest", extra=R))
    world.work(A)
    busy_node, free_node = (B, C) if world.under_way(A, B) else (C, B)
    world.arrive(A, busy_node)
    world.work(busy_node, programs=False)
    world.arrive(busy_node, A)
    world.work(free_node)
    world.share_rows()
    world.wait(0.05)
    way = f"A > {busy_node.decode()[-1]}:"
    assert world.under_way(A, busy_node) == [f"{way} TAKE_BACK 1 of guest"]
    assert world.story() == [f"{way} TASK guest"]
    return busy_node, free_node


def test_r7_a_task_that_is_asked_back_has_started_meanwhile() -> None:
    world = three()
    busy_node, _ = guest_at_a_busy_node(world)
    name = busy_node.decode()[-1]
    world.work(busy_node)
    world.arrive(A, busy_node)
    world.arrive(busy_node, A)
    assert world.story() == [f"A > {name}: TAKE_BACK 1 of guest", f"{name} > A: RESULT guest"]
    world.end()


def test_r7_a_task_that_is_asked_back_runs_at_that_moment() -> None:
    world = three()
    busy_node, _ = guest_at_a_busy_node(world)
    name = busy_node.decode()[-1]
    host = world.members[busy_node].host
    while not any(worker.main and worker.main.order.recipe.name == "guest" for worker in host.workers):
        host.chores()
        host.talk()
        for worker in host.workers:
            worker.step()
    world.arrive(A, busy_node)
    world.settle()
    assert world.story() == [f"A > {name}: TAKE_BACK 1 of guest", f"{name} > A: RESULT guest"]
    world.end()


def test_r7_a_task_that_is_asked_back_and_has_not_started_goes_elsewhere() -> None:
    world = three()
    busy_node, free_node = guest_at_a_busy_node(world)
    old, new = busy_node.decode()[-1], free_node.decode()[-1]
    world.arrive(A, busy_node)
    world.arrive(busy_node, A)
    world.work(A)
    world.arrive(A, free_node)
    assert world.story() == [f"A > {old}: TAKE_BACK 1 of guest", f"{old} > A: BACK guest", f"A > {new}: TASK guest"]
    world.end()
    assert world.story()[0] == f"{new} > A: RESULT guest"


def test_r8_the_cancel_of_a_task_crosses_its_result() -> None:
    world = three()
    driver = world.driver()
    o = world.put(driver, "o")
    returns_a_ref = Recipe(name="task", where=AT_B, nested=(0,), steps=(("put", 0),), ending="refs")
    ref = driver.submit(returns_a_ref)
    world.work(A)
    world.arrive(A, B)
    world.work(B)
    cancel(driver, ref, recursive=False)
    driver.state.forget(0)
    world.work(A)
    assert o in world.machine.objects.table, "the task at B may still need it"
    world.arrive(A, B)
    world.arrive(B, A)
    world.work(A)
    assert o not in world.machine.objects.table
    world.settle()
    story = [line for line in world.story() if "BORROW" not in line]
    assert story == ["A > B: TASK task", "A > B: CANCEL task", "B > A: RESULT task", "A > B: CLAIMED task"]
    world.end()


def test_the_arguments_of_a_task_whose_job_has_ended_stay_until_the_last_word_about_it() -> None:
    world = three()
    driver = world.driver()
    o = world.put(driver, "o")
    driver.submit(Recipe(name="task", where=AT_B, nested=(0,)))
    world.work(A)
    world.arrive(A, B)
    world.work(B, programs=False)
    world.die(driver)
    world.work(A)
    assert not world.machine.work.tasks
    assert o in world.machine.objects.table, "the task at B may still need it"
    world.arrive(A, B)
    world.work(B)
    world.arrive(B, A)
    assert o not in world.machine.objects.table
    assert world.story() == ["A > B: TASK task", "A > B: CANCEL task", "B > A: RESULT task"]
    world.end()


def test_r9_h3_two_homes_see_one_free_place_and_both_get_it_in_turn() -> None:
    world = Script({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0})
    for node, name in ((A, "of A"), (C, "of C")):
        world.members[node].host.driver().state.spawn(Recipe(name=name, extra=R))
        world.work(node)
    world.arrive(A, B)
    world.arrive(C, B)
    world.settle()
    assert world.story() == ["A > B: TASK of A", "C > B: TASK of C", "B > A: RESULT of A", "B > C: RESULT of C"]
    assert not world.unresolved()
    world.end()


def test_r10_a_cancel_with_children_follows_them_to_a_third_node() -> None:
    world = three()
    driver = world.driver()
    child = Recipe(name="child", where=AT_C)
    ref = driver.submit(Recipe(name="parent", where=AT_B, steps=(("spawn", child), ("get", 0))))
    world.work(A)
    world.arrive(A, B)
    world.work(B)
    world.arrive(B, C)
    world.work(C, programs=False)
    cancel(driver, ref, recursive=True)
    world.work(A)
    world.arrive(A, B)
    world.work(B)
    world.arrive(B, C)
    world.work(C)
    world.arrive(C, B)
    world.arrive(B, A)
    assert world.story() == [
        "A > B: TASK parent",
        "B > C: TASK child",
        "A > B: CANCEL parent",
        "B > C: CANCEL child",
        "C > B: RESULT child",
        "B > A: RESULT parent",
    ]
    world.end()


def test_r11_a_task_is_cancelled_with_its_children_while_it_travels() -> None:
    """The children that it had submitted when it learned of that are born cancelled."""
    world = three()
    driver = world.driver()
    ref = driver.submit(Recipe(name="parent", where=AT_B, steps=(("spawn", Recipe(name="child", where=AT_C)),)))
    world.work(A)
    cancel(driver, ref, recursive=True)
    world.work(A)
    world.arrive(A, B, 4)
    assert world.story() == ["A > B: TASK parent"]
    host = world.members[B].host
    while not any(worker.running for worker in host.workers):
        host.chores()
        host.talk()
        host.run()
    host.run()
    world.arrive(A, B)
    world.work(B)
    world.arrive(B, A)
    assert world.story() == ["A > B: CANCEL parent", "B > A: RESULT parent"]
    assert not world.wires[B, C], "the child is cancelled before it leaves"
    world.end()


def test_r12_guests_go_with_their_home() -> None:
    world = three()
    world.driver().state.spawn(Recipe(name="task", where=AT_B))
    world.work(A)
    world.arrive(A, B)
    world.work(B, programs=False)
    world.lose(A)
    world.host = world.members[B].host
    world.settle()
    world.end_graces()
    assert not world.wires[B, C]
    world.end()


def test_r13_h1_a_task_that_waits_at_another_node_lends_its_place() -> None:
    """The driver's node has no CPU. g waits for t, which waits for y, and B has one CPU."""
    world = Script({"Z": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    driver.submit(name="y")
    driver.submit(name="t", arguments=(0,))
    driver.submit(name="g", nested=(1,), steps=(("get", 0),))
    world.settle()
    story = [line for line in world.story() if "BORROW" not in line]
    assert story[:3] == ["A > B: TASK y", "B > A: RESULT y", "A > B: TASK g"]
    assert story[3:] == ["A > B: TASK t", "B > A: RESULT t", "B > A: RESULT g"]
    world.end()


def test_h2_a_task_of_another_job_stands_in_the_queue_of_a_busy_node() -> None:
    world = three()
    busy(world, B, C)
    streams = [driver for node in (B, C) for driver in world.members[node].host.drivers]
    world.driver().state.spawn(Recipe(name="guest", extra=R))
    for _ in range(6):
        for driver in streams:
            driver.state.spawn(Recipe(name="own", extra=R))
        world.work(A, B, C)
        for wire in world.wires:
            world.arrive(*wire)
    found = [line for line in world.story() if "guest" in line]
    assert [line.split()[-2:] for line in found] == [["TASK", "guest"], ["RESULT", "guest"]]
    world.end()


def test_h10_what_only_a_lost_node_kept_stays_until_all_have_registered() -> None:
    """A gave o to B, B gave it to C, where the process keeps it. Only B gave it further, and B dies."""
    world = three()
    driver = world.driver()
    o = world.put(driver, "o")
    child = Recipe(name="child", where=AT_C, nested=(0,), steps=(("keep", 1), ("get", 0)))
    driver.submit(Recipe(name="parent", where=AT_B, nested=(0,), steps=(("spawn", child), ("get", 1))))
    driver.state.forget(0)
    world.work(A)
    world.arrive(A, B)
    world.work(B)
    world.arrive(B, C)
    world.work(C)
    world.lose(B)
    assert o in world.machine.objects.table, "A has learned of the loss, and C has not registered"
    world.settle()
    world.end_graces()
    world.settle()
    assert o in world.machine.objects.table, "C has it"
    assert "C > A: BORROW o" in world.story()
    world.end()
    assert "C > A: UNBORROW o" in world.story()


def test_h12_an_attempt_that_failed_leaves_a_child_which_needs_an_argument() -> None:
    """The second attempt runs elsewhere and ends, and the child of the first still needs o."""
    world = three()
    driver = world.driver()
    o = world.put(driver, "o")
    child = Recipe(name="child", cpus=1, nested=(0,))
    steps = (("spawn", child), ("keep", 1))
    parent = Recipe(name="parent", extra=R, nested=(0,), retries=1, ending="retry", steps=steps)
    driver.submit(parent)
    driver.state.forget(0)
    world.work(A)
    first, second = (B, C) if world.under_way(A, B) else (C, B)
    world.arrive(A, first)
    host = world.members[first].host
    while not any(line.endswith("RESULT parent") for line in world.under_way(first, A)):
        host.chores()
        host.talk()
        for worker in host.workers:
            if worker.main is None or worker.main.order.recipe.name == "parent":
                worker.step()
    one = first.decode()[-1]
    assert world.under_way(first, A) == [f"{one} > A: BORROW o", f"{one} > A: RESULT parent"]
    world.arrive(first, A)
    world.work(A)
    for node in (second, first):
        world.arrive(A, node)
        world.work(node, programs=node == second)
        world.arrive(node, A)
    assert o in world.machine.objects.table, "the child of the first attempt needs it"
    world.settle()
    world.end()


def test_a_task_goes_elsewhere_although_it_stands_behind_a_guest() -> None:
    """An actor has the CPU of B. A guest waits for it that may run only there, and a task of B comes behind it."""
    world = Script({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    actor = driver.create(where=AT_B, lives_on=1)
    world.settle()
    guest, own = Recipe(name="guest", where=AT_B), Recipe(name="own")
    driver.submit(Recipe(name="parent at A", cpus=0, where=("affinity", A, False), steps=(("spawn", guest),)))
    world.settle()
    driver.submit(Recipe(name="parent at B", cpus=0, where=AT_B, steps=(("spawn", own),)))
    world.settle()
    story = world.story()
    assert "B > A: TASK own" in story
    assert "B > A: RESULT guest" not in story
    driver.lose(actor)
    world.end()
