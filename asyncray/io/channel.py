"""A process's stream to its daemon: a socket, a thread that reads it, and a way for every thread to write.

Measured, why this is no event loop: a hop between two threads costs 20 to 25 us, and importing asyncio with uvloop
60 ms in every driver and in the zygote. So whoever has to wait for an answer writes its request itself, from its own
thread, and the one io thread reads. What nobody waits for is written by the io thread.

The io thread sleeps in ``poll``. After something came it stays awake for a moment (*hot*): what is posted then needs
no wake-up, which in a request-response rhythm saves a system call and a switch for each call.

Promises: messages are written in the order in which ``collect`` gives them; ``closed`` is called once. It does not
know what the messages mean.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterable

from asyncray.messages import Message
from asyncray.wire.frames import Decoder, ProtocolViolation, encode

_READ_SIZE = 256 * 1024
_HOT_MILLISECONDS = 1
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
    """

    def __init__(
        self,
        connection: socket.socket,
        limit: int,
        collect: Callable[[], list[Message]],
        received: Callable[[list[Message]], None],
        closed: Callable[[str], None],
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
        self._armed = False
        self._hot = False
        self._stopping = False
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
                os.write(self._wake_write, b"w")
            except OSError:
                pass  # closed, or a full pipe, which wakes just as well

    def flush(self) -> None:
        """Writes what there is, now, in this thread. Errors show in the io thread, which sees the stream end."""
        with self._send_lock:
            messages = self._collect()
            if messages:
                self._write(messages)

    def _write(self, messages: list[Message]) -> None:
        try:
            for start in range(0, len(messages), _FRAME_MESSAGES):
                self._socket.sendall(encode(messages[start : start + _FRAME_MESSAGES]))
        except OSError:
            # The daemon is gone. The io thread reads the end of the stream and tells everybody who waits.
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self, timeout: float) -> None:
        """Ends the stream and the io thread; waits for it, except in the io thread itself."""
        self._stopping = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            self._thread.join(timeout)

    # In the io thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the connection was closed"
        try:
            self._loop()
        except ProtocolViolation as error:
            reason = f"the daemon sent nonsense: {error}"
        except OSError as error:
            reason = f"the connection broke: {error}"
        finally:
            self._hot = True  # no pokes any more
            self._socket.close()
            os.close(self._wake_read)
            wake, self._wake_write = self._wake_write, -1
            os.close(wake)
            self._closed(reason)

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        timeout: int | None = None
        while not self._stopping:
            events = poll.poll(timeout)
            self._hot = True
            for descriptor in [descriptor for descriptor, _ in events]:
                if descriptor == self._wake_read:
                    self._armed = False
                    os.read(self._wake_read, 64)
                elif not self._read():
                    return
            if events:
                if timeout is None:
                    self.flush()
                timeout = _HOT_MILLISECONDS
                continue
            # A quiet moment: write what was posted meanwhile, and if there was nothing, sleep. Whoever posts after
            # ``_hot`` is off pokes; whoever posted before is seen by the flush that follows.
            self._hot = False
            timeout = _HOT_MILLISECONDS if self._flush_some() else None

    def _flush_some(self) -> bool:
        with self._send_lock:
            messages = self._collect()
            if messages:
                self._write(messages)
            return bool(messages)

    def _read(self) -> bool:
        data = self._socket.recv(_READ_SIZE)
        if not data:
            return False
        messages: Iterable[Message] = self._decoder.feed(data)
        if messages:
            self._received(list(messages))
        return True
