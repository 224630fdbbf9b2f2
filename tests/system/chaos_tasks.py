"""Tasks and an actor whose processes are killed at random.

They are not in the module of the test, because each new process loads the module of its task, and pytest is large: an
actor that takes a second to start is killed again before it runs a call.
"""

from __future__ import annotations

from typing import Any

import asyncray.sync as ray


@ray.remote(max_retries=-1)
def add(a: int, b: int) -> int:
    return a + b


@ray.remote(max_retries=-1)
def tree(depth: int) -> int:
    return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1), tree.remote(depth - 1)]))


@ray.remote(max_retries=-1)
def make_array(size: int) -> Any:
    import numpy as np  # a new process that runs no such task need not load it

    return np.full(size, size)


@ray.remote(max_retries=-1)
def total(array: Any) -> int:
    return int(array.sum())


@ray.remote(max_retries=0)
def once() -> str:
    return "once"


class Register:
    """An actor that has all values added since it last started."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def add(self, value: int) -> int:
        self.values.append(value)
        return len(self.values)

    def all(self) -> list[int]:
        return self.values
