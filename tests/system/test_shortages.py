"""Workers that cannot start, or lack something: the driver learns the reason, and the other work goes on."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.api.session import Context
from asyncray.exceptions import LocalNodeDiedError

DEADLINE = 60.0


@pytest.fixture
def hear(nothing_left: None) -> Iterator[Callable[[], str]]:
    """The next thing that the node has to say."""
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(heard)
    logging.getLogger("asyncray").addHandler(handler)
    yield lambda: str(heard.get(timeout=DEADLINE).getMessage())
    logging.getLogger("asyncray").removeHandler(handler)


class Printer:
    def work(self) -> int:
        sys.stdout.write("nobody reads this\n")
        return 1


def test_a_session_directory_that_is_removed_is_made_again(own_node: Context, hear: Callable[[], str]) -> None:
    """As by a cleaner of temporary directories. Programs find the node again, and workers their socket and logs."""
    directory = Path(own_node["session_dir"])
    for _ in range(2):
        shutil.rmtree(directory)
        actors = [ray.remote(Printer).remote() for _ in range(4)]
        refs = [actor.work.remote() for actor in actors]
        while not (said := hear()).startswith(f"the session directory {directory} was removed while the node runs"):
            assert said.startswith(
                ("what workers print is lost: [Errno 2] No such file", "no worker can start: [Errno 2]")
            )
        assert ray.get(refs, timeout=DEADLINE) == [1] * 4
    command = [sys.executable, "-m", "asyncray", "status", "--json", "--address", own_node["address"]]
    status = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE).stdout)
    assert status["problem"] == ""
    assert "was removed while the node runs" in (directory / "logs/node.log").read_text()


def test_a_session_directory_that_cannot_be_made_again_is_reported(
    own_node: Context, hear: Callable[[], str], tmp_path: Path
) -> None:
    directory = Path(own_node["session_dir"])
    directory.rename(tmp_path / "moved")
    directory.touch()
    actors = [ray.remote(Printer).remote() for _ in range(4)]
    refs = [actor.work.remote() for actor in actors]
    while not (said := hear()).startswith("no worker can start: [Errno 20] Not a directory:"):
        assert said.startswith("what workers print is lost: [Errno 20] Not a directory")
    assert said.endswith("node.sock'")
    directory.unlink()
    (tmp_path / "moved").rename(directory)
    assert ray.get(refs, timeout=DEADLINE) == [1] * 4


def test_workers_without_a_log_file_work(own_node: Context, hear: Callable[[], str]) -> None:
    logs = Path(own_node["session_dir"]) / "logs"
    logs.rename(f"{logs}-moved")
    logs.touch()
    actors = [ray.remote(Printer).remote() for _ in range(4)]
    assert ray.get([actor.work.remote() for actor in actors], timeout=DEADLINE) == [1] * 4
    assert "what workers print is lost: [Errno 20] Not a directory" in hear()


FULL_DISK = """
import asyncray.sync as ray

@ray.remote
def speak():
    for _ in range(100):
        print("x" * 100)
    return 1

with ray.init(num_cpus=1):
    print(ray.get([speak.remote() for _ in range(3)], timeout=60))
"""

FULL_MEMORY = """
import os
import numpy as np
import asyncray.sync as ray

def fails(work):
    try:
        work()
    except ray.exceptions.ObjectStoreFullError as error:
        print("No space left on device" in str(error))

@ray.remote(max_retries=0)
def make(size):
    return np.ones(size, np.uint8)

@ray.remote
def add(array):
    return int(array.sum())

LARGE = np.ones(60_000_000, np.uint8)
with ray.init(num_cpus=1, object_store_memory=150 << 20):
    kept, dropped = ray.put(np.ones(5_000_000, np.uint8)), ray.put(np.ones(30_000_000, np.uint8))
    del dropped
    other = os.open("/dev/shm/other", os.O_CREAT | os.O_WRONLY)
    while True:
        try:
            os.write(other, bytes(4096))
        except OSError:
            break
    os.ftruncate(other, os.fstat(other).st_size - 10_000_000)
    fails(lambda: ray.put(LARGE))
    fails(lambda: ray.get(make.remote(len(LARGE))))
    fails(lambda: add.remote(LARGE))
    print(ray.get(add.remote(np.ones(10))), ray.get(add.remote(kept)), ray.get(add.remote(ray.put(LARGE[:20_000_000]))))
    os.ftruncate(other, 0)
    print(ray.get(add.remote(LARGE)))
"""


def run_on(directory: str, size: str, program: str) -> tuple[list[str], str]:
    """Runs a program with so much room mounted on that directory: its lines of output, and its errors."""
    mount = f"mount -t tmpfs -o size={size},mode=700 tmpfs {directory} && exec {sys.executable} -c '{program}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount anything")
    return done.stdout.splitlines(), done.stderr


def test_a_full_disk_costs_what_workers_print_and_not_their_tasks(
    sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tempfile.mkdtemp(dir=sessions)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
    printed, errors = run_on(directory, "16k", FULL_DISK)
    assert "[1, 1, 1]" in printed
    assert errors == "what workers print is lost: [Errno 28] No space left on device\n"


def test_full_shared_memory_is_an_error_and_kills_nothing() -> None:
    assert run_on("/dev/shm", "160m", FULL_MEMORY) == (["True"] * 3 + ["10 5000000 20000000", "60000000"], "")


# Things left to multiprocessing's resource tracker --------------------------------------------------------------------


class Careless:
    """Makes shared memory and forgets it."""

    def make(self) -> str:
        self.memory = shared_memory.SharedMemory(create=True, size=100)
        return self.memory.name

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("end", ["exit", "kill", "crash", "shutdown", "zygote", "daemon"])
def test_forgotten_shared_memory_goes_with_its_worker(end: str, own_node: Context) -> None:
    actor = ray.remote(Careless).remote()
    path = Path("/dev/shm") / ray.get(actor.make.remote())
    worker = psutil.Process(ray.get(actor.pid.remote()))
    zygote = worker.parent()
    assert zygote is not None
    trackers = worker.children()
    assert len(trackers) == 1
    if end == "exit":
        actor.__ray_terminate__.remote()
    elif end == "kill":
        ray.kill(actor)
    elif end == "crash":
        worker.kill()
    elif end == "zygote":
        zygote.kill()
    elif end == "daemon":
        daemon = zygote.parent()
        assert daemon is not None
        daemon.kill()
    else:
        ray.shutdown()
    assert psutil.wait_procs(trackers, timeout=DEADLINE)[1] == []
    assert not path.exists()
    shutil.rmtree(path, ignore_errors=True)


@ray.remote(num_cpus=1)
def same(value: object) -> object:
    return value


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_a_daemon_without_memory_says_so(own_node: Context) -> None:
    daemon = next(child.pid for child in psutil.Process().children() if "asyncray.node" in " ".join(child.cmdline()))
    used = psutil.Process(daemon).memory_info().vms
    resource.prlimit(daemon, resource.RLIMIT_AS, (used + (20 << 20), used + (20 << 20)))
    with pytest.raises(LocalNodeDiedError, match="MemoryError"):
        ray.get([same.remote(number) for number in range(400_000)], timeout=DEADLINE)
