"""The order in which processes are ended: resource trackers last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncray.io.janitor import end_group, is_tracker, offspring

DEADLINE = 30.0

TRACKER = "\n".join(
    [
        "import signal, sys, threading  # resource_tracker import main",
        "print(flush=True)",
        "sys.stdin.read()",
        "open(sys.argv[1], 'w').close()",
    ]
)
"""Stands for a tracker: when its pipe ends it does its work."""

PARENT = "\n".join(
    [
        "import subprocess, sys",
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], *sys.argv[2:]])",
        "sys.stdin.read()",
    ]
)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, with a tracker as its child, ready."""
    command = [sys.executable, "-c", PARENT, TRACKER, str(tmp_path / "done")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        yield parent
        parent.kill()


def test_a_tracker_is_known_by_its_command(family: subprocess.Popen[bytes]) -> None:
    (tracker,) = offspring(family.pid)
    assert is_tracker(tracker)
    assert not is_tracker(os.getpid())
    assert not is_tracker(0)


def test_a_group_with_a_tracker_is_left_alone(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    end_group(family.pid, [family.pid])
    assert family.poll() is None
    family.kill()
    assert family.stdin is not None
    family.stdin.close()
    assert family.stdout is not None
    assert family.stdout.read() == b""  # the tracker has ended, too
    assert (tmp_path / "done").exists()


def test_a_group_without_one_ends_at_once() -> None:
    command = [sys.executable, "-c", PARENT, "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        end_group(parent.pid, [parent.pid])
        assert parent.stdout.read() == b""
        assert parent.wait(DEADLINE) == -signal.SIGKILL
