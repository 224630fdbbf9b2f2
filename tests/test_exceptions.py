"""The error tree: its drawing, its messages, pickling, and the class that is both `TaskError` and the user's."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncray import exceptions
from asyncray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorUnavailableError,
    AsyncrayError,
    GetTimeoutError,
    ObjectLostError,
    OwnerDiedError,
    TaskCancelledError,
    TaskError,
    UnserializableException,
    combined_class,
)

TREE = sorted(
    {c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, AsyncrayError)},
    key=lambda c: c.__name__,
)
PLAIN = [c for c in TREE if c is not TaskError]
TRACEBACK = "Traceback (most recent call last):\n  File 'x.py', line 1, in f\nValueError: bad\n"


def task_error(cause: BaseException, actor_repr: str | None = None) -> TaskError:
    return TaskError("f", TRACEBACK, cause, pid=7, ip="10.0.0.1", actor_repr=actor_repr)


def dual(cause: BaseException) -> TaskError:
    return task_error(cause).as_instanceof_cause()


# --- the tree --------------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, str | None]:
    """Class name -> name of its parent, as the module's docstring draws it."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (exceptions.__doc__ or "").splitlines():
        drawn = re.fullmatch(r"( {4,})(\w+)(  .*)?", line)
        if drawn is None:
            continue
        indent = len(drawn[1])
        path = [(i, name) for i, name in path if i < indent]
        parents[drawn[2]] = path[-1][1] if path else None
        path.append((indent, drawn[2]))
    return parents


def test_the_docstring_draws_the_tree() -> None:
    def parent(cls: type) -> str | None:
        return next((b.__name__ for b in cls.__bases__ if issubclass(b, AsyncrayError)), None)

    assert drawn_tree() == {cls.__name__: parent(cls) for cls in TREE}


def test_exactly_the_reserved_classes_are_never_raised() -> None:
    tree = (exceptions.__doc__ or "").partition("\n\n")[2].partition('"code" is')[0]
    reserved = set(re.findall(r"^ +(\w+) .*; reserved$", tree, re.MULTILINE))
    root = Path(exceptions.__file__).parent
    package = "".join(path.read_text() for path in root.rglob("*.py") if path != Path(exceptions.__file__))
    # ``core.destinations`` puts "Actor" in front of some names.
    names = {cls.__name__: rf"\b{cls.__name__.replace('Actor', '(?:Actor)?', 1)}\b" for cls in TREE}
    assert {name for name, pattern in names.items() if not re.search(pattern, package)} == reserved
    reference = (root.parent / "docs" / "reference.md").read_text(encoding="utf-8")
    never = reference.partition("This release never raises these")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", never)) - {"except", "ObjectLostError"} == reserved


@pytest.mark.parametrize("cls", TREE, ids=lambda c: c.__name__)
def test_each_tells_whose_fault_it_is_in_one_line(cls: type[AsyncrayError]) -> None:
    doc = cls.__doc__ or ""
    assert "\n" not in doc
    assert re.search(r"\. Fault: (code|caller|machine|asyncray|nobody|see the subclass)\.$", doc)


def test_the_standard_classes_and_rays_names() -> None:
    assert issubclass(GetTimeoutError, TimeoutError)
    assert issubclass(ActorAlreadyExistsError, ValueError)
    assert issubclass(exceptions.ReferenceCountingAssertionError, AssertionError)
    assert exceptions.RayError is AsyncrayError
    assert exceptions.RayTaskError is TaskError
    assert exceptions.RayActorError is ActorError
    assert exceptions.RaySystemError is exceptions.AsyncraySystemError
    assert exceptions.LocalRayletDiedError is exceptions.LocalNodeDiedError


def test_messages_that_users_match() -> None:
    assert "was cancelled" in str(TaskCancelledError())
    assert "ab12" in str(TaskCancelledError(task_id="ab12"))
    assert "was cancelled" in str(TaskCancelledError(task_id="ab12"))
    assert "isn't serializable" in str(UnserializableException())
    assert "it was killed by `ray.kill" in ActorDiedError.KILLED
    assert "exit_actor()" in ActorDiedError.EXITED
    assert "The actor is dead because its worker process has died" in ActorDiedError.WORKER_DIED
    assert "The actor is dead because its owner has died" in ActorDiedError.OWNER_DIED
    assert "The actor died because its node has died." in ActorDiedError.NODE_DIED
    assert "because of an error raised in its creation task" in ActorDiedError.CREATION_FAILED
    assert "actor died" in ActorDiedError.GROUP_REMOVED
    assert "The actor is restarting" in ActorUnavailableError.RESTARTING
    assert str(ActorAlreadyExistsError(name="x")).startswith("The name x is already taken. Please use a different name")
    assert str(OwnerDiedError(object_id="cd")).startswith("Failed to retrieve object cd. The object's owner")


@pytest.mark.parametrize("cls", PLAIN, ids=lambda c: c.__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_round_trips(cls: type[AsyncrayError], again: Callable[[Any], Any]) -> None:
    fields: dict[str, Any] = {}
    if issubclass(cls, ActorError):
        fields = {"actor_id": "ab", "preempted": True}
    elif issubclass(cls, ObjectLostError | TaskCancelledError | ActorAlreadyExistsError):
        names: dict[type[AsyncrayError], str] = {TaskCancelledError: "task_id", ActorAlreadyExistsError: "name"}
        fields = {names.get(cls, "object_id"): "ab"}
    for error in (cls(), cls("why"), cls(**fields), cls("why", **fields)):
        error.add_note("noted")
        back = again(error)
        assert type(back) is cls
        assert str(back) == str(error) != ""
        assert vars(back) == vars(error) == {**vars(cls(**fields)), **vars(error)}
    assert str(cls("why", **fields)) == "why"


def test_an_actor_error_tells_its_message() -> None:
    assert ActorDiedError("gone", actor_id="ab").error_msg == "gone"


def test_importing_costs_no_start_up_time() -> None:
    heavy = {"asyncio", "traceback", "inspect", "msgpack", "pickle", "dataclasses"}
    # Run, not imported, so that what the package's own __init__ imports does not count.
    code = f"import sys; exec(open(sys.argv[1]).read(), {{'__name__': 'm'}}); print(*({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code, exceptions.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- TaskError and the class of its cause ----------------------------------------------------------------------------


class Detailed(Exception):
    """Wants two arguments, keeps one in args, and has attributes, a method and a property."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.cause = "their own idea of a cause"

    def doubled(self) -> int:
        return self.code * 2

    @property
    def shouted(self) -> str:
        return str(self.args[0]).upper()


class Slotted(ValueError):
    __slots__ = ("__hidden", "unset", "x")

    def __init__(self, x: int) -> None:
        self.x = x
        self.__hidden = x + 1

    def hidden(self) -> int:
        return self.__hidden


class PropertyNamedCause(Exception):
    @property
    def cause(self) -> str:
        return "theirs"


class OwnNew(OSError):
    def __new__(cls, *, path: str) -> OwnNew:
        return super().__new__(cls, 2, "gone", path)

    def __init__(self, *, path: str) -> None:
        super().__init__(2, "gone", path)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    n: int


class NoSuchAttribute(Exception):
    def __init__(self) -> None:
        self.inner = {"a": 1}

    def __getattr__(self, name: str) -> Any:
        return self.inner[name]  # endless recursion until `inner` is set


class OwnReduce(Exception):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no pickling")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("no setting")


class MyBase(BaseException):
    pass


def test_text_and_fields_of_a_plain_error() -> None:
    error = task_error(ValueError("bad"), actor_repr="<A>")
    assert (error.function_name, error.traceback_str, error.pid, error.ip) == ("f", TRACEBACK, 7, "10.0.0.1")
    assert str(error).splitlines() == [
        "asyncray::f() (pid=7, ip=10.0.0.1, repr=<A>)",
        "  File 'x.py', line 1, in f",
        "ValueError: bad",
    ]
    assert repr(error) == "TaskError(ValueError('bad'))"
    assert error.__cause__ is error.cause


def test_an_error_that_is_both() -> None:
    cause = ValueError("bad", 3)
    cause.__cause__ = KeyError("deeper")
    cause.__context__ = OSError("around")
    error = dual(cause)
    assert isinstance(error, ValueError)
    assert isinstance(error, TaskError)
    assert error.cause is cause
    assert error.args == ("bad", 3)
    assert error.__cause__ is cause.__cause__
    assert error.__context__ is cause.__context__
    assert error.__suppress_context__
    assert type(error).__name__ == "RayTaskError(ValueError)"
    assert repr(error) == "RayTaskError(ValueError)(ValueError('bad', 3))"
    assert str(error) == str(task_error(cause))
    assert error.as_instanceof_cause() is error
    assert type(dual(ValueError())) is type(error)


def test_a_context_that_is_not_suppressed_stays_so() -> None:
    cause = ValueError()
    cause.__context__ = KeyError()
    assert not dual(cause).__suppress_context__


def test_attributes_methods_and_properties_of_the_cause() -> None:
    error: Any = dual(Detailed(21, "oh"))
    assert (error.code, error.doubled(), error.shouted, error.args) == (21, 42, "OH", ("oh",))
    assert isinstance(error.cause, Detailed)
    error = dual(Slotted(1))
    assert (error.x, error.hidden(), error.args) == (1, 2, (1,))
    assert not hasattr(error, "unset")
    error = dual(OwnNew(path="/a"))
    assert (error.errno, error.strerror, error.filename) == (2, "gone", "/a")
    error = dual(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert (error.object, error.end, error.reason) == (b"\xff", 1, "bad")
    error = dual(Frozen(3))
    assert error.n == 3
    error = dual(NoSuchAttribute())
    assert error.a == 1
    assert isinstance(dual(PropertyNamedCause()).cause, PropertyNamedCause)


COMBINABLE: list[Callable[[], BaseException]] = [
    lambda: ValueError("x"),
    lambda: Exception("x"),
    lambda: Slotted(1),
    lambda: PropertyNamedCause("x"),
    lambda: FileNotFoundError(2, "gone", "/a"),
    lambda: MyBase("x"),
    lambda: TaskCancelledError(task_id="ab"),
    lambda: GetTimeoutError(),
    lambda: ActorAlreadyExistsError(name="x"),
    lambda: ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])]),
]


@pytest.mark.parametrize("make", COMBINABLE, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_both_round_trip(make: Callable[[], BaseException], again: Callable[[Any], Any]) -> None:
    cause = make()
    error = dual(cause)
    error.add_note("noted")
    back = again(error)
    assert type(back) is type(error) is not TaskError
    assert isinstance(back, type(cause))
    assert type(back.cause) is type(cause)
    assert str(back) == str(error)
    assert repr(back.args) == repr(cause.args)
    assert back.__notes__ == ["noted"]
    plain = again(task_error(cause))
    assert type(plain) is TaskError
    assert str(plain) == str(error)


def test_reduce_and_setattr_of_the_cause_are_not_in_the_way() -> None:
    error = dual(OwnReduce("x"))
    assert isinstance(error, OwnReduce)
    assert copy.copy(error).cause is error.cause


def test_groups_stay_groups() -> None:
    group = ExceptionGroup("g", [ValueError("a"), dual(KeyError("b")), ExceptionGroup("h", [OSError("c")])])
    error = dual(group)
    assert isinstance(error, ExceptionGroup)
    assert error.exceptions == group.exceptions
    caught: list[str] = []
    try:
        raise error
    except* (ValueError, OSError) as few:
        caught += [type(e).__name__ for e in few.exceptions]
    except* KeyError as rest:
        caught += [type(e).__name__ for e in rest.exceptions]
    assert caught == ["ValueError", "ExceptionGroup", "RayTaskError(KeyError)"]


class FinalMeta(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> FinalMeta:
        if any(isinstance(base, FinalMeta) for base in bases):
            raise TypeError("final")
        return super().__new__(mcs, name, bases, namespace)


class Final(Exception, metaclass=FinalMeta):
    pass


class Refusing(Exception):
    def __init_subclass__(cls) -> None:
        raise RuntimeError("do not subclass")


def test_a_class_that_cannot_be_combined_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Lonely(Exception):
        def __init_subclass__(cls) -> None:
            raise TypeError("stays alone")

    for _ in range(2):
        error = TaskError("f", "text", Lonely("x")).as_instanceof_cause()
        assert type(error) is TaskError
        assert isinstance(error.cause, Lonely)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("asyncray", "WARNING")
    assert "Lonely does not let itself be combined with RayTaskError (stays alone)" in record.getMessage()
    assert "You can use `ray_task_error.cause`" in record.getMessage()
    for cause in (KeyboardInterrupt(), BaseExceptionGroup("two", [SystemExit()])):  # these are not meant to be
        assert type(TaskError("f", "text", cause).as_instanceof_cause()) is TaskError
    assert len(caplog.records) == 1


class OddGetattribute(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize(
    "cause",
    [
        Final("x"),
        Refusing("x"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(1),
        StopAsyncIteration(),
        asyncio.CancelledError(),
        BaseExceptionGroup("g", [MyBase()]),
        UnserializableException(),
        task_error(ValueError()),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_cannot_or_must_not_be_both_stays_plain(cause: BaseException) -> None:
    error = dual(cause)
    assert type(error) is TaskError
    assert error.cause is cause
    assert "ValueError: bad" in str(error)


def test_a_class_without_readable_attributes_stays_plain() -> None:
    assert type(dual(OddGetattribute("x"))) is TaskError


def test_a_repr_that_raises_is_no_trouble() -> None:
    class Mute(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    assert repr(dual(Mute())) == "RayTaskError(Mute)(<Mute>)"


def test_the_classes_made_are_bounded() -> None:
    for i in range(300):
        combined_class(type(f"E{i}", (Exception,), {}))
    assert combined_class.cache_info().currsize <= 256
