"""Numpy's random numbers, renewed before each fork."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy.random
import pytest

from asyncray.worker import random_numbers
from asyncray.worker.random_numbers import RandomNumbers


@pytest.fixture(autouse=True)
def state_of_the_tests() -> Iterator[None]:
    before = numpy.random.get_state()
    yield
    numpy.random.set_state(before)


def draw() -> list[int]:
    """More numbers than the state has words."""
    drawn: list[int] = numpy.random.randint(1 << 30, size=700).tolist()
    return drawn


def test_each_renewal_gives_other_numbers() -> None:
    numbers = RandomNumbers()
    found = []
    for _ in range(3):
        numbers.renew()
        found.append(draw())
    assert len({tuple(drawn[:4]) for drawn in found}) == 3
    assert len({tuple(drawn[-4:]) for drawn in found}) == 3


def test_the_bytes_that_are_written_are_the_state_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = RandomNumbers()
    numbers.renew()
    draw()
    assert "_StateInMemory" in repr(numbers._set_state)
    key = bytes(range(208)) * 12
    monkeypatch.setattr("os.urandom", lambda count: key[:count])
    numbers.renew()
    drawn = draw()
    words = numpy.frombuffer(key, numpy.uint32)
    numpy.random.set_state(("MT19937", words, 624, 0, 0.0))
    assert draw() == drawn


def test_half_of_a_pair_of_normal_numbers_is_not_left_to_the_workers() -> None:
    """The generator makes them in pairs, and keeps the second one."""
    numpy.random.seed(1)
    numpy.random.standard_normal()
    RandomNumbers().renew()
    assert numpy.random.get_state(legacy=False)["has_gauss"] == 0


def test_numpys_own_function_sets_the_state_where_the_memory_has_another_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ctypes.string_at", lambda address, size: bytes(size))
        numbers = RandomNumbers()
        numbers.renew()
    drawn = draw()
    assert numbers._set_state is random_numbers._set_state
    numbers.renew()
    assert draw() != drawn


def test_nothing_is_done_as_long_as_numpy_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = RandomNumbers()
    before = numpy.random.get_state(legacy=False)["state"]["key"].tolist()
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "numpy.random")
        numbers.renew()
    assert numpy.random.get_state(legacy=False)["state"]["key"].tolist() == before
    assert repr(numbers) == "<RandomNumbers without numpy>"
