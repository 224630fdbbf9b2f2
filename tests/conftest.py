"""A defined state for the processes of the tests, however `pytest` was started.

A shell that starts a program in the background makes it ignore SIGINT, `nohup` makes it ignore SIGHUP, some callers
block signals, and people export variables that asyncray reads. Children inherit all of that, and tests would test the
caller.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

KEPT = {
    "ASYNCRAY_CHAOS_SECONDS",
    "ASYNCRAY_CHAOS_SEED",
    "ASYNCRAY_SIM_FIRST",
    "ASYNCRAY_SIM_SEEDS",
    "ASYNCRAY_SOAK_SECONDS",
}


def pytest_configure() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in os.environ.keys() - KEPT:
        if name.startswith("ASYNCRAY_"):
            del os.environ[name]


def pytest_collection_finish() -> None:
    """The leak check collects garbage twice a test: it need not look at the 100,000 objects of the tests themselves."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def session_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The empty directory of a session, the only one under ``ASYNCRAY_TMPDIR``."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(tmp_path))
    directory = tmp_path / "session_1"
    directory.mkdir()
    return str(directory)
