"""Errors between processes: the getter raises the error that a worker dumps, however hostile the exception is."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncray import exceptions
from asyncray.exceptions import (
    ActorDiedError,
    AsyncrayError,
    AsyncraySystemError,
    GetTimeoutError,
    InternalError,
    TaskError,
    UnserializableException,
)
from asyncray.runtime import errors
from asyncray.runtime.errors import dump_task_error, load_task_error, system_error, task_error_text


def raised(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception as a worker catches it: with a traceback of one worker frame and one of the user's."""

    def user_code() -> None:
        if cause is not None:
            raise exc from cause
        raise exc

    try:
        user_code()
    except BaseException as caught:
        return caught
    raise AssertionError


def dump(exc: BaseException, function_name: str = "f", **options: Any) -> bytes:
    options = {"pid": 7, "ip": "10.0.0.1", "skip_frames": 1, "dumps": pickle.dumps, **options}
    return dump_task_error(exc, function_name=function_name, **options)


def sent(exc: BaseException, cause: BaseException | None = None, **options: Any) -> Any:
    """The error that `get` raises. `Any`: tests use it as a TaskError and as an instance of the class of `exc`."""
    payload = dump(raised(exc, cause), **options)
    error = load_task_error(payload, pickle.loads)
    assert task_error_text(payload) == str(error)
    return error


class NeedsArgs(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class NeedsArgsWithMembers(UnicodeDecodeError):
    __slots__ = ("where",)

    def __init__(self, where: str) -> None:
        super().__init__("utf-8", b"\xff", 0, 1, "bad")
        self.where = where


class OddGroup(ExceptionGroup[Exception]):
    def __new__(cls, *errors: Exception) -> OddGroup:
        return super().__new__(cls, "odd", errors)

    def __init__(self, *errors: Exception) -> None:
        super().__init__("odd", errors)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no str")


class NoReduce(Exception):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no reduce")


class BecomesText(Exception):
    def __reduce__(self) -> Any:
        return (str, ("not an exception",))


class Recursing(Exception):
    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "_")


class Unreadable(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class LoadsNowhere(Exception):
    def __reduce__(self) -> Any:
        return (_fail, ())


def _fail() -> None:
    raise OSError("does not load")


# --- what user code raised -------------------------------------------------------------------------------------------


def test_the_error_that_get_raises() -> None:
    error = sent(ValueError("bad"), actor_repr="<A>")
    assert isinstance(error, ValueError)
    assert isinstance(error, TaskError)
    assert type(error.cause) is ValueError
    assert (error.function_name, error.pid, error.ip, error.actor_repr) == ("f", 7, "10.0.0.1", "<A>")
    head, first, *_, last = str(error).splitlines()
    assert head == "asyncray::f() (pid=7, ip=10.0.0.1, repr=<A>)"
    assert first.endswith("in user_code")
    assert last == "ValueError: bad"


@pytest.mark.parametrize(
    ("kind", "told"), [(ActorDiedError, False), (GetTimeoutError, False), (AsyncraySystemError, True), (OSError, True)]
)
def test_frames_of_asyncray_are_told_of_its_own_failures_only(kind: type[Exception], told: bool) -> None:
    names: dict[str, Any] = {"kind": kind}
    exec(compile("def get(): raise kind('why')", errors.__file__, "exec"), names)  # as a get inside the user's code

    def user_code() -> None:
        names["get"]()

    try:
        user_code()
    except Exception as error:
        text = str(load_task_error(dump(error), pickle.loads))
    assert "in user_code" in text
    assert (errors.__file__ in text) == told


def test_an_error_of_the_worker_itself_shows_no_frames() -> None:
    assert str(sent(ValueError("bad"), skip_frames=9)) == "asyncray::f() (pid=7, ip=10.0.0.1)\nValueError: bad"


def test_the_chain_travels() -> None:
    outer = KeyError("middle")
    outer.__context__ = OSError("innermost")
    error = sent(ValueError("bad"), outer)
    for carrier in (error, error.cause):
        assert repr(carrier.__cause__) == "KeyError('middle')"
        assert repr(carrier.__cause__.__context__) == "OSError('innermost')"
        assert not carrier.__cause__.__suppress_context__
        assert carrier.__suppress_context__
    assert "KeyError: 'middle'" in str(error)


def test_a_link_that_cannot_travel_is_replaced() -> None:
    error = sent(ValueError("bad"), Locked())
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, UnserializableException)
    assert "Locked: locked" in str(error.__cause__)


def test_chains_with_cycles_and_long_chains() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    error = load_task_error(dump(first), pickle.loads)
    assert isinstance(error, TaskError)
    assert error.cause.__cause__ is not None
    assert error.cause.__cause__.__cause__ is error.cause
    last: Exception = ValueError(0)
    for i in range(100):
        link = ValueError(i)
        link.__cause__ = last
        last = link
    assert isinstance(load_task_error(dump(last), pickle.loads), ValueError)


def test_through_several_tasks_the_innermost_type_stays() -> None:
    inner = sent(ZeroDivisionError("division"), KeyError("why"), function_name="inner")
    middle = sent(inner, function_name="middle")
    error = sent(middle, function_name="outer")
    assert {ZeroDivisionError, TaskError} <= set(type(error).__mro__)
    assert type(error.cause) is ZeroDivisionError
    assert repr(error.__cause__) == "KeyError('why')"
    assert error.function_name == "outer"
    names = [line for line in str(error).splitlines() if "asyncray::" in line]
    assert [name.partition("asyncray::")[2].partition("(")[0] for name in names] == ["outer", "middle", "inner"]
    assert names[1].startswith("asyncray.exceptions.RayTaskError(ZeroDivisionError): ")
    assert str(error).count("KeyError") == 1  # once, in the text of the innermost


def test_a_task_error_that_is_raised_from_something_tells_it() -> None:
    inner = sent(ValueError("bad"), function_name="inner")
    error = sent(inner, OSError("on the way"), function_name="outer")
    assert isinstance(error, ValueError)
    assert "OSError: on the way" in str(error)


def test_a_task_error_as_the_cause_of_another_error() -> None:
    inner = sent(ValueError("bad"), function_name="inner")
    error = sent(RuntimeError("gave up"), inner)
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, ValueError)
    assert isinstance(error.__cause__, TaskError)


def test_errors_of_asyncray_keep_their_class_through_a_task() -> None:
    error = sent(ActorDiedError(ActorDiedError.KILLED, actor_id="ab"))
    assert isinstance(error, ActorDiedError)
    assert isinstance(error, TaskError)
    assert error.actor_id == "ab"


def test_groups() -> None:
    error = sent(ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])]))
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error, TaskError)
    matched, rest = error.split(ValueError)
    assert repr(matched) == "ExceptionGroup('g', [ValueError('a')])"
    assert repr(rest) == "ExceptionGroup('g', [ExceptionGroup('h', [KeyError('b')])])"
    odd = sent(OddGroup(ValueError("a")))
    assert isinstance(odd, OddGroup)
    assert repr(odd.exceptions) == "(ValueError('a'),)"
    base = sent(BaseExceptionGroup("g", [KeyboardInterrupt()]))
    assert type(base) is TaskError
    assert isinstance(base.cause, BaseExceptionGroup)


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), SystemExit(3), StopIteration(4)], ids=repr)
def test_what_would_steer_the_receiver_comes_plain(cause: BaseException) -> None:
    error = sent(cause)
    assert type(error) is TaskError
    assert repr(error.cause) == repr(cause)


def test_constructors_that_pickle_cannot_call() -> None:
    error = sent(NeedsArgs(4, detail="oh"))
    assert {NeedsArgs, TaskError} <= set(type(error).__mro__)
    assert (error.code, error.args) == (4, ("4: oh",))
    assert type(error.cause) is NeedsArgs
    unicode = sent(NeedsArgsWithMembers("here"))
    assert isinstance(unicode, NeedsArgsWithMembers)
    assert (unicode.where, unicode.reason, unicode.object) == ("here", "bad", b"\xff")


@pytest.mark.parametrize("exc", [NoReduce("x"), BecomesText("x"), Locked(), LoadsNowhere("x")], ids=repr)
def test_what_cannot_travel_leaves_its_text(exc: Exception) -> None:
    error = sent(exc)
    assert type(error) is TaskError
    assert isinstance(error.cause, UnserializableException)
    assert "isn't serializable" in str(error.cause)
    for text in (str(error), str(error.cause)):
        assert type(exc).__name__ in text
        assert "user_code" in text
    again = sent(error, function_name="outer")
    assert type(again) is TaskError
    assert isinstance(again.cause, UnserializableException)


@pytest.mark.parametrize(
    "exc", [Silent("x"), Recursing("x"), ValueError("\udc80 \x00")], ids=["str", "getattr", "text"]
)
def test_hostile_texts(exc: Exception) -> None:
    error = sent(exc)
    assert isinstance(error, TaskError)
    assert isinstance(error, type(exc))
    assert type(exc).__name__ in str(error)


class ReducesWrongly(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code)
        self.detail = detail

    def __reduce__(self) -> Any:
        reductions.append(self)
        return type(self), self.args, {"detail": self.detail}


reductions: list[Exception] = []


def test_a_way_of_its_own_that_fails_keeps_the_class() -> None:
    error = sent(ReducesWrongly(4, "oh"))
    assert isinstance(error, ReducesWrongly)
    assert (error.args, error.detail) == ((4,), "oh")
    assert len(reductions) == 1


def test_an_exception_that_shows_no_attribute() -> None:
    error = load_task_error(dump(raised(Unreadable("x"), KeyError("why"))), pickle.loads)
    assert type(error) is TaskError
    assert "Unreadable: x" in str(error)


def test_classes_that_exist_only_at_the_sender() -> None:
    class Local(Exception):
        pass

    def nowhere(data: bytes) -> object:
        raise ModuleNotFoundError("No module named 'theirs'")

    payload = dump(raised(Local("x")), dumps=cloudpickle.dumps)
    assert isinstance(load_task_error(payload, pickle.loads), Local)
    error = load_task_error(payload, nowhere)
    assert type(error) is TaskError
    assert "No module named 'theirs'" in str(error.cause)
    assert "Local: x" in str(error)


class Interrupted(Exception):
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_while_dumping_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        dump(Interrupted())


plain_values = st.one_of(st.integers(), st.text(), st.binary(), st.none(), st.tuples(st.integers(), st.text()))


@given(
    cls=st.sampled_from([ValueError, KeyError, OSError, Exception, ImportError, SyntaxError, AttributeError]),
    args=st.lists(plain_values, max_size=3),
    attributes=st.dictionaries(st.sampled_from(["a", "pid", "cause", "function_name", "_fields"]), plain_values),
)
def test_args_and_attributes_survive(cls: type[Exception], args: list[Any], attributes: dict[str, Any]) -> None:
    try:
        exc = cls(*args)
    except (TypeError, ValueError):  # SyntaxError wants its second argument in a certain form
        exc = cls()
    exc.__dict__.update(attributes)
    error: Any = load_task_error(dump(exc), pickle.loads)
    assert {cls, TaskError} <= set(type(error).__mro__)
    assert error.args == exc.args
    assert vars(error.cause) == attributes
    assert (error.pid, error.function_name, type(error.cause)) == (7, "f", type(exc))
    assert not hasattr(exc, "a") or error.a == attributes["a"]
    if isinstance(exc, OSError):
        assert (error.errno, error.strerror, error.filename) == (exc.errno, exc.strerror, exc.filename)


# --- what asyncray itself has to tell --------------------------------------------------------------------------------


def test_system_errors() -> None:
    error = system_error("ActorDiedError", {"actor_id": "ab", "message": ActorDiedError.NODE_DIED})
    assert isinstance(error, ActorDiedError)
    assert error.actor_id == "ab"
    assert str(error) == "The actor died because its node has died."
    for name in [n for n, c in vars(exceptions).items() if isinstance(c, type) and issubclass(c, AsyncrayError)]:
        error = system_error(name, {"message": "why"})
        assert "why" in str(error)
        assert type(error).__name__ == (name if name != "TaskError" and "Ray" not in name else "InternalError")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ValueError", {"message": "why"}),
        ("link", {"message": "why"}),
        ("", {"detail": "why"}),
        ("NodeDiedError", {"node": "why"}),
    ],
)
def test_what_is_not_in_the_tree_becomes_a_system_error(name: str, fields: dict[str, object]) -> None:
    error = system_error(name, fields)
    assert type(error) is InternalError
    assert str(error).startswith(f"{name}: ")
    assert "why" in str(error)
