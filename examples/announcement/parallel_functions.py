"""The announcement of Ray, "Simple Parallelization of Existing Code": eight sleeps of a second, first without Ray.

Prints the time of both: eight seconds one after the other, one second in parallel.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


def run_serially() -> list[None]:
    def f():
        time.sleep(1 / SPEED)

    # Calls to f executed serially.
    results = []
    for _ in range(8):
        result = f()
        results.append(result)
    return results


def run_in_parallel() -> list[None]:
    @ray.remote
    def f():
        time.sleep(1 / SPEED)

    # Tasks executed in parallel.
    results = []
    for _ in range(8):
        result = f.remote()
        results.append(result)

    return ray.get(results)


def main() -> None:
    # A sleeping task needs no core, so eight of them share any machine.
    with ray.init(num_cpus=8):
        for run in (run_serially, run_in_parallel):
            began = time.perf_counter()
            results = run()
            print(f"{run.__name__}: {len(results)} results in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
