"""Days on which workers print, and drivers say goodbye before they end: each line arrives once and in order."""

from __future__ import annotations

from asyncray.core.records import Job
from asyncray.messages import OUTPUT, REQUEST
from tests.core.processes import Driver, Process
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost
from tests.sim.days import ACCIDENTS, begin, drivers_of, end, event

SEEDS = 20
EVENTS = 80


def prints(cluster: Cluster) -> None:
    """A worker that serves a driver at another node prints a line."""
    host = cluster.clock.random.choice(cluster.living)
    jobs = [job for job in host.machine.jobs.table.values() if job.workers and job.reports_to is not None]
    far = [job for job in jobs if job.reports_to is not None and job.reports_to.is_node]
    if far:
        host.print_line(cluster.clock.random.choice(far))
        host.after()


class Farewells:
    """The drivers that said goodbye, and what had been printed for them by then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._said: dict[Process, dict[ClusterHost, int]] = {}
        self.answers = 0

    def say(self) -> None:
        drivers = [driver for driver in drivers_of(self._cluster) if driver not in self._said]
        if drivers:
            driver = self._cluster.clock.random.choice(drivers)
            living = self._cluster.living
            self._said[driver] = {host: host.printed.get(driver.job_id, 0) for host in living}
            driver.ask(REQUEST, "goodbye", [], lambda _: self._answered(driver))
            self._cluster.host_of(driver).wake()

    def _answered(self, driver: Process) -> None:
        self.answers += 1
        self._cluster.host_of(driver).node.die(driver)


def lines_of(driver: Driver) -> dict[str, list[int]]:
    """The lines that a driver has got, by the host that printed them and the job."""
    found: dict[str, list[int]] = {}
    for kind, *fields in driver.news:
        if kind == OUTPUT:
            for _, prefix, text in fields[0]:
                found.setdefault(prefix.partition(",")[0], []).append(int(text))
    return found


def test_each_line_arrives_once_and_in_order_and_nothing_is_left() -> None:
    answers = lines = 0
    for seed in range(SEEDS):
        cluster = begin(seed)
        random = cluster.clock.random
        farewells = Farewells(cluster)
        drivers: dict[Process, None] = {}
        danger = random.choice([0.0, 0.05])
        for _ in range(EVENTS):
            event(cluster, danger, ACCIDENTS)
            for _ in range(3):
                prints(cluster)
            drivers.update(dict.fromkeys(drivers_of(cluster)))
            if random.random() < 0.03:
                farewells.say()
        end(cluster)
        answers += farewells.answers
        for driver in drivers:
            assert isinstance(driver, Driver)
            for host, numbers in lines_of(driver).items():
                assert numbers == list(range(1, len(numbers) + 1)), f"seed {seed}: {driver} got {numbers} of {host}"
                lines += len(numbers)
    assert answers > SEEDS / 3
    assert lines > SEEDS * 10


def test_a_driver_that_says_goodbye_has_all_lines_that_were_printed_before() -> None:
    """Without accidents, and with nodes that have the job from others."""
    for seed in range(SEEDS):
        cluster = begin(seed)
        for _ in range(EVENTS // 2):
            event(cluster, 0.0, ())
        for driver in drivers_of(cluster):
            assert isinstance(driver, Driver)
            say_goodbye(cluster, driver, f"seed {seed}")
        end(cluster)


def say_goodbye(cluster: Cluster, driver: Driver, story: str) -> None:
    printed: dict[str, int] = {}
    for host in cluster.living:
        job: Job | None = host.machine.jobs.table.get(driver.job_id)
        if job is not None and job.reports_to is not None and job.reports_to.is_node:
            host.print_line(job)
            host.after()
            printed[f"({host.name} job {job.id.hex()}"] = host.printed[driver.job_id]
    answers: list[dict[str, list[int]]] = []
    driver.ask(REQUEST, "goodbye", [], lambda _: answers.append(lines_of(driver)))
    cluster.host_of(driver).wake()
    cluster.run(1.0)
    (lines,) = answers
    for host_name, count in printed.items():
        assert lines[host_name][:count] == list(range(1, count + 1)), f"{story}: {driver} lacks lines of {host_name}"
        assert len(lines[host_name]) == count + 1, f"{story}: the last line of {host_name} is missing"
