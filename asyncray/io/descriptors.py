"""Descriptors of this process: opens the standard ones, and says whether there are enough."""

from __future__ import annotations

import errno
import os
import resource

from asyncray.io import forking

_STANDARD_ERROR = 2
_FEWEST = 32
"""A daemon without workers has 20 open. Each worker and driver needs two more, and two for its output."""

_MOST = 65536
"""The limit that a daemon sets itself, if it may: enough for 16,000 workers."""


def fill_standard() -> None:
    """Opens /dev/null in place of standard input, output or error, if one is closed.

    Otherwise the next file that this process opens gets that number. Children would inherit it, and code that writes to
    standard error would write into it. Forks of other threads wait, so no child keeps the descriptor that is closed.
    """
    with forking.lock:
        _fill()


def _fill() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:  # the system gives the lowest free number
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def check_limit() -> None:
    """Raises OSError if this process may open too few files for a node."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < _FEWEST:
        raise OSError(
            errno.EMFILE,
            f"Too many open files: the limit is {most}, and a node needs {_FEWEST} and 4 more per worker. Raise it "
            "with `ulimit -n`",
        )


def raise_limit() -> None:
    """Raises the soft limit: each worker and driver is a connection, and the usual 1024 is for users of ``select``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def shortage() -> str | None:
    """Why no process can connect, and what to do; None if there are descriptors for another connection."""
    try:
        ends = os.pipe()
    except OSError as error:
        if error.errno != errno.EMFILE:
            return str(error)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"the limit of {most} open files is reached: raise it with `ulimit -n` before the node is started"
    for end in ends:
        os.close(end)
    return None
