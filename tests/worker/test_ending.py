"""The end of a worker: threads, executors and files. ``tests/system`` tries the whole of it with real workers."""

from __future__ import annotations

import concurrent.futures.thread
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncray.worker import ending


@pytest.fixture(autouse=True)
def executors_work_on() -> Iterator[None]:
    yield
    concurrent.futures.thread._shutdown = False


def test_executors_finish_what_they_were_given() -> None:
    done: list[int] = []
    started = threading.Event()
    executor = ThreadPoolExecutor(1)
    executor.submit(started.wait)
    for number in range(5):
        executor.submit(done.append, number)
    started.set()
    ending._wait_for_threads(())
    assert done == list(range(5))


def test_threads_of_the_worker_itself_are_not_waited_for() -> None:
    gate = threading.Event()
    executor = ThreadPoolExecutor(1)
    executor.submit(gate.wait)
    ending._wait_for_threads(executor._threads)
    gate.set()
    executor.shutdown()


def test_a_thread_that_does_not_end_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ending, "EXIT_GRACE", 0.01)
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="endless")
    thread.start()
    ending._wait_for_threads(())
    gate.set()
    thread.join()
    assert capsys.readouterr().err.endswith("ends without waiting longer for its threads: endless\n")


def test_open_files_are_flushed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        file.write("in the buffer")
        ending.flush_files()
        assert (tmp_path / "file").read_text() == "in the buffer"


def test_a_step_that_raises_does_not_stop_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    ending._attempt(fail)
    assert "KeyboardInterrupt" in capsys.readouterr().err
