"""What a task leaves behind does not spoil the next one on that worker."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.exceptions import TaskCancelledError
from tests.system.bell import Bell


@ray.remote
def look() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "directory": os.getcwd(),
        "umask": umask,
        "variables": dict(os.environ),
        "path": sys.path,
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)],
        "output": type(sys.stdout).__name__,
    }


@ray.remote
def spoil() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(1000)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.chdir("/")
    os.umask(0)
    os.environ.update(HOME="/nowhere", NEW="new")
    del os.environ["OMP_NUM_THREADS"]
    sys.path.insert(0, "/spoiled")
    sys.stdout = io.StringIO()


@ray.remote
def wait(bell: Bell) -> None:
    bell.ring("begun")
    signal.pause()


def test_the_next_task_finds_the_process_as_it_was(one_cpu: None, bell: Bell) -> None:
    before = ray.get(look.remote())
    ray.get(spoil.remote())
    assert ray.get(look.remote()) == before
    ray.get(spoil.remote())
    ref = wait.remote(bell)
    assert bell.heard() == "begun"
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
