"""The reading half of a stream: any thread that waits may read, and an io thread reads when none does.

Measured, why this is no event loop: a hop between two threads costs 20 to 25 us, and importing asyncio with uvloop
60 ms in every driver and in the zygote. So a thread that waits for an answer reads it itself. It needs the *reader
lock*, which the io thread leaves to threads that come back for it within a millisecond (15 % more calls a second in the
rhythm of request and answer). Messages that no thread waits for are written and read by the io thread.

A thread that waits for one reply spins for up to 0.5 ms before it sleeps: a reply takes about 150 us, and sleeping and
being woken costs as much again (278 us for an actor call without spinning, 150 us with it). A fruitless spin is not
repeated for a while, so that it costs nothing where replies take longer.

Code that runs in the middle of reading (a signal handler of the program, a finalizer) may wait for an answer, too: it
reads on in the place of the code below it, with a poll object of its own. Only inside ``_receive`` it cannot: there
the decoder and the receiver are in the middle of a batch.

Promises: ``closed`` is called once, in the io thread, after the last message. It does not know what messages mean.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import threading
import time
from collections.abc import Callable

from asyncray.config import READ_SIZE
from asyncray.io.control_groups import usable_cpus
from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock
from asyncray.io.sending import Sender
from asyncray.io.wakeup import Wakeup
from asyncray.messages import Received
from asyncray.wire.frames import Decoder, ProtocolViolation

CLOSED = "the connection was closed"
"""The reason of a plain end."""

_AWAKE_MILLISECONDS = 1
_AWAKE_NANOSECONDS = 1_000_000
_MOST_YIELD_MILLISECONDS = 4
"""The longest the io thread backs off while other threads keep reading. A message posted meanwhile may wait so long."""

_SPIN_NANOSECONDS = 500_000
_MOST_SPIN_BACKOFF = 32
"""Cap of the back-off: after many fruitless spins, one wait in 33 spins."""


class _Poll:
    """A poll object of one reader. ``select.poll`` refuses to be used again while it waits."""

    __slots__ = ("for_room", "poll")

    def __init__(self, connection: socket.socket, wakeup: Wakeup) -> None:
        self.poll = select.poll()
        self.poll.register(connection, select.POLLIN)
        self.poll.register(wakeup, select.POLLIN)
        self.for_room = False  # it waits for room in the socket's buffer, too


class Reader:
    """Reads a connected blocking stream socket that the channel owns.

    Args:
        connection: the socket.
        limit: the largest frame to accept, in bytes.
        sender: writes the posted messages while no data comes.
        wakeup: wakes the thread that reads.
        received: takes a batch of messages, in the thread that reads.
        close: closes the descriptors; called when no thread polls them any more.
        closed: called once in the io thread when the stream has ended, with the reason.
        anyone_waiting: true while other threads or loops wait for messages.
    """

    def __init__(
        self,
        connection: socket.socket,
        limit: int,
        sender: Sender,
        wakeup: Wakeup,
        received: Callable[[list[Received]], None],
        close: Callable[[], None],
        closed: Callable[[str], None],
        anyone_waiting: Callable[[], bool],
    ) -> None:
        self._socket = connection
        self._decoder = Decoder(limit)
        self._sender = sender
        self._wakeup = wakeup
        self._received = received
        self._close = close
        self._closed = closed
        self._anyone_waiting = anyone_waiting
        self._thread = threading.Thread(target=self._run, name="asyncray-io", daemon=True)

        # The right to poll and to read. Re-entrant: a signal handler or finalizer reads on in its own thread.
        self._reader_lock = OwnedRLock()

        # The poll object of the innermost reader. Written under the reader lock.
        self._poll = _Poll(connection, wakeup)

        # True while a batch is decoded and handed on. Written under the reader lock.
        self._receiving = False

        # Milliseconds after which a poll ends, so that messages posted meanwhile are written; None once there were
        # none. Written under the reader lock.
        self._poll_timeout_ms: int | None = None

        # Another thread would like to read. Set by that thread without a lock, cleared by the io thread under the
        # reader lock.
        self._reader_wanted = False

        # The io thread must read, and not wait for other threads to come back. Set by a thread that stops reading,
        # without a lock; cleared by the io thread.
        self._io_thread_must_read = False

        # How often another thread has taken the reader lock. Written under it, read by the io thread.
        self._readings = 0

        # How long to spin: not at all where one CPU would have to be shared with the daemon. Constant.
        self._spin_ns = _SPIN_NANOSECONDS if usable_cpus() > 1 else 0

        # Waits that do not spin after the next fruitless spin, and how many of them are still to come. Written under
        # the reader lock.
        self._spin_backoff = 0
        self._spins_to_skip = 0

        # The stream has ended, and why. Written under the reader lock.
        self._ended = False
        self._reason = CLOSED

        # The process wants the stream to end. Written by the thread that calls ``stop``.
        self._stopping = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "stopping" if self._stopping else "open"
        return f"<Reader {state} locked_here={self._reader_lock.held_by_this_thread()}>"

    def start(self) -> None:
        """Starts the io thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ends the reading; waits for the io thread, except in the io thread itself.

        Args:
            timeout: seconds.
        """
        self._stopping = True
        self._sender.shut_down()
        if threading.current_thread() is self._thread:
            return
        if self._thread.is_alive():
            self._thread.join(timeout)
        if not self._thread.is_alive():  # also if it could not be started
            with self._reader_lock:
                self._close()

    def held_by_this_thread(self) -> bool:
        """True in the thread that hands on what it has read: in a finalizer. It must not wait for an answer."""
        return self._receiving and self._reader_lock.held_by_this_thread()

    def forget_in_child(self) -> None:
        """In a forked child: the threads that read have stayed in the parent."""
        self._ended = True
        self._receiving = False
        # A signal handler may have forked while this thread reads, which it then releases itself.
        if not self._reader_lock.held_by_this_thread():
            self._reader_lock = OwnedRLock()

    # In a thread that waits -------------------------------------------------------------------------------------------

    def read_until(
        self,
        done: Callable[[], bool],
        otherwise: Callable[[float | None], bool],
        timeout: float | None,
        *,
        spins: bool = False,
        longest_poll: int | None = None,
    ) -> bool:
        """Waits until ``done``, and reads the stream in this thread if no other thread is reading.

        Args:
            done: true once the caller need not wait any more.
            otherwise: waits for the same while another thread reads; takes seconds; False when they have passed.
            timeout: seconds, or None.
            spins: a single reply is expected, which may come within a moment: spin before sleeping.
            longest_poll: milliseconds after which this thread looks for signals, see ``asyncray.io.signal_checks``.

        Returns:
            False if the time has passed first.
        """
        # In a child that a signal handler forks from here, ``forget_in_child`` may put another lock in its place.
        lock = self._reader_lock
        nested = lock.held_by_this_thread()
        taken: list[bool] = []
        try:
            # One C call acquires the lock and records that we hold it, so a signal handler cannot raise in between.
            taken.extend(map(lock.acquire, (False,)))
            if taken[0]:
                self._readings += 1
                if nested:
                    self._poll = _Poll(self._socket, self._wakeup)
                if not self._read_on(done, timeout, longest_poll, spins=spins):
                    return done()
            else:
                self._reader_wanted = True
        finally:
            if taken and taken[0]:
                if nested:
                    # The code below us may be about to poll for data that we have read.
                    self._wakeup.wake()
                lock.release()
                if self._ended or self._stopping or self._anyone_waiting():
                    self._io_thread_must_read = True  # others wait, so it should not wait for us to come back
                    self._wakeup.wake()
        return done() or otherwise(timeout)

    def _read_on(
        self, done: Callable[[], bool], timeout: float | None, longest_poll: int | None, *, spins: bool
    ) -> bool:
        """False if the time has passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if spins and not done():
            self._spin_for_reply(done)
        while not done() and not self._ended and not self._stopping:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._turn(deadline, longest_poll)
        return True

    def _spin_for_reply(self, done: Callable[[], bool]) -> None:
        """Polls without sleeping for a moment, unless that was fruitless lately."""
        if self._spins_to_skip:
            self._spins_to_skip -= 1
            return
        until = time.perf_counter_ns() + self._spin_ns
        poll = self._poll.poll
        while time.perf_counter_ns() < until:
            if poll.poll(0):
                # The io thread may have drained the wake-up pipe between our poll and this read, so poll again without
                # blocking.
                self._turn(time.monotonic())
                if done() or self._ended:
                    self._spin_backoff = 0
                    return
        self._spin_backoff = self._spins_to_skip = min(2 * self._spin_backoff + 1, _MOST_SPIN_BACKOFF)

    # In the thread that has the reader lock ---------------------------------------------------------------------------

    def _turn(self, deadline: float | None = None, longest_poll: int | None = None) -> None:
        """Waits for events once, and handles them."""
        wait = longest_poll if self._poll_timeout_ms is None else self._poll_timeout_ms
        if deadline is not None:
            left = max(0, int((deadline - time.monotonic()) * 1000) + 1)  # below 0 is for ever
            wait = left if wait is None else min(wait, left)
        poll, sender, wakeup = self._poll, self._sender, self._wakeup
        if bool(sender.unsent) != poll.for_room:
            for_room = not poll.for_room
            poll.poll.modify(self._socket, select.POLLIN | (select.POLLOUT if for_room else 0))
            poll.for_room = for_room  # last, because a signal handler may raise in between
        events = poll.poll.poll(wait)
        # The timeout is set first: a reader that counts as awake must not sleep for long.
        slept, self._poll_timeout_ms = self._poll_timeout_ms is None, _AWAKE_MILLISECONDS
        wakeup.reader_awake = True
        for descriptor, event in events:
            if descriptor == wakeup.read_end:
                wakeup.drain()
            elif event != select.POLLOUT and not self._read():
                self._ended = True
                return
        if events:
            # A steady stream has no quiet moment, and other threads post meanwhile.
            if slept or sender.unsent or time.perf_counter_ns() - sender.flushed_at > _AWAKE_NANOSECONDS:
                sender.flush()
        else:
            # A quiet moment: write the messages that were posted meanwhile, and sleep if there were none. A thread that
            # posts after ``reader_awake`` is off sends a wake-up; the flush that follows sees all earlier messages.
            wakeup.reader_awake = False
            self._poll_timeout_ms = _AWAKE_MILLISECONDS if sender.flush() else None

    def _read(self) -> bool:
        """False at the end of the stream."""
        try:
            return with_signals_deferred(self._receive)
        except BlockingIOError:
            # A signal handler or finalizer that waited in this thread has read the data since the poll.
            return True
        except ProtocolViolation as error:
            self._reason = f"the daemon sent nonsense: {error}"
        except OSError as error:
            self._reason = f"the connection broke: {error}"
        return False

    def _receive(self) -> bool:
        self._receiving = True
        try:
            data = self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
            messages = self._decoder.feed(data)
            if messages:
                self._received(messages)
            return bool(data)
        except MemoryError:
            # A part of the batch is lost, so nothing that follows would make sense.
            raise OSError(errno.ENOMEM, "there is no memory for a message") from None
        finally:
            self._receiving = False

    # In the io thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._keep_reading():
                self._yield_reading()
        # A defect, or a limit of the system: everything that waits must learn of it.
        except Exception as error:
            self._reason = f"the io thread failed: {error!r}"
            sys.excepthook(*sys.exc_info())
        finally:
            with self._reader_lock:  # no other thread is in poll
                self._ended = True
                self._close()
            self._closed(self._reason)

    def _keep_reading(self) -> bool:
        """Reads until another thread would like to. False at the end of the stream."""
        with self._reader_lock:
            self._reader_wanted = False
            while not self._reader_wanted:
                if self._stopping or self._ended:
                    return False
                self._turn()
            return True

    def _yield_reading(self) -> None:
        """Lets threads that wait read for themselves, as long as one of them comes back within a millisecond."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        self._io_thread_must_read = False
        pause = _AWAKE_MILLISECONDS
        while not self._io_thread_must_read:
            readings = self._readings
            if poll.poll(pause):
                self._wakeup.drain()
            self._sender.flush()
            if self._readings == readings:
                return  # no thread came, or one reads for long
            pause = min(2 * pause, _MOST_YIELD_MILLISECONDS)
