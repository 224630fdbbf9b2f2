"""The same events give the same messages, whatever order hashes and addresses suggest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.core.world import World

ROOT = Path(__file__).parents[2]


def many_end_at_once(world: World) -> None:
    """A process ends that has the last handles of some actors."""
    maker, borrower = world.driver(), world.driver()
    handles = [maker.create() for _ in range(6)]
    world.settle()
    for handle in handles:
        borrower.hold(handle)
    world.deliver()
    for handle in handles:
        maker.lose(handle)
    world.deliver()
    world.die(borrower)
    world.settle()
    world.end()


def transcript(days: int) -> str:
    """A digest of all messages and commands in some days of a lone node, and some of a cluster and of its groups."""
    from asyncray.core.cluster.commands import SendAgain
    from asyncray.core.outbox import Outbox  # this module is a test, too: there the world is not needed
    from tests.core.test_chaos import day
    from tests.core.world import World
    from tests.sim import test_groups
    from tests.sim.days import begin, live

    digest = hashlib.sha256()
    send, do = Outbox.send, Outbox.do

    def noting_send(outbox: Outbox, client: object, message: tuple[object, ...]) -> None:
        words = [word for word in message if isinstance(word, (int, str, bytes, list))]
        digest.update(f"{client} {words}\n".encode())
        send(outbox, client, message)  # type: ignore[arg-type]  # as it came

    def noting_do(outbox: Outbox, command: object) -> None:
        noted = command
        if isinstance(command, SendAgain):
            # The messages in the frames are noted already, and some payloads of programs contain sets.
            noted = [command.connection, *(number for number, _ in command.frames)]
        digest.update(f"{noted}\n".encode())
        do(outbox, command)  # type: ignore[arg-type]  # as it came

    Outbox.send, Outbox.do = noting_send, noting_do  # type: ignore[method-assign,assignment]  # in a process of its own
    many_end_at_once(World(CPU=8.0))
    for seed in range(days):
        day(seed)
        live(begin(seed), events=40)
        test_groups.live(seed, events=20)
    return digest.hexdigest()


def test_hash_seeds_change_no_message() -> None:
    found = []
    for seed in range(4):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-m", "tests.system.test_determinism"]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found.append(result.stdout)
    assert len(found[0]) > 60
    assert found == found[:1] * 4


if __name__ == "__main__":
    print(transcript(days=4))
