"""Rows about tasks."""

from __future__ import annotations

from typing import Any

from asyncray.cli.benchmark.bench import Bench, Figures, Row
from asyncray.cli.benchmark.face import ray
from asyncray.cli.benchmark.remote import OK, PlainActor, add, small_value, small_value_batch

_BATCH = 1_000
_CLIENTS = 4


def _all_ok(results: list[bytes]) -> bool:
    return results.count(OK) == len(results) > 0


def _tasks_sync(bench: Bench) -> Figures:
    return bench.rate_with_latency(lambda: ray.get(small_value.remote()), OK.__eq__)


def _tasks_async(bench: Bench) -> Figures:
    count = bench.sized(_BATCH)
    return bench.rate(lambda: ray.get([small_value.remote() for _ in range(count)]), _all_ok, count)


def _tasks_and_get_batch(bench: Bench) -> Figures:
    count = bench.sized(_BATCH)

    def call() -> list[bytes]:
        submitted = [small_value.remote() for _ in range(count)]
        return ray.get(submitted)

    return bench.rate(call, _all_ok)


def _multi_client(bench: Bench) -> Figures:
    count = bench.sized(10_000)
    actors = [PlainActor.remote() for _ in range(_CLIENTS)]
    return bench.rate(
        lambda: sum(ray.get([actor.small_value_batch.remote(count) for actor in actors])),
        (count * _CLIENTS).__eq__,
        count * _CLIENTS,
    )


def _tasks_that_run_tasks(bench: Bench) -> Figures:
    count, inner = 20, bench.sized(100)
    return bench.rate(
        lambda: sum(ray.get([small_value_batch.remote(inner) for _ in range(count)])),
        (count * inner).__eq__,
        count * inner,
    )


def _tree(bench: Bench) -> Figures:
    leaves = bench.sized(1_024) + 1

    def call() -> int:
        values: list[Any] = [1] * leaves
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            values = [*(add.remote(x, y) for x, y in pairs), *values[len(values) & ~1 :]]
        total: int = ray.get(values[0])
        return total

    return bench.seconds(call, leaves.__eq__)


def _chain(bench: Bench) -> Figures:
    length = bench.sized(1_000)

    def call() -> int:
        value: Any = 0
        for _ in range(length):
            value = add.remote(value, 1)
        total: int = ray.get(value)
        return total

    return bench.seconds(call, length.__eq__)


def _wait(bench: Bench) -> Figures:
    count = bench.sized(_BATCH)

    def call() -> int:
        unready = [small_value.remote() for _ in range(count)]
        seen = 0
        fetch_local = True  # as Ray's own: to ask once is enough
        while unready:
            ready, unready = ray.wait(unready, fetch_local=fetch_local)
            seen += len(ready)
            fetch_local = False
        return seen

    return bench.rate(call, count.__eq__)


ROWS = [
    Row("single client wait 1k refs", "waits/s", _wait),
    Row("single client tasks sync", "tasks/s", _tasks_sync),
    Row("single client tasks async", "tasks/s", _tasks_async),
    Row("single client tasks and get batch", "batches/s", _tasks_and_get_batch),
    Row("multi client tasks async", "tasks/s", _multi_client),
    Row("20 tasks that each run 100", "tasks/s", _tasks_that_run_tasks),
    Row("binary tree of 1,024 adds", "s", _tree),
    Row("chain of 1,000 tasks", "s", _chain),
]
