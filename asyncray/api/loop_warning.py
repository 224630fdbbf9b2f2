"""Warns once of a blocking call that stops a running event loop.

Promises: the log says it once per process, never an exception; a call costs 0.1 us until then, and less after it. It
keeps silent in notebooks, whose kernels run every cell inside a loop.
"""

from __future__ import annotations

import sys

# No further warning. Written by the thread that warns, without a lock: two warnings do no harm.
_has_warned = False


def warn_in_loop(call: str) -> None:
    """Warns if this thread runs an event loop, which stands still from now on.

    Args:
        call: what blocks it, as users write it: "get" or "wait".
    """
    global _has_warned
    if _has_warned:
        return
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None or "ipykernel" in sys.modules:
        return
    _has_warned = True
    import logging  # start-up cost: only here

    logging.getLogger("asyncray").warning(
        "Using blocking asyncray.sync.%s inside an event loop: its other coroutines stand still meanwhile, and it "
        "waits for ever if one of them has to make the value. Write `await ref` or `await asyncray.%s(...)`.",
        call,
        call,
    )
