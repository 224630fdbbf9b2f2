"""Workers that cannot start, or start without something: the driver hears why, and what can go on does."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.api.session import Context

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


def test_a_node_without_its_directory_says_so_and_works_on(own_node: Context, hear: Callable[[], str]) -> None:
    command = [sys.executable, "-m", "asyncray", "status", "--json", "--address", own_node["address"]]
    moved = Path(own_node["session_dir"] + "-moved")
    Path(own_node["session_dir"]).rename(moved)
    actors = [ray.remote(Printer).remote() for _ in range(4)]
    refs = [actor.work.remote() for actor in actors]
    assert hear().startswith("what workers print is lost, because no log file can be made: [Errno 2] No such file")
    problem = hear()
    assert problem.startswith("no worker can start: [Errno 2] No such file or directory:")
    assert problem.endswith("node.sock'")
    moved.rename(own_node["session_dir"])
    assert ray.get(refs, timeout=DEADLINE) == [1] * 4
    status = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE).stdout)
    assert status["problem"] == ""


def test_workers_without_a_log_file_work(own_node: Context, hear: Callable[[], str]) -> None:
    logs = Path(own_node["session_dir"]) / "logs"
    logs.rename(f"{logs}-moved")
    logs.touch()
    actors = [ray.remote(Printer).remote() for _ in range(4)]
    assert ray.get([actor.work.remote() for actor in actors], timeout=DEADLINE) == [1] * 4
    assert "what workers print is lost, because no log file can be made: [Errno 20] Not a directory" in hear()


# What is left to multiprocessing's resource tracker ------------------------------------------------------------------


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
