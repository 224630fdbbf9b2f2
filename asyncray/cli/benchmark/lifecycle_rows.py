"""Rows that need a process of their own: starting, stopping, idling, and bursts of tasks with their memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from asyncray.cli.benchmark import usage
from asyncray.cli.benchmark.bench import REPETITIONS, Bench, Figures, Row

_STARTS = 5
_QUIET = 1.0
"""Seconds after which a node is idle: what it loads late is loaded."""
_WATCHED = 5.0
"""Seconds of idling that are watched."""


def _start_and_stop(which: str) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        values = []
        for _ in range(_STARTS if bench.scale >= 1 else 1):
            answer = usage.run("start_and_stop")
            bench.check(answer["right"])
            values.append(answer[which])
        return Figures(values)

    return measure


def _idle(look: Callable[[Bench, int], float], times: int = 1) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        values = []
        for _ in range(times if bench.scale >= 1 else 1):
            with usage.running("idle") as process:
                assert process.stdout is not None
                while (line := process.stdout.readline().strip()) and line != "ready":
                    pass  # other lines are warnings
                bench.check(line == "ready", "what the idle program said")
                time.sleep(_QUIET * bench.scale)
                values.append(look(bench, process.pid))
        return Figures(values)

    return measure


def _memory(bench: Bench, pid: int) -> float:
    return usage.memory(usage.tree(pid)) / 1e6


def _count(bench: Bench, pid: int) -> float:
    return len(usage.tree(pid))


def _threads(bench: Bench, pid: int) -> float:
    return usage.threads(usage.tree(pid))


def _cpu(bench: Bench, pid: int) -> float:
    node = [process for process in usage.tree(pid) if process != pid]  # without the driver
    before, began = usage.cpu_seconds(node), time.perf_counter()
    time.sleep(_WATCHED * bench.scale)
    return 100 * (usage.cpu_seconds(node) - before) / (time.perf_counter() - began)


def _burst(bench: Bench) -> Figures:
    count = bench.sized(100_000)
    values = []
    for _ in range(REPETITIONS if bench.scale >= 1 else 1):
        answer = usage.run("burst", str(count), "at-once")
        bench.check(answer["right"])
        values.append(count / answer["seconds"])
    return Figures(values)


def _burst_memory(bench: Bench) -> Figures:
    values = []
    for _ in range(2 if bench.scale >= 1 else 1):
        answer, most = usage.run_watching_memory("burst", str(bench.sized(100_000)), "at-once")
        bench.check(answer["right"])
        values.append(most / 1e6)
    return Figures(values)


@functools.cache
def _million(count: int) -> tuple[bool, float, float]:
    """Once for both rows: it takes a minute, and watching its memory costs it little."""
    answer, most = usage.run_watching_memory("burst", str(count), "queued")
    return answer["right"], answer["seconds"], most / 1e6


def _queued(bench: Bench) -> Figures:
    right, seconds, _ = _million(bench.sized(1_000_000))
    bench.check(right)
    return Figures([seconds])


def _queued_memory(bench: Bench) -> Figures:
    right, _, megabytes = _million(bench.sized(1_000_000))
    bench.check(right)
    return Figures([megabytes])


def _relay(bench: Bench) -> Figures:
    answer = usage.run("relay", "driver", str(bench.scale))  # which checks its results
    bench.check(len(answer["values"]) > 0)
    return Figures(answer["values"], answer["p50"])


RELAY = Row("relay (bare shape)", "tasks/s", _relay, session=False)

ROWS = [
    Row("import + init + first result", "s", _start_and_stop("start"), session=False),
    Row("shutdown", "s", _start_and_stop("stop"), session=False),
    Row("idle 2-worker node: memory", "MB", _idle(_memory, times=2), session=False),
    Row("idle 2-worker node: processes", "processes", _idle(_count), session=False),
    Row("idle 2-worker node: threads", "threads", _idle(_threads), session=False),
    Row("idle 2-worker node: CPU", "% of a core", _idle(_cpu), session=False),
    RELAY,
]

BURSTS = [
    Row("100,000 tasks at once", "tasks/s", _burst, session=False),
    Row("100,000 tasks at once: peak memory", "MB", _burst_memory, session=False),
    Row("1,000,000 tasks queued, then run", "s", _queued, session=False, slow=True),
    Row("1,000,000 tasks queued, then run: peak memory", "MB", _queued_memory, session=False, slow=True),
]
