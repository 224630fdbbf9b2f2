"""A function that runs in a thread of its own while a coroutine waits for it.

Why not ``asyncio.to_thread``: all threads of its pool may wait for the very session that is to end, the pool may be
shut down already, and a cancelled caller cannot wait for what its thread still does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class ThreadCall(Generic[T]):
    """The call. It begins at once. Where the system starts no thread it runs here, and the event loop waits for it.

    Args:
        function: runs in the thread.

    Example::

        context = await ThreadCall(start.run).result()
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()

        # The outcome. Written by the loop, after the thread has nothing left to do.
        self._future: asyncio.Future[T] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="asyncray-session", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._run()

    def __repr__(self) -> str:
        return f"<ThreadCall {self._function!r} {'finished' if self._future.done() else 'running'}>"

    async def result(self) -> T:
        """The result of the function, or its exception. Cancelling it does not end the thread: see ``finished``."""
        await asyncio.wait((self._future,))
        self._join()
        return self._future.result()

    async def finished(self) -> None:
        """Waits for the end of the thread, even if it is cancelled meanwhile. Raises nothing."""
        while not self._future.done():
            try:
                await asyncio.wait((self._future,))
            except asyncio.CancelledError:
                continue
        self._future.exception()  # marks it as seen
        self._join()

    def _join(self) -> None:
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def abandon(self) -> None:
        """No coroutine waits any more: an exception is not reported."""
        self._future.add_done_callback(lambda future: future.exception())

    def _run(self) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = self._function()
        except BaseException as raised:  # it goes to the caller
            error = raised
        try:
            self._loop.call_soon_threadsafe(self._resolve, result, error)
        except RuntimeError:
            pass  # the loop was closed, and nothing waits any more

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self._future.set_result(cast(T, result))
        else:
            self._future.set_exception(error)
