"""The start and the end of a session, interrupted twice."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from asyncray.api import session
from asyncray.config import GOODBYE_DEADLINE
from asyncray.runtime import current
from asyncray.runtime.deadlines import Deadline
from asyncray.runtime.launch import LocalNode
from tests.points import at_point


class Came(BaseException):
    pass


class FakeDriver:
    """A session without a node, which may fail to end."""

    runtime = node = None
    is_broken = False

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.ended = 0

    def end(self, deadline: Deadline) -> None:
        self.ended += 1
        if self.fails:
            raise OSError("the disk is full")


@pytest.fixture(autouse=True)
def given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise Came

    monkeypatch.setattr(session, "_refusal", None)
    monkeypatch.setattr(session, "_driver", None)
    monkeypatch.setattr(current, "session", None)
    sigterm = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sigalrm = signal.signal(signal.SIGALRM, handle)
    yield
    assert signal.signal(signal.SIGTERM, sigterm) is signal.SIG_DFL
    signal.signal(signal.SIGALRM, sigalrm)


def come() -> None:
    signal.raise_signal(signal.SIGALRM)


def test_a_second_interrupt_at_any_point_leaves_nothing_of_an_interrupted_init(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def enter(start: session.SessionStart, address: str) -> None:
        start._made = driver
        monkeypatch.setattr(session, "_driver", driver)
        session.signals.install()
        raise Came

    def init() -> None:
        try:
            session.SessionStart("unix:/none", {}).run()
        except Came:
            pass

    monkeypatch.setattr(session.SessionStart, "_enter", enter)
    number = 0
    while True:
        driver: Any = FakeDriver()
        monkeypatch.setattr(session, "_driver", None)
        reached = at_point(number := number + 1, come, init)
        assert session._driver is None, number
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, number
        if not reached:
            break
    assert driver.ended == 1
    assert number > 20


def test_a_second_interrupt_at_any_point_leaves_nothing_of_an_interrupted_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted:
        """A runtime whose daemon does not answer until the user loses patience."""

        def say_goodbye(self, deadline: float) -> None:
            raise Came

    def shutdown() -> None:
        try:
            session.shutdown()
        except Came:
            pass

    first = number = 0
    while True:
        driver: Any = FakeDriver()
        driver.runtime = Interrupted()
        monkeypatch.setattr(session, "_driver", driver)
        monkeypatch.setattr(current, "session", driver.runtime)
        session.signals.install()
        reached = at_point(number := number + 1, come, shutdown)
        if current.session is not None:  # the first interrupt came before shutdown began
            session.signals.restore()
            first = number
            continue
        assert session._driver is None, number
        assert driver.ended, number
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, number
        if not reached:
            break
    assert number > first + 20


def test_a_session_that_fails_to_end_is_not_in_the_way_of_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_driver", FakeDriver(fails=True))
    with pytest.raises(OSError, match="the disk is full"):
        session.shutdown()
    assert session._driver is None


def test_all_steps_of_the_end_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise is that nothing is left after five seconds, whichever of them takes long."""

    def step(name: str) -> Callable[[Any], None]:
        def take_long(left: Any) -> None:
            got.append((name, left.left() if isinstance(left, Deadline) else left))
            now[0] += 2.0

        return take_long

    now, got = [100.0], list[tuple[str, float]]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(session, "STOP_DEADLINE", 5.0)
    ours, theirs = socket.socketpair()
    driver = session._Driver(ours, LocalNode(ours, 0, ""))
    goodbye, runtime = step("goodbye"), SimpleNamespace(waiters=SimpleNamespace(broken=None), stop=step("runtime"))
    runtime.say_goodbye = goodbye
    monkeypatch.setattr(driver, "runtime", runtime)
    monkeypatch.setattr(driver.printer, "close", step("printer"))
    monkeypatch.setattr(driver.node, "wait", step("node"))
    monkeypatch.setattr(session, "_driver", driver)
    session.end_session()
    assert got == [("goodbye", GOODBYE_DEADLINE), ("runtime", 3.0), ("printer", 1.0), ("node", 0.0)]
    ours.close()
    theirs.close()
