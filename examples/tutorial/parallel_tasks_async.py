"""Modern Parallel and Distributed Python, "Parallelism with Tasks", in the async face.

Prints the four results and the time, which is that of one task; meanwhile the event loop goes on ticking.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import asyncio
import os
import time

import asyncray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@asyncray.remote
def f(x):
    time.sleep(1 / SPEED)
    return x


async def tick() -> None:
    for i in range(3):
        print(f"tick {i}: the event loop is free")
        await asyncio.sleep(0.25 / SPEED)


async def main() -> None:
    async with asyncray.init(num_cpus=4):
        began = time.perf_counter()
        result_ids = [f.remote(i) for i in range(4)]
        *results, _ = await asyncio.gather(*result_ids, tick())
        print(f"results {results} in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
