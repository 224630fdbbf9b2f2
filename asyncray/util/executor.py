"""``Executor``: tasks behind the interface of ``concurrent.futures.Executor``.

Owns the calls that were submitted and have not begun, and the futures of all. A call is *pending* while it waits here:
``cancel`` succeeds, and the call never runs. Once it was handed to the node it is *running*, as in
``ProcessPoolExecutor``, and ``cancel`` returns False. So an executor hands over few calls more than can run at once.

Promises: each future gets one outcome; ``shutdown(wait=True)`` and the end of the program wait for all of them; a
callback that blocks does not keep other calls from beginning.

Does not: start or end processes. They are the node's, which outlives the executor and serves several.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import asyncray.sync as ray
from asyncray.api.function import RemoteFunction
from asyncray.api.session import signals
from asyncray.exceptions import TaskError, UnserializableException
from asyncray.io.signal_checks import LONGEST_SLEEP
from asyncray.runtime.background import BackgroundThreads
from asyncray.runtime.futures import RefFuture
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import require
from asyncray.util.calls import ForEach, InitializerFailed, Prepared, apply, apply_to_each
from asyncray.util.remote_forms import RemoteForms, count_slots, is_stateless

if TYPE_CHECKING:
    from typing import Unpack

    from asyncray.api.option_types import RemoteOptions

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_AGAIN = 1.0
"""Seconds after which an executor without ``max_workers`` asks again how many CPUs there are."""

_living: weakref.WeakSet[Executor] = weakref.WeakSet()
"""Executors that the end of the program waits for."""


class RemoteTraceback(Exception):
    """The ``__cause__`` of an exception that a call raised. Its text is the traceback in the worker."""


class _CallFuture(RefFuture):
    """The future of a call. Pending until the call is handed to the node."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        # None once the call has an outcome.
        self._executor: Executor | None = executor
        # It is cancelled, and those who wait know.
        self._was_told = False

    def cancel(self) -> bool:
        """Cancels the call if it was not handed to the node. Waiters see that at once."""
        with self._settling:
            if not concurrent.futures.Future.cancel(self):
                return False
            if not self._was_told:
                self._was_told = True
                self.set_running_or_notify_cancel()
        return True

    def start(self) -> bool:
        """The call is about to be handed to the node. False if it was cancelled."""
        with self._settling:
            return not self._was_told and self.set_running_or_notify_cancel()

    def begin(self) -> ObjectRef[Any] | None:
        """The value is about to be read. The future runs already, so nothing can cancel it."""
        ref, self._ref = self._ref, None
        return ref

    def set_result(self, result: Any) -> None:
        """The call has returned."""
        self._report_end(None)
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """The call has failed, or could not begin."""
        self._report_end(exception)
        super().set_exception(_original(exception))

    def refuse(self, error: Exception) -> None:
        """The call will not be handed to the node."""
        self._executor = None
        super().set_exception(error)

    def _report_end(self, exception: BaseException | None) -> None:
        # Before anybody sees the outcome: later, this thread would hold the value for a moment more than they do.
        executor, self._executor = self._executor, None
        if executor is not None:
            executor._ended(exception)


class _Call:
    """A call that was submitted."""

    __slots__ = ("args", "function", "future", "in_chunk", "kwargs")

    def __init__(
        self,
        future: _CallFuture,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        in_chunk: bool,
    ) -> None:
        self.future = future
        self.function = function
        self.args = args
        self.kwargs = kwargs
        # The argument is a list of items, and the function is called for each.
        self.in_chunk = in_chunk

    def __repr__(self) -> str:
        return f"<_Call {self.function!r} {self.future}>"


class Executor(concurrent.futures.Executor):
    """Runs calls as tasks. For libraries that take an executor of ``concurrent.futures``.

    A call runs at most once, unless ``max_retries`` says otherwise. A function travels once, as it is at its first
    call. A ref that is an argument is replaced by its value.

    Args:
        max_workers: calls that are under way at once, at most. None: as many as the CPUs of all nodes can run, and as
            many again, which wait there.
        initializer: called in each worker process before its first call for this executor. If it raises, the executor
            is broken, and all its calls fail with ``concurrent.futures.BrokenExecutor``.
        initargs: the arguments of ``initializer``.
        options: of the tasks, as for ``asyncray.remote``: ``num_cpus``, ``resources``, ``max_retries``.

    Raises:
        ValueError: ``max_workers`` is below 1, or an option is unknown.
        TypeError: ``initializer`` is not callable, or an option has a wrong type.

    Example::

        from asyncray.util import Executor

        with Executor() as executor:
            print(list(executor.map(pow, [2, 3], [10, 10])))  # [1024, 59049]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[RemoteOptions],
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers}.")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r:.80}.")
        self._max_workers = max_workers
        self._initializer = initializer
        self._initargs = initargs
        self._key = os.urandom(16)
        self._options: RemoteOptions = {"max_retries": 0, **options}
        self._apply = self._make_remote(apply)
        self._apply_to_each = self._make_remote(apply_to_each)
        self._forms = RemoteForms(self._make_remote)
        self._forms_of_chunks = RemoteForms(lambda function: self._make_remote(ForEach(function)))
        # Guards all below. Re-entrant: a finalizer may submit in a thread that holds it.
        self._lock = threading.RLock()
        self._all_ended = threading.Condition(self._lock)
        self._pending: deque[_Call] = deque()
        # Calls that were handed to the node and have no outcome.
        self._under_way = 0
        # Calls that may be under way, and when the CPUs were counted for that.
        self._most_under_way = max_workers or 2
        self._counted_at = float("-inf")
        self._is_shut_down = False
        # Why the executor is broken.
        self._broken: str | None = None
        # Hands over calls when others have ended: user code pickles their arguments.
        self._thread = BackgroundThreads("asyncray-executor")
        weakref.finalize(self, self._thread.close, 0.0).atexit = False
        _living.add(self)

    def __repr__(self) -> str:
        return f"<Executor {self._under_way} calls under way, {len(self._pending)} pending>"

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[R]:
        """Runs ``fn(*args, **kwargs)`` in a worker.

        Args:
            fn: a function, or any other callable that can be pickled.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            A future. An exception that the call raised keeps its class; its ``__cause__`` shows where, in the worker.

        Raises:
            RuntimeError: the executor is shut down, or the program is at its end.
            concurrent.futures.BrokenExecutor: the initializer raised.

        Example::

            future = executor.submit(pow, 2, 10)
            print(future.result(timeout=10))  # 1024
        """
        return self._submit(fn, args, kwargs, in_chunk=False)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """The results of ``fn`` for the items of the iterables, in their order, as of the builtin ``map``.

        Args:
            fn: takes as many arguments as there are iterables.
            iterables: read to the end of the shortest before this returns, unless ``buffersize`` is given.
            timeout: seconds from this call within which each result has to come; None for ever.
            chunksize: calls that one task makes. Some hundreds are good for calls that take microseconds.
            buffersize: tasks whose results were not taken yet, at most. The iterables are read as results are taken.

        Returns:
            An iterator. When it ends early, it cancels the calls that have not begun.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is below 1.
            TimeoutError: from the iterator: a result did not come in time.
            Exception: from the iterator: a call raised it.

        Example::

            for root in executor.map(math.sqrt, range(100_000), chunksize=1000):
                print(root)
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, not {chunksize}.")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize}.")
        end = None if timeout is None else monotonic() + timeout
        items = zip(*iterables, strict=False)
        submitted: Iterator[concurrent.futures.Future[Any]]
        if chunksize == 1:
            submitted = (self._submit(fn, item, {}, in_chunk=False) for item in items)
        else:
            chunks = iter(lambda: tuple(itertools.islice(items, chunksize)), ())
            submitted = (self._submit(fn, (chunk,), {}, in_chunk=True) for chunk in chunks)
        first = deque(itertools.islice(submitted, buffersize))
        results = _results(first, submitted, end)
        return results if chunksize == 1 else itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001 - the base's
        """Takes no more calls. The node goes on.

        Args:
            wait: return when all calls have an outcome.
            cancel_futures: cancel the calls that have not begun.

        Example::

            executor.shutdown(cancel_futures=True)
        """
        with self._lock:
            self._is_shut_down = True
        if cancel_futures:
            self._cancel_pending()
        if wait:
            self._wait_for_all()
            self._thread.close(0.0)

    # ------------------------------------------------------------------------------------------------------------------

    def _wait_for_all(self) -> None:
        while self._pending or self._under_way:
            with self._all_ended:
                # Not for ever, so that signals are seen: see ``asyncray.io.signal_checks``.
                self._all_ended.wait_for(lambda: not self._pending and not self._under_way, LONGEST_SLEEP)

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, in_chunk: bool
    ) -> concurrent.futures.Future[Any]:
        with self._lock:
            self._check_open()
        future = _CallFuture(self)
        with self._lock:
            self._check_open()
            self._pending.append(_Call(future, function, args, kwargs, in_chunk=in_chunk))
        self._begin_calls()
        return future

    def _check_open(self) -> None:
        if self._broken is not None:
            raise concurrent.futures.BrokenExecutor(self._broken)
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _begin_calls(self) -> None:
        """Hands pending calls to the node, as many as may be under way."""
        self._count_cpus()
        while (call := self._next_call()) is not None:
            self._begin(call)

    def _next_call(self) -> _Call | None:
        with self._lock:
            call = self._pop()
            self._under_way += call is not None
            self._notify()
            return call

    def _pop(self) -> _Call | None:
        while self._pending and self._under_way < self._most_under_way:
            call = self._pending.popleft()
            if call.future.start():
                return call
        return None

    def _begin(self, call: _Call) -> None:
        try:
            remote, args = self._remote(call)
            ref = remote.remote(*args, **call.kwargs)
            require().objects.future(ref, call.future)
        # Of pickling, or of the session. An interrupt, too, has to leave an outcome.
        except BaseException as error:
            call.future.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _count_cpus(self) -> None:
        if self._max_workers is not None or not self._pending or monotonic() < self._counted_at + _LOOK_AGAIN:
            return
        self._counted_at = monotonic()
        self._most_under_way = max(2, 2 * count_slots(self._apply))

    def _ended(self, error: BaseException | None) -> None:
        """A call that was under way has ended. In the thread of the futures."""
        cause = error.cause if isinstance(error, TaskError) else error
        if isinstance(cause, InitializerFailed):
            self._break(str(cause))
        with self._lock:
            self._under_way -= 1
            self._notify()
            waiting = bool(self._pending)
        if waiting:
            self._hand_over_more()

    def _hand_over_more(self) -> None:
        try:
            self._thread.submit(self._begin_calls)
        except RuntimeError:  # the system gives no thread
            self._begin_calls()

    def _notify(self) -> None:
        if not self._pending and not self._under_way:
            self._all_ended.notify_all()

    def _break(self, reason: str) -> None:
        with self._lock:
            self._broken = reason
            calls = list(self._pending)
            self._pending.clear()
        for call in calls:
            if call.future.start():
                call.future.refuse(concurrent.futures.BrokenExecutor(reason))

    def _cancel_pending(self) -> None:
        with self._lock:
            calls = list(self._pending)
            self._pending.clear()
            self._notify()
        for call in calls:
            call.future.cancel()

    def _remote(self, call: _Call) -> tuple[RemoteFunction[..., Any], tuple[Any, ...]]:
        """The remote function for a call, and its arguments. A callable with a state travels with each call."""
        function, args = call.function, call.args
        if is_stateless(function):
            return (self._forms_of_chunks if call.in_chunk else self._forms).of(function), args
        return (self._apply_to_each if call.in_chunk else self._apply), (function, *args)

    def _make_remote(self, function: Callable[..., Any]) -> RemoteFunction[..., Any]:
        if self._initializer is not None:
            function = Prepared(self._key, self._initializer, self._initargs, function)
        made: RemoteFunction[..., Any] = ray.remote(**self._options)(function)
        return made


def _original(error: BaseException | None) -> BaseException | None:
    """The exception that a call raised, without the class that carried it here."""
    if not isinstance(error, TaskError) or isinstance(error.cause, UnserializableException):
        return error
    cause = error.cause
    if isinstance(cause, InitializerFailed):
        return concurrent.futures.BrokenExecutor(str(cause))
    cause.__cause__ = RemoteTraceback(str(error))
    return cause


def _results(
    ahead: deque[concurrent.futures.Future[Any]], more: Iterator[concurrent.futures.Future[Any]], end: float | None
) -> Iterator[Any]:
    """The results of the futures ``ahead`` and of those that are submitted when results are taken."""
    try:
        yield from _take_results(ahead, more, end)
    finally:
        _cancel_all(ahead)


def _take_results(
    ahead: deque[concurrent.futures.Future[Any]], more: Iterator[concurrent.futures.Future[Any]], end: float | None
) -> Iterator[Any]:
    while ahead:
        yield _next_result(ahead, more, end)


def _cancel_all(futures: Iterable[concurrent.futures.Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _next_result(
    ahead: deque[concurrent.futures.Future[Any]], more: Iterator[concurrent.futures.Future[Any]], end: float | None
) -> Any:
    future = ahead[0]
    # The iterator keeps no value that its reader has dropped: no local name outlives this.
    concurrent.futures.wait([future], None if end is None else max(0.0, end - monotonic()))
    if not future.done():
        raise TimeoutError
    ahead.popleft()
    ahead.extend(itertools.islice(more, 1))
    return future.result()


def _finish_all() -> None:
    """The program ends: waits for the calls of all executors, unless a signal ends it. No further call is taken."""
    interrupted = signals.is_leaving or getattr(sys, "last_type", None) is KeyboardInterrupt
    for executor in list(_living):
        executor.shutdown(wait=not interrupted, cancel_futures=interrupted)


# Exit functions run in the reverse order of their registration: this one runs before the one that ends the session.
atexit.register(_finish_all)
