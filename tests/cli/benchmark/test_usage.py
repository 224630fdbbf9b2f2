"""The figures that the benchmark reads of processes, compared with those of psutil."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from asyncray.cli.benchmark import usage


def test_a_tree_has_the_grandchildren() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        pids = usage.tree(process.pid)
        assert sorted(pids) == sorted([process.pid, *(child.pid for child in family)])
        assert len(pids) == 2
        assert usage.threads(pids) == 2
        process.communicate("")
    assert usage.tree(process.pid) == []
    assert (usage.memory(pids), usage.threads(pids), usage.cpu_seconds(pids)) == (0, 0, 0)


def test_memory_and_time_of_this_process() -> None:
    me = psutil.Process()
    assert usage.memory([os.getpid()]) == pytest.approx(me.memory_full_info().pss, rel=0.2)
    assert usage.cpu_seconds([os.getpid()]) <= sum(me.cpu_times()[:2]) + 1
