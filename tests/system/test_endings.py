"""However a driver, a daemon or a zygote ends: five seconds later nothing of the session is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.exceptions import LocalNodeDiedError, WorkerCrashedError
from asyncray.io import sessions as session_files
from tests.system.busy_driver import Parent, occupy
from tests.system.conftest import DEADLINE, shared_memory, sockets

ROOT = Path(__file__).parents[2]


def processes_of(*marks: str) -> list[psutil.Process]:
    """Whose command line holds one of the marks: a session's directory, or what the grandchildren were given.

    Zombies are not ours to bury: the parent that they have now is this machine's first process.
    """
    found = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    mine = os.getpid()
    return [p for p in found if p.pid != mine and any(m in part for m in marks for part in p.info["cmdline"] or [])]


def assert_nothing_left(session: str, directory: Path) -> None:
    processes = processes_of(session, str(directory))
    psutil.wait_procs(processes, timeout=DEADLINE)
    left = processes_of(session, str(directory))
    for process in left:
        process.kill()
    assert not left, f"processes are left: {left}"
    assert not [name for name in shared_memory() if name.startswith(session_files.name_of(session))]
    assert not sockets(Path(session))
    assert not (Path(session) / "lock").exists()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Starts a busy driver in a process group of its own; tells its process and its session."""
    started: list[subprocess.Popen[str]] = []

    def start(ending: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "tests.system.busy_driver", ending, str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["session_dir"]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def daemon_and_zygote(session: str) -> tuple[psutil.Process, psutil.Process]:
    found = processes_of(session)
    daemon = next(p for p in found if any("asyncray.node" in part for part in p.cmdline()))
    zygote = next(p for p in daemon.children() if any("asyncray.worker.zygote" in part for part in p.cmdline()))
    return daemon, zygote


@pytest.mark.parametrize(
    ("ending", "number", "code", "tidy"),
    [
        ("return", None, 0, True),
        ("exception", None, 1, True),
        ("_exit", None, 7, False),
        ("get", signal.SIGINT, -signal.SIGINT, True),
        ("get", signal.SIGTERM, signal.SIGTERM, True),
        ("wait", signal.SIGTERM, signal.SIGTERM, True),
        ("await", signal.SIGTERM, signal.SIGTERM, True),
        ("get", signal.SIGKILL, -signal.SIGKILL, False),
    ],
)
def test_the_end_of_a_driver(
    driver: Any, tmp_path: Path, ending: str, number: signal.Signals | None, code: int, tidy: bool
) -> None:
    process, session = driver(ending)
    if number is not None:
        os.killpg(process.pid, number)  # as a terminal does: to the whole foreground group
    assert process.wait(DEADLINE) == code
    assert_nothing_left(session, tmp_path)
    assert ("exit handlers ran" in process.stdout.read()) == tidy


def kill_both(daemon: psutil.Process, zygote: psutil.Process) -> None:
    daemon.suspend()  # else it might start another zygote in between
    zygote.kill()
    daemon.kill()


@pytest.mark.parametrize(
    ("end", "bare"),
    [
        (lambda daemon, zygote: daemon.terminate(), True),
        (lambda daemon, zygote: daemon.kill(), True),
        (kill_both, False),
        (lambda daemon, zygote: (zygote.suspend(), daemon.kill()), False),
    ],
    ids=["SIGTERM", "SIGKILL", "zygote too", "zygote stopped"],
)
def test_the_end_of_a_daemon(sessions: Path, tmp_path: Path, end: Any, bare: bool) -> None:
    """Whoever waits, and whoever comes later, gets the right error; and the driver can start again."""
    session = ray.init(num_cpus=4)["session_dir"]
    things = occupy(tmp_path, bare)
    end(*daemon_and_zygote(session))
    with pytest.raises(LocalNodeDiedError):
        ray.get(things["lasting"])
    for use in (
        lambda: ray.get(things["lasting"][0]),
        lambda: ray.wait(things["lasting"]),
        lambda: ray.put(b"x" * 1_000_000),
        lambda: ray.get(things["parent"].pid.remote()),
        lambda: ray.get(ray.put(1)) and ray.nodes(),
    ):
        with pytest.raises(LocalNodeDiedError):
            use()
    with ray.init(num_cpus=1) as again:
        assert again["session_dir"] != session
        assert ray.get(ray.remote(os.getpid).remote()) != os.getpid()
        assert_nothing_left(session, tmp_path)


def test_the_end_of_a_zygote(sessions: Path, tmp_path: Path) -> None:
    """All workers go with it, and what they started; the node goes on with another one."""
    with ray.init(num_cpus=4) as context:
        things = occupy(tmp_path)
        actor = ray.get(things["parent"].pid.remote())
        daemon, zygote = daemon_and_zygote(context["session_dir"])
        workers = zygote.children()
        zygote.kill()
        for ref in things["lasting"]:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref)
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(things["parent"].pid.remote())
        _, alive = psutil.wait_procs([*workers, *processes_of(str(tmp_path))], timeout=DEADLINE)
        assert not alive
        assert ray.get(Parent.options(name="again").remote(tmp_path).pid.remote()) != actor
        assert daemon.is_running()
