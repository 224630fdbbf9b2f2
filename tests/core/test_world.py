"""A node in a world where everything happens in any order, and anything may end at any time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.processes import Process
from tests.core.programs import Recipe, Step
from tests.core.world import World

NUMBERS = st.integers(0, 7)
SIZES = st.integers(1, 1500)
COUNTS = st.integers(1, 12)
ENDINGS = st.sampled_from(["plain", "plain", "plain", "refs", "refs", "shared", "raise", "retry", "crash", "exit"])
VERBS = ("get", "get", "get", "put", "forget", "release", "cancel", "kill", "keep")


def simple_steps() -> st.SearchStrategy[Step]:
    return st.tuples(st.sampled_from(VERBS), NUMBERS) | st.tuples(st.just("share"), SIZES)


def recipes(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        steps=st.lists(steps, max_size=4).map(tuple),
        ending=ENDINGS,
        cpus=st.sampled_from([1, 1, 1, 1, 0, 0.5, 2]),
        extra=st.sampled_from([None] * 6 + [("R", 1), ("R", 0.5), ("GPU", 1), ("GPU", 0.5), ("moon", 1)]),
        returns=st.sampled_from([1, 1, 1, 0, 2]),
        retries=st.sampled_from([0, 0, 1, 2, -1]),
        careful=st.booleans(),
        arguments=st.lists(NUMBERS, max_size=2).map(tuple),
        nested=st.lists(NUMBERS, max_size=2).map(tuple),
        lives_on=st.sampled_from([0, 0, 0, 1]),
        restarts=st.sampled_from([0, 0, 1]),
        detached=st.sampled_from([False, False, False, True]),
        ordered=st.sampled_from([True, True, False]),
        name=st.sampled_from(["", "", "", "ann", "bob"]),
        target=NUMBERS,
    ).map(mortal)


def mortal(recipe: Recipe) -> Recipe:
    """What ends badly is not tried for ever."""
    if recipe.retries == -1 and recipe.ending in ("retry", "crash"):
        return Recipe(**{**vars(recipe), "retries": 1})
    return recipe


def steps(inner: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
    return inner | st.tuples(st.sampled_from(["spawn", "spawn", "make", "call"]), recipes(inner))


STEPS = steps(steps(simple_steps()))
RECIPES = recipes(STEPS)


class Node(RuleBasedStateMachine):
    """Rules that hurt, rules that heal, and rules that just let things go on."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.driver()

    def process(self, index: int) -> Process:
        processes = list(self.world.processes.values())
        return processes[index % len(processes)]

    # Drivers

    @precondition(lambda self: len(self.world.drivers) < 3)
    @rule()
    def a_driver_connects(self) -> None:
        self.world.driver()

    @precondition(lambda self: self.world.drivers)
    @rule(index=NUMBERS, step=STEPS)
    def a_driver_does(self, index: int, step: Step) -> None:
        drivers = self.world.drivers
        drivers[index % len(drivers)].state.do(step)

    @precondition(lambda self: self.world.drivers)
    @rule(index=NUMBERS, recipe=RECIPES, verb=st.sampled_from(["spawn", "spawn", "make", "call", "call"]))
    def a_driver_submits(self, index: int, verb: str, recipe: Recipe) -> None:
        drivers = self.world.drivers
        drivers[index % len(drivers)].state.do((verb, recipe))

    @precondition(lambda self: self.world.drivers)
    @rule(index=NUMBERS)
    def a_driver_ends(self, index: int) -> None:
        drivers = self.world.drivers
        self.world.die(drivers[index % len(drivers)])

    # Things go on

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS, count=COUNTS)
    def the_daemon_hears(self, index: int, count: int) -> None:
        self.world.hear(self.process(index), count)

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS, count=COUNTS)
    def a_process_reads(self, index: int, count: int) -> None:
        process = self.process(index)
        while process.inbox and count:
            process.read_inbox()
            count -= 1

    @precondition(lambda self: self.world.workers)
    @rule(index=NUMBERS, count=COUNTS)
    def a_worker_runs(self, index: int, count: int) -> None:
        worker = self.world.workers[index % len(self.world.workers)]
        for thread in range(count):
            if worker.alive:
                worker.step(thread)

    @rule()
    def all_talk(self) -> None:
        self.world.talk()

    @precondition(lambda self: self.world.unborn)
    @rule()
    def a_worker_is_forked(self) -> None:
        self.world.fork()

    @precondition(lambda self: self.world.segments)
    @rule(works=st.booleans())
    def a_segment_is_made(self, works: bool) -> None:
        self.world.segment(works)

    @rule(seconds=st.sampled_from([0.02, 0.02, 0.5, 1.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS)
    def a_process_collects_garbage(self, index: int) -> None:
        process = self.process(index)
        if process.alive:
            process.collect()

    # Things break

    @precondition(lambda self: self.world.unborn)
    @rule()
    def a_fork_fails(self) -> None:
        self.world.fork(works=False)

    @precondition(lambda self: self.world.workers)
    @rule(index=NUMBERS, lost=COUNTS)
    def a_worker_dies(self, index: int, lost: int) -> None:
        worker = self.world.workers[index % len(self.world.workers)]
        self.world.die(worker)
        for _ in range(min(lost, len(worker.wire))):
            worker.wire.pop()

    @precondition(lambda self: self.world.doomed)
    @rule()
    def a_worker_is_killed(self) -> None:
        self.world.slay()

    @precondition(lambda self: self.world.corpses)
    @rule()
    def an_end_is_seen(self) -> None:
        self.world.exit_seen()

    @precondition(lambda self: self.world.misses)
    @rule()
    def a_failed_start_is_seen(self) -> None:
        self.world.miss_seen()

    @precondition(lambda self: any(not process.alive for process in self.world.processes.values()))
    @rule(index=NUMBERS)
    def a_lost_connection_is_seen(self, index: int) -> None:
        dead = [process for process in self.world.processes.values() if not process.alive]
        self.world.disconnect(dead[index % len(dead)])

    @precondition(lambda self: self.world.processes)
    @rule(index=NUMBERS)
    def a_message_comes_twice(self, index: int) -> None:
        self.world.repeat(self.process(index))

    # Things heal

    @rule()
    def all_comes_to_rest(self) -> None:
        self.world.settle()

    @rule()
    def all_is_resolved(self) -> None:
        self.world.resolve_all()

    @invariant()
    def the_books_agree(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.end()


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
