"""Looks at the processes of a program and of the node that it has started: memory, threads, CPU time."""

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


def tree(pid: int) -> list[int]:
    """The pids of a process and all that it started, and those, and so on; none if it has ended."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _fields(path)
        if fields:
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found = [pid] if _fields(Path(f"/proc/{pid}")) else []
    for parent in found:
        found += children.get(parent, [])
    return found


def memory(pids: list[int]) -> float:
    """Bytes: proportional shares of what is shared (PSS), so that nothing counts twice."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024.0


def threads(pids: list[int]) -> int:
    """How many threads the processes have together."""
    return sum(len(_directory(Path(f"/proc/{pid}/task"))) for pid in pids)


def cpu_seconds(pids: list[int]) -> float:
    """CPU time so far, in seconds: in nanoseconds if the kernel counts them, as an idle node has less than a tick."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    process = Path(f"/proc/{pid}")
    try:
        files = [thread / "schedstat" for thread in _directory(process / "task")]
        return sum(int(file.read_text(encoding="utf-8").split()[0]) for file in files) / 1e9
    except OSError:
        fields = _fields(process)
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _directory(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []  # the process has ended


def _fields(process: Path) -> list[str]:
    """The fields of ``stat`` behind the program's name, which may contain spaces; none if the process has ended."""
    try:
        return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
