"""Session directories: which are swept."""

from __future__ import annotations

import os
import tempfile

import pytest

from asyncray.io import sessions


def test_a_session_without_processes_is_swept_but_never_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:  # pytest's own are too long for the path of a socket
        monkeypatch.setenv("ASYNCRAY_TMPDIR", base)
        (own, lock), (stale, its_lock), (running, held) = (sessions.new_session() for _ in range(3))
        os.close(lock)
        os.close(its_lock)
        assert sessions.sweep_stale(own) == [stale]
        assert not sessions.is_running(stale)
        assert sessions.is_running(running)
        assert os.path.exists(f"{own}/lock")
        os.close(held)
