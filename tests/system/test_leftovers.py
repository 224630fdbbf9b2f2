"""The state that a task leaves behind does not harm the next task on that worker."""

from __future__ import annotations

import decimal
import gc
import io
import os
import resource
import signal
import sys
import threading
import warnings
from decimal import getcontext
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
        "output": (type(sys.stdout).__name__, sys.stdout.encoding, os.fstat(1), os.fstat(2)),
        "limits": (
            resource.getrlimit(resource.RLIMIT_CORE),
            os.getpriority(os.PRIO_PROCESS, 0),
            sys.getrecursionlimit(),
        ),
        "arguments": sys.argv,
        "decimal": repr(decimal.getcontext()),
        "hooks": (threading.excepthook, sys.gettrace(), gc.isenabled(), warnings.filters),
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
    sys.argv[1:] = ["spoiled"]
    sys.stdout.reconfigure(errors="strict")  # type: ignore[union-attr]  # a worker's can
    sys.stdout = io.StringIO()
    os.close(1)
    with open(os.devnull, "w") as file:
        os.dup2(file.fileno(), 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if soft else 1, hard))
    sys.setrecursionlimit(12345)
    sys.settrace(lambda *args: None)
    threading.excepthook = print
    gc.disable()
    getcontext().prec = 3
    warnings.simplefilter("error")


@ray.remote
def lock_in() -> int:
    os.chroot("/")
    return os.getpid()


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change the root directory")
def test_a_process_that_cannot_be_put_back_runs_no_other_task(one_cpu: None) -> None:
    for _ in range(2):
        locked = ray.get(lock_in.remote())
        assert ray.get(look.remote())["pid"] != locked
