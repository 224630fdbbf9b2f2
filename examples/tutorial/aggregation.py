"""Modern Parallel and Distributed Python, "Aggregating Values Efficiently": eight values, in a line and as a tree.

Prints the sum 36 four times: both shapes written out, then both as `while` loops. Seven additions of one second each
take seven seconds in a line and three as a tree. ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
def add(x, y):
    time.sleep(1 / SPEED)
    return x + y


def linear() -> int:
    """Aggregate the values slowly: the depth of the graph is 7."""
    id1 = add.remote(1, 2)
    id2 = add.remote(id1, 3)
    id3 = add.remote(id2, 4)
    id4 = add.remote(id3, 5)
    id5 = add.remote(id4, 6)
    id6 = add.remote(id5, 7)
    id7 = add.remote(id6, 8)
    return ray.get(id7)


def tree() -> int:
    """Aggregate the values in a tree: the depth of the graph is 3."""
    id1 = add.remote(1, 2)
    id2 = add.remote(3, 4)
    id3 = add.remote(5, 6)
    id4 = add.remote(7, 8)
    id5 = add.remote(id1, id2)
    id6 = add.remote(id3, id4)
    id7 = add.remote(id5, id6)
    return ray.get(id7)


def linear_while() -> int:
    """The slow approach: what `add.remote` returns goes to the front of the list."""
    values = [1, 2, 3, 4, 5, 6, 7, 8]
    while len(values) > 1:
        values = [add.remote(values[0], values[1]), *values[2:]]
    return ray.get(values[0])


def tree_while() -> int:
    """The fast approach: it goes to the back."""
    values = [1, 2, 3, 4, 5, 6, 7, 8]
    while len(values) > 1:
        values = [*values[2:], add.remote(values[0], values[1])]
    return ray.get(values[0])


def main() -> None:
    # Four additions of the tree run at the same time; a sleeping task needs no core.
    with ray.init(num_cpus=4):
        for aggregate in (linear, tree, linear_while, tree_while):
            began = time.perf_counter()
            result = aggregate()
            print(f"{aggregate.__name__}: {result} in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
