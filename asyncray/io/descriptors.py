"""Descriptors of this process: that the standard ones are open, and that there are enough."""

from __future__ import annotations

import errno
import os
import resource

_STDERR = 2
_FEWEST = 32
"""A daemon without workers has 20 open, and each worker and driver needs two more, and two for its output."""

_MOST = 65536


def fill_standard() -> None:
    """Opens /dev/null where standard input, output or error is closed, as for a daemon of the old school.

    Else what is opened next gets that number: ``spawn`` gives it away, and whoever writes to standard error breaks it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:  # the system gives the lowest that is free
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def check_limit() -> None:
    """Raises OSError if a node cannot start with as few open files as it may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < _FEWEST:
        raise OSError(
            errno.EMFILE,
            f"Too many open files: the limit is {most}, and a node needs {_FEWEST} and 4 more per worker. Raise it "
            "with `ulimit -n`",
        )


def raise_limit() -> None:
    """Each worker and driver is a connection; the usual soft limit of 1024 is meant for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def shortage() -> str | None:
    """Why nobody can connect, and what to do; None if there are descriptors left for another connection."""
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
