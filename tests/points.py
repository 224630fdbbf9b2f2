"""Where signal handlers and the finalizers of garbage may come: at the beginning of functions, and after calls.

The interpreter looks for them at jumps back, too; those nobody tells.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import asyncray

_OURS = os.path.dirname(asyncray.__file__)
# Python drops every exception that a finalizer raises.
_ENDS = ("__del__", "_ring", "queue_release", "notify")
_BEGINNINGS = ("_call_all", "_flush_turn")  # a loop forgets what it calls, should something come before that has begun


def at_point(number: int, comes: Callable[[], object], work: Callable[[], object]) -> bool:
    """Does the work; at so-and-so many points of our code in it something comes. False if there are fewer points."""
    passed = 0

    def look(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal passed
        code = frame.f_code
        ours = code.co_filename.startswith(_OURS) and code.co_name not in _ENDS
        if ours and (event == "c_return" or (event == "call" and code.co_name not in _BEGINNINGS)):
            passed += 1
            if passed == number:
                sys.setprofile(None)
                comes()

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return passed >= number


def at_every_point(comes: Callable[[], object], work: Callable[[], object]) -> None:
    """Does the work again and again; each time something comes a point later."""
    for number in itertools.count(1):
        if not at_point(number, comes, work):
            return
