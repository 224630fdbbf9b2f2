"""A dask bag that computes on asyncray: dask takes any executor as its scheduler.

Needs `pip install dask`. Prints the sum of the even squares below a million.
"""

import dask
import dask.bag

from asyncray.util import Executor


def square(x: int) -> int:
    return x * x


def is_even(x: int) -> bool:
    return x % 2 == 0


def main() -> None:
    numbers = dask.bag.from_sequence(range(1000), npartitions=8)
    with Executor() as executor, dask.config.set(scheduler=executor):
        print("sum:", numbers.map(square).filter(is_even).sum().compute())


if __name__ == "__main__":
    main()
