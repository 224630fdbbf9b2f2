"""Hosting an actor: its instance, and the thread or threads that run its methods.

A plain actor runs one call after the other on the main thread. With ``max_concurrency`` a pool of threads takes the
calls. Actors with coroutine methods are hosted by ``asyncray.worker.async_hosting``.

An actor that called ``exit_actor`` gives no more replies: whatever its method does after that, its calls fail with the
actor's death.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from asyncray.messages import INVOKE, Message
from asyncray.runtime.context import TaskContext, enter, enter_main
from asyncray.runtime.runtime import Runtime
from asyncray.worker.definitions import Definition
from asyncray.worker.inbox import Inbox
from asyncray.worker.running import Invocation, Runner
from asyncray.worker.surroundings import Surroundings

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class Process(Protocol):
    """What a host needs of the process that it is in."""

    runtime: Runtime
    runner: Runner
    inbox: Inbox
    definitions: dict[int, Definition]
    surroundings: Surroundings
    leaving: str | None

    def post(self, message: Message, keep: object) -> None:
        """Sends a reply, in a batch."""


class ActorHost:
    """The actor of this process.

    Args:
        invocation: of the constructor.
    """

    def __init__(self, process: Process, invocation: Invocation) -> None:
        self.process = process
        self.constructor = invocation
        self.concurrency: int = invocation.definition.options.get("concurrency", 1)
        self.class_name = invocation.definition.name
        self.description = self.class_name
        self.instance: Any = None
        self.exiting: str | None = None
        self.blocks = any(name == "CPU" for name, _ in process.surroundings.demand)
        self.restarted = bool(invocation.message[6:7] and invocation.message[6])
        self.running: dict[bytes, TaskContext] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description} running={len(self.running)}>"

    # The constructor --------------------------------------------------------------------------------------------------

    def construct(self) -> None:
        """Makes the instance, on the main thread, and replies."""
        process, invocation = self.process, self.constructor
        enter_main(invocation.context)
        enter(invocation.context)
        process.surroundings.actor_name = self.class_name
        try:
            args, kwargs = process.runner.arguments(invocation.message)
            self.instance = invocation.definition.function(*args, **kwargs)
            self._describe()
        except SystemExit:
            if self.exiting is None:
                raise
            process.leaving = self.exiting
            return
        except BaseException as error:  # user code may raise anything
            process.post(process.runner.failed(invocation, error), None)
            return
        finally:
            enter(None)
        if self.exiting is not None:
            process.leaving = self.exiting
            return
        self.prepare()
        process.post(*process.runner.succeeded(invocation, None))

    def _describe(self) -> None:
        if any("__repr__" in vars(base) for base in type(self.instance).__mro__[:-1]):
            self.description = repr(self.instance)
            self.process.surroundings.actor_name = self.description

    def prepare(self) -> None:
        """The instance is there: makes what runs its methods."""

    def serve(self) -> None:
        """Occupies the main thread until the actor ends, if the host has such a way; else returns at once."""

    # Calls ------------------------------------------------------------------------------------------------------------

    def invoke(self, message: Message) -> bool:
        """A call arrived (in the io thread). False if the inbox should take it."""
        return False

    def method(self, definition: Definition) -> Callable[..., Any]:
        """What a call runs."""
        name = definition.method
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return self._terminate
        method: Callable[..., Any] = getattr(self.instance, name)
        return method

    def _terminate(self) -> None:
        self.exiting = "it was terminated by __ray_terminate__()"

    def run(self, message: Message) -> None:
        """Runs one call on this thread, and replies."""
        process = self.process
        invocation = Invocation(message, process.definitions[message[2]], self.blocks)
        self.running[invocation.id] = invocation.context
        enter(invocation.context)
        reply: Message | None = None
        keep: object = None
        try:
            args, kwargs = process.runner.arguments(message)
            result = self.method(invocation.definition)(*args, **kwargs)
            if self.exiting is None:
                reply, keep = process.runner.succeeded(invocation, result)
        except SystemExit:
            if self.exiting is None:
                raise
        except BaseException as error:  # user code may raise anything
            if self.exiting is None:
                reply = process.runner.failed(invocation, error)
        enter(None)
        del self.running[invocation.id]
        if reply is not None:
            process.post(reply, keep)
        else:
            self.exited()

    def exit_exception(self) -> BaseException:
        """What ends a method that called ``exit_actor``."""
        return SystemExit(0)

    def exited(self) -> None:
        """The actor called ``exit_actor``: nothing more is run."""
        self.process.leaving = self.exiting

    def stop(self, task_id: bytes) -> bool:
        """A call is cancelled (in the io thread). True if that is settled; a running one can only ask."""
        context = self.running.get(task_id)
        if context is not None:
            context.cancelled = True
        return context is not None

    # The end ----------------------------------------------------------------------------------------------------------

    def leave(self, why: str) -> bool:
        """The actor is to end when what came before is done (from any thread). False if the inbox should see to it."""
        return False

    def shut_down(self) -> None:
        """A graceful end, on the main thread."""
        if hasattr(self.instance, "__ray_shutdown__"):
            try:
                self.instance.__ray_shutdown__()
            except Exception:  # the user's; promised to be swallowed
                pass


class ThreadedHost(ActorHost):
    """An actor whose methods run on up to ``max_concurrency`` threads."""

    _pool: ThreadPoolExecutor

    def prepare(self) -> None:
        from concurrent.futures import ThreadPoolExecutor  # start-up cost: few actors are threaded

        self._pool = ThreadPoolExecutor(self.concurrency, "asyncray-method")
        self._waiting: dict[bytes, Future[None]] = {}

    def invoke(self, message: Message) -> bool:
        if message[0] != INVOKE:
            return False
        self._waiting[message[1]] = self._pool.submit(self._run_one, message)
        return True

    def _run_one(self, message: Message) -> None:
        self._waiting.pop(message[1], None)
        if self.exiting is not None:
            return
        try:
            self.run(message)
        except SystemExit as error:  # as on a main thread: it ends the process
            self.process.inbox.put((INVOKE, message[1], _Exit(error)))
        self.process.runtime.flush()

    def exited(self) -> None:
        self.process.inbox.put((INVOKE, b"", None))  # the main thread sees ``exiting``

    def run_on_main(self, message: Message) -> None:
        """What a thread has for the main thread: the end."""
        if message[2] is not None:
            raise message[2].error
        self.process.leaving = self.exiting

    def stop(self, task_id: bytes) -> bool:
        future = self._waiting.get(task_id)
        if future is not None and future.cancel():
            self._waiting.pop(task_id, None)
            self.process.post(self.process.runner.cancelled(task_id), None)
            return True
        return super().stop(task_id)

    def shut_down(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=self.exiting is not None)
        super().shut_down()


class _Exit:
    """A ``SystemExit`` on its way to the main thread."""

    __slots__ = ("error",)

    def __init__(self, error: SystemExit) -> None:
        self.error = error
