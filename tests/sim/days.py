"""Days of a simulated cluster: programs on all nodes, accidents of every kind, and an end without a trace.

In the evening the network heals, and time passes until nothing moves any more (``rest``): then every message has
arrived, and nothing may wait that could run. ``end`` ends all programs: then nothing may be left on any node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from asyncray.core.pauses import LONGEST_PAUSE
from asyncray.core.records import Task
from asyncray.messages import CANCEL, KILL
from tests.core.processes import Process
from tests.core.programs import Recipe, Step
from tests.core.test_chaos import numbers
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ZONES, ClusterHost
from tests.sim.liveness import nothing_waits_beside_room
from tests.sim.reachability import check_references

NODES: list[dict[str, float]] = [{"CPU": 2, "R": 1, "GPU": 2}, {"CPU": 1, "R": 1}, {"CPU": 4, "GPU": 2}, {"CPU": 1}]
VERBS = ["get"] * 3 + ["spawn"] * 4 + ["call"] * 3
VERBS += ["put", "share", "promise", "forget", "release", "keep", "flood", "make", "cancel", "kill"]
ENDINGS = ["plain"] * 6 + ["refs"] * 4 + ["shared"] * 2 + ["raise", "retry", "crash", "exit"]
CHECK_SHARE = 0.1
"""The share of events after which the references of all nodes together are checked."""
QUIET = 3.0
"""Seconds without a move after which nothing will move, unless a task pauses before a retry."""
STARTS_UP = 2.0
"""Seconds until the first nodes have joined."""


# Programs -------------------------------------------------------------------------------------------------------------


def some_step(random: Random, nodes: list[bytes], depth: int) -> Step:
    verb = random.choice(VERBS)
    if verb in ("spawn", "flood", "make", "call"):
        return (verb, some_recipe(random, nodes, depth - 1)) if depth else ("get", random.randrange(16))
    return verb, random.choice([300, 900, 1500]) if verb in ("share", "promise") else random.randrange(16)


def some_placement(random: Random, nodes: list[bytes]) -> tuple[Any, ...]:
    kind = random.choice([""] * 5 + ["spread", "spread", "affinity", "labels", "selectors"])
    if kind == "affinity":
        return kind, random.choice(nodes), random.random() < 0.5
    if kind in ("labels", "selectors"):
        zone = [("zone", "in", [random.choice(ZONES)])]
        return (kind, random.choice([zone, []]), zone) if kind == "labels" else (kind, [zone, []])
    return (kind,) if kind else ()


def some_recipe(random: Random, nodes: list[bytes], depth: int) -> Recipe:
    return Recipe(
        where=some_placement(random, nodes),
        steps=tuple(some_step(random, nodes, depth) for _ in range(random.randrange(5))),
        ending=random.choice(ENDINGS),
        cpus=random.choice([1, 1, 1, 1, 0, 0.5, 2]),
        takes=random.choice([5, 5, 500, 10_000]),
        extra=random.choice([None] * 9 + [("R", 1), ("R", 0.5), ("GPU", 1), ("GPU", 0.5), ("moon", 1)]),
        returns=random.choice([1, 1, 1, 1, 0, 2]),
        retries=random.choice([0, 0, 1, 2]),
        careful=random.random() < 0.5,
        arguments=numbers(random, 0, 0, 1, 2),
        nested=numbers(random, 0, 1, 1, 2, 3),
        captures=numbers(random, 0, 0, 0, 1),
        name=random.choice(["", "", "", "", "ann", "bob"]),
        lives_on=random.choice([0, 0, 0, 1]),
        restarts=random.choice([0, 0, 1, 2]),
        detached=random.random() < 0.15,
        ordered=random.random() < 0.7,
        target=random.randrange(16),
    )


def drivers_of(cluster: Cluster) -> list[Process]:
    return [driver for host in cluster.living for driver in host.node.drivers]


def a_driver_works(cluster: Cluster) -> None:
    """A driver does a step of its program. Sometimes it is a new one."""
    random = cluster.clock.random
    drivers = drivers_of(cluster)
    if not drivers or random.random() < 0.05:
        random.choice(cluster.living).driver()
        return
    driver = random.choice(drivers)
    nodes = list(cluster.hosts)
    verb = random.choice(["spawn", "spawn", "make", "call", "call"])
    step = some_step(random, nodes, 3) if random.random() < 0.4 else (verb, some_recipe(random, nodes, 3))
    driver.state.do(step)
    cluster.host_of(driver).wake()


# Accidents ------------------------------------------------------------------------------------------------------------


def breaks(cluster: Cluster) -> None:
    """A connection between two nodes breaks."""
    live = cluster.net.live()
    if live:
        cluster.net.reset(cluster.clock.random.choice(live), both=cluster.clock.random.random() < 0.7)


def bulk_breaks(cluster: Cluster) -> None:
    """The bulk connection between two nodes breaks."""
    if len(cluster.living) > 1:
        one, other = cluster.clock.random.sample(cluster.living, 2)
        one.bulk.break_line(other.id)


def dies(cluster: Cluster) -> None:
    """A daemon is killed, and all processes of its node with it. The head's node and one other survive."""
    mortal = [host for host in cluster.living if host is not cluster.head_host]
    if len(mortal) > 1:
        cluster.kill(cluster.clock.random.choice(mortal))


def is_cut(cluster: Cluster) -> None:
    """Two hosts are cut off from each other, until the next time."""
    if cluster.net.cuts:
        cluster.heal()
    elif len(cluster.living) > 1:  # hosts that the head has declared lost have ended themselves
        one, other = cluster.clock.random.sample(cluster.living, 2)
        cluster.net.cuts.add(frozenset((one.name, other.name)))


def stalls(cluster: Cluster) -> None:
    """A host stands still for a while: the head's for longer than it would wait for the beats of others."""
    random = cluster.clock.random
    host = random.choice(cluster.living)
    host.pause(random.choice((0.1, 1.0, 15.0 if host is cluster.head_host else 4.0)))


def joins(cluster: Cluster) -> None:
    """A node joins."""
    if len(cluster.living) < 6 and len(cluster.hosts) < 30:
        cluster.add(resources=cluster.clock.random.choice(NODES))


def crashes(cluster: Cluster) -> None:
    """A process dies, perhaps before its last messages are read."""
    random = cluster.clock.random
    host = random.choice(cluster.living)
    processes = [process for process in host.node.processes.values() if process.alive]
    if processes:
        process = random.choice(processes)
        host.node.die(process)
        for _ in range(min(random.randrange(4), len(process.wire))):
            process.wire.pop()
        host.wake()


def fails(cluster: Cluster) -> None:
    """A worker cannot be forked, or memory cannot be had."""
    host = cluster.clock.random.choice(cluster.living)
    if host.node.unborn:
        host.node.fork(works=False)
    elif host.node.segments:
        host.node.segment(works=False)


def cleans_up(cluster: Cluster) -> None:
    """A process collects garbage."""
    host = cluster.clock.random.choice(cluster.living)
    for process in host.node.processes.values():
        if process.alive:
            process.collect()
    host.wake()


DEATHS = [dies, dies, joins, joins, crashes, breaks]
"""The accidents of days on which many nodes die."""
ACCIDENTS = (
    [breaks] * 4
    + [bulk_breaks] * 2
    + [dies, is_cut, is_cut, stalls, stalls, joins, joins]
    + [crashes] * 3
    + [fails, fails]
)


def event(cluster: Cluster, danger: float, accidents: Sequence[Callable[[Cluster], None]] = ACCIDENTS) -> None:
    random = cluster.clock.random
    luck = random.random()
    if luck < danger:
        random.choice(accidents)(cluster)
    elif luck < 0.05 + danger:
        cleans_up(cluster)
    else:
        a_driver_works(cluster)
    cluster.run(random.choice((0.0, 0.0, 0.0005, 0.002, 0.005, 0.02, 0.3)))
    if random.random() < CHECK_SHARE:
        check_references(cluster)
        cluster.oracle.actors.check_names()


# Ends -----------------------------------------------------------------------------------------------------------------


def rest(cluster: Cluster) -> None:
    """Time passes until nothing moves."""
    quiet = 0.0
    for _ in range(2000):
        before = cluster.moved
        cluster.run(1.0)
        quiet = quiet + 1.0 if cluster.moved == before else 0.0
        if quiet > (LONGEST_PAUSE if any(pauses(cluster)) else QUIET):
            break
    else:
        raise AssertionError("it never comes to rest")
    check_references(cluster)
    cluster.oracle.actors.check_names()
    cluster.oracle.actors.check_at_rest()
    cluster.oracle.check_answers()
    for host in cluster.living:
        host.check()
        host.node.nothing_waits_that_could_run()
        homeless_tasks_have_no_home(host)
    nothing_waits_beside_room(cluster)


def pauses(cluster: Cluster) -> Iterator[bool]:
    """For each node, whether tasks pause there before a retry."""
    return (bool(host.machine.scheduler.pauses._until) for host in cluster.living)


def homeless_tasks_have_no_home(host: ClusterHost) -> None:
    for task in host.part.feeding.homeless:
        template = task.template
        if task.is_constructor:
            found: object = host.part.homes._place(task)
        else:
            found = host.part.placing.choose(template.where, template.demand)
        assert found is None, f"{task} waits at {host} and could run at {found}"


def unresolved(cluster: Cluster) -> list[str]:
    return [waiting for host in cluster.living for waiting in host.node.unresolved()]


def _obstacles(cluster: Cluster) -> list[tuple[ClusterHost, Task]]:
    """The tasks that can never run; if there are none, the constructors of the actors."""
    hopeless = [
        (host, task)
        for host in cluster.living
        for task in host.node.hopeless()
        if not task.is_guest
        and not any(other.machine.resources.feasible(task.template.demand) for other in cluster.living)
    ]
    if hopeless or not unresolved(cluster):
        return hopeless
    return [(host, actor.task) for host in cluster.living for actor in host.node.actors()]


def resolve_all(cluster: Cluster) -> None:
    """Ends all tasks: cancels those that can never run, and kills actors that hold resources which others need."""
    cluster.settle()
    rest(cluster)
    while obstacles := _obstacles(cluster):
        for host, task in obstacles:
            if task.is_constructor:
                host.node.order(KILL, task.id, True)
            else:
                host.node.order(CANCEL, task.id, False, False)
        rest(cluster)
    assert not unresolved(cluster), unresolved(cluster)


def end(cluster: Cluster) -> None:
    """Ends all drivers and kills detached actors: nothing may be left."""
    resolve_all(cluster)
    for driver in drivers_of(cluster):
        driver.host.die(driver)
        cluster.host_of(driver).wake()
    rest(cluster)
    while actors := [(host, actor) for host in cluster.living for actor in host.node.actors()]:
        for host, actor in actors:
            host.node.order(KILL, actor.id, True)
        rest(cluster)  # code that goes on may make more
    for host in cluster.living:
        host.node.nothing_is_left()
        host.nothing_is_left()


def begin(seed: int) -> Cluster:
    """Some nodes that have joined."""
    cluster = Cluster(seed, 3 + seed % 3, NODES)
    cluster.run(STARTS_UP)
    return cluster


def live(cluster: Cluster, events: int = 120) -> None:
    """A day from begin to end. An error is raised with the story of the objects and tasks that it names."""
    random = cluster.clock.random
    try:
        if random.random() < 0.3:
            for host in cluster.living:
                host.machine.scheduler.nest_after = random.choice([1, 2])
        danger, accidents = random.choice([(0.0, ACCIDENTS), (0.03, ACCIDENTS), (0.1, ACCIDENTS), (0.1, DEATHS)])
        for _ in range(events):
            event(cluster, danger, accidents)
        end(cluster)
    except Exception as error:
        error.add_note(cluster.oracle.recorder.story(str(error)))
        raise
