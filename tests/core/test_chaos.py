"""Whole days of a node, drawn from a seed: many programs, deep ones, and trouble of every kind.

Hypothesis finds short stories (``test_world``); these are long ones, for what needs a crowd.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.core.programs import Recipe, Step
from tests.core.world import World

VERBS = ["get"] * 3 + ["spawn"] * 3 + ["call"] * 2
VERBS += ["put", "share", "promise", "forget", "release", "keep", "flood", "make", "cancel", "kill"]
ENDINGS = ["plain"] * 6 + ["refs"] * 4 + ["shared"] * 2 + ["raise", "retry", "crash", "exit"]
EXTRAS: list[Any] = [None] * 9 + [("R", 1), ("R", 0.5), ("GPU", 1), ("GPU", 0.5), ("GPU", 2), ("moon", 1)]
NODES: list[dict[str, float]] = [{"CPU": 2, "R": 1, "GPU": 2}, {"CPU": 1, "R": 1}, {"CPU": 4, "GPU": 2}, {"CPU": 1}]


def numbers(random: Random, *counts: int) -> tuple[int, ...]:
    return tuple(random.randrange(16) for _ in range(random.choice(counts)))


def some_step(random: Random, depth: int) -> Step:
    verb = random.choice(VERBS)
    if verb in ("spawn", "flood", "make", "call"):
        return (verb, some_recipe(random, depth - 1)) if depth else ("get", random.randrange(16))
    return verb, random.choice([300, 900, 1500, 9000]) if verb in ("share", "promise") else random.randrange(16)


def some_recipe(random: Random, depth: int) -> Recipe:
    return Recipe(
        steps=tuple(some_step(random, depth) for _ in range(random.randrange(5))),
        ending=random.choice(ENDINGS),
        cpus=random.choice([1, 1, 1, 1, 0, 0.5, 2]),
        takes=random.choice([5, 5, 500, 10_000]),
        extra=random.choice(EXTRAS),
        returns=random.choice([1, 1, 1, 1, 0, 2]),
        retries=random.choice([0, 1, 2]),
        careful=random.random() < 0.5,
        arguments=numbers(random, 0, 0, 1, 2),
        nested=numbers(random, 0, 1, 1, 2, 3),
        captures=numbers(random, 0, 0, 0, 0, 1, 2),
        name=random.choice(["", "", "", "", "ann", "bob"]),
        lives_on=random.choice([0, 0, 0, 1]),
        restarts=random.choice([0, 0, 1, 2]),
        detached=random.random() < 0.15,
        ordered=random.random() < 0.7,
        target=random.randrange(16),
    )


def trouble(world: World, random: Random) -> None:
    """A process dies, a message comes twice, something cannot be had."""
    kind = random.randrange(6)
    if kind == 0 and world.drivers:
        world.die(random.choice(world.drivers))
    elif kind in (1, 2) and world.workers:
        worker = random.choice(world.workers)
        world.die(worker)
        for _ in range(min(random.randrange(4), len(worker.wire))):
            worker.wire.pop()
    elif kind == 3 and (hosts := [host for host in world.hosts if host.unborn]):
        random.choice(hosts).fork(works=False)
    elif kind == 4 and (hosts := [host for host in world.hosts if host.segments]):
        random.choice(hosts).segment(works=False)
    elif world.processes:
        process = random.choice(world.processes)
        process.host.repeat(process)


def event(world: World, random: Random, danger: float) -> None:
    luck = random.random()
    if luck < danger:
        trouble(world, random)
    elif not world.drivers or luck > 0.995:
        random.choice(world.hosts).driver()
    elif luck > 0.85:
        random.choice(world.drivers).state.do(
            some_step(random, 3)
            if luck < 0.88
            else (random.choice(["spawn", "flood", "make", "call"]), some_recipe(random, 3))
        )
    elif luck > 0.79:
        world.wait(random.choice([0.02, 0.02, 0.02, 0.5, 1.5, 4.0]))
    elif luck > 0.78 and world.processes:
        process = random.choice(world.processes)
        if process.alive:
            process.collect()
    elif moves := world.moves():
        random.choice(moves)()


def day(seed: int, events: int = 300) -> None:
    random = Random(seed)
    world = World(**random.choice(NODES))
    if seed % 5 == 4:
        world.add_host(b"another!", **random.choice(NODES))
    if seed % 3 == 0:
        for host in world.hosts:
            host.machine.scheduler.nest_after = random.choice([1, 2])
    danger = random.choice([0, 0.01, 0.03])
    for _ in range(events):
        event(world, random, danger)
        world.check()
    world.end()


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_day_ends_without_a_trace(first: int) -> None:
    for seed in range(first, first + 10):
        day(seed)


def test_two_nodes_of_one_world_share_the_clock_and_nothing_else() -> None:
    """The test draws events for both in turn. Each must keep to its own processes, memory and objects."""
    random = Random(1)
    world = World()
    other = world.add_host(b"another!")
    other.driver()
    for _ in range(200):
        event(world, random, danger=0.02)
        world.check()
        if other.drivers:
            other.drivers[0].state.do(("flood", some_recipe(random, 2)))
    world.settle()
    assert other.machine.now == world.machine.now == world.now > 0
    tables = [{*host.machine.objects.table} for host in world.hosts]
    assert tables[1]
    assert tables[0].isdisjoint(tables[1])
    world.end()
