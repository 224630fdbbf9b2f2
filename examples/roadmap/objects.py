"""Ray Essentials, "ray.put()", examples 1 to 3: a list, a large array, and an object as an argument.

Prints the reference and the list it stands for, the reference and the shape of the array, and the sum 15.
"""

import numpy as np

import asyncray.sync as ray


# Define the remote function
@ray.remote
def process_data(data):
    # No need to use ray.get() here, 'data' is already the actual data
    return sum(data)


def main() -> None:
    ray.init()

    # Example 1: Storing a simple Python object
    data = [1, 2, 3, 4, 5]
    data_ref = ray.put(data)
    print("ObjectRef for data:", data_ref)
    retrieved_data = ray.get(data_ref)
    print("Retrieved data:", retrieved_data)

    # Example 2: Storing a large NumPy array
    large_array = np.random.rand(1000000)
    array_ref = ray.put(large_array)
    print("ObjectRef for large array:", array_ref)
    retrieved_array = ray.get(array_ref)
    print("Shape of retrieved array:", retrieved_array.shape)

    # Example 3: Using in a remote function
    # Create some data
    data = [1, 2, 3, 4, 5]

    # Put the data in the object store and get an ObjectRef
    data_ref = ray.put(data)

    # Call the remote function with the ObjectRef
    result_ref = process_data.remote(data_ref)

    # Get the result
    result = ray.get(result_ref)
    print("Sum of data:", result)

    ray.shutdown()


if __name__ == "__main__":
    main()
