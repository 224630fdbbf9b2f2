"""Processes: whose they are, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys

from asyncray.io import processes


def test_a_child_is_one_until_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert processes.is_child(process.pid)
        assert processes.ends_within(process.pid, 60.0)
        assert processes.is_child(process.pid)
        process.wait()
        assert not processes.is_child(process.pid)
    assert not processes.is_child(os.getpid())


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert not processes.has_ended(process.pid)
        process.kill()
        assert processes.ends_within(process.pid, 60.0)
        assert processes.has_ended(process.pid)
    assert processes.has_ended(process.pid)
