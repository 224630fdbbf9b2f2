"""The changes that a job and a lease make to a worker's process, and their undoing after a task."""

from __future__ import annotations

import io
import os
import resource
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from asyncray.messages import OUTPUT_MARK
from asyncray.runtime.runtime import Runtime
from asyncray.words import CodePaths, JobSetup, LeaseTerms
from asyncray.worker.process_environment import MarkedOutput, ProcessEnvironment
from tests.greeting import SETUP


class FakeRuntime:
    """Records the facts of the job."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.job = b""

    def work_for(self, job_id: bytes) -> None:
        self.job = job_id


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> ProcessEnvironment:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "restored by the fixture")
        monkeypatch.delenv(name)
    return ProcessEnvironment()


def lease(devices: tuple[int, ...] = (), cpus: int = 1) -> LeaseTerms:
    return {"demand": [("CPU", cpus)], "devices": list(devices), "cpus": cpus}


def test_a_job_brings_its_paths_and_its_directory(
    environment: ProcessEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (path := sys.path)[:] = ["/own"]
    paths: CodePaths = {"before": ["/app"], "between": [], "after": ["/late"], "shadowed": []}
    setup: JobSetup = {**SETUP, "code_paths": paths, "directory": str(tmp_path)}
    environment.set_up(cast(Runtime, runtime), b"job", setup)
    assert path == ["/app", "/own", "/late"]
    assert os.getcwd() == str(tmp_path)
    assert runtime.job == runtime.facts["job_id"] == b"job"
    assert runtime.facts["namespace"] == "raw"
    environment.set_up(cast(Runtime, runtime), b"job", {**setup, "directory": "/no/such/directory"})
    assert os.getcwd() == str(tmp_path)


def test_a_lease_brings_gpus_and_threads(environment: ProcessEnvironment) -> None:
    environment.lease(lease((1, 0), 3))
    assert environment.devices == [1, 0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_threads_are_the_users_if_the_user_has_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    environment = ProcessEnvironment()
    environment.lease(lease(cpus=2))
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_gpus_are_named_as_the_node_was_given_them(
    environment: ProcessEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-ab")
    environment = ProcessEnvironment()
    environment.lease(lease((1, 0)))
    assert environment.devices == ["GPU-ab", 4]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-ab,4"


def test_a_mark_stands_where_the_output_of_another_begins() -> None:
    written = io.BytesIO()
    stream = MarkedOutput(written, encoding="utf-8", write_through=True)
    names = iter(["", "f", "f", ""])
    stream.whose = lambda: next(names)
    for text in ("1\n", "2", "3\n", "4\n"):
        stream.write(text)
    assert written.getvalue().decode() == f"1\n{OUTPUT_MARK}f\n23\n{OUTPUT_MARK}\n4\n"


def test_text_that_finds_no_room_is_lost_and_reported_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: ``/dev/full`` has no room for anything."""
    lost: list[str] = []
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    ProcessEnvironment().mark_output(lost.append)
    output = os.dup(1)
    for _ in range(2):
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), 1)
        print("lost")
        print("lost, too")
        os.dup2(output, 1)
        print("written")
    os.close(output)
    assert capfd.readouterr().out == "written\nwritten\n"
    assert lost == ["[Errno 28] No space left on device"] * 2


def test_text_beyond_the_limit_of_a_file_is_lost_and_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """``ulimit -f`` is meant for files of tasks; a worker must not fail because its log has reached the limit."""
    lost: list[str] = []
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    ProcessEnvironment().mark_output(lost.append)
    output = os.dup(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
        print("1234")
        print("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.dup2(output, 1)
        os.close(output)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "1234\n"
    assert lost == ["[Errno 27] File too large"]


def test_no_task_can_close_the_output(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    ProcessEnvironment().mark_output(print)
    stream: Any = sys.stdout
    stream.close()
    io.TextIOWrapper(stream.buffer).close()
    io.TextIOWrapper(stream.detach()).close()
    stream.write("still written\n")
    assert capfd.readouterr().out == "still written\n"
