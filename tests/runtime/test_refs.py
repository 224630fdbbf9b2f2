"""``ObjectRef`` itself: identity, pickling, and its errors after the end of its session."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.exceptions import OwnerDiedError, TaskCancelledError
from asyncray.messages import FAULT, PLAIN, VALUE
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef, borrow, own
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import serialize
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started

NAME = b"o" * 26


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as (runtime, daemon):
        monkeypatch.setattr(current, "session", runtime)
        yield runtime, daemon


def test_refs_to_one_object_are_equal_and_share_what_is_known_of_it(session: Any) -> None:
    runtime, _ = session
    ref = own(runtime.references, NAME)
    others = [borrow(runtime.references, NAME), ObjectRef(NAME), pickle.loads(pickle.dumps(ref))]
    assert {ref, *others} == {ref}
    assert all(other._local is ref._local for other in others)
    assert ref._local.count == 4
    assert (ref.binary(), ref.hex(), repr(ref)) == (NAME, NAME.hex(), f"ObjectRef({NAME.hex()})")
    assert ref != NAME
    with pytest.raises(ValueError, match="length 26, got 3"):
        ObjectRef(b"abc")


def test_refs_inside_a_value_are_collected_while_it_is_pickled(session: Any) -> None:
    runtime, _ = session
    ref = own(runtime.references, NAME)
    assert serialize({"inside": [ref]}).refs == [ref]


def test_results_and_errors_of_a_ref_that_is_done(session: Any) -> None:
    runtime, daemon = session
    good, bad = own(runtime.references, NAME), own(runtime.references, b"p" * 26)
    assert not good.done()
    assert not good.cancelled()
    with pytest.raises(asyncio.InvalidStateError):
        good.result()
    daemon.send(
        (VALUE, NAME, PLAIN, serialize(3).pickled), (VALUE, b"p" * 26, FAULT, ["TaskCancelledError", {"task_id": ""}])
    )
    runtime.objects.wait([good._local, bad._local], 2, timeout=DEADLINE)
    assert (good.result(), good.exception(), good.cancelled()) == (3, None, False)
    assert isinstance(bad.exception(), TaskCancelledError)
    assert bad.cancelled()
    assert asyncio.run(await_it(good)) == 3
    assert good.future().result(DEADLINE) == 3


async def await_it(ref: Any) -> Any:
    return await asyncio.wait_for(ref.as_future(), DEADLINE)


def test_a_ref_of_a_session_that_has_ended(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, _ = session
    ref = own(runtime.references, NAME)
    with started() as (other, _):
        monkeypatch.setattr(current, "session", other)
        assert ref.done()
        assert isinstance(ref.exception(), OwnerDiedError)
        assert not ref.cancelled()
        for use in (ref.result, ref.future, lambda: ref.add_done_callback(print)):
            with pytest.raises(OwnerDiedError, match="another session"):
                use()
        assert ref.remove_done_callback(print) == 0
        monkeypatch.setattr(current, "session", runtime)
