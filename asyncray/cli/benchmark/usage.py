"""Looking at the processes of a program and of the node that it has started: memory, threads, CPU time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_PROGRAMS = Path(__file__).parent / "programs"
_SOURCES = Path(__file__).parents[3]
_SAMPLE_EVERY = 0.05
_SAMPLE_SHARE = 20
"""Reading the memory of a process of 1 GB stops it for some 10 ms: at least so many times as long until the next."""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts one of the programs with its streams as pipes."""
    paths = [str(_SOURCES), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(_PROGRAMS / f"{program}.py"), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile; its input ends with the block, and it must end then. Raises RuntimeError."""
    with start(program, *arguments) as process:
        try:
            yield process
            process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"the program {program} ended with exit code {process.returncode}")


def run(program: str, *arguments: str) -> dict[str, Any]:
    """Runs a program to its end; what it printed last. Raises RuntimeError."""
    with start(program, *arguments) as process:
        output, _ = process.communicate()
    return _answer(program, process, output)


def run_watching_memory(program: str, *arguments: str) -> tuple[dict[str, Any], float]:
    """The same; and the most bytes that it, its node and its workers had together."""
    most, pause = 0.0, _SAMPLE_EVERY
    with start(program, *arguments) as process:
        while True:
            try:
                output, _ = process.communicate(timeout=pause)
                break
            except subprocess.TimeoutExpired:
                began = time.perf_counter()
                most = max(most, memory(tree(process.pid)))
                pause = max(_SAMPLE_EVERY, _SAMPLE_SHARE * (time.perf_counter() - began))
    return _answer(program, process, output), most


def _answer(program: str, process: subprocess.Popen[str], output: str) -> dict[str, Any]:
    if process.returncode or not output:
        raise RuntimeError(f"the program {program} ended with exit code {process.returncode}")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started, and those, and so on."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(processes: list[psutil.Process]) -> float:
    """Bytes: proportional shares of what is shared (PSS), so that nothing counts twice; elsewhere than on Linux USS."""
    total = 0.0
    for process in processes:
        try:
            info = process.memory_full_info()
        except psutil.Error:
            continue  # it has ended
        total += getattr(info, "pss", info.uss)
    return total


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU time so far, in seconds; on Linux to the nanosecond, for an idle process has less than a tick."""
    total = 0.0
    for process in processes:
        try:
            threads = list(Path(f"/proc/{process.pid}/task").iterdir())
            total += sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
        except OSError:  # no such file system: ticks are all there is
            times = process.cpu_times()
            total += times.user + times.system
    return total
