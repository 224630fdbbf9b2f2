"""A tour in about three seconds: what `make demo` runs.

Starts a cluster on this machine, runs functions in parallel, keeps state in an actor, shares a large array without
copying it, waits for results in asyncio, and stops everything again. Prints what each step did and how long it took.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import asyncray.sync as ray


@ray.remote
def slow_square(x: int) -> int:
    time.sleep(0.2)
    return x * x


@ray.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title, then what the body prints, then how long the body took."""
    print(title, flush=True)
    began = time.perf_counter()
    yield
    print(f"    took {(time.perf_counter() - began) * 1000:.1f} ms", flush=True)


def run_tasks() -> None:
    print(f"    squares: {ray.get([slow_square.remote(i) for i in range(8)])}")


def run_actor() -> None:
    counter = Counter.remote()
    for amount in (1, 2, 3):
        counter.add.remote(amount)
    print(f"    counted to {ray.get(counter.add.remote(4))}")


def share_array() -> None:
    array_ref = ray.put(np.ones(5_000_000))
    began = time.perf_counter()
    array = ray.get(array_ref)
    microseconds = (time.perf_counter() - began) * 1e6
    print(f"    got {array.nbytes // 1_000_000} MB back in {microseconds:.0f} µs, writeable: {array.flags.writeable}")
    print(f"    two tasks read the same memory: {ray.get([total.remote(array_ref), total.remote(array_ref)])}")


async def run_asyncio() -> None:
    print(f"    one result: {await slow_square.remote(5)}")
    print(f"    gathered: {await asyncio.gather(*(slow_square.remote(i) for i in range(4)))}")


def main() -> None:
    with step("1. Start a cluster on this machine"):
        # A sleeping task needs no core, so four of them share any machine.
        ray.init(num_cpus=4)
    with step("2. Eight tasks that sleep 0.2 s each, four at a time"):
        run_tasks()
    with step("3. An actor: a class that keeps its state in a process of its own"):
        run_actor()
    with step("4. A large array in shared memory"):
        share_array()
    with step("5. The same references, awaited in asyncio"):
        asyncio.run(run_asyncio())
    with step("6. Stop: no process and no shared memory is left"):
        ray.shutdown()
    print("How to write such programs: docs/tutorial.md. More of them: examples/README.md.")


if __name__ == "__main__":
    main()
