"""The errors of asyncray: one tree, and the class that carries a user's exception from a worker to the caller.

    AsyncrayError
        TaskError                            code: a task or method raised; also an instance of the raised class
        UnserializableException              code: stands in for an exception that could not travel
        TaskCancelledError                   caller
        GetTimeoutError                      caller; also a TimeoutError
        PendingCallsLimitExceeded            caller
        TaskPlacementGroupRemoved            caller
        ActorPlacementGroupRemoved           caller
        TaskUnschedulableError               caller
        ActorUnschedulableError              caller
        ActorAlreadyExistsError              caller; also a ValueError
        ActorHandleNotFoundError             caller; also a ValueError
        RuntimeEnvSetupError                 caller; reserved
        ActorClassInheritanceException       code: inherits from an actor class; also a TypeError
        AsyncioActorExit                     nobody: how exit_actor() leaves an async method
        WorkerCrashedError                   machine
        ActorError                           machine
            ActorDiedError                   machine
            ActorUnavailableError            machine
        ObjectLostError                      machine
            OwnerDiedError                   machine
            ObjectReconstructionFailedError  machine; reserved
            ObjectFreedError                 caller; reserved
            ObjectFetchTimedOutError         machine; reserved
            ReferenceCountingAssertionError  asyncray; also an AssertionError; reserved
        ObjectStoreFullError                 machine
        OutOfDiskError                       machine; reserved
        OutOfMemoryError                     machine; reserved
        NodeDiedError                        machine
        LocalNodeDiedError                   machine
        AsyncraySystemError                  see the subclass
            NotStartedError                  caller
            DeserializationError             code
            WouldDeadlockError               code: waits where the reply cannot come, as in a finalizer
            InternalError                    asyncray

"code" is the code of the remote function or actor, "caller" the program that asked for something impossible,
"machine" a process, a node or a store that failed, "asyncray" a bug of ours. This release never raises a *reserved*
class: it exists so that programs can name it in `except`, as they do for Ray, and for the releases that will raise it.
Ray's names are aliases at the bottom.

Promises: every error has a default message, with the fragments that users match; every error is pickled and copied with
its attributes, and like any exception without its `__cause__`. IDs in attributes are hex strings.

Does not: format tracebacks, pickle or choose which error is raised.
"""

from __future__ import annotations

import copyreg
from functools import lru_cache
from types import FunctionType, new_class
from typing import ClassVar, SupportsIndex, cast

from asyncray.exception_state import exception_state, link, revive


class AsyncrayError(Exception):
    """Base of every error that asyncray raises about remote work. Fault: see the subclass."""

    default_message: ClassVar[str] = "Something failed in asyncray."

    def __init__(self, message: str = "") -> None:
        # Pickle calls cls(*args) and then restores __dict__. So the message is the first parameter of every subclass,
        # and no other parameter is positional or required.
        super().__init__(message or self.default_message)


# --- the caller's doing ---------------------------------------------------------------------------------------------


class TaskCancelledError(AsyncrayError):
    """The task was cancelled before it could give a result. Fault: caller."""

    default_message = "The task, or a task it depends on, was cancelled."

    def __init__(self, message: str = "", *, task_id: str | None = None) -> None:
        super().__init__(message or (f"Task {task_id} was cancelled." if task_id else ""))
        self.task_id = task_id


class GetTimeoutError(AsyncrayError, TimeoutError):
    """`get` gave up waiting; the work goes on. Fault: caller."""

    default_message = "Get timed out: some object(s) not ready."


class PendingCallsLimitExceeded(AsyncrayError):
    """The handle already has `max_pending_calls` unfinished calls. Fault: caller."""

    default_message = "The actor handle has reached max_pending_calls: wait for earlier calls to finish."


class TaskPlacementGroupRemoved(AsyncrayError):
    """The task waited for a placement group that was removed. Fault: caller."""

    default_message = "The placement group of this task was removed."


class ActorPlacementGroupRemoved(AsyncrayError):
    """The actor waited for a placement group that was removed. Fault: caller."""

    default_message = "The placement group of this actor was removed."


class TaskUnschedulableError(AsyncrayError):
    """No node may ever run the task: hard affinity or labels cannot be met. Fault: caller."""

    default_message = "The task cannot be scheduled: no node satisfies its scheduling strategy."


class ActorUnschedulableError(AsyncrayError):
    """No node may ever hold the actor: hard affinity or labels cannot be met. Fault: caller."""

    default_message = "The actor cannot be scheduled: no node satisfies its scheduling strategy."


class ActorAlreadyExistsError(ValueError, AsyncrayError):
    """Another actor of the namespace has that name. Fault: caller."""

    default_message = "The name is already taken. Please use a different name or get the existing actor."

    def __init__(self, message: str = "", *, name: str | None = None) -> None:
        named = self.default_message.replace("The name", f"The name {name}") if name else ""
        AsyncrayError.__init__(self, message or named)  # super() would find ValueError's, which knows no defaults
        self.name = name


class ActorHandleNotFoundError(ValueError, AsyncrayError):
    """The handle of an actor to be killed belongs to another session. Fault: caller."""

    default_message = "ActorHandle objects are not valid across sessions."

    def __init__(self, message: str = "") -> None:
        AsyncrayError.__init__(self, message)  # as above


class ActorClassInheritanceException(AsyncrayError, TypeError):
    """A class inherits from an actor class. Fault: code."""

    default_message = "Inheriting from actor classes is not currently supported."


class RuntimeEnvSetupError(AsyncrayError):
    """The runtime environment asked for could not be made. Fault: caller."""

    default_message = "Failed to set up the runtime environment."


class AsyncioActorExit(AsyncrayError):
    """Leaves an async method after `exit_actor()`; users never need it. Fault: nobody."""

    default_message = "The actor left by exit_actor()."


# --- the machine's ---------------------------------------------------------------------------------------------------


class WorkerCrashedError(AsyncrayError):
    """The worker process ended while it ran the task: killed, crashed or exited. Fault: machine."""

    default_message = "The worker died unexpectedly while executing this task."


class ActorError(AsyncrayError):
    """The actor cannot answer the call. Fault: machine."""

    default_message = "The actor died unexpectedly before finishing this task."

    def __init__(self, message: str = "", *, actor_id: str | None = None, preempted: bool = False) -> None:
        super().__init__(message)
        self.actor_id = actor_id
        self.preempted = preempted

    @property
    def error_msg(self) -> str:
        return str(self)


class ActorDiedError(ActorError):
    """The actor is dead and will not come back. Fault: machine."""

    # The first sentence of a message: why the actor died. Users match these. ", " and the traceback follow the last.
    KILLED: ClassVar[str] = "The actor is dead because it was killed by `ray.kill`."
    EXITED: ClassVar[str] = "The actor is dead because it called exit_actor()."
    OUT_OF_SCOPE: ClassVar[str] = "The actor is dead because all references to the actor were removed."
    WORKER_DIED: ClassVar[str] = "The actor is dead because its worker process has died."
    OWNER_DIED: ClassVar[str] = "The actor is dead because its owner has died."
    NODE_DIED: ClassVar[str] = "The actor died because its node has died."
    GROUP_REMOVED: ClassVar[str] = "The actor died because its placement group was removed."
    CREATION_FAILED: ClassVar[str] = "The actor died because of an error raised in its creation task"


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; the call may or may not have run, a later one may succeed. Fault: machine."""

    RESTARTING: ClassVar[str] = "The actor is restarting."
    default_message = "The actor is unavailable. The call may or may not have been executed."


class ObjectLostError(AsyncrayError):
    """Every copy of the object is lost. Fault: machine."""

    default_message = "All copies of the object have been lost."

    def __init__(self, message: str = "", *, object_id: str | None = None) -> None:
        named = f"Failed to retrieve object {object_id}. {self.default_message}" if object_id else ""
        super().__init__(message or named)
        self.object_id = object_id


class OwnerDiedError(ObjectLostError):
    """The node or the job that owned the object has ended. Fault: machine."""

    default_message = "The object's owner has exited."


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and the task that made it could not be run again. Fault: machine."""

    default_message = "The object has been lost and could not be reconstructed."


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while refs to it were left. Fault: caller."""

    default_message = "The object was manually freed using the internal `free` call."


class ObjectFetchTimedOutError(ObjectLostError):
    """No holder of the object answered in time. Fault: machine."""

    default_message = "The fetch timed out because no holder of the object could be reached."


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted although a ref was left. Fault: asyncray."""

    default_message = "The object was deleted while there was still a reference to it. This should not happen."


class ObjectStoreFullError(AsyncrayError):
    """Shared memory is full of objects that are in use. Fault: machine."""

    default_message = "The local object store is full of objects that are still in scope and cannot be evicted."


class OutOfDiskError(AsyncrayError):
    """The disk that objects spill to is full. Fault: machine."""

    default_message = "The local object store is full and its objects cannot be spilled: the disk is full."


class OutOfMemoryError(AsyncrayError):
    """The node ran short of memory and the worker was killed. Fault: machine."""

    default_message = "The task was killed because the node was running low on memory."


class NodeDiedError(AsyncrayError):
    """The node that ran the work has ended. Fault: machine."""

    default_message = "The node that ran this task has died."


class LocalNodeDiedError(AsyncrayError):
    """The daemon that this process is attached to has ended. Fault: machine."""

    default_message = "The local node daemon has died."


# --- the system's ----------------------------------------------------------------------------------------------------


class AsyncraySystemError(AsyncrayError):
    """asyncray cannot carry out the request. Fault: see the subclass."""

    default_message = "System error."


class NotStartedError(AsyncraySystemError):
    """No session runs, and none is started implicitly. Fault: caller."""

    # Users match the first sentence.
    default_message = "Ray has not been started yet. Write `async with asyncray.init():`, or call asyncray.sync.init()."


class DeserializationError(AsyncraySystemError):
    """A value arrived and cannot be unpickled in this process. Fault: code."""

    default_message = "A value could not be deserialized."


class WouldDeadlockError(AsyncraySystemError):
    """A finalizer or signal handler waits in the very thread that would have to receive the reply. Fault: code."""

    default_message = "A finalizer (__del__) or signal handler cannot wait while its thread talks to the node."


class InternalError(AsyncraySystemError):
    """Something that must not happen; please report it. Fault: asyncray."""

    default_message = "Internal error."


# --- the remote code's -----------------------------------------------------------------------------------------------


class UnserializableException(AsyncrayError):
    """Stands in as the cause where the real exception could not be pickled or loaded. Fault: code."""

    default_message = "The exception that was raised isn't serializable."


class TaskError(AsyncrayError):
    """A task or an actor's method raised; `get` raises an instance of this and of the cause's class. Fault: code."""

    # The fields are properties over one entry of __dict__, so that they stay ours in a class combined with a user's
    # that has slots, properties or attributes of the same names.
    _FIELDS: ClassVar[str] = "_asyncray_task_error"

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        *,
        pid: int = 0,
        ip: str = "",
        actor_repr: str | None = None,
    ) -> None:
        super().__init__(traceback_str)
        self.__dict__[self._FIELDS] = (function_name, traceback_str, cause, pid, ip, actor_repr)
        self.__cause__ = cause

    @property
    def _fields(self) -> tuple[str, str, BaseException, int, str, str | None]:
        return cast(tuple[str, str, BaseException, int, str, str | None], self.__dict__[self._FIELDS])

    @property
    def function_name(self) -> str:
        return self._fields[0]

    @property
    def traceback_str(self) -> str:
        return self._fields[1]

    @property
    def cause(self) -> BaseException:
        return self._fields[2]

    @property
    def pid(self) -> int:
        return self._fields[3]

    @property
    def ip(self) -> str:
        return self._fields[4]

    @property
    def actor_repr(self) -> str | None:
        return self._fields[5]

    def __str__(self) -> str:
        where = f"pid={self.pid}, ip={self.ip}" + (f", repr={self.actor_repr}" if self.actor_repr else "")
        trace = self.traceback_str.removeprefix("Traceback (most recent call last):\n").rstrip("\n")
        return f"asyncray::{self.function_name}() ({where})\n{trace}"

    def __repr__(self) -> str:
        try:
            cause = repr(self.cause)
        except Exception:  # user code: the repr must not hide the error
            cause = f"<{type(self.cause).__name__}>"
        return f"{type(self).__name__}({cause})"

    # Not __reduce__: pickle looks for this method first, and the class of the cause may define it.
    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        dual = type(self) is not TaskError
        copied = object.__getattribute__(self.cause, "__dict__") if dual else {}
        own = {k: v for k, v in self.__dict__.items() if k != self._FIELDS and copied.get(k, self) is not v}
        name, text, cause, *where = self._fields
        return _restore_task_error, (dual, name, text, portable(cause), *where, own)

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of the cause's class too.

        Returns: an instance of `RayTaskError(<class of the cause>)` with the state of the cause (args, attributes,
        slots, `__cause__` and `__context__`), or this plain error if the class cannot be combined with `TaskError`.
        """
        if type(self) is not TaskError:
            return self
        cause_class: type = type(self.cause)
        try:
            combined = combined_class(cause_class)
            if combined is None:
                return self
            members, attributes = exception_state(self.cause)
            dual = revive(combined, members, {**attributes, self._FIELDS: self._fields})
            link(dual, self.cause.__cause__, self.cause.__context__, suppress=self.cause.__suppress_context__)
            usable = isinstance(dual, TaskError) and dual.cause is self.cause
        # Metaclasses, descriptors and hooks of the user's class may raise anything.
        except Exception:
            return self
        return cast(TaskError, dual) if usable else self


class _Portable:
    """Pickles into an exception without calling its constructor when it is loaded."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def __reduce__(self) -> tuple[object, ...]:
        return revive, (type(self.exc), *exception_state(self.exc))


def portable(cause: BaseException) -> BaseException | _Portable:
    """Pickles into the cause: pickle itself would call its constructor with `args` alone, which fits few classes."""
    cls = type(cause)
    constructs = isinstance(cls.__init__, FunctionType) or isinstance(cls.__new__, FunctionType)
    own = any(isinstance(method, FunctionType) for method in (cls.__reduce__, cls.__reduce_ex__, cls.__setstate__))
    reduces = own or cls in copyreg.dispatch_table
    return _Portable(cause) if constructs and not reduces and not issubclass(cls, TaskError) else cause


def _restore_task_error(
    dual: bool,  # noqa: FBT001 - called by pickle
    function_name: str,
    traceback_str: str,
    cause: BaseException | _Portable,
    pid: int,
    ip: str,
    actor_repr: str | None,
    own: dict[str, object],
) -> TaskError:
    if isinstance(cause, _Portable):  # copy.copy takes the parts as they are
        cause = cause.exc
    error = TaskError(function_name, traceback_str, cause, pid=pid, ip=ip, actor_repr=actor_repr)
    if dual:
        error = error.as_instanceof_cause()
    error.__dict__.update(own)
    return error


# --- the class of both ------------------------------------------------------------------------------------------------

# Raised in the receiver, these would steer it (end its process, its generator, its loop, its asyncio task) instead of
# reporting a failure. asyncio's class is compared by name, because importing asyncio costs more than all the rest.
_STEERING = (KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, StopAsyncIteration)
_ASYNCIO_CANCELLED = ("asyncio.exceptions", "CancelledError")


# The bound is for programs that make exception classes as they run. A forgotten class is made again, in microseconds.
@lru_cache(maxsize=256)
def combined_class(cause_class: type[BaseException]) -> type[TaskError] | None:
    """The class that is both `TaskError` and `cause_class`; None if there must not or cannot be one."""
    if issubclass(cause_class, (*_STEERING, TaskError, UnserializableException)):
        return None
    if issubclass(cause_class, BaseExceptionGroup) and not issubclass(cause_class, Exception):
        return None
    if any((base.__module__, base.__qualname__) == _ASYNCIO_CANCELLED for base in cause_class.__mro__):
        return None
    name = f"RayTaskError({cause_class.__name__})"  # Ray's name: users match it
    try:
        made = new_class(name, (TaskError, cause_class), exec_body=lambda ns: ns.update(__module__=__name__))
    # Its metaclass or __init_subclass__ forbids it, or it has a memory layout of its own.
    except Exception as error:
        import logging  # start-up cost: few classes are such

        logging.getLogger("asyncray").warning(
            "%s does not let itself be combined with RayTaskError (%s), so `except` of it catches nothing here. "
            "This exception is raised as RayTaskError only. You can use `ray_task_error.cause` to access the user "
            "exception.",  # the last two sentences are Ray's: users match them
            cause_class.__qualname__,
            error,
        )
        return None
    return cast("type[TaskError]", made)


# --- Ray's names -----------------------------------------------------------------------------------------------------

RayError = AsyncrayError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = AsyncraySystemError
LocalRayletDiedError = LocalNodeDiedError
