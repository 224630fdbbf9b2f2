"""A session whose daemon is played by the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asyncray.runtime import current
from tests.runtime.daemon_side import DaemonSide, started


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonSide]:
    """The other end of this process's session."""
    with started() as (runtime, daemon):
        monkeypatch.setattr(current, "session", runtime)
        yield daemon
