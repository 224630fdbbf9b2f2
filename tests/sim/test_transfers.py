"""Large objects come whole, in the room that was promised, and nothing waits or is left: programs drawn from seeds."""

from __future__ import annotations

import pytest

from asyncray.core.cluster import holders, serving
from tests.sim.test_membership import A_CHUNK, FIRST_SEED, SEEDS
from tests.sim.transfers import LargeGame


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of the simulation are small, so that it is fast: all limits shrink with them."""
    monkeypatch.setattr(serving, "CHUNK", 2000)
    monkeypatch.setattr(serving, "WINDOW", 6000)
    monkeypatch.setattr(holders, "LARGE", 4000)


def play(seed: int) -> LargeGame:
    game = LargeGame(seed, 3 + seed % 3)
    steps = 300
    deaths = {game.random.randrange(steps) for _ in range(seed % 3)}
    for step in range(steps):
        if step in deaths and len(game.living) > 2:
            game.kill(game.random.choice(game.living))
        game.step()
    game.end()
    return game


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, A_CHUNK))
def test_large_objects_come_whole_and_nothing_is_left(first: int) -> None:
    for seed in range(first, min(first + A_CHUNK, FIRST_SEED + SEEDS)):
        try:
            play(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
