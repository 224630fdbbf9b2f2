"""The daemon's end of the zygote, against a stream whose other end the test holds."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import pytest
import uvloop

from asyncray.messages import ENDED, FORK, FORKED, KILL_WORKER, LACKS_LOG
from asyncray.node import zygotes
from asyncray.node.zygotes import DeathRate, ExitStatus, MemoryKills, ZygoteLink, describe_exit
from asyncray.wire.frames import Decoder, encode

DEADLINE = 30.0


class Heard:
    """Records the events that the link reports."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.ended = asyncio.Event()

    def worker_started(self, number: int, pid: int) -> None:
        self.events.append(("started", number, pid))

    def worker_lacks_log(self, number: int, why: str) -> None:
        self.events.append(("lacks", number, why))

    def worker_ended(self, number: int, status: ExitStatus) -> None:
        self.events.append(("ended", number, status))

    def zygote_ended(self) -> None:
        self.events.append("zygote ended")
        self.ended.set()


def test_what_is_asked_for_before_there_is_a_zygote_is_kept() -> None:
    async def main() -> list[Any]:
        heard = Heard()
        link = ZygoteLink(heard)
        link.fork(1)
        link.fork(2)
        ours, theirs = socket.socketpair()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
        await link.connect(ours, process.pid)
        link.kill_worker(2)
        decoder = Decoder(1 << 20)
        asked: list[Any] = []
        while len(asked) < 3:
            await asyncio.sleep(0)
            asked += decoder.feed(theirs.recv(1 << 16))
        assert asked == [(FORK, 1), (FORK, 2), (KILL_WORKER, 2)]
        theirs.sendall(encode([(FORKED, 1, 77), (LACKS_LOG, 1, "no room"), (ENDED, 2, 0, "it could not be forked")]))
        theirs.close()
        await heard.ended.wait()
        process.kill()
        await process.wait()
        os.close(link._descriptor)
        return heard.events

    assert uvloop.run(asyncio.wait_for(main(), DEADLINE)) == [
        ("started", 1, 77),
        ("lacks", 1, "no room"),
        ("ended", 2, "it could not be forked"),
        "zygote ended",
        ("ended", 1, None),
    ]


def test_deaths_of_long_ago_are_forgotten() -> None:
    deaths = DeathRate()
    assert not any(deaths.is_too_high(now) for now in range(0, 3000, 30))
    deaths = DeathRate()
    assert [deaths.is_too_high(now) for now in range(6)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "it went with the zygote that had forked it"),
        ("[Errno 28] No space left on device", "[Errno 28] No space left on device"),
        (3 << 8, "exit code 3"),
        (int(signal.SIGKILL), "killed by signal SIGKILL (9)"),
        (40, "killed by signal of real time (40)"),
    ],
)
def test_ends_are_described(status: ExitStatus, expected: str) -> None:
    assert describe_exit(status) == expected


def test_a_worker_that_the_system_kills_while_memory_runs_out_ends_for_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter((3, 3, 4, 4))
    monkeypatch.setattr(zygotes, "oom_kills", lambda: next(counts))
    kills = MemoryKills()
    killed = "killed by signal SIGKILL (9)"
    assert kills.explain(1 << 8) == "exit code 1"
    assert kills.explain(signal.SIGTERM) == "killed by signal SIGTERM (15)"
    assert kills.explain(None) == describe_exit(None)
    ends = [kills.explain(signal.SIGKILL) for _ in range(3)]
    assert ends == [killed, f"{killed}, probably for lack of memory", killed]
