"""The pipe that wakes the thread which reads."""

from __future__ import annotations

import contextlib
import os

from asyncray.io.wakeup import Wakeup
from tests.io.stream_client import Client


def test_a_request_wakes_the_io_thread(client: Client) -> None:
    for number in range(3):  # asleep, awake, asleep again
        client.post(number)
        assert client.daemon.hear(1) == [(number,)]


def bytes_in(wakeup: Wakeup) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while os.read(wakeup.fileno(), 1):
            count += 1
    return count


def test_requests_write_once_and_not_while_the_reader_is_awake() -> None:
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.request()
    assert bytes_in(wakeup) == 1
    wakeup.request()
    assert bytes_in(wakeup) == 0  # nobody has drained it
    wakeup.drain()
    wakeup.reader_awake = True
    wakeup.request()
    assert bytes_in(wakeup) == 0
    wakeup.wake()
    assert bytes_in(wakeup) == 1
    wakeup.close()


def test_a_full_pipe_and_a_closed_one_are_no_errors() -> None:
    wakeup = Wakeup()
    for _ in range(1 << 17):
        wakeup.wake()
    wakeup.request()
    wakeup.close()
    number = os.open(os.devnull, os.O_RDWR)  # most likely what the pipe had
    wakeup.close()
    for use in (wakeup.request, wakeup.wake, wakeup.drain):
        use()
    os.fstat(number)
    os.close(number)
    assert wakeup.descriptors == (-1, -1)
