"""Hosting an actor: its instance, and the thread or threads that run its methods.

A plain actor runs one call after the other on the main thread. With ``max_concurrency`` a pool of threads takes the
calls. Actors with coroutine methods are hosted by ``asyncray.worker.async_hosting``.

An actor that is *ending* begins no more calls. After ``exit_actor`` it is *silent*, too: whatever its methods still do,
they give no replies, and their calls fail with the actor's death.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from asyncray.messages import INVOKE, LEAVE, Message
from asyncray.runtime.context import TaskContext, enter, enter_main, leave
from asyncray.runtime.runtime import Runtime
from asyncray.worker.definitions import Definition
from asyncray.worker.inbox import Inbox
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.running import Invocation, Runner

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class Process(Protocol):
    """What a host needs of the process that it is in."""

    runtime: Runtime
    runner: Runner
    inbox: Inbox
    definitions: dict[int, Definition]
    environment: ProcessEnvironment
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
        self.ending: str | None = None
        self.silent = False
        self.blocks = invocation.context.blocks = any(name == "CPU" for name, _ in process.environment.demand)
        self.restarted, self.name = bool(invocation.message[7]), invocation.message[8]
        self.running: dict[bytes, TaskContext] = {}
        self._stopping = b""
        self._methods: dict[str, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description} running={len(self.running)}>"

    # The constructor --------------------------------------------------------------------------------------------------

    def construct(self) -> None:
        """Makes the instance, on the main thread, and replies."""
        process, invocation = self.process, self.constructor
        enter_main(invocation.context)
        process.environment.actor_name = self.class_name
        failure: tuple[Message, object] | None = None
        try:
            args, kwargs = process.runner.arguments(invocation.message)
            self.instance = invocation.definition.function(*args, **kwargs)
        except SystemExit:
            if self.ending is None:
                raise
        except BaseException as error:  # user code may raise anything
            failure = process.runner.raised(invocation, error)  # constructors are not cancelled
        leave(invocation.context)
        invocation.message = None  # its arguments may be large, the actor's life long
        if self.ending is not None:
            process.leaving = self.ending
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
            except Exception:  # the user's; the name of the class will do
                return
            self.process.environment.actor_name = self.description

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
            return lambda function, /, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return self.terminate
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = _bound(self.instance, name)
        return method

    def run(self, message: Message) -> None:
        """Runs one call on the main thread, and replies."""
        if self.ending is not None:
            return
        invocation = self.begin(message)
        if invocation.id == self._stopping:  # the call was cancelled after it had left the inbox
            invocation.context.cancelled = True
        enter_main(invocation.context)
        self.carry_out(invocation)

    def begin(self, message: Message) -> Invocation:
        """A call is taken up."""
        invocation = Invocation(message, self.process.definitions[message[2]], self.blocks)
        self.running[invocation.id] = invocation.context
        return invocation

    def carry_out(self, invocation: Invocation) -> None:
        """Runs a call on this thread, and replies."""
        runner = self.process.runner
        enter(invocation.context)
        reply: Message | None = None
        keep: object = None
        try:
            args, kwargs = runner.arguments(invocation.message)
            result = self.method(invocation.definition)(*args, **kwargs)
            reply, keep = self.returned(invocation, result)
        except SystemExit:
            if self.ending is None:
                raise
        except BaseException as error:  # user code may raise anything
            reply, keep = runner.failed(invocation, error)
        leave(invocation.context)
        del self.running[invocation.id]
        if reply is not None and not self.silent:
            self.process.post(reply, keep)

    def returned(self, invocation: Invocation, result: Any) -> tuple[Message, object]:
        """The reply for what a method has returned. Of one that was cancelled, that is no result: it ended early."""
        runner = self.process.runner
        if invocation.context.cancelled:
            return runner.cancelled(invocation.id, invocation.microseconds()), None
        return runner.succeeded(invocation, result)

    def stop(self, task_id: bytes) -> bool:
        """A call is cancelled (in the io thread). True if that is settled; a running one can only ask."""
        self._stopping = task_id
        context = self.running.get(task_id)
        if context is not None:
            context.cancelled = True  # it may ask
        return context is not None

    # The end ----------------------------------------------------------------------------------------------------------

    def exit(self) -> NoReturn:
        """``exit_actor``, on any thread: the actor ends, whatever becomes of the exception that this raises."""
        self.silent = True
        self.ending = "it called exit_actor()"
        self.wake()
        raise SystemExit(0)

    def terminate(self) -> NoReturn:
        """``__ray_terminate__``: what was called before is done, and nothing after it."""
        self.ending = "it was terminated by __ray_terminate__()"
        self.wake()
        raise SystemExit(0)

    def wake(self) -> None:
        """The main thread shall see to the end."""
        self.process.inbox.put((LEAVE, self.ending))

    def leave(self, why: str) -> bool:
        """The actor is to end when what came before is done (from any thread). False if the inbox should see to it."""
        return False

    def shut_down(self) -> Any:
        """A graceful end, on the main thread. Returns what ``__ray_shutdown__`` returns."""
        enter(self.constructor.context)  # it is part of no call; and if it waits, what the actor holds is free
        if hasattr(self.instance, "__ray_shutdown__"):
            try:
                return self.instance.__ray_shutdown__()
            except BaseException:  # the user's; promised to be swallowed
                pass
        return None


def _bound(instance: Any, name: str) -> Any:
    """A method of the class, as the handle knows it: ``self.value = 0`` does not hide ``def value(self)``."""
    cls = type(instance)
    for base in cls.__mro__:
        if name in vars(base):
            member = vars(base)[name]
            return member.__get__(instance, cls) if hasattr(member, "__get__") else member
    return getattr(instance, name)  # made when it is asked for


class ThreadedHost(ActorHost):
    """An actor whose methods run on up to ``max_concurrency`` threads."""

    _pool: ThreadPoolExecutor | None = None

    def prepare(self) -> None:
        from concurrent.futures import ThreadPoolExecutor  # start-up cost: few actors are threaded

        self._queued: set[bytes] = set()
        self._pool = ThreadPoolExecutor(self.concurrency, "asyncray-method")

    def invoke(self, message: Message) -> bool:
        if self._pool is None or message[0] != INVOKE:
            return False
        self._queued.add(message[1])
        try:
            self._pool.submit(self._run_one, message)
        except RuntimeError:  # it is shut down: what ends the actor ends its calls, too
            self._queued.discard(message[1])
            self.process.runner.discard(message)
        return True

    def _run_one(self, message: Message) -> None:
        invocation = self.begin(message)
        try:
            self._queued.remove(message[1])
        except KeyError:  # cancelled
            del self.running[message[1]]
            self.process.runner.discard(message)
            return
        if self.ending is not None:
            return
        try:
            self.carry_out(invocation)
        except SystemExit as error:  # as on a main thread: it ends the process
            self.process.inbox.put((INVOKE, message[1], error, None, None, None))
        self.process.runtime.flush()

    def run(self, message: Message) -> None:
        """What a thread has for the main thread: that it wants to end the process."""
        raise message[2]

    def stop(self, task_id: bytes) -> bool:
        try:
            self._queued.remove(task_id)
        except KeyError:
            return super().stop(task_id)
        self.process.post(self.process.runner.cancelled(task_id), None)
        return True

    def shut_down(self) -> Any:
        if self._pool is not None:
            self._pool.shutdown(wait=not self.silent)
        return super().shut_down()
