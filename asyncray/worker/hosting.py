"""Hosts an actor: its instance, and the thread or threads that run its methods.

A plain actor runs one call after the other on the main thread. With ``max_concurrency`` a pool of threads takes the
calls. Actors with coroutine methods are hosted by ``asyncray.worker.async_hosting``.

An actor whose end has begun (``Ending``) begins no more calls. Its instance lives until the process ends in order:
``let_go`` drops it, and its ``__del__`` runs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from asyncray.messages import INVOKE, LEAVE, ConstructMessage, InvokeMessage, Message, UndefineMessage
from asyncray.runtime.context import TaskContext, enter, enter_main, leave
from asyncray.runtime.runtime import Runtime
from asyncray.worker.definitions import Definition
from asyncray.worker.inbox import Inbox
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.running import Invocation, Runner

if TYPE_CHECKING:
    import threading
    from concurrent.futures import ThreadPoolExecutor


class Ending(enum.Enum):
    """The stages of an actor's end."""

    RUNNING = "running"
    """It starts calls."""

    DRAINING = "draining"
    """After ``__ray_terminate__``. It begins no more calls; those that run are answered."""

    SILENT = "silent"
    """After ``exit_actor``. Calls that still run give no replies: they fail with the actor's death."""


RUNNING, SILENT = Ending.RUNNING, Ending.SILENT
"""Each call reads them, and an attribute of a class costs 0.03 us more."""


class HostProcess(Protocol):
    """The process of a host, as the host uses it: the ``WorkLoop``."""

    runtime: Runtime
    runner: Runner
    inbox: Inbox
    definitions: dict[int, Definition]
    environment: ProcessEnvironment
    leaving: str | None

    def post(self, message: Message, keep: object) -> None:
        """Sends a reply, in a batch."""

    def undefine(self, message: UndefineMessage) -> None:
        """Forgets templates and functions. On the main thread."""

    def exit_process(self, error: SystemExit) -> None:
        """Raises the error on the main thread: it ends the process."""


class ActorHost:
    """The actor of this process.

    Args:
        message: calls the constructor.
    """

    def __init__(self, process: HostProcess, message: ConstructMessage) -> None:
        definition = process.definitions[message[2]]
        invocation = Invocation(message, definition)
        self.process = process
        self.constructor = invocation
        self.concurrency = definition.concurrency
        self.class_name = definition.name
        # The placement group that it lives in, and whether its children go there, too.
        self.group = definition.group
        self.description = self.class_name
        # None before the constructor has returned and after ``let_go``.
        self.instance: Any = None
        self.ending = RUNNING
        # Why the actor ends, for people. Empty while it is RUNNING.
        self.reason = ""
        self.blocks = invocation.context.blocks = any(name == "CPU" for name, _ in process.environment.demand)
        *_, restarts, self.name = message
        # It lived before.
        self.restarted = bool(restarts)
        # Contexts of the calls that run, by the ID of the call.
        self.running: dict[bytes, TaskContext] = {}
        # The call that was cancelled last: it may have left the inbox without having begun.
        self._cancelled_call = b""
        # Bound methods by name, found once.
        self._methods: dict[str, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description} running={len(self.running)}>"

    # The constructor --------------------------------------------------------------------------------------------------

    def construct(self) -> None:
        """Makes the instance, on the main thread, and replies."""
        process, invocation = self.process, self.constructor
        enter_main(invocation.context)
        process.environment.writer = self.class_name
        failure: tuple[Message, object] | None = None
        try:
            args, kwargs = process.runner.arguments(invocation.message)
            self.instance = invocation.definition.load()(*args, **kwargs)
        except SystemExit:
            if self.ending is RUNNING:
                raise
        except BaseException as error:  # user code may raise anything
            failure = process.runner.raised(invocation, error)  # constructors are not cancelled
        leave(invocation.context)
        invocation.message = None  # its arguments may be large, the actor's life long
        if self.ending is not RUNNING:
            process.leaving = self.reason
        elif failure is not None:
            process.post(*failure)
        else:
            self._describe()
            self.prepare()
            process.post(*process.runner.succeeded(invocation, None))

    def _describe(self) -> None:
        if any("__repr__" in vars(base) for base in type(self.instance).__mro__[:-1]):
            try:
                self.description = repr(self.instance)
            except Exception:  # of the user's ``__repr__``: the name of the class stays
                return
            self.process.environment.writer = self.description

    def prepare(self) -> None:
        """Makes the threads that run the methods, where the host has its own."""

    def serve(self) -> None:
        """Runs the actor on the main thread until it ends, if the host has an event loop; otherwise returns at once."""

    # Calls ------------------------------------------------------------------------------------------------------------

    def invoke(self, message: InvokeMessage) -> bool:
        """A call arrived (in the io thread). False if the inbox should take it."""
        return False

    def undefine(self, message: UndefineMessage) -> bool:
        """Templates and functions are forgotten (in the io thread). False if the inbox should take the message."""
        return False

    def method(self, definition: Definition) -> Callable[..., Any]:
        """The function that a call runs."""
        method = self._methods.get(definition.method)
        return self._first_use(definition.method) if method is None else method

    def _first_use(self, name: str) -> Callable[..., Any]:
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, /, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return self._terminate
        method: Callable[..., Any] = _bound(self.instance, name)
        self._methods[name] = method
        return method

    def run(self, message: InvokeMessage) -> None:
        """Runs one call on the main thread, and replies."""
        if self.ending is not RUNNING:
            return
        invocation = self.begin(message)
        if invocation.id == self._cancelled_call:  # the call was cancelled after it had left the inbox
            invocation.context.cancelled = True
        enter_main(invocation.context)
        self.carry_out(invocation)

    def begin(self, message: InvokeMessage) -> Invocation:
        """A call starts."""
        invocation = Invocation(message, self.process.definitions[message[2]])
        invocation.context.group = self.group
        if not self.blocks:
            invocation.context.blocks = False
        self.running[invocation.id] = invocation.context
        return invocation

    def carry_out(self, invocation: Invocation) -> None:
        """Runs a call on this thread, which has entered its context, and replies."""
        process = self.process  # not its runner, which is another one after a fork
        reply: Message | None = None
        keep: object = None
        try:
            args, kwargs = process.runner.arguments(invocation.message)
            result = self.method(invocation.definition)(*args, **kwargs)
            if invocation.context.cancelled:  # it ended early: that is no result
                reply = process.runner.cancelled(invocation.id, invocation.microseconds())
            else:
                reply, keep = process.runner.succeeded(invocation, result)
        except SystemExit:
            if self.ending is RUNNING:
                raise
        except BaseException as error:  # user code may raise anything
            reply, keep = process.runner.failed(invocation, error)
        leave(invocation.context)
        del self.running[invocation.id]
        if reply is not None and self.ending is not SILENT:
            process.post(reply, keep)

    def cancel_call(self, task_id: bytes) -> bool:
        """A call is cancelled (in the io thread). False if it may be in the inbox. A running call is only marked."""
        self._cancelled_call = task_id
        context = self.running.get(task_id)
        if context is not None:
            context.cancelled = True  # seen by ``is_canceled()``
        return context is not None

    # The end ----------------------------------------------------------------------------------------------------------

    def exit_actor(self) -> NoReturn:
        """On any thread: the actor ends, even if user code swallows the exception that this raises."""
        self._end(SILENT, "it called exit_actor()")

    def _terminate(self) -> NoReturn:
        """``__ray_terminate__``: calls before it are finished, and calls after it are not begun."""
        self._end(Ending.DRAINING, "it was terminated by __ray_terminate__()")

    def _end(self, ending: Ending, reason: str) -> NoReturn:
        self.ending = ending
        self.reason = reason
        self._wake_main_thread()
        raise SystemExit(0)

    def _wake_main_thread(self) -> None:
        """Asks the main thread to end the actor."""
        self.process.inbox.put((LEAVE, self.reason))

    def end_when_done(self, why: str) -> bool:
        """The daemon wants the actor to end (from any thread). False if the caller must put that into the inbox."""
        return False

    def run_shutdown_method(self) -> Any:
        """Calls ``__ray_shutdown__`` at an orderly end, on the main thread. Returns its result."""
        # The method belongs to no call. If it waits, the resources of the actor are free meanwhile.
        enter(self.constructor.context)
        if hasattr(self.instance, "__ray_shutdown__"):
            try:
                return self.instance.__ray_shutdown__()
            except BaseException:  # of the user's method, and documented to be swallowed
                pass
        return None

    def let_go(self) -> None:
        """Drops the instance, because the process ends. Methods that still run send no replies."""
        self.ending = SILENT
        self._methods.clear()
        self.instance = None

    def own_threads(self) -> Sequence[threading.Thread]:
        """The threads that run its methods. The end of the process does not wait for them."""
        return ()


def _bound(instance: Any, name: str) -> Any:
    """A method of the class, as the handle knows it: ``self.value = 0`` does not hide ``def value(self)``."""
    cls = type(instance)
    for base in cls.__mro__:
        if name in vars(base):
            member = vars(base)[name]
            return member.__get__(instance, cls) if hasattr(member, "__get__") else member
    return getattr(instance, name)  # made by ``__getattr__``


class ThreadedHost(ActorHost):
    """An actor whose methods run on up to ``max_concurrency`` threads."""

    _pool: ThreadPoolExecutor | None = None

    def prepare(self) -> None:
        from concurrent.futures import ThreadPoolExecutor  # start-up cost: few actors are threaded

        self._queued: set[bytes] = set()
        self._pool = ThreadPoolExecutor(self.concurrency, "asyncray-method")

    def invoke(self, message: InvokeMessage) -> bool:
        if self._pool is None or message[0] != INVOKE:
            return False
        task_id = message[1]
        self._queued.add(task_id)
        try:
            self._pool.submit(self._run_one, message)
        except RuntimeError as error:
            # No further thread can be started. The call is queued, and threads that exist will take it.
            if not self._pool._shutdown and self._pool._threads:
                return True
            self._queued.discard(task_id)
            self.process.runner.discard(message)
            # At the end of the actor its calls fail with it.
            if not self._pool._shutdown:
                name = message[6] or self.process.definitions[message[2]].name
                self.process.post(self.process.runner.lacks_thread(task_id, name, error, retryable=False), None)
        return True

    def _run_one(self, message: InvokeMessage) -> None:
        try:
            invocation = self.begin(message)
        except KeyError:
            # The call was cancelled, and its template has been forgotten since.
            self.process.runner.discard(message)
            return
        try:
            self._queued.remove(invocation.id)
        except KeyError:  # cancelled
            del self.running[invocation.id]
            self.process.runner.discard(message)
            return
        if self.ending is not RUNNING:
            return
        enter(invocation.context)
        try:
            self.carry_out(invocation)
        except SystemExit as error:
            self.process.exit_process(error)
        self.process.runtime.flush()

    def cancel_call(self, task_id: bytes) -> bool:
        try:
            self._queued.remove(task_id)
        except KeyError:
            return super().cancel_call(task_id)
        self.process.post(self.process.runner.cancelled(task_id), None)
        return True

    def run_shutdown_method(self) -> Any:
        if self._pool is not None:
            self._pool.shutdown(wait=self.ending is not SILENT)
        return super().run_shutdown_method()

    def own_threads(self) -> Sequence[threading.Thread]:
        return () if self._pool is None else list(self._pool._threads)
