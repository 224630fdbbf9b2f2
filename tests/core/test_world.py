"""A node in a world where everything happens in any order, and anything may end at any time."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.core.processes import Process
from tests.core.programs import Recipe, Step
from tests.core.world import World

NUMBERS = st.integers(0, 15)
MOVES = st.lists(st.integers(0, 255), min_size=1, max_size=25)
ENDINGS = ("plain", "plain", "plain", "refs", "refs", "shared", "raise", "retry", "crash", "exit")
VERBS = ("get", "get", "get", "put", "forget", "release", "cancel", "kill", "keep", "unexport")
EXTRAS = (None, None, None, None, None, ("R", 1), ("R", 0.5), ("GPU", 1), ("GPU", 0.5), ("moon", 1))


def choice(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def recipes(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Recipe]:
    numbers = st.lists(NUMBERS, max_size=2).map(tuple)
    return st.builds(
        Recipe,
        steps=st.lists(steps, max_size=4).map(tuple),
        ending=choice(*ENDINGS),
        cpus=choice(1, 1, 1, 1, 0, 0.5, 2),
        takes=choice(5, 500, 10_000),
        extra=choice(*EXTRAS),
        returns=choice(1, 1, 1, 0, 2),
        retries=choice(0, 1, 2),
        careful=st.booleans(),
        arguments=numbers,
        nested=numbers,
        name=choice("", "", "", "ann", "bob"),
        lives_on=choice(0, 0, 0, 1),
        restarts=choice(0, 0, 1),
        detached=choice(False, False, False, True),
        ordered=choice(True, True, False),
        target=NUMBERS,
    )


def steps(of_children: st.SearchStrategy[Step] | None) -> st.SearchStrategy[Step]:
    simple = st.tuples(choice(*VERBS), NUMBERS) | st.tuples(choice("share", "promise"), st.integers(1, 9000))
    if of_children is None:
        return simple
    return simple | st.tuples(choice("spawn", "spawn", "flood", "make", "call", "call"), recipes(of_children))


STEPS = steps(steps(steps(None)))


class Node(RuleBasedStateMachine):
    """Rules that hurt, rules that heal, and rules that just let things go on."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.driver()

    def process(self, index: int) -> Process:
        processes = list(self.world.processes)
        return processes[index % len(processes)]

    # Things go on

    @precondition(lambda self: len(self.world.hosts) < 2)
    @rule()
    def a_second_node_starts(self) -> None:
        self.world.add_host(b"another!", CPU=1.0)

    @precondition(lambda self: len(self.world.drivers) < 3)
    @rule(index=NUMBERS)
    def a_driver_connects(self, index: int) -> None:
        self.world.hosts[index % len(self.world.hosts)].driver()
        self.world.check()

    @precondition(lambda self: self.world.drivers)
    @rule(index=NUMBERS, steps=st.lists(STEPS, min_size=1, max_size=6), moves=MOVES)
    def a_driver_works(self, index: int, steps: list[Step], moves: list[int]) -> None:
        drivers = self.world.drivers
        for step in steps:
            drivers[index % len(drivers)].state.do(step)
        self.things_happen(moves)

    @rule(moves=MOVES)
    def things_happen(self, moves: list[int]) -> None:
        for move in moves:
            possible = self.world.moves()
            if possible:
                possible[move % len(possible)]()
                self.world.check()

    @rule()
    def all_talk(self) -> None:
        self.world.talk()
        self.world.check()

    @rule(seconds=st.sampled_from([0.02, 0.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)
        self.world.check()

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS)
    def a_process_collects_garbage(self, index: int) -> None:
        if self.process(index).alive:
            self.process(index).collect()

    # Things break

    @precondition(lambda self: self.world.drivers)
    @rule(index=NUMBERS)
    def a_driver_ends(self, index: int) -> None:
        drivers = self.world.drivers
        self.world.die(drivers[index % len(drivers)])

    @precondition(lambda self: self.world.workers)
    @rule(index=NUMBERS, lost=NUMBERS)
    def a_worker_dies(self, index: int, lost: int) -> None:
        worker = self.world.workers[index % len(self.world.workers)]
        self.world.die(worker)
        for _ in range(min(lost, len(worker.wire))):
            worker.wire.pop()

    @precondition(lambda self: any(host.unborn for host in self.world.hosts))
    @rule(index=NUMBERS)
    def a_fork_fails(self, index: int) -> None:
        hosts = [host for host in self.world.hosts if host.unborn]
        hosts[index % len(hosts)].fork(works=False)
        self.world.check()

    @precondition(lambda self: any(host.segments for host in self.world.hosts))
    @rule(index=NUMBERS)
    def a_segment_cannot_be_made(self, index: int) -> None:
        hosts = [host for host in self.world.hosts if host.segments]
        hosts[index % len(hosts)].segment(works=False)
        self.world.check()

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS)
    def a_message_comes_twice(self, index: int) -> None:
        process = self.process(index)
        process.host.repeat(process)
        self.world.check()

    # Things heal

    @rule()
    def all_comes_to_rest(self) -> None:
        self.world.settle()

    @rule()
    def all_is_resolved(self) -> None:
        self.world.resolve_all()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # nothing has gone wrong so far
            self.world.end()


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_lease_of_a_task_that_was_cancelled_while_it_waited_for_room_ends() -> None:
    """Found by the machine above, once in some thousand examples."""
    node = Node()
    child = Recipe(steps=(("get", 0), ("share", 3969), ("share", 3969)))
    parent = Recipe(steps=(("spawn", child), ("share", 1), ("share", 1)), ending="crash", retries=1)
    node.a_driver_works(index=0, moves=[0], steps=[("share", 1), ("spawn", parent)])
    node.teardown()
