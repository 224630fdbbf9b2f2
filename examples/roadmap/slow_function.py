"""Ray Essentials, "Remote Functions": a call returns at once with a reference, the work goes on elsewhere.

Prints "I can do other things while waiting!", and five seconds later "Done!".
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
def slow_function():
    time.sleep(5 / SPEED)  # Pretend this is doing some heavy work
    return "Done!"


def main() -> None:
    with ray.init():
        # Start the remote function
        future = slow_function.remote()

        # This prints immediately, we don't wait for slow_function to finish
        print("I can do other things while waiting!")

        # When we actually need the result, we use ray.get()
        result = ray.get(future)
        print(result)


if __name__ == "__main__":
    main()
