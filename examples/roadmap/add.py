"""Ray Essentials, "Tasks": one task, an error that travels back, and a hundred tasks at once.

Prints 5, then the error that `ray.get` raises, then how many results came and that they are in order.
"""

import asyncray.sync as ray


@ray.remote
def add(x, y):
    return x + y


# The article uses `my_task` without saying what it does.
@ray.remote
def my_task(x, y):
    return x * y


def main() -> None:
    with ray.init():
        # Start the task
        result_ref = add.remote(2, 3)

        # Get the result
        result = ray.get(result_ref)
        print(result)  # Prints: 5

        # If a task raises an exception, it's propagated when you call ray.get()
        try:
            ray.get(add.remote(2, "three"))
        except TypeError as error:
            print("TypeError:", "unsupported operand" in str(error))

        futures = [my_task.remote(i, i) for i in range(100)]
        results = ray.get(futures)
        print(len(results), "results in order:", results == [i * i for i in range(100)])


if __name__ == "__main__":
    main()
