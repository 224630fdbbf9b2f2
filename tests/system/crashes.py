"""Ways in which a worker crashes. Not in a module of tests: workers load the module, and pytest is large."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def crash_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def crash_by_code() -> None:
    print("the last words", file=sys.stderr)
    os._exit(5)


def crash_by_exit() -> None:
    sys.exit("enough is enough")


def crash_in_c() -> None:
    ctypes.string_at(0)
