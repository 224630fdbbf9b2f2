"""A leak check around every test that starts processes, and ways to start them.

After each test nothing of it may be left: no process, no descriptor, no thread of ours, no shared memory, no socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

import asyncray.sync as ray
from asyncray.api.session import Context
from asyncray.io.sessions import name_of
from tests.system.bell import Bell

DEADLINE = 5.0
"""Seconds in which nothing may be left of a session, as promised."""

LOOP_DEADLINE = 20.0
"""Seconds that a test of an event loop may take."""

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def descriptors() -> dict[str, str]:
    """Open descriptors of this process and what they are."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # that of the listing itself
    return found


def shared_memory(directory: Path) -> set[str]:
    """Segments of the sessions in a directory: those of other programs on this machine come and go."""
    names = tuple(name_of(str(path)) for path in directory.glob("session_*"))
    return {name for name in os.listdir("/dev/shm") if name.startswith(names)}


def sockets(directory: Path) -> list[Path]:
    """Sockets that are left in session directories."""
    return [path for path in directory.rglob("*") if path.is_socket()]


@pytest.fixture(scope="session")
def sessions(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The directory of this test run's sessions: not that of others on this machine. Kept if a test has failed."""
    # pytest's own directories are too long for the path of a socket
    path = Path(f"/tmp/asyncray-test-{os.getpid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    yield path
    if not request.session.testsfailed and path.exists():  # each file that imports this has a fixture of its own
        shutil.rmtree(path)


@pytest.fixture(autouse=True)
def nothing_left(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The leak check."""
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(sessions))
    monkeypatch.delenv("ASYNCRAY_ADDRESS", raising=False)
    gc.collect()
    before = descriptors()
    threads = set(threading.enumerate())
    yield
    ray.shutdown()
    gc.collect()
    # Whole trees: a daemon leads a session of its own, but it is this process's child or has been one.
    ours = [
        p for p in psutil.process_iter(["cmdline"]) if any(str(sessions) in part for part in p.info["cmdline"] or [])
    ]
    _, alive = psutil.wait_procs([*psutil.Process().children(recursive=True), *ours], timeout=DEADLINE)
    left = [(p.pid, p.cmdline()) for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not left, f"processes are left: {left}"
    assert not (memory := shared_memory(sessions)), f"shared memory is left: {memory}"
    assert not sockets(sessions), "sockets are left"
    after = descriptors()
    assert not (new := {k: v for k, v in after.items() if before.get(k) != v}), f"descriptors are left: {new}"
    assert not (more := [t for t in threading.enumerate() if t not in threads]), f"threads are left: {more}"


@pytest.fixture
def node(nothing_left: None) -> Iterator[Context]:
    """A node with two CPUs, and this process as its driver."""
    with ray.init(num_cpus=2) as context:
        yield context


@pytest.fixture
def one_cpu(node: object) -> None:
    """A node with one CPU instead."""
    ray.shutdown()
    ray.init(num_cpus=1)


@pytest.fixture
def bell(nothing_left: None) -> Iterator[Bell]:
    """How tasks tell the test that they run."""
    with Bell() as bell:
        yield bell


@pytest.fixture(scope="session")
def signal_pipe_of_uvloop() -> None:
    """The first loop of uvloop in a process makes a pipe that stays: it is no leak of a test."""
    uvloop.run(asyncio.sleep(0))


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, signal_pipe_of_uvloop: None) -> Run:
    """Runs a coroutine in a loop of its own, but not for ever."""

    async def in_time(main: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(LOOP_DEADLINE):
            return await main

    return lambda main: request.param(in_time(main))
