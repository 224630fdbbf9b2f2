"""Workers that cannot start: pauses between forks, and what drivers and people learn of it."""

from __future__ import annotations

from typing import Any

from asyncray.core.clock import Clock
from asyncray.core.questions import Answer, Question
from asyncray.core.workers import FIRST_PAUSE, LONGEST_PAUSE, MOST_STARTING, REPORT_AFTER, REPORT_AGAIN_AFTER
from asyncray.core.workers import StartFailures as Failures
from asyncray.messages import NOTICE
from tests.core.processes import Driver
from tests.core.world import World

PROBLEM = "no worker can start: it did not start"


def fail_forks(world: World, seconds: float, step: float = 0.05) -> int:
    """All forks fail for so long; returns how many there were."""
    failed = 0
    for _ in range(round(seconds / step)):
        while world.host.unborn:
            world.host.fork(works=False)
            world.host.miss_seen()
            failed += 1
        world.wait(step)
    return failed


def notices(driver: Driver) -> list[str]:
    return [message[2] for message in driver.inbox if message[0] == NOTICE]


def test_each_failure_doubles_the_pause_up_to_a_limit() -> None:
    clock, pauses = Clock(), []
    failures = Failures(clock)
    assert failures.most_starting() == MOST_STARTING
    for _ in range(8):
        failures.failed("no room")
        start = clock.now
        while not failures.most_starting():
            clock.now += 0.01
        assert failures.most_starting() == 1
        pauses.append(round(clock.now - start, 1))
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_workers_that_fail_together_count_once() -> None:
    clock = Clock()
    failures = Failures(clock)
    clock.now = 1.0
    for _ in range(MOST_STARTING):
        failures.failed("no room")
    clock.now += FIRST_PAUSE
    assert failures.most_starting() == 1


def test_a_failure_is_reported_when_it_lasts_and_again_after_a_minute() -> None:
    clock = Clock()
    failures = Failures(clock)

    def report(now: float) -> str | None:
        clock.now = now
        return failures.report()

    failures.failed("no room")
    assert report(0.0) is None
    assert report(REPORT_AFTER) == "no worker can start: no room"
    assert report(REPORT_AFTER + 1) is None
    failures.succeeded()
    assert failures.problem() is None
    failures.failed("no room")
    # If a worker starts now and then, drivers still do not get a report after each failure.
    assert report(4.0) is None
    assert failures.problem() == "no worker can start: no room"
    assert report(REPORT_AFTER + REPORT_AGAIN_AFTER) == "no worker can start: no room"


def status_of(world: World) -> Any:
    answers: list[Answer] = []
    world.machine.requests.ask(Question(world.host.tool, answers.append), "status", [])
    ((_, status),) = answers
    return status


def test_failing_forks_slow_down_and_drivers_hear_why() -> None:
    world = World(CPU=2)
    driver = world.driver()
    ref = driver.submit()
    world.host.hear(driver, len(driver.wire))
    assert fail_forks(world, REPORT_AFTER + 2 * LONGEST_PAUSE) < 12
    assert notices(driver) == [PROBLEM]
    assert notices(world.driver()) == [PROBLEM]  # a driver that comes later
    status = status_of(world)
    assert status["problem"] == PROBLEM
    assert [row["why"] for row in status["waiting"]] == [PROBLEM]
    world.settle()
    assert ref in driver.values
    assert status_of(world)["problem"] == ""
