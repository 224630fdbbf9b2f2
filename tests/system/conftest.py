"""A leak check around every test that starts processes, and ways to start them.

After each test nothing of it may be left: no process, no descriptor, no thread of ours, no shared memory, no socket,
and on a node that it shares with other tests no task, actor, object or resource in use.

``node`` connects to such a shared node, ``own_node`` starts one for the test.
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
from asyncray.io.session_names import name_of
from tests.system.bell import Bell
from tests.system.shared_node import SharedNode, SharedNodes

DEADLINE = 5.0
"""Seconds in which nothing may be left of a session, as promised."""

LOOP_DEADLINE = 20.0
"""Seconds that a test of an event loop may take."""

SHARED = SharedNodes()
"""The nodes that the tests of this process share. Each conftest that imports the fixtures below has the same."""

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def descriptors() -> dict[str, str]:
    """The open descriptors of this process and the files that they stand for."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # that of the listing itself
    return found


def shared_memory(directory: Path) -> set[str]:
    """Segments of the sessions in a directory: those of other programs on this machine come and go."""
    names = tuple(name_of(str(path)) for path in directory.rglob("session_*") if not SHARED.has(path))
    return {name for name in os.listdir("/dev/shm") if name.startswith(names)}


def sockets(directory: Path) -> list[Path]:
    """Sockets that are left in session directories."""
    return [path for path in directory.rglob("*") if path.is_socket() and not SHARED.has(path.parent)]


def processes(directory: Path) -> list[psutil.Process]:
    """The processes that this test has left, without the nodes that tests share.

    Whole trees: a daemon leads a session of its own, but it is this process's child or has been one.
    """
    named = [p for p in psutil.process_iter(["cmdline"]) if f"{directory}/" in " ".join(p.info["cmdline"] or [])]
    found = {*psutil.Process().children(recursive=True), *named}
    return list(found.difference(*(node.processes() for node in SHARED.nodes.values())))


def shared_cpus(request: pytest.FixtureRequest) -> int | None:
    """How many CPUs the shared node of a test has. None if it uses none."""
    names = set(request.fixturenames)
    if "own_node" in names or not names & {"node", "one_cpu"}:
        return None
    return 1 if "one_cpu" in names else 2


@pytest.fixture(scope="session")
def sessions(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The directory of this test run's sessions: not that of others on this machine. Kept if a test has failed."""
    # pytest's own directories are too long for the path of a socket
    path = Path(f"/tmp/asyncray-test-{os.getpid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    yield path
    SHARED.stop()
    if not request.session.testsfailed:
        for each in (path, SHARED.directory):  # each file that imports this has a fixture of its own
            shutil.rmtree(each, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SharedNode | None]:
    """The leak check. Its value is the node that the test shares with others, if it does."""
    cpus = shared_cpus(request)
    shared = SHARED.get(cpus) if cpus is not None else None
    directory = shared.directory if shared else sessions
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(directory))
    monkeypatch.delenv("ASYNCRAY_ADDRESS", raising=False)
    gc.collect()
    before = descriptors()
    threads = set(threading.enumerate())
    yield shared
    ray.shutdown()
    gc.collect()
    _, alive = psutil.wait_procs(processes(directory), timeout=DEADLINE)
    left = [(p.pid, p.cmdline()) for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not left, f"processes are left: {left}"
    if shared is not None:
        SHARED.check(shared)
    assert not (memory := shared_memory(directory)), f"shared memory is left: {memory}"
    assert not sockets(directory), "sockets are left"
    after = descriptors()
    assert not (new := {k: v for k, v in after.items() if before.get(k) != v}), f"descriptors are left: {new}"
    assert not (more := [t for t in threading.enumerate() if t not in threads]), f"threads are left: {more}"


@pytest.fixture
def node(request: pytest.FixtureRequest, nothing_left: SharedNode | None) -> Iterator[Context]:
    """This process as a driver of a node with two CPUs (one with ``one_cpu``) that other tests have used."""
    if nothing_left is None:
        yield request.getfixturevalue("own_node")
        return
    with ray.init(nothing_left.address) as context:
        yield context


@pytest.fixture
def one_cpu(node: object) -> None:
    """A node with one CPU instead."""


@pytest.fixture
def own_node(nothing_left: object) -> Iterator[Context]:
    """A new node with two CPUs, started by this process: for tests that end it, harm it or count its contents."""
    with ray.init(num_cpus=2) as context:
        yield context


@pytest.fixture
def bell(nothing_left: object) -> Iterator[Bell]:
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
