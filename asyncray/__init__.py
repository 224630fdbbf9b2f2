"""asyncray: Ray Core's programming model (tasks, actors, shared-memory objects), asyncio-native and in pure Python.

This is the async face: everything that waits is a coroutine. ``asyncray.sync`` is the blocking face; both share
everything else.

Example::

    import asyncio, asyncray

    @asyncray.remote
    def square(x): return x * x

    async def main():
        async with asyncray.init():
            print(await asyncray.get([square.remote(i) for i in range(8)]))

    asyncio.run(main())
"""

from __future__ import annotations

TYPE_CHECKING = False
"""As in ``typing``, which a daemon does not wait for before it starts its zygote: 2 to 8 ms."""

if TYPE_CHECKING:
    from typing import Any

    from asyncray.api.actor import ActorClass, kill, method
    from asyncray.api.asynchronous import (
        available_resources,
        cluster_resources,
        get,
        get_actor,
        init,
        nodes,
        put,
        shutdown,
        wait,
    )
    from asyncray.api.decorator import remote
    from asyncray.api.handle import ActorHandle
    from asyncray.api.information import get_gpu_ids, get_runtime_context
    from asyncray.api.object_calls import cancel
    from asyncray.api.progress import progress_async as progress
    from asyncray.api.scopes import TaskGroup
    from asyncray.api.session import is_initialized
    from asyncray.messages import RELEASE as __version__
    from asyncray.runtime.refs import ObjectRef

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectRef",
    "TaskGroup",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "progress",
    "put",
    "remote",
    "shutdown",
    "wait",
]

_HOMES = {
    "ActorClass": "api.actor",
    "ActorHandle": "api.handle",
    "ObjectRef": "runtime.refs",
    "TaskGroup": "api.scopes",
    "cancel": "api.object_calls",
    "get_gpu_ids": "api.information",
    "get_runtime_context": "api.information",
    "is_initialized": "api.session",
    "kill": "api.actor",
    "method": "api.actor",
    "remote": "api.decorator",
}
"""The modules of the names that are not in ``api.asynchronous``."""


def __getattr__(name: str) -> Any:
    # Loaded when first used: the daemon and the zygote import this package for its parts, and must start fast.
    import importlib

    if name == "__version__":
        return importlib.import_module(f"{__name__}.messages").RELEASE
    if name in __all__ and name != "progress":
        # First: a fork of another thread waits for the modules that are loaded after this one.
        from asyncray.io import forking  # noqa: F401

        module = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api.asynchronous')}")
        value = globals()[name] = getattr(module, name)
        return value
    if name == "progress":
        return importlib.import_module(f"{__name__}.api.progress").progress_async
    if name in ("exceptions", "sync", "util"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
