"""The zygote's start: its arguments and descriptors, and the cleanup if it cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from asyncray.io.session_names import SESSION_VARIABLE
from asyncray.node import start

DIRECTORY = "/tmp/asyncray-0/session_2026-01-01_00-00-00_0123456789ab"


def test_a_zygote_gets_the_other_end_the_lock_and_the_sessions_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def start_interpreter(module: str, arguments: list[str], keep: list[int], environment: dict[str, str]) -> int:
        seen.append((module, arguments, keep, environment))
        os.write(keep[0], b"from the zygote")
        return 42

    monkeypatch.setattr(start, "start_interpreter", start_interpreter)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", "relative")
    ours, pid = start.start_zygote(DIRECTORY, 7)
    with ours:
        assert pid == 42
        assert ours.recv(100) == b"from the zygote"
        assert ours.recv(100) == b""  # its end is closed here
    ((module, arguments, keep, environment),) = seen
    assert module == "asyncray.worker.zygote"
    assert arguments == [str(keep[0]), "7", DIRECTORY]
    assert keep[1] == 7
    assert environment[SESSION_VARIABLE] == "asyncray-0123456789ab"
    assert environment["ASYNCRAY_TMPDIR"] == "/tmp/asyncray-0"


@pytest.mark.parametrize("error", [OSError(11, "no more processes"), RuntimeError("no interpreter")])
def test_no_descriptor_is_left_if_it_cannot_be_started(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def start_interpreter(*arguments: object) -> int:
        raise error

    monkeypatch.setattr(start, "start_interpreter", start_interpreter)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(type(error)):
        start.start_zygote(DIRECTORY, 7)
    assert os.listdir("/proc/self/fd") == before


PROGRAM = """
import signal, warnings
from asyncray.node.start import define_state

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
warnings.simplefilter("error")
define_state()
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
warnings.warn("which is not shown", RuntimeWarning)
"""


def test_a_daemon_notices_ends_can_be_stopped_and_does_not_end_by_a_warning() -> None:
    subprocess.run([sys.executable, "-Werror", "-c", PROGRAM], check=True)
