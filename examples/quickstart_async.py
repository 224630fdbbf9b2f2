"""The tour of quickstart.py in the async face: nothing in it blocks the event loop.

Prints the results of tasks, an actor and a shared array, then what plain asyncio does with references: `as_completed`,
`timeout` and `TaskGroup`.
"""

import asyncio
import time

import numpy as np

import asyncray


@asyncray.remote
def slow_square(x: int) -> int:
    time.sleep(0.1)
    return x * x


@asyncray.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


@asyncray.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


async def run_tasks() -> None:
    print("one task:", await slow_square.remote(3))
    print("eight tasks:", await asyncray.get([slow_square.remote(i) for i in range(8)]))


async def run_actor() -> None:
    counter = Counter.remote()
    for amount in (1, 2, 3):
        counter.add.remote(amount)
    print("counted to", await counter.add.remote(4))


async def share_array() -> None:
    array_ref = slow_ones.remote(1_000_000)
    print("sums:", await asyncio.gather(total.remote(array_ref), total.remote(array_ref)))
    print("writeable here:", (await array_ref).flags.writeable)


@asyncray.remote
def slow_ones(size: int) -> np.ndarray:
    time.sleep(0.1)
    return np.ones(size)


async def show_asyncio() -> None:
    refs = [slow_square.remote(i) for i in range(4)]
    print("as they finish, sorted:", sorted([await done for done in asyncio.as_completed(refs)]))
    async with asyncio.timeout(30):
        print("before the timeout:", await slow_square.remote(5))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(square_twice(i)) for i in (2, 3)]
    print("task group:", [task.result() for task in tasks])


async def square_twice(x: int) -> int:
    return await slow_square.remote(slow_square.remote(x))


async def main() -> None:
    async with asyncray.init(num_cpus=4):
        await run_tasks()
        await run_actor()
        await share_array()
        await show_asyncio()


if __name__ == "__main__":
    asyncio.run(main())
