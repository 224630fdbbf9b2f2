"""The announcement of Ray, "Waiting for a Subset of Tasks to Finish", in the async face.

Prints how many of ten tasks had finished when either five had or two seconds had passed, then the results of ten others
in the order in which they finished: once with `asyncray.wait`, once with asyncio's own `as_completed`.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import asyncio
import os
import time

import numpy as np

import asyncray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@asyncray.remote
def f():
    seconds = np.random.uniform(0, 5) / SPEED
    time.sleep(seconds)
    return seconds


async def wait_for_some() -> None:
    results = [f.remote() for _ in range(10)]
    ready_ids, remaining_ids = await asyncray.wait(results, num_returns=5, timeout=2.0 / SPEED)
    print(f"{len(ready_ids)} ready, {len(remaining_ids)} remaining")


async def process_in_order_of_completion() -> None:
    remaining_ids = [f.remote() for _ in range(10)]
    results = []
    while len(remaining_ids) > 0:
        ready_ids, remaining_ids = await asyncray.wait(remaining_ids, num_returns=1)
        results.append(await ready_ids[0])
    print(f"{len(results)} results with wait")


async def process_as_completed() -> None:
    results = [await done for done in asyncio.as_completed([f.remote() for _ in range(10)])]
    print(f"{len(results)} results with as_completed")


async def main() -> None:
    async with asyncray.init(num_cpus=10):
        await wait_for_some()
        await process_in_order_of_completion()
        await process_as_completed()


if __name__ == "__main__":
    asyncio.run(main())
