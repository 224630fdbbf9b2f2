"""Programs at work while processes are killed at random: every answer is right or a typed error, and nothing is left.

``make chaos``; ASYNCRAY_CHAOS_SECONDS says for how long (60), ASYNCRAY_CHAOS_SEED for which luck.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest

import asyncray.sync as ray
from asyncray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    AsyncrayError,
    ObjectLostError,
    TaskCancelledError,
    WorkerCrashedError,
)
from asyncray.runtime.runtime import require
from tests.system.chaos_tasks import Register, add, make_array, once, total, tree

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("nothing_left")]

SECONDS = float(os.environ.get("ASYNCRAY_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("ASYNCRAY_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
DEADLINE = 60.0


def arithmetic(chance: random.Random) -> None:
    count = chance.randrange(1, 500)
    assert ray.get([add.remote(i, 1) for i in range(count)], timeout=DEADLINE) == list(range(1, count + 1))


def nesting(chance: random.Random) -> None:
    depth = chance.randrange(6)
    assert ray.get(tree.remote(depth), timeout=DEADLINE) == 2**depth


def arrays(chance: random.Random) -> None:
    sizes = [chance.randrange(100_000) for _ in range(5)]
    refs = [total.remote(make_array.remote(size)) for size in sizes]
    assert ray.get(refs, timeout=DEADLINE) == [size * size for size in sizes]
    put = ray.put(np.arange(sizes[0]))
    assert ray.get(total.remote(put), timeout=DEADLINE) == sizes[0] * (sizes[0] - 1) // 2


def chain(chance: random.Random) -> None:
    ref = ray.put(0)
    for _ in range(length := chance.randrange(1, 100)):
        ref = add.remote(ref, 1)
    assert ray.get(ref, timeout=DEADLINE) == length


def at_most_once(chance: random.Random) -> None:
    for ref in [once.remote() for _ in range(20)]:
        try:
            assert ray.get(ref, timeout=DEADLINE) == "once"
        except WorkerCrashedError:
            pass


def mortal_actor(chance: random.Random) -> None:
    actor = ray.remote(Register).remote()
    try:
        assert ray.get([actor.add.remote(i) for i in range(100)], timeout=DEADLINE) == list(range(1, 101))
        assert ray.get(actor.all.remote(), timeout=DEADLINE) == list(range(100))
    except ActorDiedError:
        pass


def restarting_actor(chance: random.Random) -> None:
    actor: Any = ray.remote(max_restarts=-1, max_task_retries=-1)(Register).remote()
    counts: list[int] = []
    for _ in range(chance.randrange(1, 30)):
        counts += ray.get([actor.add.remote(i) for i in range(200)], timeout=DEADLINE)
    # Each restart begins a new count; a call that was answered and whose answer was lost counts twice.
    assert all(after == 1 or after >= before for before, after in itertools.pairwise(counts))


def cancelling(chance: random.Random) -> None:
    refs = [tree.remote(6) for _ in range(3)]
    ray.wait(refs, timeout=chance.random() / 20)
    for ref in refs:
        ray.cancel(ref, force=chance.random() < 0.3)
    for ref in refs:
        try:
            assert ray.get(ref, timeout=DEADLINE) == 64
        except (TaskCancelledError, WorkerCrashedError):
            pass


PROGRAMS: list[Callable[[random.Random], None]] = [
    arithmetic, nesting, arrays, chain, at_most_once, mortal_actor, restarting_actor, cancelling,
]  # fmt: skip


def victims() -> tuple[psutil.Process, list[psutil.Process]]:
    """The zygote, and the workers."""
    daemon = psutil.Process(require().facts["pid"])
    zygote = daemon.children()[0]
    return zygote, zygote.children()


@contextmanager
def killing(chance: random.Random, kills: list[str], zygotes: bool) -> Iterator[None]:
    """Kills a worker, or the zygote, every now and then."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(chance.expovariate(5)):
            try:
                zygote, workers = victims()
                if zygotes and chance.random() < 0.02 and len([k for k in kills if k == "zygote"]) < 3:
                    zygote.kill()
                    kills.append("zygote")
                elif workers:
                    chance.choice(workers).send_signal(chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
                    kills.append("worker")
            except (psutil.Error, IndexError):
                continue  # it has just ended by itself

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def settled() -> dict[str, Any]:
    """The node's state once nothing is left: no task, no actor, no object, no view."""
    deadline = time.monotonic() + DEADLINE
    while True:
        gc.collect()
        status: dict[str, Any] = require().request("status")
        left = status["tasks"]["unfinished"], status["actors"], status["objects"], status["store"]["used"]
        if not any(left):
            return status
        assert time.monotonic() < deadline, left


@pytest.mark.parametrize("zygotes", [False, True], ids=["workers", "zygotes too"])
def test_whoever_is_killed_answers_are_right(zygotes: bool) -> None:
    chance = random.Random(SEED)
    ray.init(num_cpus=2, log_to_driver=False)
    kills: list[str] = []
    runs = 0
    errors: list[tuple[str, BaseException]] = []
    end = time.monotonic() + SECONDS / 2

    def work(seed: int) -> None:
        nonlocal runs
        mine = random.Random(seed)
        while time.monotonic() < end and not errors:
            program = mine.choice(PROGRAMS)
            try:
                program(mine)
                runs += 1
            except (ActorUnavailableError, ObjectLostError):
                runs += 1
            except (AssertionError, AsyncrayError, OSError) as error:
                errors.append((program.__name__, error))

    with killing(chance, kills, zygotes):
        threads = [threading.Thread(target=work, args=(SEED + number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, f"seed {SEED}, {len(kills)} kills, {runs} programs: {errors}"
    assert settled()["available"]["CPU"] == 2
    assert runs > SECONDS / 10
    print(f"seed {SEED}: {runs} programs, {len(kills)} kills, {kills.count('zygote')} of zygotes")
