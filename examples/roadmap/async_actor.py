"""Ray Essentials, "Async Methods": an actor with `async def` methods works on many calls at a time.

Prints how many of the ten calls were inside the actor at the same time, and the time, which is that of one call.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import asyncio
import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
class AsyncActor:
    def __init__(self):
        self.inside = 0
        self.most = 0

    async def async_method(self):
        # Do some async work
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(1 / SPEED)
        self.inside -= 1

    async def most_at_once(self):
        return self.most


def main() -> None:
    with ray.init():
        actor = AsyncActor.remote()
        ray.get(actor.most_at_once.remote())
        began = time.perf_counter()
        ray.get([actor.async_method.remote() for _ in range(10)])
        print(f"ten calls in {time.perf_counter() - began:.2f} s")
        print("at the same time:", ray.get(actor.most_at_once.remote()))


if __name__ == "__main__":
    main()
