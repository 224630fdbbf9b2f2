"""The async face: the forms of ``init``, ``get``, ``wait`` and the like that are awaited.

Functions that only take a moment are no coroutines where they must be synchronous for other reasons: ``put`` copies its
value.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from asyncray.api import session
from asyncray.api.handle import ActorHandle, check_name, named_handle
from asyncray.api.object_calls import (
    check_timeout,
    check_wait,
    local_objects,
    partition,
    partition_anywhere,
    partition_now,
)
from asyncray.api.session import Context
from asyncray.api.thread_call import ThreadCall
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import require

if TYPE_CHECKING:
    from typing import Unpack

    from asyncray.api.option_types import InitOptions

T = TypeVar("T")


class PendingInit:
    """The result of ``init()``: await it, or enter it with ``async with``.

    A start that is cancelled, or runs out of time, leaves nothing behind: the await ends once all of it is undone.
    """

    def __init__(self, address: str | None, options: dict[str, Any]) -> None:
        self._address = address
        self._options = options
        # It was awaited or entered. Otherwise ``__del__`` warns.
        self._used = False

    def __repr__(self) -> str:
        return "<asyncray.init(): to be awaited>"

    def __del__(self) -> None:
        if not self._used:
            text = "asyncray.init() was never awaited: write 'async with asyncray.init(...)'"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __await__(self) -> Generator[Any, None, Context]:
        self._used = True
        start = session.SessionStart(self._address, self._options)
        return _start(start).__await__()

    async def __aenter__(self) -> Context:
        return await self

    async def __aexit__(self, *exc_info: object) -> None:
        await shutdown()

    if not TYPE_CHECKING:  # checkers know by their absence that this is wrong

        def __enter__(self) -> NoReturn:
            self._used = True
            raise TypeError("Write 'async with asyncray.init(...)', or 'with asyncray.sync.init(...)' without asyncio.")

        def __exit__(self, *exc_info: object) -> None:
            """Never called. Without it, ``with`` would fail before it reaches the error above."""


def init(address: str | None = None, **options: Unpack[InitOptions]) -> PendingInit:
    """Starts a node for this process, or connects to one that runs. Arguments and errors as ``asyncray.sync.init``.

    Example::

        async with asyncray.init(num_cpus=2):
            print(await square.remote(3))
    """
    return PendingInit(address or None, {**options})


async def _start(start: session.SessionStart) -> Context:
    thread = ThreadCall(start.run)
    try:
        context = await thread.result()
    except asyncio.CancelledError:
        start.abort()
        await thread.finished()
        await ThreadCall(start.end).finished()
        session.signals.restore()
        raise
    except GeneratorExit:
        # The coroutine was closed, for instance because its loop has ended: it cannot await any more.
        start.abort()
        thread.abandon()
        threading.Thread(target=start.end, name="asyncray-session", daemon=True).start()
        raise
    session.signals.install()  # only the main thread can
    return context


async def shutdown() -> None:
    """Leaves the node; stops it if this process has started it. Does nothing if no session runs.

    Cancelling it does not stop it: it goes on to its end.

    Example::

        await asyncray.init(num_cpus=2)
        print(await square.remote(3))
        await asyncray.shutdown()
    """
    thread = ThreadCall(session.end_session)
    try:
        await thread.result()
    finally:
        await thread.finished()
        session.signals.restore()
        session.signals.end_by_last_signal()


@overload
async def get(object_refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...  # noqa: ASYNC109 - Ray's argument
@overload
async def get(
    object_refs: Sequence[ObjectRef[T]],
    *,
    timeout: float | None = None,  # noqa: ASYNC109
) -> list[T]: ...
async def get(object_refs: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
    """The value of a ref, or the values of a list of refs, in order. As ``asyncray.sync.get``, but awaited.

    Cancelling it stops the waiting, not the tasks.

    Args:
        object_refs: a ref, or a list or tuple of refs; the same ref may appear twice.
        timeout: seconds, or None for ever. 0 does not wait.

    Returns:
        The value, or a list of values. Arrays are read-only.

    Raises:
        GetTimeoutError: not all have arrived in time.
        ValueError: an argument that is no ref.
        OwnerDiedError: a ref of a session that has ended.
        Exception: the exception of the task: an instance of its own class, and of ``TaskError``.

    Example::

        ref = square.remote(3)
        assert await asyncray.get(ref) == await ref == 9
        assert await asyncray.get([ref, square.remote(4)], timeout=10) == [9, 16]
    """
    current.check_started()
    timeout = check_timeout(timeout)
    single = isinstance(object_refs, ObjectRef)
    found = local_objects((object_refs,) if single else object_refs)
    values = await require().objects.get_async(found, timeout) if found else []
    return values[0] if single else values


def put(value: T) -> ObjectRef[T]:
    """Stores a value; returns its ref. As ``asyncray.sync.put``: it copies, so there is nothing to await.

    The event loop stands still while it copies: a tenth of a second for some 500 MB, and longer into memory that the
    store has not used before. The loop goes on with ``ref = await asyncio.to_thread(asyncray.put, value)``, where no
    other coroutine may change the value meanwhile.

    Args:
        value: anything that can be pickled, except a ref.

    Returns:
        A ref: give it to many tasks, and the value is stored once.

    Raises:
        TypeError: the value is a ref itself, or cannot be pickled: names the part.
        ObjectStoreFullError: no room.

    Example::

        table = asyncray.put(np.ones((1000, 1000)))
        sums = await asyncray.get([row_sum.remote(table, row) for row in range(1000)])
    """
    current.check_started()
    if isinstance(value, ObjectRef):
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. If you really want to do this, wrap it in a list."
        )
    return require().objects.put(value)


@overload
async def wait(
    object_refs: list[ObjectRef[T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,  # noqa: ASYNC109 - Ray's argument
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]: ...
@overload
async def wait(
    object_refs: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,  # noqa: ASYNC109 - as above
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]: ...
async def wait(
    object_refs: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,  # noqa: ASYNC109 - Ray's argument
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]:
    """Waits until some of the refs are ready. As ``asyncray.sync.wait``, but awaited.

    Args:
        object_refs: different refs.
        num_returns: how many must be ready.
        timeout: seconds, or None for ever; 0 only looks.
        fetch_local: a ref is ready when its value is on this node. With False it is ready when the value exists on any
            node; large values stay there until something reads them.

    Returns:
        (ready, not ready): at most ``num_returns`` ready ones; both in the order of the list. Errors count as ready.

    Raises:
        TypeError: not a list of refs.
        ValueError: duplicates, or ``num_returns`` out of range.
        OwnerDiedError: a ref of a session that has ended.

    Example::

        ready, pending = await asyncray.wait([square.remote(i) for i in range(8)], num_returns=2, timeout=10)
        print(await asyncray.get(ready))
    """
    found = check_wait(object_refs, num_returns, timeout)
    if not found:
        return [], []
    parts = partition(object_refs, found, num_returns)
    if parts is None and not fetch_local:
        parts = partition_anywhere(object_refs, found, num_returns)
    if parts is None:
        objects = require().objects
        await objects.wait_async(found, num_returns, fetch=bool(fetch_local), timeout=check_timeout(timeout))
        objects.check_enough(found, num_returns)
        parts = partition_now(object_refs, found, num_returns, fetch=bool(fetch_local))
    return parts


async def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The handle of a named actor. It does not keep the actor alive. As ``asyncray.sync.get_actor``, but awaited.

    Args:
        name: as in ``options(name=...)``.
        namespace: where to look; None for that of this program.

    Returns:
        A handle. It knows the methods, whether or not this program has the class.

    Raises:
        ValueError: no such actor exists, or the name or namespace is empty.
        TypeError: the namespace is no string.

    Example::

        counter = await asyncray.get_actor("counter")
        print(await counter.increment.remote())
    """
    check_name(name, namespace)
    runtime = require()
    namespace = namespace or runtime.facts["namespace"]
    return named_handle(await runtime.request_async("get_actor", namespace, name), name, namespace)


async def cluster_resources() -> dict[str, float]:
    """All resources of the cluster: of this node, if it is alone.

    Returns:
        Name -> amount: "CPU", "GPU", custom ones, and in bytes "memory" and "object_store_memory".

    Raises:
        NotStartedError: no session runs.

    Example::

        print((await asyncray.cluster_resources())["CPU"])
    """
    resources: dict[str, float] = await require().request_async("cluster_resources")
    return resources


async def available_resources() -> dict[str, float]:
    """The resources that no task or actor holds now.

    Returns:
        Name -> amount, as ``cluster_resources``; one that is wholly in use is absent.

    Raises:
        NotStartedError: no session runs.

    Example::

        free = (await asyncray.available_resources()).get("CPU", 0)
    """
    resources: dict[str, float] = await require().request_async("available_resources")
    return resources


async def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, with those that have ended.

    Returns:
        Dicts: ``NodeID`` (hex), ``Alive``, ``NodeManagerAddress``, ``NodeManagerHostname``, ``Resources``, ``Labels``.

    Raises:
        NotStartedError: no session runs.

    Example::

        for node in await asyncray.nodes():
            print(node["NodeID"], node["Resources"])
    """
    rows: list[dict[str, Any]] = list(await require().request_async("nodes"))
    return rows
