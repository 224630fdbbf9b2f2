"""Placement groups in a cluster under faults: programs make, use and remove them, while nodes join and die.

At rest the head and the nodes agree about every bundle, and no group waits that would fit. In the end every group is
removed, and all resources have returned.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from asyncray.core.bundles import PATIENCE
from asyncray.core.group_choice import NodeRoom, Wish, choose, load_of
from asyncray.core.group_records import COMMITTED, CREATED, UNPLACED
from tests.core.grouping import ask, inside, make, ready
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.sim import days
from tests.sim.seeds import SEEDS, in_chunks, play_each

STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
GROUP_SEEDS = max(1, SEEDS // 4)
"""A day with groups takes 0.3 s: most of that is the rest in the end, with pauses and patience."""

ACCIDENTS = [days.breaks] * 3 + [days.dies, days.is_cut, days.stalls, days.joins, days.crashes, days.fails]


class Day:
    """A day of a cluster whose programs use placement groups."""

    def __init__(self, seed: int) -> None:
        self.cluster = days.begin(seed)
        self.groups: list[bytes] = []

    @property
    def random(self) -> Random:
        return self.cluster.clock.random

    def driver(self) -> Driver | None:
        """Any driver, or a new one. None: the node that was asked for one is no member at present."""
        drivers = [driver for host in self.cluster.living for driver in host.node.drivers]
        if drivers and self.random.random() < 0.9:
            return self.random.choice(drivers)
        return self.random.choice(self.cluster.living).driver()

    def wake(self, driver: Driver) -> None:
        self.cluster.host_of(driver).wake()

    def make(self, driver: Driver) -> None:
        random = self.random
        bundles = [{"CPU": random.choice([0.5, 1, 1, 2])} for _ in range(random.choice([1, 1, 2, 2, 3]))]
        if random.random() < 0.2:
            bundles[0]["R"] = 1
        detached = random.random() < 0.3
        group = make(driver, *bundles, strategy=random.choice(STRATEGIES), detached=detached)
        self.groups.append(group)
        if random.random() < 0.5:
            ready(driver, group)

    def remove(self, driver: Driver) -> None:
        if self.groups:
            ask(driver, "remove_group", self.groups.pop(self.random.randrange(len(self.groups))))

    def use(self, driver: Driver) -> None:
        """Submits a task to a group, perhaps to one that another program has made or that is removed."""
        random = self.random
        if not self.groups:
            return
        where = inside(random.choice(self.groups[-4:]), random.choice([-1, -1, 0, 0, 1]))
        cpus, retries = random.choice([0.5, 1, 1, 0]), random.choice([0, 1, 2])
        if random.random() < 0.2:
            driver.create(where=where, cpus=1, lives_on=random.choice([0, 1]), restarts=random.choice([0, 1]))
            if random.random() < 0.7:
                driver.call(driver.state.handles[-1])
            if random.random() < 0.7:
                driver.lose(driver.state.handles[-1])
        else:
            steps = (("spawn", Recipe()), ("get", 0)) if random.random() < 0.3 else ()
            driver.submit(where=where, steps=steps, cpus=cpus, retries=retries)

    def event(self, danger: float) -> None:
        luck = self.random.random()
        driver = self.driver()
        if luck < danger:
            self.random.choice(ACCIDENTS)(self.cluster)
        elif driver is not None and driver.alive:
            if luck < danger + 0.2:
                self.make(driver)
            elif luck < danger + 0.3:
                self.remove(driver)
            else:
                self.use(driver)
            self.wake(driver)
        self.cluster.run(self.random.choice((0.0, 0.0005, 0.005, 0.02, 0.3)))

    # Ends -------------------------------------------------------------------------------------------------------------

    def rounds_are_under_way(self) -> bool:
        """A group that waits for the end of an actor is tried again from time to time."""
        groups = self.cluster.head.groups.groups.table.values()
        return any(bundle.stage not in (UNPLACED, COMMITTED) for group in groups for bundle in group.bundles)

    def agree(self) -> None:
        """The head and the nodes know the same bundles, and no group waits that would fit."""
        groups = self.cluster.head.groups.groups
        placed: Counter[tuple[bytes, bytes, int, int]] = Counter()
        for group in groups.table.values():
            for index, bundle in enumerate(group.bundles):
                if bundle.node is not None:
                    placed[bundle.node, group.id, index, bundle.attempt] += 1
            if group.state == CREATED:
                assert all(bundle.stage == COMMITTED for bundle in group.bundles)
                nodes = [bundle.node for bundle in group.bundles]
                assert group.strategy != "STRICT_PACK" or len(set(nodes)) == 1
                assert group.strategy != "STRICT_SPREAD" or len(set(nodes)) == len(nodes)
        held = Counter(
            (host.id, group, index, attempt)
            for host in self.cluster.living
            for group, here in host.machine.bundles.groups.items()
            for index, attempt in here.held
        )
        assert placed == held
        self.nothing_waits_that_fits()

    def nothing_waits_that_fits(self) -> None:
        rooms = []
        for host in self.cluster.living:
            account = host.machine.resources
            free = dict(account.available)
            rooms.append(NodeRoom(host.id, account.total, free, {}, load_of(account.total, free)))
        for group in self.cluster.head.groups.groups.table.values():
            wishes = [Wish(i, b.demand, ()) for i, b in enumerate(group.bundles) if b.stage == UNPLACED]
            taken = Counter(bundle.node for bundle in group.bundles if bundle.node is not None)
            if wishes:
                assert choose(group.strategy, wishes, rooms, taken) is None, f"{group} would fit"

    def end(self) -> None:
        self.cluster.settle()
        days.rest(self.cluster)
        self.cluster.run(PATIENCE)
        while self.rounds_are_under_way():
            self.cluster.run(0.02)
        self.agree()
        driver = self.cluster.head_host.driver()
        assert driver is not None
        for group in list(self.cluster.head.groups.groups.table):
            ask(driver, "remove_group", group)
        self.wake(driver)
        days.end(self.cluster)
        assert not self.cluster.head.groups.groups.table
        for host in self.cluster.living:
            assert host.machine.resources.bundles == 0
            assert not host.machine.group_requests.promised


def live(seed: int, events: int = 60) -> None:
    day = Day(seed)
    try:
        danger = day.random.choice([0, 0.05, 0.15])
        for _ in range(events):
            day.event(danger)
        day.end()
    except Exception as error:
        error.add_note(day.cluster.oracle.recorder.story(str(error)))
        raise


@in_chunks(GROUP_SEEDS)
def test_groups_of_a_cluster_end_without_a_trace(seeds: range) -> None:
    play_each(seeds, live)
