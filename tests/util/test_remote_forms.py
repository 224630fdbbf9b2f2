"""Remote forms of plain callables."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.util.remote_forms import RemoteForms, count_slots, is_stateless
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]


def test_a_function_has_one_form_and_the_oldest_is_forgotten() -> None:
    made: list[Callable[..., Any]] = []

    def make(function: Callable[..., Any]) -> Any:
        made.append(function)
        return ray.remote(function)

    forms = RemoteForms(make)
    functions: list[Callable[..., Any]] = [lambda i=i: i for i in range(64)]
    found = [forms.of(function) for function in functions]
    assert [forms.of(function) for function in functions] == found
    assert made == functions
    forms.of(abs)
    assert forms.of(functions[1]) is found[1]
    assert forms.of(functions[0]) is not found[0]


def test_what_has_a_state() -> None:
    functions: list[Any] = [len, math.sqrt, plain.divide, lambda: 0]
    others: list[Any] = [str, [].append, plain.Adder(1), plain.Adder(1).add, functools.partial(len)]
    assert all(map(is_stateless, functions))
    assert not any(map(is_stateless, [*others, plain.generate, plain.wait_for_nothing]))


@pytest.mark.usefixtures("node")
def test_how_many_tasks_run_at_once() -> None:
    for cpus, slots in ((None, 2), (0.5, 4), (9, 1), (0, 2)):
        assert count_slots(ray.remote(num_cpus=cpus)(len)) == slots
