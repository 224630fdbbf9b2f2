"""The sending half of a stream: every thread may write the posted messages, at once and in its own thread.

Promises: messages are written in the order in which ``collect`` gives them; writing never blocks, even if the daemon
does not read; a signal handler that raises never leaves half a message behind. A message that cannot be encoded is a
defect of its maker: the thread that writes gets the error, and the other messages are written.

A finalizer may run in the middle of a write, in the same thread, and flush, too. It cannot wait for the lock that its
own thread holds, so it only notes that there is more to write.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock
from asyncray.io.wakeup import Wakeup
from asyncray.wire.frames import UNENCODABLE, encode_all

_FRAME_MESSAGES = 500
"""Messages to a frame: the daemon works on the first while the next is packed."""

_DRAIN_POLL_MILLISECONDS = 1


class Sender:
    """Writes to a connected stream socket that the channel owns.

    Args:
        connection: the socket.
        collect: gives the messages to write now. Called under the send lock, by any thread.
        wakeup: wakes the reader, which writes the rest if the socket does not take all.
    """

    def __init__(self, connection: socket.socket, collect: Callable[[], Sequence[object]], wakeup: Wakeup) -> None:
        self._socket = connection
        self._collect = collect
        self._wakeup = wakeup

        # Held while messages are collected and written, so that the order stays.
        self._lock = OwnedRLock()

        # A finalizer wants the thread that holds the send lock to look once more. Written by that thread only.
        self._write_again = False

        # Messages of a batch that found no memory to be encoded, or in which one was invalid: the next write begins
        # with them. Under the send lock.
        self._unencoded: Sequence[object] = ()

        # Bytes that the socket did not take. Written under the send lock, read by the reader without it.
        self.unsent: deque[memoryview] = deque()

        # When a thread last looked for posted messages, by ``perf_counter_ns``. Written by every thread, without a
        # lock: it only decides whether the reader looks, too.
        self.flushed_at = 0

    def __repr__(self) -> str:
        return f"<Sender {len(self.unsent)} unsent parts>"

    def held_by_this_thread(self) -> bool:
        """True in the thread that is writing: in a finalizer. It must not wait for an answer."""
        return self._lock.held_by_this_thread()

    def flush(self) -> bool:
        """Writes the posted messages now, in this thread. The reader writes the rest if the socket does not take all.

        So no thread waits for a daemon that does not read: Ctrl-C and timeouts work. An error shows in the reader,
        which sees the stream end.

        Returns:
            True if there was something to write.
        """
        return with_signals_deferred(self._write)

    def _write(self) -> bool:
        self.flushed_at = time.perf_counter_ns()
        if self._lock.held_by_this_thread():  # in a finalizer that came up in the middle of a write
            self._write_again = True
            return True
        with self._lock:
            written = self._write_posted()
            while self._write_again:
                self._write_again = False
                written |= self._write_posted()
            return written

    def _write_posted(self) -> bool:
        messages = self._collect()
        if self._unencoded:
            messages, self._unencoded = [*self._unencoded, *messages], ()
        if not messages and not self.unsent:
            return False
        self._send()
        for start in range(0, len(messages), _FRAME_MESSAGES):
            idle = not self.unsent
            # If any other message were lost, threads would wait for replies without end.
            try:
                self.unsent.extend(map(memoryview, encode_all(messages[start : start + _FRAME_MESSAGES])))
            except MemoryError:
                self._unencoded = messages[start:]
                raise
            except UNENCODABLE:
                self._unencoded = messages[start:]  # should there be no memory for the next line
                self._unencoded = _encodable(messages[start:])
                self._wakeup.wake()
                raise
            if idle:
                self._send()
        if self.unsent:
            self._wakeup.wake()
        return True

    def _send(self) -> None:
        unsent = self.unsent
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
            # The connection has ended. The reader sees the end of the stream and wakes every waiter.
            unsent.clear()
            self.shut_down()

    def shut_down(self) -> None:
        """Ends the stream in both directions: the reader sees its end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def drain(self, timeout: float) -> None:
        """Writes everything, and waits until the system has taken it: the process is about to end.

        Args:
            timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        self.flush()
        while self.unsent and time.monotonic() < deadline:
            poll.poll(_DRAIN_POLL_MILLISECONDS)
            self.flush()

    def forget_in_child(self) -> None:
        """In a forked child: the thread that held the lock, or was writing, has stayed in the parent."""
        self._lock = OwnedRLock()
        self._write_again = False
        self.unsent.clear()


def _encodable(messages: Sequence[object]) -> list[object]:
    """The messages without those that cannot be encoded."""
    found = []
    for message in messages:
        try:
            encode_all([message])
        except UNENCODABLE:
            continue
        found.append(message)
    return found
