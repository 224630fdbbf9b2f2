"""The functions and actors that the rows run remotely, as Ray's own benchmark has them.

They are pickled by value, as those of a user's script are: the workers do not import the command line. A function that
submits work itself returns how many results were right, so that a row can check that the work was done.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncray.cli.benchmark.face import NAME, ray

OK = b"ok"

if NAME.startswith("asyncray"):
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@ray.remote
def small_value() -> bytes:
    return b"ok"


@ray.remote
def small_value_batch(count: int) -> int:
    return ray.get([small_value.remote() for _ in range(count)]).count(b"ok")


@ray.remote
def add(x: int, y: int) -> int:
    return x + y


@ray.remote
def put_small(times: int) -> int:
    for _ in range(times):
        ray.put(0)
    return times


@ray.remote
def put_large(times: int, size: int) -> int:
    for _ in range(times):
        ray.put(np.zeros(size, dtype=np.int64))
    return times


@ray.remote
def many_refs(count: int) -> list[Any]:
    return [ray.put(1) for _ in range(count)]


@ray.remote
def last_of(array: npt.NDArray[np.float64]) -> float:
    return float(array[-1])


@ray.remote
def make_array(size: int) -> npt.NDArray[np.float64]:
    return np.ones(size)


class _Actor:
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: object) -> bytes:
        return b"ok"

    def small_value_batch(self, count: int) -> int:
        return ray.get([small_value.remote() for _ in range(count)]).count(b"ok")


class _AsyncActor:
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: object) -> bytes:
        return b"ok"


class _Client:
    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers

    def small_value_batch(self, count: int) -> int:
        results = []
        for server in self.servers:
            results.extend([server.small_value.remote() for _ in range(count)])
        return ray.get(results).count(b"ok")

    def small_value_batch_arg(self, count: int) -> int:
        x = ray.put(0)
        results = []
        for server in self.servers:
            results.extend([server.small_value_arg.remote(x) for _ in range(count)])
        return ray.get(results).count(b"ok")


@ray.remote
def call_actors(actors: list[Any], count: int) -> int:
    return ray.get([actors[i % len(actors)].small_value.remote() for i in range(count)]).count(b"ok")


# Not as decorators: a type checker lets those leave a class what it was.
PlainActor = ray.remote(num_cpus=0)(_Actor)
AsyncActor = ray.remote(_AsyncActor)
CallingActor = ray.remote(num_cpus=0)(_Client)


@ray.remote
def ref_to_filled(size: int) -> list[Any]:
    """A ref to an array of bytes whose pages all hold something; the last one depends on the size."""
    array = np.full(size, 7, dtype=np.uint8)
    array[-1] = size % 251
    return [ray.put(array)]


@ray.remote
def length_of(array: npt.NDArray[np.uint8]) -> int:
    return len(array)


@ray.remote
def many_small(count: int) -> list[Any]:
    return [ray.put(bytes(100)) for _ in range(count)]
