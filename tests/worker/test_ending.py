"""The end of a worker: threads, executors and files. ``tests/system`` tries the whole of it with real workers."""

from __future__ import annotations

import concurrent.futures.thread
import subprocess
import sys
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


def test_threads_of_the_worker_itself_end_first_if_they_are_about_to() -> None:
    gate = threading.Event()
    own = threading.Thread(target=gate.wait)
    own.start()
    gate.set()
    ending._wait_for_threads([own])
    assert not own.is_alive()


def test_threads_of_the_worker_itself_are_waited_for_a_moment_only() -> None:
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


HANGING = """
import threading
from asyncray.worker import ending

ending.EXIT_DEADLINE = 0.05
ending.finish(threading.Event().wait, ())
"""


def test_an_end_that_hangs_ends_with_its_process_which_says_where() -> None:
    hanging = subprocess.run([sys.executable, "-c", HANGING], stderr=subprocess.PIPE, text=True, check=False)
    assert hanging.returncode == 1
    assert "Timeout" in hanging.stderr
    assert "in _let_go" in hanging.stderr


def test_no_thread_is_started_where_there_is_none_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(ending, "_start_thread", started.append)
    ours = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    ending._wait_for_threads(ours)
    assert started == []
    assert concurrent.futures.thread._shutdown
