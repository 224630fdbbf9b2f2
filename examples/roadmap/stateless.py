"""Ray Essentials, "Remote Functions": an actor remembers, a task does not.

Prints 1 and 2 from the actor, then 1 and 1 from the task.
"""

import asyncray.sync as ray


@ray.remote
class StatefulCounter:
    def __init__(self):
        self.count = 0

    def increment(self):
        self.count += 1
        return self.count


@ray.remote
def stateless_increment(count):
    return count + 1


def main() -> None:
    with ray.init():
        # Stateful example (this is NOT how remote functions work)
        counter = StatefulCounter.remote()
        print(ray.get(counter.increment.remote()))  # Prints 1
        print(ray.get(counter.increment.remote()))  # Prints 2

        # Stateless example (this IS how remote functions work)
        print(ray.get(stateless_increment.remote(0)))  # Prints 1
        print(ray.get(stateless_increment.remote(0)))  # Prints 1 again


if __name__ == "__main__":
    main()
