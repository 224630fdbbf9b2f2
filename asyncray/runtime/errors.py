"""Errors on their way from the process in which they happen to the process that calls `get`.

Two kinds travel. An exception of user code travels as an opaque payload: a worker makes it, the process that calls
`get` loads it, and daemons pass it on without unpickling it. An error of asyncray itself travels as its name and plain
fields, so that a daemon can make it.

A payload is a msgpack list:

    [traceback text, function name, pid, ip, repr of the actor or nil, nodes]

with the cause as node 0, followed by the exceptions that its `__cause__` and `__context__` lead to, which pickle would
drop. A node is

    [pickled exception or nil, one line about it, index of cause, index of context, suppress]

with -1 for "none". Each exception is pickled once. One whose class has a constructor of its own, and no way of its own
to be pickled, travels as its state (class, slots, `__dict__`): pickle would call the constructor with `args` alone,
which few constructors take. If it has a way of its own, and that fails where it is loaded, it becomes an instance with
the arguments and state that its `__reduce__` gave.

Promises: dumping and loading always give an error that shows the text, whatever the user's class does (`Exception`s
only: a `KeyboardInterrupt` still interrupts); no class outside `asyncray.exceptions` is made from a name.

Does not: choose a pickler, catch anything of the user's, carry the chains of exceptions inside a group.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, cast

import msgpack

from asyncray import exceptions
from asyncray.exception_state import link, revive
from asyncray.exceptions import (
    AsyncrayError,
    AsyncraySystemError,
    InternalError,
    TaskError,
    UnserializableException,
    portable,
)
from asyncray.io.interrupts import raised_by_handler
from asyncray.runtime.serialization import is_registered

if TYPE_CHECKING:
    import traceback

_Node = tuple[bytes | None, str, int, int, bool]

# Code that loops over retries with `raise ... from` makes longer chains. The text has all of them.
_MAX_NODES = 32

# An error that is larger than this is data. It would break the stream that it travels on.
_LONGEST_TEXT = 1_000_000
_LONGEST_LINE = 10_000
_LARGEST_EXCEPTION = 32 * 1024 * 1024

_PACKAGE = exceptions.__file__.removesuffix("exceptions.py")

_SYSTEM_ERRORS: dict[str, type[AsyncrayError]] = {
    cls.__name__: cls
    for cls in vars(exceptions).values()
    if isinstance(cls, type) and issubclass(cls, AsyncrayError) and cls is not TaskError
}


def dump_task_error(
    exc: BaseException,
    *,
    function_name: str,
    pid: int,
    ip: str,
    actor_repr: str | None = None,
    skip_frames: int = 0,
    dumps: Callable[[object], bytes],
) -> bytes:
    """The payload for an exception that user code raised.

    Args:
        exc: the exception. Of a `TaskError` (a `get` inside the task raised it) the cause is carried on, so that the
            innermost type stays; its text becomes part of the new text.
        function_name, pid, ip, actor_repr: where it was raised.
        skip_frames: how many frames at the outer end of the traceback are the worker's own and not to be shown.
        dumps: pickles one object; may raise any `Exception`.
    """
    cause = exc
    while issubclass(type(cause), TaskError):  # isinstance would ask the exception for its __class__
        cause = cast(TaskError, cause).cause
    chain = _chain(cause)
    index = {id(linked): i for i, linked in enumerate(chain)}
    nodes = [_dump_node(linked, index, dumps) for linked in chain]
    payload = [_cut(_format(exc, skip_frames), _LONGEST_TEXT), function_name, pid, ip, actor_repr, nodes]
    # Messages with file names may hold lone surrogates, which UTF-8 refuses.
    return cast(bytes, msgpack.packb(payload, unicode_errors="surrogatepass"))


def load_task_error(payload: bytes, loads: Callable[[bytes], object]) -> Exception:
    """The exception that `get` raises for a payload: a `TaskError`, and an instance of the cause's class if possible.

    Args:
        payload: what `dump_task_error` gave.
        loads: unpickles one object; may raise any `Exception`.
    """
    text, function_name, pid, ip, actor_repr, nodes = _unpack(payload)
    chain = [_load_node(node, text if i == 0 else node[1], loads) for i, node in enumerate(nodes)]
    for exc, (_, _, cause, context, suppress) in zip(chain, nodes, strict=True):
        link(exc, chain[cause] if cause >= 0 else None, chain[context] if context >= 0 else None, suppress=suppress)
    error = TaskError(function_name, text, chain[0], pid=pid, ip=ip, actor_repr=actor_repr)
    return error.as_instanceof_cause()


def task_error_text(payload: bytes) -> str:
    """The `str` of a payload's error, without unpickling, so that a daemon can say why a constructor failed."""
    text, function_name, pid, ip, actor_repr, _ = _unpack(payload)
    return str(TaskError(function_name, text, UnserializableException(), pid=pid, ip=ip, actor_repr=actor_repr))


def system_fault(payload: tuple[str, dict[str, object]]) -> Exception:
    """The exception for a fault. If an exception of user code caused it, the text shows that exception."""
    name, fields = payload[:2]
    fields = dict(fields)
    cause = fields.pop("cause", None)
    if cause is not None:
        fields["message"] = f"{fields.get('message', '')}, {task_error_text(cast(bytes, cause))}"
    return system_error(name, fields)


def system_error(name: str, fields: dict[str, object]) -> Exception:
    """One of asyncray's own errors, from what a daemon sent.

    Args:
        name: the name of a class of `asyncray.exceptions`, not an alias; `TaskError` travels as a payload.
        fields: arguments of its constructor.

    Returns: the error; an `InternalError` that shows name and fields if there is no such class or it has no such
    fields, because the process that waits must get an answer.
    """
    try:
        return _SYSTEM_ERRORS[name](**fields)  # type: ignore[arg-type]  # checked by the call
    except (KeyError, TypeError):
        return InternalError(f"{name}: {fields.get('message', fields)}")


def _unpack(payload: bytes) -> tuple[str, str, int, str, str | None, list[_Node]]:
    fields = msgpack.unpackb(payload, unicode_errors="surrogatepass")
    return cast("tuple[str, str, int, str, str | None, list[_Node]]", fields)


def _chain(exc: BaseException) -> list[BaseException]:
    """`exc`, its cause and context, theirs, and so on; each once, because chains may have cycles."""
    found = [exc]
    for at in found:
        for linked in _links(at):
            if linked is not None and len(found) < _MAX_NODES and all(linked is not other for other in found):
                found.append(linked)
    return found


def _links(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Cause and context, past any `__getattribute__` of the user's."""
    return object.__getattribute__(exc, "__cause__"), object.__getattribute__(exc, "__context__")


def _dump_node(exc: BaseException, index: dict[int, int], dumps: Callable[[object], bytes]) -> _Node:
    pickled = None
    about = _cut(_one_line(exc), _LONGEST_LINE)
    try:
        pickled = dumps(_portable(exc))
        if len(pickled) > _LARGEST_EXCEPTION:
            about = f"{about} (it takes {len(pickled) >> 20} MiB pickled: too much for an error)"
            pickled = None
    except Exception as error:  # user code pickles itself
        about = f"{about} ({_one_line(error)})"
    cause, context = (index.get(id(linked), -1) for linked in _links(exc))
    return pickled, about, cause, context, object.__getattribute__(exc, "__suppress_context__")


class _Reduced:
    """Pickles into an exception as its class wants it, but has an answer if its constructor fails then."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __reduce__(self) -> str | tuple[object, ...]:
        reduced = self._exc.__reduce_ex__(5)
        if isinstance(reduced, str):
            return reduced
        make, args, *state = reduced
        return _rebuild, (type(self._exc), make, args), *state


def _rebuild(cls: type[BaseException], make: Callable[..., object], args: tuple[object, ...]) -> object:
    try:
        return make(*args)
    except Exception:  # as in a subclass whose constructor takes other arguments
        return revive(cls, {"args": args}, {})


def _portable(exc: BaseException) -> object:
    """Something that pickles into the exception."""
    cls = type(exc)
    if is_registered(cls) or cls in copyreg.dispatch_table:
        return exc
    constructs = isinstance(cls.__init__, FunctionType) or isinstance(cls.__new__, FunctionType)
    made = portable(exc)
    return _Reduced(exc) if made is exc and constructs and not issubclass(cls, TaskError) else made


def _load_node(node: _Node, about: str, loads: Callable[[bytes], object]) -> BaseException:
    pickled, why, *_ = node
    if pickled is not None:
        try:
            exc = loads(pickled)
            if issubclass(type(exc), BaseException):
                return cast(BaseException, exc)
            why = f"it came back as {type(exc).__name__}"
        except Exception as error:  # user code, or its module is missing here
            if raised_by_handler(error):
                raise
            why = _one_line(error)
    return UnserializableException(f"The exception that was raised isn't serializable ({why}):\n{about}")


def _format(exc: BaseException, skip_frames: int) -> str:
    import traceback  # here for start-up cost: only what fails needs it

    trace = object.__getattribute__(exc, "__traceback__")
    for _ in range(skip_frames):
        trace = trace.tb_next if trace is not None else None
    try:
        formatted = traceback.TracebackException(type(exc), exc, trace)
        # A get has raised it, so its frames inside asyncray say nothing, and may repeat a thousand times. Only failures
        # of asyncray itself show them.
        if issubclass(type(exc), AsyncrayError) and not issubclass(type(exc), AsyncraySystemError):
            formatted.stack = _without_our_frames(formatted.stack)
        return "".join(formatted.format(chain=not _text_has_chain(exc)))
    except Exception:  # __notes__, __getattr__ and the like of the user's class
        return _one_line(exc)


def _without_our_frames(stack: traceback.StackSummary) -> traceback.StackSummary:
    return type(stack).from_list([frame for frame in stack if not frame.filename.startswith(_PACKAGE)])


def _text_has_chain(exc: BaseException) -> bool:
    """True if the chain is that of a remote cause, because the text of the error has it already."""
    if not isinstance(exc, TaskError):
        return False
    cause, context = _links(exc)
    remote_cause, remote_context = _links(exc.cause)
    return (cause is exc.cause or cause is remote_cause) and (context is None or context is remote_context)


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n... {len(text) - most} characters are left out ...\n{text[-(most // 2) :]}"


def _one_line(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # user code
        return f"{type(exc).__name__}: <its str() failed>"
