"""Processes: their owners and their ends."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

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


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_no_descriptor_is_left_a_living_process_has_not_ended() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process, no_descriptors():
        assert not processes.has_ended(process.pid)
        assert not processes.ends_within(process.pid, 0.0)
        assert not processes.has_ended(os.getppid())
        process.kill()
        assert processes.ends_within(process.pid, 60.0)
        assert processes.has_ended(process.pid)
    assert processes.has_ended(process.pid)
    assert processes.ends_within(process.pid, 0.0)


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_that_stand_for_many_processes_are_refused(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The system takes 0 for the caller's own group, and -1 for all processes that the user may kill."""
    for name in ("kill", "killpg"):
        monkeypatch.setattr(os, name, lambda *arguments: pytest.fail("it was sent"))
    for send in (processes.kill, processes.kill_group):
        with pytest.raises(AssertionError, match=str(number)):
            send(number)


def test_free_memory_goes_back_where_the_library_can_do_that(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.trim_memory()
    trimmed: list[int] = []
    monkeypatch.setattr(processes, "_library", lambda: SimpleNamespace(malloc_trim=trimmed.append))
    processes.trim_memory()
    assert trimmed == [0]
    monkeypatch.setattr(processes, "_library", SimpleNamespace)
    processes.trim_memory()
