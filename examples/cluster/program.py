"""Estimates pi on all machines of a cluster, and says which machine did how much.

    python program.py HOST:PORT

Nothing in it is about machines but the address: a task runs where a CPU is free.
"""

import sys
from collections import Counter

import numpy as np

import asyncray.sync as ray

TASKS = 40
POINTS = 2_000_000


@ray.remote(scheduling_strategy="SPREAD")
def hits(seed):
    """Counts the random points of a square that fall into its circle. Returns the count, and the node."""
    x, y = np.random.default_rng(seed).random((2, POINTS))
    return int(np.count_nonzero(x * x + y * y < 1)), ray.get_runtime_context().get_node_id()


def main() -> None:
    with ray.init(sys.argv[1]):
        names = {row["NodeID"]: row["NodeName"] for row in ray.nodes()}
        print(
            f"{len(names)} machines with {ray.cluster_resources()['CPU']:g} CPUs: {', '.join(sorted(names.values()))}"
        )
        results = ray.get([hits.remote(seed) for seed in range(TASKS)])
        print(f"pi is about {4 * sum(count for count, _ in results) / (TASKS * POINTS):.3f}")
        for node, tasks in sorted(Counter(names[node] for _, node in results).items()):
            print(f"{node}: {tasks} tasks")


if __name__ == "__main__":
    main()
