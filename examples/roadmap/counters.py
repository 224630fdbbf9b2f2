"""Ray Essentials, "Creating an Actor" to "Passing Actors": one counter, several counters, a counter handed to a task.

Prints 1, 2 and 3 from one counter, 1 and 1 from two others, 4 from the task that got the first one, and its value 4.
"""

import asyncray.sync as ray


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value

    def get_value(self):
        return self.value


@ray.remote
def use_counter(counter):
    return ray.get(counter.increment.remote())


def main() -> None:
    with ray.init():
        # Using an actor
        counter = Counter.remote()
        increment_ref = counter.increment.remote()
        value = ray.get(increment_ref)
        print(value)  # Prints: 1

        # State persistence
        print(ray.get(counter.increment.remote()))  # Returns 2
        print(ray.get(counter.increment.remote()))  # Returns 3

        # Multiple actors
        counter1 = Counter.remote()
        counter2 = Counter.remote()
        print(ray.get(counter1.increment.remote()))  # Returns 1
        print(ray.get(counter2.increment.remote()))  # Also returns 1

        # Passing actors
        result = ray.get(use_counter.remote(counter))
        print("from the task:", result)
        print("and the script sees it too:", ray.get(counter.get_value.remote()))


if __name__ == "__main__":
    main()
