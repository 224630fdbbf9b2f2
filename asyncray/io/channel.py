"""A process's stream to its daemon: a socket that every thread may write to and read from.

Owns the socket and its three parts: ``sending`` writes posted messages, ``reading`` reads (in the thread that waits, or
in an io thread), ``wakeup`` is the pipe by which a thread that posts wakes the one that reads. Threads hold two locks
between them, the send lock and the reader lock; a thread that reads may write, and never the other way round.

Promises: messages are written in the order in which ``collect`` gives them; ``closed`` is called once; the descriptors
are closed once, in this process and in each child that is forked from it. It does not know what the messages mean.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from asyncray.io import forking
from asyncray.io.reading import Reader
from asyncray.io.sending import Sender
from asyncray.io.wakeup import Wakeup
from asyncray.messages import Received


class Channel:
    """The stream.

    Args:
        connection: a connected blocking stream socket; it is the channel's from now on.
        limit: the largest frame to accept, in bytes.
        collect: gives the messages to write now. Called under a lock, by any thread.
        received: takes a batch of messages, in the thread that reads.
        closed: called once in the io thread when the stream has ended, with the reason.
        anyone_waiting: true while other threads or loops wait for messages.
        end_waits_in_child: called in a forked child, which gets no message any more.
    """

    def __init__(
        self,
        connection: socket.socket,
        limit: int,
        collect: Callable[[], Sequence[object]],
        received: Callable[[list[Received]], None],
        closed: Callable[[str], None],
        anyone_waiting: Callable[[], bool],
        end_waits_in_child: Callable[[], None],
    ) -> None:
        self._end_waits_in_child = end_waits_in_child
        # Closed by the io thread at its end, or by the thread that stops a channel whose io thread never ran.
        self._socket = connection
        with forking.lock:  # a fork of another thread finds all of it or nothing
            self._wakeup = Wakeup()
            self._sender = Sender(connection, collect, self._wakeup)
            self._reader = Reader(
                connection, limit, self._sender, self._wakeup, received, self._close, closed, anyone_waiting
            )
            self._descriptor = connection.fileno()
            forking.close_in_child(self._forget_in_child, self._descriptor, *self._wakeup.descriptors)

        # Bound here, because each is called at least once per task.
        self.request_flush = self._wakeup.request
        self.flush = self._sender.flush
        self.read_until = self._reader.read_until

    def __repr__(self) -> str:
        return f"<Channel fd={self._socket.fileno()} {self._reader} {self._sender} {self._wakeup}>"

    def start(self) -> None:
        """Starts the io thread."""
        self._reader.start()

    def drain(self, timeout: float) -> None:
        """Writes everything, and waits until the system has taken it: the process is about to end.

        Args:
            timeout: seconds.
        """
        self._sender.drain(timeout)

    def stop(self, timeout: float) -> None:
        """Ends the stream and the io thread; waits for it, except in the io thread itself.

        Args:
            timeout: seconds.
        """
        self._reader.stop(timeout)

    def shut_down(self) -> None:
        """Ends the stream in both directions: its reader sees the end soon. From any thread."""
        self._sender.shut_down()

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up while its thread writes or hands on what it has read: it must not wait."""
        return self._sender.held_by_this_thread() or self._reader.held_by_this_thread()

    def _close(self) -> None:
        """Closes the descriptors; called under the reader lock."""
        with forking.lock:
            self._wakeup.close()
            self._socket.close()
            forking.closed(self._descriptor)

    def _forget_in_child(self) -> None:
        """In a forked child: the stream is the parent's, and its threads have stayed there."""
        self._reader.forget_in_child()
        self._sender.forget_in_child()
        self._end_waits_in_child()
        self._wakeup.close()
        self._socket.close()
