"""A pipe that wakes the thread which reads a stream, so that it writes the messages posted meanwhile.

Owns the two descriptors of the pipe. Promises: ``request`` takes no lock, so a finalizer may call it in the middle of
anything; a request that comes while the reader sleeps wakes it; ``close`` may be called twice, and closes once.

Why a request costs nothing most of the time: the reader stays *awake* for a millisecond after each event and writes
the posted messages before it sleeps again, and one unread byte in the pipe is enough. Both save a system call and a
switch between threads.
"""

from __future__ import annotations

import os


class Wakeup:
    """The pipe."""

    def __init__(self) -> None:
        # The end to poll, and the other one; -1 once closed. Written by the thread that closes: the reader, under the
        # reader lock, or the only thread of a forked child.
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self._write_end, False)

        # The reader will write messages that are posted from now on without being woken. Written under the reader lock;
        # read by every thread without a lock: a thread that posts after it is off sends a byte, and the flush that
        # follows sees all earlier messages.
        self.reader_awake = False

        # The pipe holds a byte that no thread has read. Written by every thread, without a lock: a second byte does no
        # harm.
        self._wakeup_pending = False

    def __repr__(self) -> str:
        state = "closed" if self.read_end < 0 else "awake" if self.reader_awake else "asleep"
        return f"<Wakeup {state} read={self.read_end} write={self._write_end}>"

    @property
    def descriptors(self) -> tuple[int, int]:
        """The read end and the write end; -1 once closed."""
        return self.read_end, self._write_end

    def fileno(self) -> int:
        """The end to poll."""
        return self.read_end

    def request(self) -> None:
        """Asks the reader to write the posted messages soon. Cheap, and safe in a finalizer."""
        if not self.reader_awake and not self._wakeup_pending:
            self._wakeup_pending = True
            # Written inline, not via ``wake``: a signal handler that raises between these two lines would leave the
            # flag set, and no later request would write.
            try:
                os.write(self._write_end, b"w")
            except OSError:
                pass  # closed, or full

    def wake(self) -> None:
        """Wakes the reader even if it is awake: something has changed that it must see before it sleeps again."""
        try:
            os.write(self._write_end, b"w")
        except OSError:
            pass  # closed; or full, and a full pipe wakes as well

    def drain(self) -> None:
        """Takes the bytes out of the pipe; called by the thread that woke."""
        self._wakeup_pending = False
        try:
            os.read(self.read_end, 64)
        except OSError:
            pass  # another reader was first, or the pipe was closed

    def close(self) -> None:
        """Closes the pipe; later requests do nothing."""
        # Set first, so that no request writes to a number that may soon belong to another file.
        self.reader_awake = True
        ends = self.descriptors
        self.read_end = self._write_end = -1
        for end in ends:
            if end >= 0:
                os.close(end)
