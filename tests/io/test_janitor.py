"""The order in which processes are ended: resource trackers last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncray.io.janitor import cleans_up, end_group, kill_session, offspring
from asyncray.io.processes import has_ended
from asyncray.io.session_names import SESSION_VARIABLE
from asyncray.io.spawning import command_line

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
        "import os, subprocess, sys",
        # Not from an argument: its own command line would look like that of a tracker.
        "subprocess.Popen([sys.executable, '-c', os.environ['PROGRAM'], *sys.argv[1:]])",
        "sys.stdin.read()",
    ]
)


SESSION = "asyncray-of-a-test"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, with a tracker as its child, ready."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "done")]
    environment = {**os.environ, SESSION_VARIABLE: SESSION, "PROGRAM": TRACKER}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        yield parent
        parent.kill()


def test_a_tracker_is_known_by_its_command(family: subprocess.Popen[bytes]) -> None:
    (tracker,) = offspring(family.pid)
    assert cleans_up(tracker)
    assert not cleans_up(os.getpid())
    assert not cleans_up(0)


def test_the_daemon_of_a_program_inside_cleans_up_as_well() -> None:
    command = [*command_line("asyncray.node.__main__"), "not a configuration"]
    command[command.index("-c") + 1] = "input()\n" + command[command.index("-c") + 1]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as daemon:
        while not (known := cleans_up(daemon.pid)) and daemon.poll() is None:
            pass  # until the system has loaded its program
        daemon.kill()
        assert known


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
    environment = {**os.environ, "PROGRAM": "print(flush=True); input()"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, env=environment
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        end_group(parent.pid, [parent.pid])
        assert parent.stdout.read() == b""
        assert parent.wait(DEADLINE) == -signal.SIGKILL


def test_all_processes_that_carry_the_sessions_name_are_killed() -> None:
    program = "import os; os.fork(); os.write(1, b'.'); os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, SESSION_VARIABLE: "asyncray-of-a-test"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b".."
        assert kill_session("asyncray-of-a-test", 60.0)
        assert process.stdout.read() == b""  # the fork has ended, too
        assert process.wait() == -9
        assert kill_session("asyncray-of-a-test", 0.0)


def test_a_tracker_of_a_killed_session_does_its_work(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert family.stdin is not None
    pipe = family.stdin
    ending = threading.Thread(target=lambda: (family.wait(), pipe.close()))
    ending.start()
    assert kill_session(SESSION, DEADLINE)
    ending.join()
    assert (tmp_path / "done").exists()


def test_a_tracker_that_does_not_end_is_killed(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    (tracker,) = offspring(family.pid)
    assert kill_session(SESSION, 0.1)  # its pipe stays open
    assert has_ended(tracker)
    assert not (tmp_path / "done").exists()


ZYGOTE = """
import os, signal, subprocess, sys
from asyncray.io.processes import become_subreaper
become_subreaper()
child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], env={}, start_new_session=True)
child.wait()
"""


def test_what_shows_in_no_way_whose_it_is_ends_before_its_zygote() -> None:
    environment = {**os.environ, SESSION_VARIABLE: SESSION}
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as zygote:
        assert zygote.stdout is not None
        assert zygote.stdout.readline() == b"\n"
        zygote.send_signal(signal.SIGSTOP)
        (child,) = offspring(zygote.pid)
        assert kill_session(SESSION, DEADLINE)
        assert has_ended(child)
        assert zygote.wait() == -signal.SIGKILL
