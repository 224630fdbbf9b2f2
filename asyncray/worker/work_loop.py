"""The work loop: takes invocations from the inbox and runs them, on the main thread, until the process is to end.

The io thread only sorts the messages that arrive. The main thread runs tasks one by one; when a task waits in ``get``,
the tasks queued behind it go back to the daemon, and further tasks may be *nested*: run on threads of their own beside
the waiting one. When the worker becomes an actor, ``asyncray.worker.hosting`` takes the calls.

Replies are batched: the main thread writes them when the inbox is empty, or half a millisecond after the last write; if
the next task takes longer, the io thread writes them.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

from asyncray.config import INTERRUPT_RETRY, STOP_DEADLINE
from asyncray.exceptions import WouldDeadlockError
from asyncray.io.interrupts import with_signals_deferred
from asyncray.messages import (
    CONSTRUCT,
    DEFINE,
    INVOKE,
    LEASE,
    LEAVE,
    LEAVING,
    NOT_STARTED,
    RETURN_QUEUED,
    RUN,
    RUN_NESTED,
    SETUP,
    STOP_TASK,
    UNDEFINE,
    ConstructMessage,
    DefineMessage,
    InvokeMessage,
    Message,
    Received,
    RunMessage,
    RunNestedMessage,
    UndefineMessage,
)
from asyncray.runtime.context import TaskContext, WorkerInfo, enter, enter_main, leave
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.waiters import Waiter
from asyncray.worker import ending
from asyncray.worker.definitions import Definition, SentFunction
from asyncray.worker.forked import ForkedRunner
from asyncray.worker.hosting import ActorHost, HostProcess, ThreadedHost
from asyncray.worker.inbox import Inbox
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.nesting import NestedTask
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.running import Invocation, Runner

_WORK = (RUN, RUN_NESTED, CONSTRUCT, INVOKE)
_NO_FUNCTION = SentFunction(b"")
"""Of templates of methods."""

_FLUSH_NANOSECONDS = 500_000
_LONGEST_INTERRUPT_RETRY = 1.0
"""Seconds. Each pause between two interrupts of a task is twice the one before, up to this: C code may run for long."""

_CLEAN_UP_ATTEMPTS = 3
"""A signal handler of the task may interrupt an attempt. The next attempt finds that handler replaced."""


class WorkLoop:
    """Runs the tasks and calls that the daemon sends to this process.

    Args:
        environment: applies jobs and leases to this process.
        leftovers: undoes the changes that tasks make to it.
    """

    def __init__(self, runtime: Runtime, environment: ProcessEnvironment, leftovers: Leftovers) -> None:
        self.runtime = runtime
        self.environment = environment
        self.inbox = Inbox()
        self.leftovers = leftovers
        # Templates by number, and the functions that several of them may share, by number. The io thread adds to them,
        # and the main thread removes.
        self.definitions: dict[int, Definition] = {}
        self.functions: dict[int, SentFunction] = {}
        # The actor of this process. None while it runs tasks.
        self.host: ActorHost | None = None
        self.runner = Runner(runtime, self._describe_actor)
        # Why this process ends, once it does.
        self.leaving: str | None = None
        # The exception with which a method on another thread ends the process.
        self._exit_error: SystemExit | None = None
        # The task on the main thread, while it is in user code.
        self._running: Invocation | None = None
        # IDs to interrupt that had already left the inbox (running or just finished).
        self._stops: set[bytes] = set()
        # Nested tasks that run, by ID. Entered under ``_nesting``.
        self._nested: dict[bytes, NestedTask] = {}
        self._nesting = threading.Lock()
        self._main_thread = threading.main_thread()
        # When replies were last written, by ``perf_counter_ns``.
        self._flushed = 0
        self._report_unraisable = sys.unraisablehook
        runtime.handlers |= {
            SETUP: lambda m: environment.set_up(runtime, m[1], m[2]),
            DEFINE: self._define,
            UNDEFINE: self._undefine_in_turn,
            LEASE: lambda m: environment.lease(m[1]),
            RUN: self._enqueue,
            CONSTRUCT: self._enqueue,
            INVOKE: self._enqueue,
            RUN_NESTED: self._run_nested,
            STOP_TASK: lambda m: self._stop(m[1]),
            RETURN_QUEUED: lambda m: self._return(self.inbox.drain()),
            LEAVE: lambda m: self._end_when_done(m[1]),
        }
        runtime.connection.blocking.before = self._before_blocking
        runtime.connection.blocking.after = self.inbox.reopen

    def __repr__(self) -> str:
        return f"<WorkLoop {self._running or self.host or 'idle'} {self.inbox}>"

    def _describe_actor(self) -> str | None:
        return None if self.host is None else self.host.description

    # In the io thread -------------------------------------------------------------------------------------------------

    def _define(self, message: DefineMessage) -> None:
        _, number, spec, pickled = message
        function = spec["function"]
        if pickled is not None:
            self.functions[function] = SentFunction(pickled)
        self.definitions[number] = Definition(spec, self.functions.get(function, _NO_FUNCTION))

    def _undefine_in_turn(self, message: UndefineMessage) -> None:
        if self.host is None or not self.host.undefine(message):
            self.inbox.put(message)

    def _enqueue(self, message: Received) -> None:
        if self.host is not None and self.host.invoke(message):
            return
        if not self.inbox.put(message):
            self._return([message])

    def _return(self, messages: list[Received]) -> None:
        tasks = []
        for message in messages:
            if message[0] in _WORK:
                tasks.append(message[1])
                self.runner.discard(message)
            else:
                self.inbox.put(message)
        if tasks:
            self.runtime.post((NOT_STARTED, tasks))

    def _stop(self, task_id: bytes) -> None:
        if self.host is not None and self.host.cancel_call(task_id):
            return
        message = self.inbox.remove(task_id)
        if message is not None:
            self.runner.discard(message)
            self.runtime.post(self.runner.cancelled(task_id))
            return
        nested = self._nested.get(task_id)
        if nested is not None:
            nested.stop()
        elif self.host is None and not self._is_stopped(task_id):
            self._stops.add(task_id)
            self._interrupt(task_id)

    def _is_stopped(self, task_id: bytes) -> bool:
        """True if the running task was interrupted already, and cleans up now."""
        running = self._running
        return running is not None and running.id == task_id and running.context.cancelled

    def _interrupt(self, task_id: bytes, pause: float = INTERRUPT_RETRY) -> None:
        running = self._running
        if running is not None and running.id == task_id and task_id in self._stops:
            thread = self._main_thread.ident
            assert thread is not None
            # The GIL is not released between these two lines, so the task cannot submit work in between, which would
            # not be cancelled with it.
            running.context.cancelled = True
            # A real signal, so that a system call that the task waits in ends.
            signal.pthread_kill(thread, signal.SIGINT)
            # 1. The main thread gives up the GIL and is about to enter a system call. 2. This thread gets the GIL and
            # sends the signal. 3. The main thread enters the call, which that signal does not end. So it comes again
            # until the handler has run.
            self._schedule_interrupt(task_id, pause)

    def _run_nested(self, message: RunNestedMessage) -> None:
        with self._nesting:
            if self.leaving is not None:
                self._return([message])  # the process is about to end
                return
            invocation = Invocation(message, self.definitions[message[2]])
            nested = self._nested[invocation.id] = NestedTask(invocation, self.runtime.waiters)
            try:
                nested.start(self._nested_thread)
            except RuntimeError as error:
                del self._nested[invocation.id]
                self.runner.discard(message)
                reply = self.runner.lacks_thread(invocation.id, invocation.name, error, retryable=True)
                self.runtime.post(reply)

    # Around user code -------------------------------------------------------------------------------------------------

    def interrupted(self, signum: int, frame: Any) -> None:
        """The handler of SIGINT: interrupts the running task, unless the signal was meant for an earlier one."""
        running = self._running
        if running is None or running.id not in self._stops:
            return
        self._stops.discard(running.id)
        raise KeyboardInterrupt

    def _replay_lost_interrupt(self, unraisable: sys.UnraisableHookArgs) -> None:
        """An exception came up in a finalizer, which cannot raise. If it was our interrupt, it is for the task."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._report_unraisable(unraisable)
        elif threading.current_thread() is self._main_thread and self._running is not None:
            self._stops.add(self._running.id)
            self._schedule_interrupt(self._running.id)
        else:
            for nested in list(self._nested.values()):
                if nested.working == threading.get_ident():
                    self._call_later(nested.interrupt)

    def forget_in_child(self) -> None:
        """In a child that user code has forked: no call is answered, and no exception of a finalizer is for a task."""
        self.runner = ForkedRunner(self.runtime, self._describe_actor)
        if sys.unraisablehook == self._replay_lost_interrupt:
            sys.unraisablehook = self._report_unraisable

    def _schedule_interrupt(self, task_id: bytes, pause: float = INTERRUPT_RETRY) -> None:
        """Interrupts the task after so many seconds, then after longer pauses, until its handler has run."""
        again = functools.partial(self._interrupt, task_id, min(2 * pause, _LONGEST_INTERRUPT_RETRY))
        self._call_later(again, pause)

    def _call_later(self, interrupt: Callable[[], None], pause: float = INTERRUPT_RETRY) -> None:
        """Calls it after so many seconds, in another thread.

        Where the system gives no thread, the one that reads calls it in a moment, but not again and again.
        """
        timer = threading.Timer(pause, interrupt)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            if pause == INTERRUPT_RETRY:
                self.runtime.connection.call_after_round_trip(interrupt)

    def _before_blocking(self, task: TaskContext, waiter: Waiter) -> None:
        if self.host is not None:
            return
        if isinstance(task.shield, NestedTask) and task.shield.working == threading.get_ident():
            task.shield.waiter = waiter
        elif threading.current_thread() is self._main_thread:
            if self.inbox.held_by_this_thread():
                raise WouldDeadlockError
            # Otherwise an interrupt could lose messages that were taken out and are not returned yet.
            with_signals_deferred(functools.partial(self._close_inbox, waiter))
        else:  # on another thread, the inbox stays open
            self._return(self.inbox.drain())

    def _close_inbox(self, reason: object) -> None:
        self._return(self.inbox.close(reason))

    def _end_when_done(self, why: str) -> None:
        if self.host is not None and self.host.end_when_done(why):
            return
        self.inbox.put((LEAVE, why))

    # On the main thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until the daemon asks it to end. Raises SystemExit if user code does."""
        self._report_unraisable, sys.unraisablehook = sys.unraisablehook, self._replay_lost_interrupt
        while True:
            if self.inbox.empty():
                self.flush()
                self.runtime.channel.read_until(self.inbox.filled, lambda timeout: True, None)
            message = self.inbox.take()
            kind = message[0]
            if kind == RUN:
                self._run_task(message)
            elif kind == CONSTRUCT:
                self._become_actor(message)
            elif kind == INVOKE:
                self._run_call(message)
            elif kind == UNDEFINE:
                self.undefine(message)
            elif kind == LEAVE:
                if self._exit_error is not None:
                    raise self._exit_error
                self.leaving = self.leaving or message[1]
            if self.leaving is not None:
                self._leave()
                return

    def undefine(self, message: UndefineMessage) -> None:
        """Forgets templates and functions. On the main thread, because the end of a function may run user code."""
        _, templates, functions = message
        for number in templates:
            self.definitions.pop(number, None)
        for number in functions:
            self.functions.pop(number, None)

    def flush(self) -> None:
        """Writes the posted messages."""
        self._flushed = perf_counter_ns()
        self.runtime.flush()

    def post(self, message: Message, keep: object) -> None:
        """Sends a reply, in a batch."""
        self.runtime.references.posted.append(message)
        del keep  # the refs inside had to live until here
        now = perf_counter_ns()
        if now - self._flushed > _FLUSH_NANOSECONDS:
            self._flushed = now
            self.runtime.flush()
        else:
            self.runtime.channel.request_flush()

    def _run_task(self, message: RunMessage) -> None:
        definition, leftovers = self.definitions[message[2]], self.leftovers
        invocation = Invocation(message, definition)
        enter_main(invocation.context)
        try:
            args, kwargs = self.runner.arguments(message)
            function = definition.function
            if function is None:
                function = invocation.load()
            leftovers.begin()
            self._running = invocation
            if invocation.id in self._stops:  # it came while the arguments were read
                raise KeyboardInterrupt
            result = function(*args, **kwargs)
            self._running = None
            if not leftovers.ends_clean():
                self._clean_up(definition)
        except SystemExit:
            self._running = None
            raise
        except BaseException as error:  # user code may raise anything
            self._running = None
            if not leftovers.ends_clean():
                self._clean_up(definition)
            reply, keep = self.runner.failed(invocation, error)
        else:
            reply, keep = self.runner.succeeded(invocation, result)
            del result
        args = kwargs = ()  # type: ignore[assignment]  # views of shared memory end with the task
        leave(invocation.context)
        # They were for this task, or for an earlier one that had finished. Later tasks are still in the inbox.
        if self._stops:
            self._stops.clear()
        # An interrupt may have ended the wait of the task before the task opened it.
        if self.inbox.closed_by:
            self.inbox.reopen_for_next()
        self.post(reply, keep)
        if definition.max_calls:
            definition.calls += 1
            if definition.calls >= definition.max_calls:
                self.leaving = f"{definition.name} reached max_calls={definition.max_calls}"

    def _clean_up(self, definition: Definition) -> None:
        """Undoes the changes that the task has left. A process in which that fails runs no other task."""
        problem: BaseException | None = None
        for _ in range(_CLEAN_UP_ATTEMPTS):
            try:
                self.leftovers.end()
                return
            except BaseException as error:  # of the system, or of a signal handler that the task has left
                problem = error
        self.leaving = f"{definition.name} has changed its process in a way that cannot be undone: {problem}"

    def _nested_thread(self, nested: NestedTask) -> None:
        invocation = nested.invocation
        enter(invocation.context)
        keep: object = None
        try:
            args, kwargs = self.runner.arguments(invocation.message)
            result = nested.run(invocation.definition.load(), args, kwargs)
        except SystemExit as error:  # it would end the other tasks of this process, too
            reply = self.runner.exited(invocation, error)
        # User code may raise anything; ``stop`` raises KeyboardInterrupt.
        except BaseException as error:
            reply, keep = self.runner.failed(invocation, error, skip_frames=2)
        else:
            reply, keep = self.runner.succeeded(invocation, result)
        # Before the reply: the daemon may send the task here again once it has that.
        del self._nested[invocation.id]
        self.runtime.references.posted.append(reply)
        del keep
        leave(invocation.context)
        invocation.message = None  # its threads may live on and keep its context
        self.runtime.flush()

    def _become_actor(self, message: ConstructMessage) -> None:
        definition = self.definitions[message[2]]
        if definition.asynchronous:
            from asyncray.worker.async_hosting import AsyncHost  # start-up cost: asyncio, and few actors want it

            host: ActorHost = AsyncHost(self, message)
        elif definition.concurrency > 1:
            host = ThreadedHost(self, message)
        else:
            host = ActorHost(self, message)
        self.host = host
        host.construct()
        if self.leaving is None:
            host.serve()

    def _run_call(self, message: InvokeMessage) -> None:
        if self.host is not None:
            self.host.run(message)

    @property
    def actor_id(self) -> bytes | None:
        """The actor of this process, if it is one."""
        return None if self.host is None else self.host.constructor.id

    @property
    def actor_name(self) -> str | None:
        """Its name, empty if it has none."""
        return None if self.host is None else self.host.name

    @property
    def descriptor(self) -> bytes:
        """The pickled class description from which handles of the actor are made."""
        return b"" if self.host is None else self.host.constructor.definition.descriptor

    @property
    def restarted(self) -> bool:
        """True if the actor lived before."""
        return self.host is not None and self.host.restarted

    @property
    def devices(self) -> list[Any]:
        """Numbers (or names) of the GPUs that may be used."""
        return self.environment.devices

    @property
    def demand(self) -> Sequence[tuple[str, int]]:
        """Resources that are held: [name, fixed amount]."""
        return self.environment.demand

    def exit_actor(self) -> NoReturn:
        """Ends the actor by its own will: raises the exception that ends the method.

        Raises:
            TypeError: this process is no actor.
        """
        if self.host is None:
            raise TypeError("exit_actor API is called on a non-actor worker")
        self.host.exit_actor()

    def exit_process(self, error: SystemExit) -> None:
        """Raises the error on the main thread, from any other: it ends the process."""
        if isinstance(self.runner, ForkedRunner):  # a forked child has no other thread
            ending.end_forked(ending.exit_code(error))
        self._exit_error = error
        self.inbox.put((LEAVE, ""))

    def let_go(self) -> None:
        """Drops the user's functions and objects, because the process ends."""
        self.definitions.clear()
        self.functions.clear()
        if self.host is not None:
            self.host.let_go()

    def own_threads(self) -> Sequence[threading.Thread]:
        """The threads that run tasks: the process may end while they do."""
        with self._nesting:
            nested = [task.thread for task in self._nested.values()]
        return [*nested, *(() if self.host is None else self.host.own_threads())]

    def _leave(self) -> None:
        self._close_inbox("end")
        if self.host is not None:
            self.host.run_shutdown_method()
        # The process may have returned refs to values that were put in an event loop and have no room yet.
        self.runtime.objects.drain(STOP_DEADLINE)
        self.runtime.post((LEAVING, self.leaving or ""))
        self.flush()
        with self._nesting:
            running = list(self._nested.values())
        for nested in running:
            nested.join()


if TYPE_CHECKING:
    _host_process: type[HostProcess] = WorkLoop
    _worker_info: type[WorkerInfo] = WorkLoop
