"""The session of this process, and the errors of a process without one."""

from __future__ import annotations

from typing import cast

import pytest

from asyncray.exceptions import NotStartedError, OwnerDiedError
from asyncray.runtime import current
from asyncray.runtime.references import LocalObject, References
from asyncray.runtime.waiters import Waiters


class Session:
    """A session without a node."""

    def __init__(self) -> None:
        self.references = References(lambda: None)
        self.waiters = Waiters()

    @property
    def objects(self) -> current.ObjectReader:
        raise AssertionError("nothing is read")


@pytest.fixture(autouse=True)
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "session", None)
    monkeypatch.setattr(current, "start_implicitly", None)


def test_without_a_session_and_an_implicit_start() -> None:
    for use in (current.require, current.check_started):
        with pytest.raises(NotStartedError, match=r"^Ray has not been started yet\."):
            use()


def test_a_session_is_started_for_code_that_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        starts.append(1)
        current.session = session

    session = Session()
    starts: list[int] = []
    monkeypatch.setattr(current, "start_implicitly", start)
    current.check_started()
    assert not starts
    assert cast(object, current.require()) is session


def test_objects_belong_to_the_session_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = Session(), Session()
    local = LocalObject(b"id", session.references)
    monkeypatch.setattr(current, "session", session)
    assert cast(object, current.session_of(local)) is session
    for now in (other, None):
        monkeypatch.setattr(current, "session", now)
        monkeypatch.setattr(current, "start_implicitly", lambda: None)
        with pytest.raises(OwnerDiedError, match="belongs to another session") as caught:
            current.session_of(local)
        assert caught.value.object_id == b"id".hex()
