"""Limits and deadlines, each with the reason for its number. Seconds and bytes unless said otherwise.

A limit that users may need to move reads ``ASYNCRAY_<NAME>`` from the environment, once, when the process starts.
"""

from __future__ import annotations

import os


def _number(name: str, default: float) -> float:
    text = os.environ.get(f"ASYNCRAY_{name}")
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"ASYNCRAY_{name} must be a number, not {text!r}") from None


INLINE_LIMIT = int(_number("INLINE_LIMIT", 100 * 1024))
"""Values up to this size travel inside messages: below it a copy is cheaper than a round trip for an allocation."""

FRAME_LIMIT = 512 * 1024 * 1024
"""The largest frame that a peer may send: a pickled function has up to 95 MB, 4,000 small arguments up to 400 MB."""

READ_SIZE = 256 * 1024
"""The most that one read takes from a stream."""

ARGUMENTS_LIMIT = 400 * 1024 * 1024
"""The largest sum of all small values among the arguments of one call."""

GREETING_LIMIT = 1024 * 1024
"""The largest frame before the greeting is accepted: it holds paths and names, and no user data."""

MOST_UNSENT_MESSAGES = 4_000_000
"""A client that leaves so many messages unread loses its connection: each costs the daemon some 200 bytes."""

FUNCTION_LIMIT = 95 * 1024 * 1024
"""A pickled function or class beyond this is a mistake (data captured by closure): the error says so."""

START_DEADLINE = _number("START_DEADLINE", 30.0)
"""The time in which the daemon must answer, and in which a forked worker must say hello."""

JOIN_DEADLINE = _number("JOIN_DEADLINE", 10.0)
"""The time in which a node must find the head, and in which that must take it. The head may be starting, too."""

STOP_DEADLINE = _number("STOP_DEADLINE", 3.0)
"""A process that has not stopped by then is killed. The promise is that nothing is left after five seconds."""

KILLED_DEADLINE = 1.0
"""Seconds. A killed process ends in milliseconds, unless it hangs in the kernel: then waiting is in vain."""

EXIT_GRACE = 5.0
"""Seconds that a worker at its orderly end waits for threads and executors of user code. Ray kills after as many."""

EXIT_DEADLINE = 30.0
"""Seconds until a worker that ends by its own will has ended, whatever its exit handlers and finalizers do."""

GOODBYE_DEADLINE = 1.0
"""The longest that a driver waits at its end for the last output. A busy daemon needs milliseconds."""

REQUEST_DEADLINE = 30.0
"""A question to the daemon is answered at once, or the daemon is stuck."""

LOOP_DEADLINE = 5.0
"""The same for a request from the thread of a running event loop, where the caller needs the answer at once (whether
the name of an actor is taken). The loop stands still meanwhile; a healthy daemon answers in less than a millisecond."""

STORE_FULL_DEADLINE = _number("STORE_FULL_DEADLINE", 2.0)
"""How long an allocation waits for memory to become free before it fails with ObjectStoreFullError."""

STORE_MINIMUM = 75 * 1024 * 1024
"""The smallest object store that makes sense: Ray's own minimum, and just above docker's 64 MB of /dev/shm."""

STORE_FRACTION = 0.3
"""The share of memory that the store may use unless the user says otherwise (Ray's own default)."""

PIPELINE_MICROSECONDS = 2000
"""Work sent ahead to a worker: enough to hide a round trip of some 100 us, little enough to take back."""

PIPELINE_TASKS = 128
"""The most tasks at a worker, however short they are, so that a frame stays small."""

MAILBOX_WINDOW = 256
"""Actor calls sent ahead to the actor's process beyond its concurrency; the rest waits in the mailbox."""

LOG_WARNING = 30
"""As ``logging.WARNING``, for code that must not import logging: the core, and drivers (4 ms of the start)."""

LOG_ERROR = 40
"""As ``logging.ERROR``."""

INTERRUPT_RETRY = 0.01
"""Seconds until an interrupt is raised again that came at a bad moment, for example in a finalizer."""

ALIGNMENT = 64
"""Of values in shared memory and their buffers: a cache line, as vector units and Arrow want it."""

REPORTED_SINGLY = 10
"""So many unread errors of one function are logged one by one, then only the 100th, the 1000th, ..."""
