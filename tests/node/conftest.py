"""A fixture that restores the handler of Ctrl-C after each test of the daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def handlers_given_back() -> Iterator[None]:
    """A loop of uvloop that had handlers for signals leaves its own one of SIGINT: tests that follow lose Ctrl-C."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
