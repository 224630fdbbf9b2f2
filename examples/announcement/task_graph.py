"""The announcement of Ray, "Flexible Encoding of Task Dependencies": a graph of additions made at run time.

Prints the shape of the sum of four vectors, and that it is the sum.
"""

import numpy as np

import asyncray.sync as ray


@ray.remote
def aggregate_data(x, y):
    return x + y


def main() -> None:
    with ray.init():
        data = [np.random.normal(size=1000) for i in range(4)]
        expected = sum(data)

        while len(data) > 1:
            intermediate_result = aggregate_data.remote(data[0], data[1])
            data = [*data[2:], intermediate_result]

        result = ray.get(data[0])
        print("aggregated:", result.shape, "equal to the sum:", np.allclose(result, expected))


if __name__ == "__main__":
    main()
