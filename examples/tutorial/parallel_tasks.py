"""Modern Parallel and Distributed Python, "Parallelism with Tasks": four tasks that sleep one second each.

Prints the four results and the time, which is that of one task, because the four run at the same time.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
def f(x):
    time.sleep(1 / SPEED)
    return x


def main() -> None:
    # The article's machine has four cores. A sleeping task needs none, so we say four on any machine.
    with ray.init(num_cpus=4):
        began = time.perf_counter()
        # Start 4 tasks in parallel.
        result_ids = []
        for i in range(4):
            result_ids.append(f.remote(i))

        # Wait for the tasks to complete and retrieve the results.
        results = ray.get(result_ids)
        print(f"results {results} in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
