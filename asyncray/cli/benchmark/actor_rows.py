"""Rows about actors. As in Ray's benchmark, "n" is half the number of cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from asyncray.cli.benchmark.bench import REPETITIONS, Bench, Figures, Row
from asyncray.cli.benchmark.face import ray
from asyncray.cli.benchmark.remote import OK, AsyncActor, CallingActor, PlainActor, call_actors

_BATCH = 1_000
_CALLERS = 4
_NEW_ACTORS = 10


def _servers() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


def _all_ok(results: list[bytes]) -> bool:
    return results.count(OK) == len(results) > 0


def _sync(actor_class: Any) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        actor = actor_class.remote()
        return bench.rate_with_latency(lambda: ray.get(actor.small_value.remote()), OK.__eq__)

    return measure


def _one_to_one(actor_class: Any, **options: Any) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        actor = actor_class.options(**options).remote() if options else actor_class.remote()
        count = bench.sized(_BATCH)
        return bench.rate(lambda: ray.get([actor.small_value.remote() for _ in range(count)]), _all_ok, count)

    return measure


def _one_to_one_with_args(bench: Bench) -> Figures:
    actor = AsyncActor.remote()
    count = bench.sized(_BATCH)
    return bench.rate(lambda: ray.get([actor.small_value_with_arg.remote(i) for i in range(count)]), _all_ok, count)


def _one_to_n(actor_class: Any) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        actors = [actor_class.remote() for _ in range(_servers())]
        client = CallingActor.remote(actors)
        count = bench.sized(5_000)
        total = count * len(actors)
        return bench.rate(lambda: ray.get(client.small_value_batch.remote(count)), total.__eq__, total)

    return measure


def _n_to_n(actor_class: Any) -> Callable[[Bench], Figures]:
    def measure(bench: Bench) -> Figures:
        actors = [actor_class.remote() for _ in range(_servers())]
        count = bench.sized(5_000)
        total = count * _CALLERS
        return bench.rate(
            lambda: sum(ray.get([call_actors.remote(actors, count) for _ in range(_CALLERS)])), total.__eq__, total
        )

    return measure


def _n_to_n_with_arg(bench: Bench) -> Figures:
    clients = [CallingActor.remote([PlainActor.remote()]) for _ in range(_servers())]
    count = bench.sized(_BATCH)
    total = count * len(clients)
    return bench.rate(
        lambda: sum(ray.get([client.small_value_batch_arg.remote(count) for client in clients])), total.__eq__, total
    )


def _new_actors(bench: Bench) -> Figures:
    count = max(2, bench.sized(_NEW_ACTORS))
    values = []
    for _ in range(REPETITIONS if bench.scale >= 1 else 1):
        actors: list[Any] = []

        def call(actors: list[Any] = actors) -> list[bytes]:
            actors.extend(PlainActor.remote() for _ in range(count))
            return ray.get([actor.small_value.remote() for actor in actors])

        values.append(count / bench.time(call, _all_ok))
        for actor in actors:
            ray.kill(actor)
        # Their processes end, and new workers take their place: not while the next actors are timed.
        time.sleep(0.5 * bench.scale)
    return Figures(values)


ROWS = [
    Row("new actors with a first call", "actors/s", _new_actors),
    Row("1:1 actor calls sync", "calls/s", _sync(PlainActor)),
    Row("1:1 actor calls async", "calls/s", _one_to_one(PlainActor)),
    Row("1:1 actor calls concurrent", "calls/s", _one_to_one(PlainActor, max_concurrency=16)),
    Row("1:n actor calls async", "calls/s", _one_to_n(PlainActor)),
    Row("n:n actor calls async", "calls/s", _n_to_n(PlainActor)),
    Row("n:n actor calls with arg async", "calls/s", _n_to_n_with_arg),
    Row("1:1 async-actor calls sync", "calls/s", _sync(AsyncActor)),
    Row("1:1 async-actor calls async", "calls/s", _one_to_one(AsyncActor)),
    Row("1:1 async-actor calls with args async", "calls/s", _one_to_one_with_args),
    Row("1:n async-actor calls async", "calls/s", _one_to_n(AsyncActor)),
    Row("n:n async-actor calls async", "calls/s", _n_to_n(AsyncActor)),
]
