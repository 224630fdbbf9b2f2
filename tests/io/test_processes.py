"""Processes: whose they are, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys

from asyncray.io import processes


def test_all_processes_that_carry_the_sessions_name_are_killed() -> None:
    program = "import os; os.fork(); os.write(1, b'.'); os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, processes.SESSION_VARIABLE: "asyncray-of-a-test"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b".."
        assert processes.kill_session("asyncray-of-a-test", 60.0)
        assert process.stdout.read() == b""  # the fork has ended, too
        assert process.wait() == -9
        assert processes.kill_session("asyncray-of-a-test", 0.0)


def test_a_child_is_one_until_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert processes.is_child(process.pid)
        assert processes.ends_within(process.pid, 60.0)
        assert processes.is_child(process.pid)
        process.wait()
        assert not processes.is_child(process.pid)
    assert not processes.is_child(os.getpid())
