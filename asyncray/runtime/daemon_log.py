"""The end of the daemon's log, for messages to the people whose daemon has failed."""

from __future__ import annotations

import os

_MOST_BYTES = 4000
_MOST_LINES = 8
"""Of each file."""

_COMPLAINTS = (" WARNING ", " ERROR ", " CRITICAL ", "Error")


def tail(directory: str) -> list[str]:
    """The last lines of the daemon's errors and log; none where no file can be read.

    Args:
        directory: the session's.
    """
    lines: list[str] = []
    for name in ("node.err", "node.log"):
        try:
            with open(os.path.join(directory, "logs", name), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES))
                lines += file.read().decode("utf-8", "replace").splitlines()[-_MOST_LINES:]
        except OSError:
            continue
    return lines


def complaints(directory: str) -> str:
    """The same, below a headline, if there is a warning or an error among these lines. Otherwise empty."""
    lines = tail(directory)
    if not any(word in line for line in lines for word in _COMPLAINTS):
        return ""
    return "\n".join([f"\nThe end of its log, {os.path.join(directory, 'logs', 'node.log')}:", *lines])
