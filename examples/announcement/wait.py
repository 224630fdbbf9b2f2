"""The announcement of Ray, "Waiting for a Subset of Tasks to Finish": ten tasks of up to five seconds each.

Prints how many had finished when either five had or two seconds had passed, then the order in which ten others did.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import numpy as np

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
def f():
    seconds = np.random.uniform(0, 5) / SPEED
    time.sleep(seconds)
    return seconds


def wait_for_some() -> None:
    # Launch 10 tasks with variable durations.
    results = [f.remote() for _ in range(10)]

    # Wait until either five tasks have completed or two seconds have passed and return a list of the object IDs whose
    # tasks have finished. The article says timeout=2000: milliseconds then, seconds today.
    ready_ids, remaining_ids = ray.wait(results, num_returns=5, timeout=2.0 / SPEED)
    print(f"{len(ready_ids)} ready, {len(remaining_ids)} remaining")


def process_in_order_of_completion() -> None:
    # Launch 10 tasks with variable durations.
    remaining_ids = [f.remote() for _ in range(10)]

    # Process the tasks in the order that they complete.
    results = []
    while len(remaining_ids) > 0:
        ready_ids, remaining_ids = ray.wait(remaining_ids, num_returns=1)
        results.append(ray.get(ready_ids[0]))
    print(f"{len(results)} results:", [round(seconds * SPEED, 2) for seconds in results])


def main() -> None:
    # A sleeping task needs no core, so ten of them share any machine.
    with ray.init(num_cpus=10):
        wait_for_some()
        process_in_order_of_completion()


if __name__ == "__main__":
    main()
