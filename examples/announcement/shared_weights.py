"""The announcement of Ray, "Efficient Shared Memory and Serialization": 400 MB of weights, with pickle and with put.

Prints the times of `pickle.dumps` and `loads`, and of `ray.put` and `get`. `get` returns the shared memory itself,
read-only, and no copy. ASYNCRAY_EXAMPLE_SPEED=10 makes the weights ten times smaller.
"""

import os
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


def timed(what: str, call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = call()
    print(f"{what}: {(time.perf_counter() - began) * 1000:.3f} ms")
    return result


def main() -> None:
    with ray.init():
        size = int(5000000 / SPEED)
        weights = timed("make the weights", lambda: {f"Variable{i}": np.random.normal(size=size) for i in range(10)})

        # Serialize the weights with pickle. Then deserialize them.
        pickled_weights = timed("pickle.dumps", lambda: pickle.dumps(weights))
        new_weights = timed("pickle.loads", lambda: pickle.loads(pickled_weights))

        # Serialize the weights and copy them into the object store. Then deserialize them.
        weights_id = timed("ray.put", lambda: ray.put(weights))
        new_weights = timed("ray.get", lambda: ray.get(weights_id))

        same = all(np.array_equal(weights[name], new_weights[name]) for name in weights)
        writeable = any(array.flags.writeable for array in new_weights.values())
        print(f"{len(new_weights)} arrays, equal: {same}, writeable: {writeable}")


if __name__ == "__main__":
    main()
