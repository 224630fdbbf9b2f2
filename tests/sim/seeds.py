"""The seeds of the simulations, in chunks of which each is one test. ``make sim`` sets how many."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

SEEDS = int(os.environ.get("ASYNCRAY_SIM_SEEDS", "200"))
_FIRST = int(os.environ.get("ASYNCRAY_SIM_FIRST", "0"))
_CHUNK = 50
"""Seeds in one test: one test for each seed would take longer than the simulation."""


def in_chunks(count: int) -> pytest.MarkDecorator:
    """Makes one test for each chunk of so many seeds: its argument ``seeds`` is the chunk."""
    end = _FIRST + count
    chunks = [range(first, min(first + _CHUNK, end)) for first in range(_FIRST, end, _CHUNK)]
    return pytest.mark.parametrize("seeds", chunks, ids=[str(chunk.start) for chunk in chunks])


def play_each(seeds: range, play: Callable[[int], object]) -> None:
    """Plays each seed. The error of a seed names it."""
    for seed in seeds:
        try:
            play(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
