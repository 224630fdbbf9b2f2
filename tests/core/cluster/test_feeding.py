"""The choice of tasks for other nodes, and its moment."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import BACK, CONSTRUCT_AT, RESULT, SLOTS, TAKE_BACK, TASK
from asyncray.core.cluster.feeding import MOVES_WITHIN
from asyncray.core.cluster.placing import DEBITS_LAST
from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe
from tests.core.world import World


def placed(world: Pair, where: list[Any], count: int = 1, **changes: Any) -> None:
    """A driver of the first node submits tasks with a placement."""
    recipe = Recipe(**changes)
    spec = recipe.spec("spawn") | {"where": where}
    driver = world.drivers[0] if world.drivers else world.driver()

    class Placed(Recipe):
        def spec(self, what: str) -> dict[str, Any]:
            return spec

    for _ in range(count):
        driver.state.spawn(Placed(**changes))


def starts(world: Pair, node: bytes) -> int:
    return sum(1 for worker in world.members[node].host.workers for _ in worker.running)


def begin(world: Pair) -> None:
    """Everything happens but the end of tasks."""
    while world.talk() | world.chores():
        pass


def test_tasks_of_unknown_length_fill_half_of_the_home_and_then_spread() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    for _ in range(3):
        driver.state.spawn(Recipe(steps=(("get", 0),)))
    begin(world)
    assert (world.kinds(A, B) + world.kinds(A, C)).count(TASK) == 2
    world.settle()
    assert not world.unresolved()
    world.end()


def test_short_tasks_stay_at_home_while_it_has_room() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    driver.state.spawn(Recipe(takes=5))
    world.settle()
    for _ in range(40):
        driver.state.spawn(Recipe(takes=5))
    world.settle()
    assert TASK not in world.kinds(A, B)
    world.end()


def test_short_tasks_go_away_from_leases_whose_tasks_do_not_end() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(takes=5))
    world.settle()
    for _ in range(2):
        driver.state.spawn(Recipe(takes=5))
    begin(world)
    assert TASK not in world.kinds(A, B)
    world.wait(2 * MOVES_WITHIN)
    begin(world)
    assert world.kinds(A, B).count(TASK) == 1
    world.settle()
    world.end()


def test_a_task_that_needs_a_whole_device_goes_away_from_parts_of_several() -> None:
    world = Pair({"CPU": 4.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 1.0})
    driver = world.driver()
    actors = [driver.create(where=("affinity", A, False), extra=("GPU", 0.6)) for _ in range(3)]
    last = driver.create(where=("affinity", B, False), extra=("GPU", 1.0))
    world.settle()
    world.share_rows()
    driver.state.spawn(Recipe(extra=("GPU", 1.0)))
    world.settle()
    driver.lose(last)
    world.settle()
    world.share_rows()
    world.settle()
    assert world.kinds(A, B).count(TASK) == 1
    assert not world.unresolved()
    for actor in actors:
        driver.lose(actor)
    world.end()


def test_spread_tasks_go_round() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0}, {"CPU": 2.0})
    world.driver()
    placed(world, ["spread"], count=6)
    world.settle()
    assert world.kinds(A, B).count(TASK) == 2
    assert world.kinds(A, C).count(TASK) == 2
    assert not world.unresolved()
    world.end()


def test_affinity_to_another_node_and_to_none() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    driver = world.driver()
    placed(world, ["affinity", B, False])
    placed(world, ["affinity", b"nowhere!", False])
    placed(world, ["affinity", b"nowhere!", True])
    world.settle()
    assert world.kinds(A, B).count(TASK) == 1
    assert not world.unresolved()
    faults = [value for value in driver.values.values() if isinstance(value, list)]
    assert [fault[0] for fault in faults] == ["TaskUnschedulableError"]
    assert b"nowhere!".hex() in faults[0][1]["message"]
    world.end()


def test_a_task_for_a_lost_node_fails_or_goes_elsewhere() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 1.0})
    driver = world.driver()
    placed(world, ["affinity", B, False], count=2)
    placed(world, ["affinity", B, True], count=2, retries=1)
    begin(world)
    world.lose(B)
    world.settle()
    assert not world.unresolved()
    faults = sorted(value[0] for value in driver.values.values() if isinstance(value, list))
    assert faults.count("NodeDiedError") + faults.count("TaskUnschedulableError") == 2
    world.end_graces()
    world.end()


def test_tasks_wait_for_a_node_that_can_run_them() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 2.0})
    world.driver()
    placed(world, ["selectors", [[["zone", "in", ["east"]]]]])
    world.settle()
    assert len(world.unresolved()) == 1
    member = world.members[A].part.members.table[B]
    member.facts = {**member.facts, "labels": {"zone": "east"}}
    world.share_rows()
    world.settle()
    assert not world.unresolved()
    assert world.kinds(A, B).count(TASK) == 1
    world.end()


def test_a_cancelled_task_without_a_node_is_forgotten() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    ref = driver.submit(extra=("moon", 1), where=("spread",))
    world.settle()
    feeding = world.members[A].part.feeding
    assert len(feeding.homeless) == 1
    driver.send((CANCEL, ref[:TASK_SIZE], False, False))
    begin(world)
    assert not feeding.homeless
    world.end()


def test_h2_every_shape_stands_in_the_queue_of_a_node_that_can_run_it() -> None:
    world = Pair({"CPU": 2.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    for amount in (0.25, 0.5, 1):
        driver.state.spawn(Recipe(extra=("R", amount), steps=(("get", 0),)))
    begin(world)
    assert world.kinds(A, B).count(TASK) == 3
    world.settle()
    assert not world.unresolved()
    world.end()


def test_short_tasks_are_sent_ahead_and_a_slow_one_gives_the_others_back() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    recipe = Recipe(extra=("R", 1), takes=5, retries=1)
    driver.state.spawn(recipe)
    world.settle()
    before = world.kinds(A, B).count(TASK)
    for _ in range(20):
        driver.state.spawn(recipe)
    begin(world)
    assert world.kinds(A, B).count(TASK) - before > 10
    assert SLOTS in world.kinds(B, A)
    world.settle()
    assert not world.unresolved()
    world.end()


def test_r7_waiting_tasks_come_back_when_another_place_is_free() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    for _ in range(4):
        driver.state.spawn(Recipe(steps=(("get", 0),)))
    begin(world)
    # The task at home ends, and those at the other node do not.
    home = world.members[A].host
    while home.run() | home.chores():
        world.talk()
        world.wait(0.05)
    world.talk()
    assert TAKE_BACK in world.kinds(A, B) or world.kinds(A, B).count(TASK) < 3
    world.settle()
    assert world.kinds(B, A).count(BACK) <= world.kinds(A, B).count(TASK)
    assert not world.unresolved()
    world.end()


def test_tasks_whose_placement_is_this_node_never_go_elsewhere() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 4.0})
    world.driver()
    placed(world, ["affinity", A, False], count=5, steps=(("get", 0),))
    world.settle()
    assert TASK not in world.kinds(A, B)
    assert not world.unresolved()
    world.end()


def test_an_actor_starts_at_a_node_whose_last_task_has_ended_before_its_row_changed() -> None:
    """1. A task goes to a node, which counts as full from then on. 2. It ends, and the row of the node is as before."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0})
    driver = world.driver()
    driver.state.make(Recipe(lives_on=1))
    run(world)
    driver.state.spawn(Recipe())
    run(world)
    assert world.kinds(B, A).count(RESULT) == 1
    driver.state.make(Recipe(lives_on=1))
    run(world)
    assert CONSTRUCT_AT not in world.kinds(A, B)
    pass_time(world, 2 * DEBITS_LAST)
    run(world)
    assert world.kinds(A, B).count(CONSTRUCT_AT) == 1
    world.settle()
    world.end()


def run(world: Pair) -> None:
    """Everything happens that takes no time."""
    while world.talk() | world.chores() | world.run():
        pass


def pass_time(world: Pair, seconds: float) -> None:
    """No row changes meanwhile."""
    World.wait(world, seconds)
    for member in world.members.values():
        member.part.tick(world.now, 0.0)
        member.host.after()
