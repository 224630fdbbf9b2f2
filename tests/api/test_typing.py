"""One program, checked by mypy as a user's would be: every line marked ``# wrong`` is refused, and no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_type

import asyncray
from asyncray import ObjectRef, remote, sync
from asyncray.api.actor import ActorClass
from asyncray.api.handle import ActorHandle
from asyncray.api.function import RemoteFunction

X = TypeVar("X")


@remote
def show(x: int) -> str:
    return str(x)


@remote(num_cpus=2, max_retries=0)
def many(x: int, y: str = "", *rest: bytes, z: float = 0.0) -> list[int]:
    return [x]


@remote
def only_keywords(*, x: int) -> None: ...


@remote
def nothing() -> None: ...


@remote
def total(xs: list[float], key: Callable[[float], float] | None = None) -> float:
    return sum(xs)


@remote
def identity(x: X) -> X:
    return x


@remote
def ten(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int, j: str) -> int:
    return a


@remote(num_returns=2)
def two(x: int) -> tuple[int, int]:
    return x, x


async def results(number: ObjectRef[int], anything: Any) -> None:
    assert_type(show.remote(3), ObjectRef[str])
    assert_type(await show.remote(3), str)
    assert_type(await show.remote(number), str)
    assert_type(await show.remote(anything), str)
    assert_type(await show.options(num_cpus=1).remote(x=3), str)
    assert_type(await nothing.remote(), None)
    assert_type(await identity.remote(3), int)
    first, second = two.remote(3)
    first, second = show.options(num_returns=2).remote(3)


async def waited_for(number: ObjectRef[int], text: ObjectRef[str]) -> None:
    assert_type(sync.get(number), int)
    assert_type(sync.get([number]), list[int])
    assert_type(await asyncray.get((number, number)), list[int])
    assert_type(sync.wait([number]), tuple[list[ObjectRef[int]], list[ObjectRef[int]]])
    assert_type(await asyncray.wait([text]), tuple[list[ObjectRef[str]], list[ObjectRef[str]]])
    sync.get([number, text])
    sync.get((number, text))
    sync.wait([number, text])
    sync.wait(number)  # wrong
    sync.get(3)  # wrong
    with asyncray.init():  # wrong
        pass


def accepted(number: ObjectRef[int], text: ObjectRef[str], flag: ObjectRef[bool], xs: ObjectRef[list[float]]) -> None:
    many.remote(1)
    many.remote(number)
    many.remote(flag)
    many.remote(1, "y")
    many.remote(number, text)
    many.remote(1, text)
    many.remote(1, y="y", z=1)
    many.remote(x=1)
    many.remote(1, "y", b"", b"", z=0.5)
    many.remote(number, "y", b"")
    only_keywords.remote(x=1)
    total.remote([1, 2])
    total.remote([])
    total.remote(xs)
    total.remote([1], lambda x: -x)
    ten.remote(1, number, 3, 4, 5, 6, 7, 8, 9, text)
    passed: RemoteFunction[[int], ObjectRef[str]] = show


def refused(number: ObjectRef[int], text: ObjectRef[str], values: list[int]) -> None:
    show.remote("3")  # wrong
    show.remote(text)  # wrong
    show.remote()  # wrong
    show.remote(1, 2)  # wrong
    show.remote(number, number)  # wrong
    show.remote(y=3)  # wrong
    show.remote(1, x=1)  # wrong
    show.options(num_cpus=1).remote("3")  # wrong
    show.options(num_returns=2).remote("3")  # wrong
    nothing.remote(1)  # wrong
    many.remote(1, 2)  # wrong
    many.remote(1, z="")  # wrong
    many.remote(text, text)  # wrong
    many.remote(1, "y", "not bytes")  # wrong
    only_keywords.remote(1)  # wrong
    total.remote(["1"])  # wrong
    two.remote("3")  # wrong
    ten.remote(1, number, 3, 4, 5, 6, 7, 8, 9, number)  # wrong
    number + 1  # wrong
    remote(3)  # wrong
    passed: RemoteFunction[[int], ObjectRef[int]] = show  # wrong


def not_called_directly(handle: ActorHandle[Plain]) -> None:
    show(3)  # wrong
    show()  # wrong
    nothing()  # wrong
    show.remote("what follows is checked")  # wrong
    sync.get([[show.remote(1)]])  # wrong
    texts: list[int] = sync.get([show.remote(1)])  # wrong


def options() -> None:
    show.options(num_cpus=0.5, resources={"a": 1}, name="n", scheduling_strategy="SPREAD", max_retries=-1)
    show.options(num_returns=2, retry_exceptions=[ValueError])
    show.options(num_cpu=1)  # wrong
    show.options(num_cpus="1")  # wrong
    show.options(max_restarts=1)  # wrong
    remote(num_cpus=1, max_calls=3)
    remote(max_restarts=-1, lifetime="detached")
    remote(num_cpuss=1)  # wrong
    remote(num_gpus="1")  # wrong
    Counter.options(max_concurrency=2, get_if_exists=True)
    Counter.options(max_calls=2)  # wrong
    Counter.options(lifetime="for ever")  # wrong
    sync.method(num_returns=2)
    sync.method(num_return=2)  # wrong
    sync.init(num_cpus=2, namespace="n", logging_level="debug")
    sync.init("auto", ignore_reinit_error=True)
    sync.init(num_cpu=2)  # wrong
    sync.init(num_cpus="2")  # wrong
    asyncray.init(resource={})  # wrong


class Plain:
    def __init__(self, start: int = 0) -> None: ...

    def add(self, amount: int) -> int:
        return amount


# mypy leaves a class as it is whatever its decorators return, so programs that are checked call remote() on it.
Counter = remote(Plain)
BigCounter = remote(num_cpus=2)(Plain)


async def actors() -> None:
    as_annotated: ActorClass[Plain] = Counter
    assert_type(as_annotated.remote(1), ActorHandle[Plain])
    assert_type(BigCounter.remote(1), ActorHandle[Plain])
    Counter.remote()
    Counter.remote(sync.put(1))
    Counter.remote("1")  # wrong
    Counter.remote(sync.put("1"))  # wrong
    BigCounter.remote(1, 2)  # wrong
    counter = Counter.options(name="c").remote(1)
    assert_type(counter, ActorHandle[Plain])
    value: int = await counter.add.remote(1)
    counter.add.options(num_returns=2).remote(1)
    Counter(3)  # wrong
"""


def test_mypy_accepts_and_refuses_what_it_should(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", str(program)],
        cwd=ROOT,  # for its cache: the first run takes seconds
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = PROGRAM.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    reported = {int(number) for number in re.findall(r"program\.py:(\d+): error", run.stdout)}
    assert run.stderr == ""
    assert reported == expected, "\n".join(
        [run.stdout, *(f"{'not refused' if n in expected else 'refused'}: {lines[n - 1]}" for n in reported ^ expected)]
    )
