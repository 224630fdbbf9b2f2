"""Threads of our own for code of the user's that nobody waits for: unpickling, callbacks, large copies.

Owns a queue of jobs and the threads that take them. A thread is started by the first job that needs it and not before;
it ends when the session does. The threads are daemon threads: a job that never returns does not hold up the end of the
program.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock

BackgroundJob = Callable[[], object]


class BackgroundThreads:
    """Does jobs in the order in which they come, on up to ``most`` threads.

    Args:
        name: of the threads.
        most: how many jobs may run at once. The others wait in a queue. It has no bound, because each job stands for
            something that the caller holds anyway.
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._name = name
        self._most = most
        # Jobs, and None for the end: each thread that takes it puts it back.
        self._queue: SimpleQueue[BackgroundJob | None] = SimpleQueue()
        # Re-entrant: a finalizer may come here in a thread that holds it. Guards the three below.
        self._lock = OwnedRLock()
        # Threads that were started.
        self._threads: list[threading.Thread] = []
        # Jobs that were queued and are not done. A job counts without a gap while a thread takes it from the queue:
        # otherwise a job queued just then would see an idle thread, and wait behind one that may block.
        self._unfinished = 0
        # The session has ended: jobs are done where they come up.
        self._closed = False

    def __repr__(self) -> str:
        return f"<BackgroundThreads {self._name} {self._unfinished} jobs, {len(self._threads)} threads>"

    def start(self) -> None:
        """Starts a thread unless one runs.

        Raises:
            RuntimeError: none runs, and the system starts none.
        """
        if not self._threads:
            with_signals_deferred(self._start_thread)

    def put(self, job: BackgroundJob) -> None:
        """Queues a job. Quick, and safe everywhere; needs a thread (``start``)."""
        if self._closed:
            self._do(job)
        else:
            self._count(1)
            self._queue.put(job)

    def submit(self, job: BackgroundJob) -> None:
        """Queues a job, and starts another thread if all are busy.

        Raises:
            RuntimeError: no thread runs, and the system starts none. The job is not done.
        """
        self.start()
        self._count(1)
        self._queue.put(job)
        if len(self._threads) < min(self._unfinished, self._most):
            try:
                with_signals_deferred(self._start_thread)
            except RuntimeError:
                pass  # the running threads will do it

    def is_current(self) -> bool:
        """True in one of the threads."""
        return threading.current_thread() in self._threads

    def _start_thread(self) -> None:
        with self._lock:
            if self._closed or len(self._threads) >= self._most:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.remove(thread)
            if not self._threads:
                raise

    def close(self, timeout: float) -> None:
        """Waits until the queue is done, for at most ``timeout`` seconds, and ends the threads."""
        self._closed = True
        self._queue.put(None)
        deadline = time.monotonic() + timeout
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._do_rest()

    def _do_rest(self) -> None:
        """Jobs that were queued while the threads ended."""
        try:
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    self._do(job)
        except Empty:
            pass

    # In the threads ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._do(job)
            self._count(-1)
            del job  # a thread that waits must not keep what the last job used
        self._queue.put(None)  # for the next thread

    def _count(self, change: int) -> None:
        with self._lock:
            self._unfinished += change

    @staticmethod
    def _do(job: BackgroundJob) -> None:
        try:
            job()
        except BaseException:  # code of the user's may raise anything
            # Reported as in a thread of its own, and the next job comes.
            report = threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
            try:
                threading.excepthook(report)
            except BaseException:  # the hook is the user's, too
                threading.__excepthook__(report)
