"""Remote functions: the messages that they send to a daemon which the test plays, and the arguments they refuse."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.api.decorator import remote
from asyncray.api.function import DECORATOR, RemoteFunction, retry_on
from asyncray.exceptions import OwnerDiedError
from asyncray.messages import FUNCTION, SUBMIT, TEMPLATE
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import deserialize
from tests.runtime.daemon_side import DaemonSide, started


def plain(x: int, y: int = 0) -> int:
    """Adds."""
    return x + y


add: Any = remote(plain)


def test_the_first_call_sends_function_and_template_and_each_call_a_message(daemon: DaemonSide) -> None:
    function: Any = remote(plain)
    refs = [function.remote(1), function.remote(2, y=3)]
    _, _, digest, pickled, _ = daemon.next(FUNCTION)
    assert deserialize(pickled) is plain
    _, number, _, spec = daemon.next(TEMPLATE)
    assert (spec["name"], spec["function"], spec["returns"]) == ("plain", digest, 1)
    assert spec["options"]["shown"] == f"{__name__}.plain"
    submitted = [daemon.next(SUBMIT), daemon.next(SUBMIT)]
    assert [message[2] for message in submitted] == [number, number]
    assert [message[1] for message in submitted] == [ref.task_id().binary() for ref in refs]
    assert [deserialize(message[4]) for message in submitted] == [((1,), {}), ((2,), {"y": 3})]


def test_copies_share_the_function_and_equal_options_the_template(daemon: DaemonSide) -> None:
    function: Any = remote(plain)
    for cpus in (2, 2, 3):
        function.options(num_cpus=cpus).remote(1)
    numbers = [daemon.next(SUBMIT)[2] for _ in range(3)]
    assert numbers[0] == numbers[1] != numbers[2]
    function.remote(1)
    assert daemon.next(SUBMIT)[2] not in numbers


def test_a_name_travels_with_its_call(daemon: DaemonSide) -> None:
    add.options(name="one").remote(1)
    add.remote(1)
    one, other = daemon.next(SUBMIT), daemon.next(SUBMIT)
    assert (one[8], other[8]) == ("one", None)
    assert one[2] == other[2]


@pytest.mark.parametrize(("count", "kind"), [(0, type(None)), (1, ObjectRef), (2, list)])
def test_the_number_of_returns_is_that_of_the_refs(daemon: DaemonSide, count: int, kind: type) -> None:
    assert type(add.options(num_returns=count).remote(1)) is kind
    assert daemon.next(TEMPLATE)[3]["returns"] == count


def test_a_call_that_does_not_fit_sends_nothing(daemon: DaemonSide) -> None:
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument: 'x'"):
        add.remote()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.remote(1, z=2)
    add.remote(5)
    assert deserialize(daemon.next(SUBMIT)[4]) == ((5,), {})


def test_a_ref_of_an_earlier_session_is_refused(daemon: DaemonSide) -> None:
    with started() as (other, _):
        ref = other.objects.put(1)
        with pytest.raises(OwnerDiedError, match="belongs to another session"):
            add.remote(ref)


def test_a_function_finds_its_template_in_each_session(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with started() as (runtime, daemon):
            monkeypatch.setattr(current, "session", runtime)
            add.remote(1)
            assert daemon.next(FUNCTION)[2]
            assert daemon.next(TEMPLATE)[1] == daemon.next(SUBMIT)[2]


def test_calling_it_directly_is_refused_with_the_right_form() -> None:
    with pytest.raises(TypeError, match=r"Instead of running 'plain\(\)', try 'plain.remote\(\)'"):
        add(1)


def test_it_looks_like_the_function() -> None:
    assert (add.__name__, add.__doc__, add.__module__, add.__wrapped__) == ("plain", "Adds.", __name__, plain)
    assert repr(add) == f"<RemoteFunction {__name__}.plain>"


def test_options_make_a_copy_and_check_names_and_values() -> None:
    copy = add.options(num_cpus=2)
    assert copy._options == {"num_cpus": 2}
    assert copy.options(max_retries=0)._options == {"num_cpus": 2, "max_retries": 0}
    assert add._options == {}
    with pytest.raises(ValueError, match=r"Invalid option keyword num_cpu .*Did you mean 'num_cpus'"):
        add.options(num_cpu=1)
    with pytest.raises(ValueError, match=r"Setting 'max_calls' is not supported in '.options"):
        add.options(max_calls=1)
    with pytest.raises(ValueError, match="runtime_env cannot be used yet"):
        add.options(runtime_env={"env_vars": {}})


def test_a_generator_needs_a_number_of_returns(daemon: DaemonSide) -> None:
    @remote
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(ValueError, match="would hand out its results one by one"):
        numbers.remote()
    refs: Any = numbers.options(num_returns=1).remote()
    assert isinstance(refs, ObjectRef)


def test_a_pickled_function_forgets_the_session(daemon: DaemonSide) -> None:
    function: Any = remote(plain)
    function.remote(1)
    copy = pickle.loads(pickle.dumps(function))
    assert type(copy) is RemoteFunction
    assert copy._exported is None
    assert copy.__wrapped__ is plain


def test_an_invocation_decorator_wraps_each_call(daemon: DaemonSide) -> None:
    def twice(invoke: Any) -> Any:
        return lambda args, kwargs: [invoke(args, kwargs), invoke((*args, 1), kwargs)]

    def function(*args: int) -> int:
        return sum(args)

    setattr(function, DECORATOR, twice)
    decorated: Any = remote(function)
    first, second = decorated.remote(7)
    submitted = [daemon.next(SUBMIT), daemon.next(SUBMIT)]
    assert [deserialize(message[4])[0] for message in submitted] == [(7,), (7, 1)]
    assert [message[1] for message in submitted] == [first.task_id().binary(), second.task_id().binary()]


def test_exceptions_to_retry_after_travel_as_a_truth_value_or_pickled() -> None:
    assert retry_on(True) is True
    pickled = retry_on((ValueError,))
    assert isinstance(pickled, bytes)
    assert deserialize(pickled) == (ValueError,)
