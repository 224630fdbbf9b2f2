"""Handles of actors: the messages that methods send to a daemon which the test plays, and the calls they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from asyncray.api.decorator import remote
from asyncray.api.handle import (
    ActorHandle,
    ActorMethod,
    ActorType,
    MethodType,
    check_name,
    named_handle,
    weak_handle,
)
from asyncray.api.signature import Signature
from asyncray.exceptions import ActorDiedError, NotStartedError, PendingCallsLimitExceeded
from asyncray.messages import CALL, CREATE, PLAIN, TEMPLATE, VALUE
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import deserialize, serialize
from asyncray.runtime.waiters import ThreadWaiter
from tests.runtime.daemon_side import DEADLINE, DaemonSide

ACTOR = b"a" * 22


class Counter:
    def add(self, amount: int, *, times: int = 1) -> int:
        return amount * times

    def add_all(self, *amounts: int) -> int:
        return sum(amounts)


def counter(limit: int = -1, **options: object) -> Any:
    """A handle that keeps no actor alive."""
    methods = {name: MethodType(name, Signature.of_method(Counter, name), dict(options)) for name in ("add", "add_all")}
    return ActorHandle(ACTOR, ActorType("Counter", f"{__name__}.Counter", methods, 0, limit), None)


def test_the_first_call_describes_the_method_and_each_call_sends_a_message(daemon: DaemonSide) -> None:
    handle = counter()
    refs = [handle.add.remote(1), handle.add.remote(2, times=3)]
    _, number, _, spec = daemon.next(TEMPLATE)
    assert spec["name"] == "Counter.add"
    assert (spec["options"]["method"], spec["options"]["shown"]) == ("add", f"{__name__}.Counter.add")
    calls = [daemon.next(CALL), daemon.next(CALL)]
    assert [(call[2], call[9]) for call in calls] == [(number, ACTOR), (number, ACTOR)]
    assert [call[1] for call in calls] == [ref.task_id().binary() for ref in refs]
    assert [deserialize(call[4]) for call in calls] == [((1,), {}), ((2,), {"times": 3})]


def test_handles_of_one_type_share_templates(daemon: DaemonSide) -> None:
    one = counter()
    other = pickle.loads(pickle.dumps(one))
    third = pickle.loads(pickle.dumps(other))
    assert other == one
    assert hash(other) == hash(one)
    assert third._asyncray_descriptor is other._asyncray_descriptor  # one in this process for the same bytes
    other.add.remote(1)
    third.add.remote(1)
    assert daemon.next(CALL)[2] == daemon.next(CALL)[2]


def test_options_of_a_call_are_its_own(daemon: DaemonSide) -> None:
    handle = counter()
    assert handle.add.options(num_returns=0).remote(1) is None
    assert len(handle.add.options(num_returns=2, name="pair").remote(1)) == 2
    assert isinstance(handle.add.remote(1), ObjectRef)
    assert [daemon.next(CALL)[8] for _ in range(3)] == [None, "pair", None]
    with pytest.raises(ValueError, match="Invalid option keyword num_cpus for actor methods"):
        handle.add.options(num_cpus=1)


def test_retries_are_those_of_the_actor_unless_the_method_has_its_own(daemon: DaemonSide) -> None:
    methods = {"add": MethodType("add", None, {})}
    handle: Any = ActorHandle(ACTOR, ActorType("A", "m.A", methods, 4, -1), None)
    handle.add.remote()
    assert daemon.next(TEMPLATE)[3]["retries"] == 4
    handle.add.options(max_task_retries=0, retry_exceptions=True).remote()
    spec = daemon.next(TEMPLATE)[3]
    assert (spec["retries"], spec["options"]["retry_on"]) == (0, True)


def test_a_call_that_does_not_fit_sends_nothing(daemon: DaemonSide) -> None:
    handle = counter()
    with pytest.raises(TypeError, match=r"Counter.add\(\) missing 1 required positional argument: 'amount'"):
        handle.add.remote()
    handle.add_all.remote(1, 2, 3)
    assert deserialize(daemon.next(CALL)[4]) == ((1, 2, 3), {})


def test_streaming_is_refused(daemon: DaemonSide) -> None:
    with pytest.raises(ValueError, match="would hand out its results one by one"):
        counter(num_returns="streaming").add.remote(1)


@pytest.mark.parametrize("returns", [0, 1, 2])
def test_no_more_calls_are_pending_than_the_limit(daemon: DaemonSide, returns: int) -> None:
    handle = counter(limit=2, num_returns=returns)
    results = [handle.add.remote(1) for _ in range(2)]
    with pytest.raises(PendingCallsLimitExceeded, match="has 2 pending calls; max_pending_calls is 2"):
        handle.add.remote(1)
    assert [result is None for result in results] == [not returns] * 2
    spec = daemon.next(TEMPLATE)[3]
    # A call without a result returns None, so that its end is known.
    assert (spec["returns"], spec["options"]["discards"]) == (returns or 1, not returns)
    first = handle._asyncray_pending[0]._local
    waiter = ThreadWaiter(1)
    assert current.session is not None
    assert current.session.waiters.register(waiter, (first,))
    daemon.send((VALUE, first.id, PLAIN, serialize(None).pickled))
    assert waiter.wait(DEADLINE)
    handle.add.remote(1)
    with pytest.raises(PendingCallsLimitExceeded):
        handle.add.remote(1)


def test_a_handle_of_a_creation_keeps_the_actor_alive(daemon: DaemonSide) -> None:
    handle: Any = remote(Counter).remote()
    assert daemon.next(CREATE)[1] == handle._asyncray_id
    assert handle._asyncray_life.task_id().binary() == handle._asyncray_id
    weak: Any = weak_handle(handle._asyncray_id, handle._asyncray_descriptor.pickled())
    assert weak == handle
    assert weak._asyncray_life is None
    assert weak.add.remote(1) is not None


def test_methods_are_found_by_name_and_called_by_remote_only() -> None:
    handle = counter()
    assert isinstance(handle.add, ActorMethod)
    assert repr(handle.add) == "<ActorMethod Counter.add>"
    assert {"add", "add_all"} <= set(dir(handle))
    assert repr(handle) == f"Actor(Counter, {ACTOR.hex()})"
    with pytest.raises(TypeError, match=r"Instead of running 'object.add\(\)', try 'object.add.remote\(\)'"):
        handle.add(1)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"'Counter' has no method 'ad'. Did you mean 'add'"):
        _ = handle.ad
    with pytest.raises(AttributeError, match="Attributes cannot be read from outside"):
        _ = handle.value
    with pytest.raises(AttributeError, match=r"has no method '__len__'\.$"):
        _ = handle.__len__


def test_an_invocation_decorator_wraps_each_call(daemon: DaemonSide) -> None:
    def doubled(invoke: Any) -> Any:
        return lambda args, kwargs: invoke((2 * args[0],), kwargs)

    handle: Any = ActorHandle(ACTOR, ActorType("A", "m.A", {"add": MethodType("add", None, {}, doubled)}, 0, -1), None)
    handle.add.remote(4)
    assert deserialize(daemon.next(CALL)[4]) == ((8,), {})


def test_no_session_is_started_for_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise AssertionError("started")

    monkeypatch.setattr(current, "session", None)
    monkeypatch.setattr(current, "start_implicitly", start)
    with pytest.raises(ActorDiedError, match=r"its session was left by shutdown\(\)"):
        counter().add.remote(1)
    monkeypatch.setattr(current, "start_implicitly", None)
    with pytest.raises(NotStartedError):
        counter().add.remote(1)


def test_names_are_checked_before_the_node_is_asked(daemon: DaemonSide) -> None:
    assert check_name("ann", None) == "ann"
    assert check_name("ann", "here") == "ann"
    for name in ("", "  ", None, 3):
        with pytest.raises(ValueError, match="Please supply a non-empty name"):
            check_name(name, None)
    with pytest.raises(ValueError, match='"" is not a valid namespace'):
        check_name("ann", "")
    with pytest.raises(TypeError, match="The namespace must be a string"):
        check_name("ann", 1)


def test_the_answer_about_a_name_becomes_a_handle_or_an_error() -> None:
    descriptor = counter()._asyncray_descriptor.pickled()
    handle = named_handle([ACTOR, descriptor], "ann", "here")
    assert handle == counter()
    with pytest.raises(ValueError, match=r"Failed to look up actor with name 'ann'.*looked in 'here'"):
        named_handle(None, "ann", "here")
