"""Large objects come whole, in the room that was promised, and nothing waits or is left: programs drawn from seeds."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import UNHOLD
from asyncray.core.cluster import holders, serving
from asyncray.core.cluster.commands import StopReceiving
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.pull_sets import PullSet
from asyncray.core.cluster.pulls import Pulls
from asyncray.core.cluster.receiving import Pull, Receiving
from asyncray.core.cluster.serving import Serving
from asyncray.core.records import ObjectEntry
from tests.sim.seeds import SEEDS, in_chunks, play_each
from tests.sim.transfers import LargeGame


def shrink_sizes(patch: pytest.MonkeyPatch) -> None:
    """Objects of the simulation are small, so that it is fast: all limits shrink with them."""
    patch.setattr(serving, "CHUNK", 2000)
    patch.setattr(serving, "WINDOW", 6000)
    patch.setattr(holders, "LARGE", 4000)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_sizes(monkeypatch)


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


@in_chunks(SEEDS)
def test_large_objects_come_whole_and_nothing_is_left(seeds: range) -> None:
    play_each(seeds, play)


def no_unhold(self: Receiving, entry: ObjectEntry, message: Any) -> None:
    """The receiver ends a fetch and does not report that to the owner (H18)."""
    if message[0] != UNHOLD:
        say(self, entry, message)


def no_stop(self: Receiving, pull: Pull) -> None:
    """The shell goes on to write into memory that is free."""
    commands = self._outbox.commands
    before = len(commands)
    end_transfer(self, pull)
    commands[before:] = [command for command in commands[before:] if not isinstance(command, StopReceiving)]


def no_pin(self: Serving, peer: Peer, message: Any) -> None:
    """The source does not keep the memory that it sends (R19)."""
    fetch(self, peer, message)
    for transfers in self._receivers.values():
        for transfer in transfers.transfers.values():
            transfer.block.pins.pop(peer, None)


def no_claim(self: Pulls, pull_set: PullSet) -> bool:
    """A pull set is admitted whether there is room or not (S6)."""
    return True


say, end_transfer, fetch = Receiving._say, Receiving._end_transfer, Serving.fetch


@pytest.mark.parametrize(
    ("machine", "method", "broken"),
    [
        (Receiving, "_say", no_unhold),
        (Receiving, "_end_transfer", no_stop),
        (Serving, "fetch", no_pin),
        (Pulls, "_fits", no_claim),
    ],
)
def test_seeds_notice_a_broken_protocol(
    machine: type, method: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, method, broken)
    failed = 0
    for seed in range(100):
        try:
            play(seed)
        except Exception:
            failed += 1
            break
    assert failed
