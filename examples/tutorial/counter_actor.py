"""Modern Parallel and Distributed Python, "From Classes to Actors": a counter in a process of its own.

Prints 0, then 2 after two increments.
"""

import asyncray.sync as ray


@ray.remote
class Counter:
    def __init__(self):
        self.x = 0

    def inc(self):
        self.x += 1

    def get_value(self):
        return self.x


def main() -> None:
    with ray.init():
        # Create an actor process.
        c = Counter.remote()

        # Check the actor's counter value.
        print(ray.get(c.get_value.remote()))

        # Increment the counter twice and check the value again. Nobody waits for the increments: calls of one caller
        # run in the order in which they were made.
        c.inc.remote()
        c.inc.remote()
        print(ray.get(c.get_value.remote()))


if __name__ == "__main__":
    main()
