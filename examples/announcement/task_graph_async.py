"""The announcement of Ray, "Flexible Encoding of Task Dependencies", in the async face.

Prints the shape of the sum of four vectors, and that it is the sum.
"""

import asyncio

import numpy as np

import asyncray


@asyncray.remote
def aggregate_data(x, y):
    return x + y


async def main() -> None:
    async with asyncray.init():
        data = [np.random.normal(size=1000) for i in range(4)]
        expected = sum(data)

        while len(data) > 1:
            intermediate_result = aggregate_data.remote(data[0], data[1])
            data = [*data[2:], intermediate_result]

        result = await data[0]
        print("aggregated:", result.shape, "equal to the sum:", np.allclose(result, expected))


if __name__ == "__main__":
    asyncio.run(main())
