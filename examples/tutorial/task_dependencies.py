"""Modern Parallel and Distributed Python, "Task Dependencies": a third task takes the outputs of the first two.

Prints the shape of the product of two random matrices. The references are arguments; the task gets their values.
"""

import numpy as np

import asyncray.sync as ray


@ray.remote
def create_matrix(size):
    return np.random.normal(size=size)


@ray.remote
def multiply_matrices(x, y):
    return np.dot(x, y)


def main() -> None:
    with ray.init():
        x_id = create_matrix.remote([1000, 1000])
        y_id = create_matrix.remote([1000, 1000])
        z_id = multiply_matrices.remote(x_id, y_id)

        # Get the results.
        z = ray.get(z_id)
        print("product of shape", z.shape)
        # Ours: the check that the third task was given these two matrices, and that they are two.
        x, y = ray.get([x_id, y_id])
        print("same as computed here:", np.allclose(z, np.dot(x, y)))
        print("the two matrices differ:", not np.array_equal(x, y))


if __name__ == "__main__":
    main()
