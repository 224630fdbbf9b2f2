"""Actor classes: the messages that they send to a daemon which the test plays, and the arguments that they refuse."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asyncray.api.actor import ASYNC_CONCURRENCY, exit_actor, kill, method
from asyncray.api.decorator import remote
from asyncray.exceptions import ActorClassInheritanceException, ActorHandleNotFoundError
from asyncray.messages import CREATE, FUNCTION, KILL, REPLY, REQUEST, TEMPLATE
from asyncray.runtime import current
from asyncray.runtime.arguments import NO_ARGUMENTS
from asyncray.runtime.serialization import deserialize
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started


class Counter:
    """Counts."""

    START = 7

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, by: int) -> int:
        self.value += by
        return self.value


class Waiting:
    async def get(self) -> int:
        return 1


def actor_class(cls: type = Counter, **options: Any) -> Any:
    return remote(**options)(cls) if options else remote(cls)


def described(daemon: DaemonSide) -> dict[str, Any]:
    """The options of the next template."""
    options: dict[str, Any] = daemon.next(TEMPLATE)[3]["options"]
    return options


def test_an_actor_takes_the_class_once_and_a_message_each(daemon: DaemonSide) -> None:
    cls = actor_class()
    handles = [cls.remote(), cls.remote(start=2)]
    _, _, digest, pickled, _ = daemon.next(FUNCTION)
    assert deserialize(pickled) is Counter
    _, number, _, spec = daemon.next(TEMPLATE)
    assert (spec["name"], spec["function"], spec["returns"], spec["retries"]) == ("Counter", digest, 1, 0)
    made = [daemon.next(CREATE), daemon.next(CREATE)]
    assert [message[2] for message in made] == [number, number]
    assert made[0][4] == NO_ARGUMENTS
    assert deserialize(made[1][4]) == ((), {"start": 2})
    assert [message[1] for message in made] == [handle._asyncray_id for handle in handles]


def test_another_session_gets_the_class_again(daemon: DaemonSide, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = actor_class()
    cls.remote()
    with started() as (runtime, other):
        monkeypatch.setattr(current, "session", runtime)
        cls.remote()
        assert deserialize(other.next(FUNCTION)[3]) is Counter
        assert other.next(TEMPLATE)[1] == other.next(CREATE)[2]


def test_copies_with_equal_options_share_a_template(daemon: DaemonSide) -> None:
    cls = actor_class()
    for cpus in (2, 2, 3):
        cls.options(num_cpus=cpus).remote()
    one, same, other = (daemon.next(CREATE)[2] for _ in range(3))
    assert one == same != other


def test_calls_are_ordered_where_one_runs_at_a_time(daemon: DaemonSide) -> None:
    for cls, options in (
        (Counter, {"max_restarts": 1}),
        (Counter, {"max_concurrency": 2}),
        (Waiting, {}),
        (Counter, {"allow_out_of_order_execution": True}),
        (Waiting, {"max_concurrency": 1}),
    ):
        actor_class(cls, **options).remote()
    found = [described(daemon) for _ in range(5)]
    assert [options["ordered"] for options in found] == [True, False, False, False, False]
    assert [options["concurrency"] for options in found] == [1, 2, ASYNC_CONCURRENCY, 1, 1]
    assert [options["restarts"] for options in found] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(("cls", "options"), [(Waiting, {}), (Counter, {"max_concurrency": 2})])
def test_calls_that_overlap_cannot_be_ordered(cls: type, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="their calls overlap"):
        actor_class(cls, allow_out_of_order_execution=False, **options)


def test_a_class_is_no_function_and_no_base(daemon: DaemonSide) -> None:
    cls = actor_class()
    with pytest.raises(TypeError, match=r"use 'Counter\.remote\(\)'"):
        cls()
    with pytest.raises(ActorClassInheritanceException, match="plain class Counter"):
        type("Child", cls.__mro_entries__((cls,)), {})
    with pytest.raises(TypeError, match="unexpected"):
        cls.remote(stop=1)


def test_a_class_looks_like_its_own() -> None:
    cls = actor_class()
    assert (cls.__name__, cls.__doc__, cls.START, repr(cls)) == ("Counter", "Counts.", 7, "ActorClass(Counter)")
    assert {"START", "options", "remote"} <= set(dir(cls))
    copy = pickle.loads(pickle.dumps(cls.options(num_cpus=2)))
    assert (copy.START, copy._asyncray_options) == (7, {"num_cpus": 2})


def beside(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs on a thread, because the test has to play the daemon meanwhile."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_a_named_actor_is_asked_for(daemon: DaemonSide) -> None:
    cls = actor_class().options(name="ann", get_if_exists=True)
    descriptors = []
    for answer in ("made", "found"):
        thread, results = beside(cls.remote)
        _, number, asked, (namespace, name, reuse, descriptor, message) = daemon.next(REQUEST)
        assert (asked, namespace, name, reuse, message[0]) == ("create_named", "here", "ann", True, CREATE)
        descriptors.append(descriptor)
        daemon.send((REPLY, number, None if answer == "made" else [b"a" * 22, descriptor]))
        thread.join(DEADLINE)
        assert results[0]._asyncray_id == (message[1] if answer == "made" else b"a" * 22)
    assert descriptors[0] == descriptors[1]


def test_kill_is_said_of_handles_of_this_session(daemon: DaemonSide, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = actor_class().remote()
    kill(handle)
    kill(handle, no_restart=False)
    assert [daemon.next(KILL) for _ in range(2)] == [[KILL, handle._asyncray_id, flag] for flag in (True, False)]
    no_handle: Any = Counter()
    with pytest.raises(ValueError, match="only supported for actors"):
        kill(no_handle)
    with started() as (runtime, _):
        monkeypatch.setattr(current, "session", runtime)
        with pytest.raises(ActorHandleNotFoundError, match="a session that has ended"):
            kill(handle)


def test_only_an_actor_can_exit(daemon: DaemonSide) -> None:
    with pytest.raises(TypeError, match="a non-actor worker"):
        exit_actor()


def test_a_method_has_options_that_are_named() -> None:
    assert method(len) is len
    with pytest.raises(ValueError, match="by keyword"):
        method()
    with pytest.raises(ValueError, match="num_cpus"):
        method(num_cpus=1)  # type: ignore[call-overload]
