"""Modern Parallel and Distributed Python, "Task Dependencies", in the async face.

Prints the shape of the product of two random matrices.
"""

import asyncio

import numpy as np

import asyncray


@asyncray.remote
def create_matrix(size):
    return np.random.normal(size=size)


@asyncray.remote
def multiply_matrices(x, y):
    return np.dot(x, y)


async def main() -> None:
    async with asyncray.init():
        x_id = create_matrix.remote([1000, 1000])
        y_id = create_matrix.remote([1000, 1000])
        z = await multiply_matrices.remote(x_id, y_id)
        print("product of shape", z.shape)


if __name__ == "__main__":
    asyncio.run(main())
