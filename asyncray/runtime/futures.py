"""``ref.future()``: refs as futures of ``concurrent.futures``.

1. **Goal.** A future for each of many thousand refs, whose value is unpickled and whose callbacks run outside of the io
   thread, as both are code of the user's.
2. **Things that do not work.**

   * *A thread for each future.* Results that come together need as many threads at once as the system may not give.
   * *One thread for everything.* A callback that blocks stops all other futures; one that waits for another future
     waits for ever.
   * *A pool that does both.* As soon as all its threads run callbacks that block, the same happens.
3. **Solution.** One thread takes the values in the order in which they came, unpickles each and resolves its future.
   Callbacks run on up to four other threads. So a callback that blocks never stops a result; four that block stop the
   callbacks after them. The threads start with the first future and the first callback, in the thread that asks, and
   never inside a lock.
4. **Cancelling.** A future is pending until its value is being unpickled: until then ``cancel()`` succeeds, and
   ``concurrent.futures.wait`` and ``as_completed`` see it at once (a plain future leaves that to an executor:
   python/cpython#92001). From then on it returns False. It never touches the task.
5. **The end.** When the session or the node ends, pending futures get LocalNodeDiedError. If the system gives no
   thread, the future has an error that says so.

Imported with the first future: ``concurrent.futures`` loads ``logging``.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncray.exceptions import AsyncraySystemError
from asyncray.runtime.background import BackgroundThreads
from asyncray.runtime.deadlines import share
from asyncray.runtime.references import LocalObject
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.waiters import IoThreadCallback, Waiters

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_CALLBACKS = 4
"""Callbacks that may be under way at once. As many threads as Ray has for futures."""

Callback = Callable[["concurrent.futures.Future[Any]"], object]


class RefFuture(concurrent.futures.Future[Any]):
    """A future with the value of a ref, once ``wait_for`` has told it which."""

    def __init__(self) -> None:
        super().__init__()
        # The futures of the session, and the object, which lives while the future is pending. None before ``wait_for``;
        # the object is None also once the future is resolved or cancelled.
        self._futures: Futures | None = None
        self._ref: ObjectRef[Any] | None = None
        # Decides between ``cancel`` and ``begin``. Re-entrant: a callback may call ``cancel``.
        self._settling = threading.RLock()
        self.waiter = IoThreadCallback(self._value_came)

    def _value_came(self) -> None:
        assert self._futures is not None
        self._futures.enqueue(self)

    def cancel(self) -> bool:
        """Cancels the future, not the task. False once the value is being read."""
        with self._settling:
            if not super().cancel():
                return False
            ref, self._ref = self._ref, None
            if ref is not None:
                self.set_running_or_notify_cancel()
        if ref is not None and self._futures is not None:
            self._futures.withdraw(self, (ref._local,))
        return True

    def wait_for(self, futures: Futures, ref: ObjectRef[Any]) -> None:
        """The future gets the value of this ref."""
        self._futures, self._ref = futures, ref

    def begin(self) -> ObjectRef[Any] | None:
        """The value is about to be read: the ref, or None if the future was cancelled. From now on it cannot be."""
        with self._settling:
            ref, self._ref = self._ref, None
            if ref is None or self.done():
                return None
            self.set_running_or_notify_cancel()
            return ref

    def add_done_callback(self, fn: Callback) -> None:
        """As in ``concurrent.futures``, but callbacks run on threads of their own."""
        super().add_done_callback(fn if self.done() else functools.partial(self._call_elsewhere, fn))

    def _call_elsewhere(self, fn: Callback, future: concurrent.futures.Future[Any]) -> None:
        if self._futures is None:
            fn(future)
        else:
            self._futures.call(fn, future)


class Futures:
    """The futures of one session.

    Args:
        load: the value of an object that has arrived; raises if it is an error, or if the session has ended.
    """

    def __init__(self, waiters: Waiters, load: Callable[[LocalObject], Any]) -> None:
        self._waiters = waiters
        self._load = load
        self._resolver = BackgroundThreads("asyncray-future")
        self._callers = BackgroundThreads("asyncray-callback", _MOST_CALLBACKS)

    def __repr__(self) -> str:
        return f"<Futures {self._resolver} {self._callers}>"

    # Any thread -------------------------------------------------------------------------------------------------------

    def future(self, ref: ObjectRef[Any], future: RefFuture | None = None) -> concurrent.futures.Future[Any]:
        """A future with the value of the ref: the given one, or a new one."""
        future = RefFuture() if future is None else future
        future.wait_for(self, ref)
        try:
            self._resolver.start()
        except RuntimeError as error:
            future.set_exception(AsyncraySystemError(f"No thread could be started for the futures of refs: {error}"))
            return future
        if not self._waiters.register(future.waiter, (ref._local,)):
            self.enqueue(future)
        return future

    def withdraw(self, future: RefFuture, objects: Iterable[LocalObject]) -> None:
        """The future was cancelled."""
        self._waiters.withdraw(future.waiter, objects)

    def call(self, callback: Callback, future: concurrent.futures.Future[Any]) -> None:
        """Calls a callback: not in the thread that resolves futures."""
        if self._resolver.is_current():
            try:
                self._callers.submit(functools.partial(_call, callback, future))
                return
            except RuntimeError:
                pass  # no thread can be started: better here than not at all
        callback(future)

    def close(self, timeout: float) -> None:
        """The session has ended: pending futures get its error. Waits ``timeout`` seconds for callbacks."""
        share(timeout, self._resolver.close, self._callers.close)

    # In the io thread -------------------------------------------------------------------------------------------------

    def enqueue(self, future: RefFuture) -> None:
        """The value has arrived, or cannot arrive any more."""
        self._resolver.put(functools.partial(self._resolve, future))

    # In the thread of the futures -------------------------------------------------------------------------------------

    def _resolve(self, future: RefFuture) -> None:
        ref = future.begin()
        if ref is None:
            return
        try:
            value = self._load(ref._local)
        except BaseException as error:  # of the task, or of unpickling
            future.set_exception(error)
        else:
            future.set_result(value)


def _call(callback: Callback, future: concurrent.futures.Future[Any]) -> None:
    try:
        callback(future)
    except Exception:  # as in ``concurrent.futures``
        import logging  # comes with concurrent.futures

        logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)
