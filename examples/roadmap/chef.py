"""Ray Essentials, "Single Threaded": a chef finishes the sandwich before starting the salad.

Prints what the chef says in its own process, each line with the actor's name and process in front, and the two results.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
class Chef:
    def make_sandwich(self):
        print("Starting to make a sandwich")
        time.sleep(3 / SPEED)  # Pretend it takes 3 seconds to make a sandwich
        print("Finished making a sandwich")
        return "Sandwich ready!"

    def make_salad(self):
        print("Starting to make a salad")
        time.sleep(2 / SPEED)  # Pretend it takes 2 seconds to make a salad
        print("Finished making a salad")
        return "Salad ready!"


def main() -> None:
    with ray.init():
        # Hire our chef
        chef = Chef.remote()

        # Ask the chef to make a sandwich and a salad
        sandwich_order = chef.make_sandwich.remote()
        salad_order = chef.make_salad.remote()

        # Get the results
        print(ray.get(sandwich_order))
        print(ray.get(salad_order))


if __name__ == "__main__":
    main()
