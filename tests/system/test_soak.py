"""The same work for a long time: its use of memory, descriptors and threads must not grow.

``make soak`` runs it; ASYNCRAY_SOAK_SECONDS is its length (120).
"""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np
import psutil
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.runtime.runtime import require
from tests.system.chaos_tasks import Register, add, total, tree
from tests.system.test_chaos import settled

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("nothing_left")]

SECONDS = float(os.environ.get("ASYNCRAY_SOAK_SECONDS", "120"))
GROWTH = 24 * 1024 * 1024
"""Bytes that a process may grow by after the first tenth: allocators settle slowly, leaks go on."""


def fails() -> None:
    raise ValueError("as it should")


def round_of_work() -> None:
    """A bit of everything."""
    assert ray.get([add.remote(i, 1) for i in range(2000)])[-1] == 2000
    assert ray.get(tree.remote(6)) == 64
    big = [ray.put(np.zeros(300_000)) for _ in range(4)]
    assert len(ray.get(big)) == 4
    assert ray.wait([total.remote(ref) for ref in big], num_returns=4)[1] == []
    actor = ray.remote(Register).remote()
    assert ray.get([actor.add.remote(i) for i in range(500)])[-1] == 500
    named = ray.remote(Register).options(name="soak", get_if_exists=True).remote()
    assert ray.get(named.all.remote()) == []
    for wrong in [ray.remote(max_retries=0)(fails).remote() for _ in range(20)]:
        with pytest.raises(ValueError, match="as it should"):
            ray.get(wrong)
    cancelled = tree.remote(9)
    ray.cancel(cancelled)

    async def main() -> None:
        results = await asyncio.gather(*(add.remote(i, 1) for i in range(500)))
        assert results[-1] == 500
        assert await asyncray.get([add.remote(1, 1)]) == [2]

    asyncio.run(main())


def footprint() -> dict[str, tuple[int, int, int]]:
    """Private memory, descriptors and threads of driver, daemon and zygote.

    Of the daemon's descriptors without the four of each worker: how many of those recursion leaves, the load decides.
    """
    daemon = psutil.Process(require().facts["pid"])
    workers = len(require().request("status")["workers"])
    named = {"driver": psutil.Process(), "daemon": daemon, "zygote": daemon.children()[0]}
    of_workers = {"daemon": 4 * workers}
    return {
        name: (p.memory_full_info().uss, p.num_fds() - of_workers.get(name, 0), p.num_threads())
        for name, p in named.items()
    }


def test_nothing_grows() -> None:
    ray.init(num_cpus=2)
    end = time.monotonic() + SECONDS
    first: dict[str, tuple[int, int, int]] | None = None
    warm = time.monotonic() + SECONDS / 10
    rounds = 0
    while time.monotonic() < end:
        round_of_work()
        rounds += 1
        if first is None and time.monotonic() > warm:
            settled()
            first = footprint()
    settled()
    assert first is not None
    last = footprint()
    print(f"{rounds} rounds; after a tenth {first}, at the end {last}")
    for name, (memory, descriptors, threads) in last.items():
        assert memory - first[name][0] < GROWTH, f"{name} grows: {first[name]} -> {last[name]} in {rounds} rounds"
        assert descriptors <= first[name][1] + 8, f"{name}: descriptors {first[name]} -> {last[name]}"
        assert threads <= first[name][2] + 2, f"{name}: threads {first[name]} -> {last[name]}"
