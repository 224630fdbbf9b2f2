"""The settings of modules that a worker may not have loaded: which functions change them, and how to set them back.

Owns one table, ``LATE``. It loads none of them: that would take 4 ms before the first worker can be forked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from asyncray.worker.settings import Owner, Setting, functions, is_not_importing, on_main_thread


def _random_numbers() -> Setting | None:
    places = functions("random.seed random.setstate")
    if not places:
        return None
    random = sys.modules["random"]
    return Setting("random numbers", places, random.getstate, lambda before: random.setstate(before))


def _random_numbers_of_numpy() -> Setting | None:
    places = functions("numpy.random.seed numpy.random.set_state")
    if not places:
        return None
    random = sys.modules["numpy.random"]
    return Setting("random numbers of numpy", places, random.get_state, lambda before: random.set_state(before))


def _start_method() -> Setting | None:
    places = functions("multiprocessing.set_start_method")
    if not places:
        return None
    places = (*places, (sys.modules["multiprocessing.context"].DefaultContext, "set_start_method"))
    return Setting("start method of multiprocessing", places, _read_start_method, _set_start_method)


def _read_start_method() -> Any:
    return sys.modules["multiprocessing.context"]._default_context._actual_context  # there is no public way


def _set_start_method(method: Any) -> None:
    sys.modules["multiprocessing.context"]._default_context._actual_context = method  # as above


def _decimal_context() -> Setting | None:
    """Read by each call of ``getcontext``, because programs change the context that it returns."""
    places = functions("decimal.getcontext decimal.setcontext")
    if not places:
        return None
    getcontext, setcontext = sys.modules["decimal"].getcontext, sys.modules["decimal"].setcontext
    return Setting("context of decimal", places, lambda: getcontext().copy(), setcontext, _is_the_tasks)


def _is_the_tasks(function: str, *args: Any, **kwargs: Any) -> bool:
    """False on other threads, which have their own, and where a module sets it for all that use the module."""
    return on_main_thread(function) and is_not_importing(function)


def _ways_of_numpy() -> Setting | None:
    places = functions("numpy.seterr numpy.seterrcall numpy.set_printoptions")
    if not places:
        return None
    numpy = sys.modules["numpy"]

    def read() -> Any:
        return numpy.geterr(), numpy.geterrcall(), numpy.get_printoptions()

    def restore(before: Any) -> None:
        errors, call, options = before
        numpy.seterrcall(call)
        numpy.seterr(**errors)
        numpy.set_printoptions(**options)

    return Setting("errors and formats of numpy", places, read, restore, _is_the_tasks)


def _event_loop() -> Setting | None:
    """Programs run coroutines by ``asyncio.run``, which leaves no loop, and by ``get_event_loop``, which wants one."""
    if not functions("asyncio.get_event_loop"):
        return None
    policy = sys.modules["asyncio.events"].BaseDefaultEventLoopPolicy
    places: tuple[tuple[Owner, str], ...] = ((policy, "set_event_loop"), (policy, "get_event_loop"))
    return Setting("event loop", places, lambda: _loop_of_thread().copy(), _restore_loop, on_main_thread)


def _loop_of_thread() -> dict[str, Any]:
    """``_loop`` and ``_set_called``; without these ``get_event_loop`` makes a loop. Empty for other kinds of policy."""
    local = getattr(sys.modules["asyncio"].get_event_loop_policy(), "_local", None)
    return {} if local is None else vars(local)


def _restore_loop(before: dict[str, Any]) -> None:
    """A loop that is open stays: modules and global variables may refer to it."""
    now = _loop_of_thread()
    if _is_unusable(now):
        now.clear()
        if not _is_unusable(before):
            now.update(before)


def _is_unusable(loop: dict[str, Any]) -> bool:
    return loop.get("_loop") is None or loop["_loop"].is_closed()


LATE: tuple[tuple[str, Callable[[], Setting | None], Callable[[], object]], ...] = (
    ("random", _random_numbers, lambda: sys.modules["random"].seed()),
    ("numpy.random", _random_numbers_of_numpy, lambda: sys.modules["numpy.random"].seed()),
    ("multiprocessing", _start_method, lambda: _set_start_method(None)),
    # Nothing is undone for these two: a module that the same task has loaded may have set it for all.
    ("decimal", _decimal_context, lambda: None),
    ("numpy", _ways_of_numpy, lambda: None),
    ("asyncio", _event_loop, lambda: _restore_loop({})),
)
"""The name of the module; a function that makes the setting, or returns None while the module is loading; and one that
undoes what the task that has loaded the module may have done before its functions were watched.
"""
