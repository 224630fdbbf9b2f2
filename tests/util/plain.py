"""Functions that the tests of executors and maps run in workers. Not in their modules: workers would load pytest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import asyncray.sync as ray


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def divide(a: float, b: float) -> float:
    return a / b


class Adder:
    """Has a state."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __str__(self) -> str:
        return f"Adder({self.amount})"

    def __call__(self, x: int) -> int:
        return x + self.amount

    def add(self, x: int) -> int:
        return x + self.amount


class Pid:
    """A callable that gives the process in which it is called."""

    def __call__(self, _: object) -> int:
        return os.getpid()


def pid(_: object) -> int:
    return os.getpid()


def generate() -> Iterator[int]:
    yield 1


async def wait_for_nothing() -> None: ...


def pass_gate(gate: Any, value: Any) -> Any:
    return ray.get(gate.wait.remote(value))


def add_to(log: Any, entry: Any) -> int:
    return int(ray.get(log.add.remote(entry)))


def pass_gate_or_add(actor: Any) -> None:
    if actor is not None:
        ray.get(actor.wait.remote(None) if hasattr(actor, "wait") else actor.add.remote(1))


def add_pid_to(log: Any) -> None:
    ray.get(log.add.remote(os.getpid()))


def wait_for_ever() -> None:
    threading.Event().wait()


def say(what: Any) -> None:
    print(what)


def die_at(x: int) -> int:
    if x == 4:
        os._exit(1)
    return x


def fail_at_first(log: Any) -> int:
    count = add_to(log, "tried")
    if count == 1:
        raise ValueError("the first time")
    return count


def pass_own_gate(item: tuple[int, Any]) -> int:
    return int(ray.get(item[1].wait.remote(item[0])))


def address_and_flag(array: Any, key: Any) -> tuple[int, int, bool]:
    return array.ctypes.data, key.ctypes.data, array.flags.writeable
