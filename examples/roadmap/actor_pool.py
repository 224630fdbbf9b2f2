"""Ray Essentials, "Actor Pools": four counters share the work.

Prints how many increments the pool made, and that the four counters made them between them.
"""

import asyncray.sync as ray
from asyncray.util.actor_pool import ActorPool


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value

    def get_value(self):
        return self.value


def main() -> None:
    with ray.init():
        actors = [Counter.remote() for _ in range(4)]
        pool = ActorPool(actors)

        # The article stops here; this is what one does with a pool. Each value goes to an actor that is free.
        increments = list(pool.map(lambda counter, _: counter.increment.remote(), range(20)))
        print(len(increments), "increments")
        values = ray.get([counter.get_value.remote() for counter in actors])
        print("all counters together:", sum(values))


if __name__ == "__main__":
    main()
