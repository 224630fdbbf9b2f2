"""Placement groups and strategies on a node, from both faces."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)
from asyncray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from asyncray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from tests.system.bell import Bell

DEADLINE = 30.0
Inside = PlacementGroupSchedulingStrategy


@ray.remote
def whereabouts() -> tuple[str | None, dict[str, float], bool]:
    here = ray.get_runtime_context()
    captures = here.should_capture_child_tasks_in_placement_group
    return here.get_placement_group_id(), here.get_assigned_resources(), captures


@ray.remote
def parent(*, leaves: bool = False) -> Any:
    child = whereabouts.options(scheduling_strategy="DEFAULT") if leaves else whereabouts
    return ray.get(child.remote())


class Resident:
    def whereabouts(self) -> Any:
        return ray.get(whereabouts.remote())

    def group(self) -> Any:
        return get_current_placement_group()

    def pid(self) -> int:
        return os.getpid()


Residents: Any = ray.remote(Resident)


@ray.remote
def ring_and_wait(bell: Bell) -> None:
    bell.wait()


def test_tasks_and_actors_run_in_a_group(node: object) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], name="both")
    assert ray.get(group.ready(), timeout=DEADLINE) == group == get_placement_group("both")
    assert "CPU" not in ray.available_resources()
    strategy = Inside(group, 1)
    found = ray.get(whereabouts.options(scheduling_strategy=strategy).remote(), timeout=DEADLINE)
    assert found == (group.id.hex(), {"CPU": 1.0}, False)
    actor = Residents.options(scheduling_strategy=Inside(group, 0), num_cpus=1).remote()
    assert ray.get(actor.group.remote(), timeout=DEADLINE) == group
    assert placement_group_table(group)["state"] == "CREATED"
    remove_placement_group(group)
    remove_placement_group(group)
    with pytest.raises(ActorDiedError, match="actor died"):
        ray.get(actor.pid.remote(), timeout=DEADLINE)
    with pytest.raises(ValueError, match="both"):
        get_placement_group("both")
    again = placement_group([{"CPU": 2}])
    assert again.wait(DEADLINE)  # all of it has returned


def test_children_follow_their_parent_only_if_it_captures_them(node: object) -> None:
    group = placement_group([{"CPU": 1}])
    captured = Inside(group, placement_group_capture_child_tasks=True)
    here = group.id.hex()
    calls = [
        parent.options(scheduling_strategy=captured).remote(),
        parent.options(scheduling_strategy=captured).remote(leaves=True),
        parent.options(scheduling_strategy=Inside(group)).remote(),
    ]
    found = ray.get(calls, timeout=DEADLINE)
    assert [(row[0], row[2]) for row in found] == [(here, True), (None, False), (None, False)]
    actor = Residents.options(scheduling_strategy=captured).remote()
    assert ray.get(actor.whereabouts.remote(), timeout=DEADLINE)[0] == here
    assert get_current_placement_group() is None
    assert ray.get(whereabouts.remote(), timeout=DEADLINE)[0] is None


def test_a_removed_group_ends_what_runs_and_what_waits(node: object, bell: Bell) -> None:
    group = placement_group([{"CPU": 1}])
    inside = Inside(group)
    running = ring_and_wait.options(scheduling_strategy=inside).remote(bell)
    bell.heard()
    waiting = whereabouts.options(scheduling_strategy=inside).remote()
    remove_placement_group(group)
    for ref in (running, waiting, group.ready(), whereabouts.options(scheduling_strategy=inside).remote()):
        with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
            ray.get(ref, timeout=DEADLINE)


def test_a_group_that_does_not_fit_waits_and_says_why(node: object) -> None:
    group = placement_group([{"CPU": 3}])
    task = whereabouts.options(scheduling_strategy=Inside(group)).remote()
    assert not group.wait(timeout_seconds=0.2)
    with pytest.raises(GetTimeoutError):
        ray.get(task, timeout=0)
    stats = placement_group_table(group)["stats"]
    assert (stats["scheduling_state"], stats["why"]) == ("INFEASIBLE", "no node has the 3 CPU of bundle 0")


def test_in_an_event_loop(node: object, run: Any) -> None:
    async def main() -> None:
        group = placement_group([{"CPU": 1}])
        assert await asyncio.wait_for(group.ready(), DEADLINE) == group
        inside: Any = whereabouts.options(scheduling_strategy=Inside(group))
        assert (await inside.remote())[0] == group.id.hex()
        remove_placement_group(group)
        with pytest.raises(TaskPlacementGroupRemoved):
            await group.ready()

    run(main())


def test_affinity(node: object) -> None:
    here, other = ray.nodes()[0]["NodeID"], "ab" * 8
    for strategy in (
        NodeAffinitySchedulingStrategy(here, soft=False),
        NodeAffinitySchedulingStrategy(other, soft=True),
        "SPREAD",
    ):
        task: Any = whereabouts.options(scheduling_strategy=strategy)
        assert ray.get(task.remote(), timeout=DEADLINE)[1] == {"CPU": 1.0}
    with pytest.raises(TaskUnschedulableError, match=f"the node {other} does not exist"):
        ray.get(
            whereabouts.options(scheduling_strategy=NodeAffinitySchedulingStrategy(other, soft=False)).remote(),
            timeout=DEADLINE,
        )
