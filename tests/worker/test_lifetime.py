"""The life of a worker, in a process of its own; the test is its daemon."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncray.messages import DEFINE, HELLO, LEAVE, LEAVING, PLAIN, RUN, WELCOME
from asyncray.runtime.serialization import serialize_in_band
from tests.runtime.daemon_side import DaemonSide

DEADLINE = 30.0
PROGRAM = """
import sys
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.lifetime import work
sys.exit(work(7, sys.argv[1], lambda: print("connected", flush=True), Leftovers()))
"""


class Worker:
    """The process, and the daemon's side of its connection."""

    def __init__(self, address: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def accept(self, listener: socket.socket) -> list[Any]:
        """Welcomes the worker when it connects. Returns its HELLO."""
        self.daemon = DaemonSide(listener.accept()[0])
        hello = self.daemon.next(HELLO)
        self.daemon.send((WELCOME, {"client_id": b"c" * 12, "node_id": b"n" * 8}))
        return hello

    def run(self, function: Any, *arguments: Any) -> None:
        """A task."""
        spec = {"name": "f", "returns": 1, "function": 1}
        define = (DEFINE, 1, spec, serialize_in_band(function).pickled)
        self.daemon.send(define, (RUN, b"task", 1, PLAIN, pickle.dumps((arguments, {})), None, None))

    def end(self) -> tuple[int, str, str]:
        """Its exit code and output."""
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, err


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("node.sock")
        listener.listen()
        listener.settimeout(DEADLINE)
        yield listener


@pytest.fixture
def worker(listener: socket.socket) -> Iterator[Worker]:
    worker = Worker("node.sock")
    try:
        hello = worker.accept(listener)
        assert (hello[2], hello[3]["number"], hello[3]["pid"]) == ("worker", 7, worker.process.pid)
        yield worker
        worker.daemon.close()
    finally:
        worker.process.kill()
        worker.process.communicate()


def test_an_orderly_end_is_announced(worker: Worker) -> None:
    worker.daemon.send((LEAVE, "no work"))
    assert worker.daemon.next(LEAVING) == [LEAVING, "no work"]
    assert worker.end() == (0, "connected\n", "")


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (None, 0), (259, 3), ("why", 1)])
def test_an_exit_in_a_task_is_that_of_the_process(worker: Worker, code: Any, expected: int) -> None:
    worker.run(sys.exit, code)
    returned, _, err = worker.end()
    assert returned == expected
    assert err.strip().splitlines()[-1:] == (["why"] if code == "why" else [])


def test_without_a_daemon_it_ends_at_once_whatever_runs(worker: Worker) -> None:
    worker.run(exec, "import threading; print('runs', flush=True); threading.Event().wait()")
    assert worker.process.stdout is not None
    while "runs" not in worker.process.stdout.readline():
        assert worker.process.poll() is None
    worker.daemon.close()
    assert worker.end()[0] == 0


def test_a_daemon_that_cannot_be_reached_is_named() -> None:
    code, out, err = Worker("/nowhere/node.sock").end()
    assert (code, out) == (1, "")
    assert "No such file or directory: '/nowhere/node.sock'" in err
