"""The ODSC deck, "Basic Ray Task Call" and "Caching Scheduling Decisions": one task, then ten thousand.

Prints 4, then the first results of ten thousand and how long they took.
"""

import time

import asyncray.sync as ray


@ray.remote
def double(x):
    return x * 2


def main() -> None:
    with ray.init():
        fut1 = double.remote(2)
        assert ray.get(fut1) == 4
        print("double of 2:", ray.get(fut1))

        began = time.perf_counter()
        futures = [double.remote(i) for i in range(10000)]
        results = ray.get(futures)
        print(f"{len(results)} results in {time.perf_counter() - began:.2f} s: {results[:4]} ...")


if __name__ == "__main__":
    main()
