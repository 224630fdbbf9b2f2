"""A program that makes functions, actor classes or options again and again fills no table."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.runtime import current
from asyncray.runtime.exports import LINGERING
from asyncray.runtime.runtime import require

pytestmark = pytest.mark.usefixtures("own_node")
DEADLINE = 60.0

LARGE = 70_000
"""Bytes in a closure that does not linger."""


@ray.remote
def known_here() -> tuple[int, int]:
    """How many templates and functions this worker knows."""
    session: Any = current.session
    return len(session.workplace.definitions), len(session.workplace.functions)


@ray.remote
def same(x: object) -> object:
    return x


def sizes() -> dict[str, int]:
    """The tables of all processes."""
    gc.collect()
    templates, functions = ray.get(known_here.remote(), timeout=DEADLINE)
    status = require().request("status")
    return {
        "exports": len(require().references.exports._watches),
        "templates of the worker": templates,
        "functions of the worker": functions,
        **{name: status[name] for name in ("functions", "templates", "shapes", "objects")},
    }


def new_function(number: int, size: int) -> Any:
    data = number.to_bytes(8, "big") * (size // 8)

    @ray.remote
    def f(x: int) -> int:
        return len(data) + x

    return f.remote(1)


def new_class(number: int, size: int) -> Any:
    class Counter:
        data = number.to_bytes(8, "big") * (size // 8)

        def count(self, x: int) -> int:
            return len(self.data) + x

    counter: Any = ray.remote(num_cpus=0)(Counter)
    return counter.remote().count.remote(1)


def new_options(number: int, size: int) -> Any:
    return same.options(num_cpus=(number + 1) / 10_000).remote(size + 1)


@pytest.mark.parametrize(
    ("make", "size", "count"),
    [(new_function, 800, 1500), (new_function, LARGE, 500), (new_class, LARGE, 40), (new_options, 8, 1500)],
)
def test_tables_do_not_grow(make: Callable[[int, int], Any], size: int, count: int) -> None:
    before = sizes()
    numbers = itertools.count()
    for _ in range(count // 20):
        refs = [make(next(numbers), size) for _ in range(20)]
        assert set(ray.get(refs, timeout=DEADLINE)) == {size + 1}
    del refs
    most = 256 + LINGERING if make is new_options else LINGERING if size < LARGE else 3
    after = sizes()
    assert {name: after[name] - before[name] for name in after if after[name] - before[name] > most} == {}


def test_what_a_function_captures_ends_with_it() -> None:
    def call() -> None:
        big = ray.put(bytes(200_000))

        @ray.remote
        def length() -> int:
            return len(ray.get(big))

        assert ray.get(length.remote(), timeout=DEADLINE) == 200_000

    before = sizes()["objects"]
    for _ in range(3):
        call()
    assert sizes()["objects"] == before


def test_a_function_that_was_dropped_runs_and_is_tried_again(tmp_path: Any) -> None:
    first = str(tmp_path / "first")

    def call() -> Any:
        data = bytes(LARGE)

        @ray.remote(max_retries=1)
        def crash_once() -> int:
            import os

            if not os.path.exists(first):
                open(first, "w").close()
                os._exit(1)
            return len(data)

        return crash_once.remote()

    ref = call()
    assert ray.get(ref, timeout=DEADLINE) == LARGE
    del ref
    assert sizes()["functions"] == 1
