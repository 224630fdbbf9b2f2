"""The zygote, in a process of its own; the test is its daemon."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.random
import pytest

from asyncray.io import forking, sessions
from asyncray.messages import ENDED, FORK, FORKED, HELLO, KILL_WORKER
from asyncray.node.start import start_zygote
from asyncray.worker import zygote as zygote_module
from asyncray.worker.zygote import Zygote
from tests.runtime.daemon_side import DaemonSide

DEADLINE = 30.0


class Node:
    """A session with a zygote, and nothing that listens."""

    def __init__(self) -> None:
        self.directory, self._lock = sessions.new_session()
        Path(self.directory, "logs").mkdir(exist_ok=True)
        stream, self.pid = start_zygote(self.directory, self._lock)
        self._descriptor = os.pidfd_open(self.pid)
        self.zygote = DaemonSide(stream)

    def listen(self) -> socket.socket:
        """The socket for workers."""
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(DEADLINE)
        listener.bind(sessions.socket_of(self.directory))
        listener.listen()
        return listener

    def end(self) -> None:
        """Closes the daemon's end, waits for the zygote to end, and kills the zygote if it does not."""
        self.zygote.close()
        ended, _, _ = select.select([self._descriptor], [], [], DEADLINE)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._descriptor)
        os.waitpid(self.pid, 0)
        sessions.close_lock(self._lock)
        assert ended


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    # Not ``tmp_path``: the path of a socket must be short.
    with tempfile.TemporaryDirectory() as base:
        monkeypatch.setenv("ASYNCRAY_TMPDIR", base)
        node = Node()
        yield node
        node.end()


def fork(node: Node, number: int) -> int:
    node.zygote.send((FORK, number))
    forked = node.zygote.next(FORKED)
    assert forked[1] == number
    pid: int = forked[2]
    return pid


def test_a_worker_connects_leads_a_group_and_is_killed_when_that_is_wanted(node: Node) -> None:
    with node.listen() as listener:
        pid = fork(node, 7)
        worker = DaemonSide(listener.accept()[0])
        info: dict[str, Any] = worker.next(HELLO)[3]
        assert (info["number"], info["pid"], os.getpgid(pid)) == (7, pid, pid)
        node.zygote.send((KILL_WORKER, 7))
        assert node.zygote.next(ENDED) == [ENDED, 7, pid, signal.SIGKILL]
        worker.close()


def test_a_worker_that_cannot_start_says_why(node: Node) -> None:
    pid = fork(node, 1)
    ended = node.zygote.next(ENDED)
    assert ended[:3] == [ENDED, 1, pid]
    assert sessions.socket_of(node.directory) in ended[3]


def test_when_the_daemon_is_gone_nothing_is_left(node: Node) -> None:
    with node.listen() as listener:
        pid = fork(node, 1)
        worker = DaemonSide(listener.accept()[0])
        worker.next(HELLO)
        descriptor = os.pidfd_open(pid)
        os.kill(node.pid, signal.SIGTERM)  # of a machine that shuts down: not for the zygote
        node.zygote.close()
        assert select.select([descriptor], [], [], DEADLINE)[0]
        os.close(descriptor)
        worker.close()
    select.select([node._descriptor], [], [], DEADLINE)
    assert not os.path.exists(sessions.socket_of(node.directory))
    assert not os.path.exists(sessions._lock_of(node.directory))


def test_a_zygote_goes_on_where_what_it_loads_ahead_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the zygote ended, all workers would end with it."""
    loaded = []

    def load(name: str) -> None:
        if name == "asyncio":
            raise OSError(errno.EMFILE, "Too many open files")
        loaded.append(name)

    monkeypatch.setattr(zygote_module, "load", load)
    Zygote._load("cloudpickle", "asyncio", "uvloop")
    assert loaded == ["cloudpickle", "uvloop"]
    assert "Too many open files" in capsys.readouterr().err


def test_a_zygote_goes_on_where_the_rehearsal_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Iterator[None]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(zygote_module, "rehearse", fail)
    monkeypatch.setattr(zygote_module, "_PRELOADED", ())
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    ours, its = socket.socketpair()
    zygote = Zygote(its, "", -1)
    zygote._after_quiet()
    assert zygote._warming is None
    zygote._reports.close()
    ours.close()
    its.close()
    assert "Too many open files" in capsys.readouterr().err


def test_a_zygote_hears_the_daemon_between_two_modules_that_it_loads_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine each of them takes long, and the end of the daemon is the end of all."""

    def load(name: str) -> None:
        loaded.append(name)
        if len(loaded) == 2:
            ours.close()

    ours, its = socket.socketpair()
    zygote = Zygote(its, "", -1)
    loaded: list[str] = []
    monkeypatch.setattr(zygote_module, "load", load)
    monkeypatch.setattr(zygote_module, "_WARM_AFTER", 0.0)
    poll = select.poll()
    poll.register(its, select.POLLIN)
    zygote._serve(poll, -1)
    zygote._reports.close()
    its.close()
    assert len(loaded) == 2


def test_each_worker_is_forked_with_other_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        states.add(numpy.random.get_state(legacy=False)["state"]["key"].tobytes())
        raise BlockingIOError(errno.EAGAIN, "no processes")

    ours, its = socket.socketpair()
    zygote = Zygote(its, "", -1)
    states: set[bytes] = set()
    monkeypatch.setattr(forking, "fork_without_steps", fork)
    before = numpy.random.get_state()
    for number in range(3):
        zygote._fork(number)
    numpy.random.set_state(before)
    gc.unfreeze()
    zygote._reports.close()
    ours.close()
    its.close()
    assert len(states) == 3


def test_a_group_is_ended_before_its_worker_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the reaping, the pid of the worker may be the number of another group."""
    ours, its = socket.socketpair()
    zygote = Zygote(its, "", -1)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-IS", "-c", ""], {})
    zygote._workers[pid] = 7
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    unreaped = []

    def end_group(leader: int, pids: list[int]) -> None:
        found = os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        unreaped.append(found is not None and found.si_pid)

    monkeypatch.setattr(zygote_module, "end_group", end_group)
    monkeypatch.setattr(zygote_module, "children", list)  # other children belong to other tests
    monkeypatch.setattr(zygote_module, "_ended_child", iter((pid, None)).__next__)
    zygote._reap()
    zygote._reports.close()
    its.close()
    assert unreaped == [pid]
    daemon = DaemonSide(ours)
    assert daemon.next(ENDED) == [ENDED, 7, pid, 0]
    daemon.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
