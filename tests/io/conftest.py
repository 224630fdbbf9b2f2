"""A client of a stream whose other end the test holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.io.stream_client import DEADLINE, Client


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that a handler raises in a finalizer goes nowhere: no fault of the test's."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    client.channel.start()
    yield client
    client.channel.stop(DEADLINE)
    client.daemon.socket.close()
    assert client.ended.is_set()
    assert len(client.closed) == 1
