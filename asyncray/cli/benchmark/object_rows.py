"""Rows about objects.

Ray calls an array of 100 Mi eight-byte numbers 0.8 GB; so does this, where the row is Ray's, for the same footing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncray.cli.benchmark.bench import REPETITIONS, Bench, Figures, Row
from asyncray.cli.benchmark.face import ray
from asyncray.cli.benchmark.remote import last_of, make_array, many_refs, put_large, put_small

_NUMBERS = 100 << 20
_GIGABYTES = 0.8
_SMALLER = 10 << 20
_SMALLER_GIGABYTES = 0.08

_SESSIONS = 3
"""For what can be seen once a session: memory that nobody has touched."""


def _sessions(bench: Bench) -> int:
    return _SESSIONS if bench.scale >= 1 else 1


def _get_small(bench: Bench) -> Figures:
    ref = ray.put(0)
    return bench.rate(lambda: ray.get(ref), (0).__eq__)


def _put_small(bench: Bench) -> Figures:
    return bench.rate(lambda: ray.put(0), lambda ref: ray.get(ref) == 0)


def _multi_put_small(bench: Bench) -> Figures:
    tasks, times = 10, bench.sized(100)
    return bench.rate(
        lambda: sum(ray.get([put_small.remote(times) for _ in range(tasks)])), (tasks * times).__eq__, tasks * times
    )


def _put_gigabytes(bench: Bench) -> Figures:
    array = np.zeros(bench.sized(_NUMBERS), dtype=np.int64)
    return bench.rate(lambda: ray.put(array), lambda ref: len(ray.get(ref)) == len(array), _GIGABYTES * bench.scale)


def _multi_put_gigabytes(bench: Bench) -> Figures:
    tasks, times, size = 10, 10, bench.sized(_SMALLER)
    return bench.rate(
        lambda: sum(ray.get([put_large.remote(times, size) for _ in range(tasks)])),
        (tasks * times).__eq__,
        tasks * times * _SMALLER_GIGABYTES * bench.scale,
    )


def _put_first(bench: Bench) -> Figures:
    array = np.zeros(bench.sized(_NUMBERS), dtype=np.int64)
    values = []
    for _ in range(_sessions(bench)):
        with ray.init():
            elapsed = bench.time(lambda: ray.put(array), lambda ref: len(ray.get(ref)) == len(array))
            values.append(array.nbytes / 1e9 / elapsed)
    return Figures(values)


def _get_large(bench: Bench) -> Figures:
    array = np.ones(bench.sized(100_000_000))
    ref = ray.put(array)

    def right(found: npt.NDArray[np.float64]) -> bool:
        return bool(found[0] == found[-1] == 1.0) and len(found) == len(array) and not found.flags.writeable

    return bench.seconds(lambda: ray.get(ref), right, times=50)


@functools.cache
def _weights(size: int) -> dict[str, npt.NDArray[np.float64]]:
    return {f"Variable{i}": np.random.normal(size=size) for i in range(10)}


def _weights_put(bench: Bench) -> Figures:
    return _put_and_get_weights(bench)[0]


def _weights_get(bench: Bench) -> Figures:
    return _put_and_get_weights(bench)[1]


def _put_and_get_weights(bench: Bench) -> tuple[Figures, Figures]:
    """As the announcement's program does it: once, right after the start."""
    weights = _weights(bench.sized(5_000_000))
    puts, gets = [], []
    for _ in range(_sessions(bench)):
        refs: list[Any] = []
        with ray.init():
            puts.append(bench.time(lambda refs=refs: refs.append(ray.put(weights)), lambda _: True))  # type: ignore[misc]  # a default binds the list of this round
            gets.append(bench.time(lambda refs=refs: ray.get(refs[0]), lambda found: _same(found, weights)))  # type: ignore[misc]  # as above
    return Figures(puts), Figures(gets)


def _same(found: dict[str, Any], weights: dict[str, Any]) -> bool:
    return found.keys() == weights.keys() and all(found[name][-1] == weights[name][-1] for name in weights)


def _argument(bench: Bench) -> Figures:
    array = np.full(bench.sized(12_500_000), 7.0)
    tasks = 20

    def call() -> list[float]:
        ref = ray.put(array)
        return ray.get([last_of.remote(ref) for _ in range(tasks)])

    return bench.seconds(call, ([7.0] * tasks).__eq__, times=3 * REPETITIONS)


def _results(bench: Bench) -> Figures:
    size, tasks = bench.sized(12_500_000), 10

    def right(arrays: list[npt.NDArray[np.float64]]) -> bool:
        return all(array[-1] == 1.0 and len(array) == size for array in arrays)

    return bench.rate(lambda: ray.get([make_array.remote(size) for _ in range(tasks)]), right, tasks * size * 8 / 1e9)


def _containing_refs(bench: Bench) -> Figures:
    count = bench.sized(10_000)
    ref = many_refs.remote(count)
    return bench.rate(lambda: ray.get(ref), lambda refs: len(refs) == count and ray.get(refs[-1]) == 1)


ROWS = [
    Row("single client get calls (Plasma Store)", "gets/s", _get_small),
    Row("single client put calls (Plasma Store)", "puts/s", _put_small),
    Row("multi client put calls (Plasma Store)", "puts/s", _multi_put_small),
    Row("put of 0.8 GB, first time", "GB/s", _put_first, session=False),
    Row("single client put gigabytes", "GB/s", _put_gigabytes),
    Row("multi client put gigabytes", "GB/s", _multi_put_gigabytes),
    Row("get of an 800 MB array", "s", _get_large),
    Row("the seeds' weights: put", "s", _weights_put, session=False),
    Row("the seeds' weights: get", "s", _weights_get, session=False),
    Row("100 MB argument to 20 tasks", "s", _argument),
    Row("10 results of 100 MB each", "GB/s", _results),
    Row("single client get object containing 10k refs", "gets/s", _containing_refs),
]
