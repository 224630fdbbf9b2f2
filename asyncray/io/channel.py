"""A process's stream to its daemon: a socket, a thread that reads it, and a way for every thread to write.

Measured, why this is no event loop: a hop between two threads costs 20 to 25 us, and importing asyncio with uvloop
60 ms in every driver and in the zygote. So whoever has to wait for an answer writes its request itself, from its own
thread, and reads the answer itself, too: the right to read is a *baton*, which the io thread lends to threads that
come back for it within a millisecond (15 % more calls a second in the rhythm of request and answer). What nobody waits
for is written and read by the io thread.

Who reads sleeps in ``poll``. After something came it stays awake for a moment (*hot*): what is posted then needs
no wake-up, which in that rhythm saves a system call and a switch for each call.

Who waits for a single answer looks for it awake first (*vigil*), for an answer takes 150 us and falling asleep and
waking up as much again: 278 us a call of an actor without, 150 us with it. A vigil that was in vain is not repeated
for a while, so that it costs nothing where answers take longer.

Promises: messages are written in the order in which ``collect`` gives them; ``closed`` is called once. It does not
know what the messages mean.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from asyncray.io.interrupts import with_signals_deferred
from asyncray.messages import Message
from asyncray.wire.frames import Decoder, ProtocolViolation, encode_all

_READ_SIZE = 256 * 1024
_HOT_MILLISECONDS = 1
_HOT_NANOSECONDS = 1_000_000
_MOST_ASIDE_MILLISECONDS = 4
"""The io thread looks this seldom after others when they read in a steady rhythm. What is posted then waits so long."""

_VIGIL_NANOSECONDS = 500_000
_MOST_PAUSE = 32
"""Waits without a vigil after many in vain: then one in 33 has one."""

_FRAME_MESSAGES = 500
"""Messages to a frame: the daemon works on the first while the next is packed."""


class Channel:
    """The stream.

    Args:
        connection: a connected blocking stream socket; it is the channel's from now on.
        limit: the largest frame to accept, in bytes.
        collect: gives the messages to write now. Called under a lock, by any thread.
        received: takes a batch of messages, in the io thread.
        closed: called once in the io thread when the stream has ended, with the reason.
        anyone_waiting: true while other threads or loops wait for messages.
    """

    def __init__(
        self,
        connection: socket.socket,
        limit: int,
        collect: Callable[[], list[Message]],
        received: Callable[[list[Message]], None],
        closed: Callable[[str], None],
        anyone_waiting: Callable[[], bool],
    ) -> None:
        self._socket = connection
        self._decoder = Decoder(limit)
        self._collect = collect
        self._received = received
        self._closed = closed
        self._send_lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._anyone_waiting = anyone_waiting
        self._baton = threading.Lock()  # held by the thread that reads
        # That thread, and those that would like to be it: noted before they are, as finalizers come at any moment.
        self._readers: dict[int, None] = {}
        self._writer: int | None = None  # the thread that has the send lock
        self._again = False  # and that is to look once more what there is
        self._wanted = False  # another thread would like to read
        self._take_over = False  # the io thread is to read, and not to wait for others to do so
        self._readings = 0
        self._ended = False
        self._reason = "the connection was closed"
        self._vigil = _VIGIL_NANOSECONDS if _cpus() > 1 else 0  # alone on a CPU it would only be in the way
        self._pause = 0  # waits without a vigil after one in vain
        self._pausing = 0  # those of them that are still to come
        self._quiet: int | None = None  # milliseconds after which a poll looks what was posted meanwhile
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._unsent: deque[memoryview] = deque()  # what the system's buffer did not take
        self._writing = False  # poll waits for room in that, too
        self._flushed = 0
        self._armed = False
        self._hot = False
        self._stopping = False
        self._poll.register(self._wake_read, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="asyncray-io", daemon=True)

    def __repr__(self) -> str:
        return f"<Channel fd={self._socket.fileno()} {'stopping' if self._stopping else 'open'}>"

    def start(self) -> None:
        """Starts the io thread."""
        self._thread.start()

    def poke(self) -> None:
        """Something is to be written, some time soon. Cheap, and safe in a finalizer: it takes no lock."""
        if not self._hot and not self._armed:
            self._armed = True
            try:
                os.write(
                    self._wake_write, b"w"
                )  # here, for an interrupt that comes between the two loses all later ones
            except OSError:
                pass

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"w")
        except OSError:
            pass  # closed, or a full pipe, which wakes just as well

    def flush(self) -> bool:
        """Writes what there is, now, in this thread; what the socket does not take at once, whoever reads writes soon.

        So nobody waits for a daemon that does not read: Ctrl-C and timeouts work. Errors show in the io thread, which
        sees the stream end.

        Returns:
            True if there was something to write.
        """
        return with_signals_deferred(self._write)

    def _write(self) -> bool:
        self._flushed = time.perf_counter_ns()
        me = threading.get_ident()
        if self._writer == me:  # a finalizer that the garbage collector runs in the middle of this
            self._again = True
            return True
        with self._send_lock:
            self._writer = me
            try:
                written = self._write_posted()
                while self._again:
                    self._again = False
                    written |= self._write_posted()
                return written
            finally:
                self._writer = None

    def _write_posted(self) -> bool:
        messages = self._collect()
        if not messages and not self._unsent:
            return False
        self._send()
        for start in range(0, len(messages), _FRAME_MESSAGES):
            idle = not self._unsent
            self._unsent.extend(map(memoryview, encode_all(messages[start : start + _FRAME_MESSAGES])))
            if idle:
                self._send()
        if self._unsent:
            self._wake()
        return True

    def _send(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                done = self._socket.send(unsent[0], socket.MSG_DONTWAIT)
                if done < len(unsent[0]):
                    unsent[0] = unsent[0][done:]
                else:
                    unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            # The daemon is gone. Whoever reads sees the end of the stream and tells everybody who waits.
            unsent.clear()
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was already

    def drain(self, timeout: float) -> None:
        """Writes everything, and waits until the system has taken it: the process is about to end."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        self.flush()
        while self._unsent and time.monotonic() < deadline:
            poll.poll(_HOT_MILLISECONDS)
            self.flush()

    def stop(self, timeout: float) -> None:
        """Ends the stream and the io thread; waits for it, except in the io thread itself."""
        self._stopping = True
        self._shut_down()
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Closes a fork's copies of the descriptors: the stream is the parent's. The io thread did not come along."""
        self._hot = True  # no pokes any more: the pipe is gone
        self._ended = True
        self._send_lock = threading.Lock()  # a thread that was left behind may have held it
        self._writer = None
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # Reading: by whoever holds the baton ------------------------------------------------------------------------------

    def read_until(
        self,
        done: Callable[[], bool],
        otherwise: Callable[[float | None], bool],
        timeout: float | None,
        soon: bool = False,
    ) -> bool:
        """Waits for what the stream will bring, and reads it in this thread if no other thread is reading.

        Args:
            done: true once there is no need to wait.
            otherwise: waits for the same while another thread reads; takes seconds, returns False when they are over.
            timeout: seconds, or None.
            soon: it is a single answer, which may come within a moment.

        Returns:
            False if the time was over first.
        """
        taken: list[bool] = []
        me = threading.get_ident()
        self._readers[me] = None
        try:
            # In one call: should a signal handler raise, then before it or after it, and the baton is not lost.
            taken.extend(map(self._baton.acquire, (False,)))
            if taken[0]:
                self._readings += 1
                if not self._read_on(done, timeout, soon):
                    return done()
            else:
                self._wanted = True
        finally:
            del self._readers[me]
            if taken and taken[0]:
                self._baton.release()
                if self._ended or self._stopping or self._anyone_waiting():
                    self._take_over = True  # others wait: the io thread should not wait for us to come back
                    self._wake()
        return done() or otherwise(timeout)

    def _read_on(self, done: Callable[[], bool], timeout: float | None, soon: bool) -> bool:
        """False if the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if soon and not done():
            self._keep_vigil(done)
        while not done() and not self._ended and not self._stopping:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._turn(deadline)
        return True

    def held_by_this_thread(self) -> bool:
        """True in the thread that reads or writes, in what it calls: in a finalizer. It cannot wait for an answer."""
        me = threading.get_ident()
        return me in self._readers or me == self._writer

    def _keep_vigil(self, done: Callable[[], bool]) -> None:
        """Looks awake for what may come soon, unless that was in vain lately."""
        if self._pausing:
            self._pausing -= 1
            return
        until = time.perf_counter_ns() + self._vigil
        while time.perf_counter_ns() < until:
            if self._poll.poll(0):
                # 1. The pipe was written to. 2. The io thread, stepping aside, reads it. 3. There is nothing any more.
                self._turn(time.monotonic())
                if done() or self._ended:
                    self._pause = 0
                    return
        self._pause = self._pausing = min(2 * self._pause + 1, _MOST_PAUSE)

    def _turn(self, deadline: float | None = None) -> None:
        """Waits for events once, and handles them."""
        wait = self._quiet
        if deadline is not None:
            left = max(0, int((deadline - time.monotonic()) * 1000) + 1)  # below 0 is for ever
            wait = left if wait is None else min(wait, left)
        if bool(self._unsent) != self._writing:
            writing = not self._writing
            self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if writing else 0))
            self._writing = writing  # last, for an interrupt may come in between
        events = self._poll.poll(wait)
        slept, self._quiet = self._quiet is None, _HOT_MILLISECONDS  # first: who is hot must not sleep for long
        self._hot = True
        for descriptor, event in events:
            if descriptor == self._wake_read:
                self._woken()
            elif event != select.POLLOUT and not self._read():
                self._ended = True
                return
        if events:
            # In a steady stream there is no quiet moment, and others post, too.
            if slept or self._unsent or time.perf_counter_ns() - self._flushed > _HOT_NANOSECONDS:
                self.flush()
        else:
            # A quiet moment: write what was posted meanwhile, and if there was nothing, sleep. Whoever posts after
            # ``_hot`` is off pokes; whoever posted before is seen by the write that follows.
            self._hot = False
            self._quiet = _HOT_MILLISECONDS if self.flush() else None

    def _woken(self) -> None:
        self._armed = False
        try:
            os.read(self._wake_read, 64)
        except BlockingIOError:
            pass  # the last holder of the baton has read it

    def _read(self) -> bool:
        """False at the end of the stream."""
        try:
            return with_signals_deferred(self._receive)
        except ProtocolViolation as error:
            self._reason = f"the daemon sent nonsense: {error}"
        except OSError as error:
            self._reason = f"the connection broke: {error}"
        return False

    def _receive(self) -> bool:
        data = self._socket.recv(_READ_SIZE)
        messages = self._decoder.feed(data)
        if messages:
            self._received(messages)
        return bool(data)

    # The io thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._keep_reading():
                self._step_aside()
        finally:
            with self._baton:  # nobody else is in poll
                self._ended = True
                self._hot = True  # no pokes any more
                self._socket.close()
                os.close(self._wake_read)
                wake, self._wake_write = self._wake_write, -1
                os.close(wake)
            self._closed(self._reason)

    def _keep_reading(self) -> bool:
        """Reads until another thread would like to. False at the end of the stream."""
        me = threading.get_ident()
        self._readers[me] = None
        try:
            with self._baton:
                self._wanted = False
                while not self._wanted:
                    if self._stopping or self._ended:
                        return False
                    self._turn()
                return True
        finally:
            del self._readers[me]

    def _step_aside(self) -> None:
        """Lets threads that wait read for themselves, as long as one of them comes back within a millisecond."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        self._take_over = False
        pause = _HOT_MILLISECONDS
        while not self._take_over:
            readings = self._readings
            if poll.poll(pause):
                self._woken()
            self.flush()
            if self._readings == readings:
                return  # nobody came, or somebody reads for long: then the baton is waited for, asleep
            pause = min(2 * pause, _MOST_ASIDE_MILLISECONDS)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
