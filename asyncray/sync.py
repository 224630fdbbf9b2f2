"""The blocking face: Ray's names, for scripts.

``import asyncray.sync as ray`` and a program that was written for Ray Core runs. ``remote``, refs, handles and
exceptions are the same objects as in ``asyncray``; this module adds the forms of ``init``, ``get``, ``wait`` and the
like that wait. They may be called from any thread, and in remote functions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar, overload

from asyncray import __version__, exceptions
from asyncray.api import actor, session
from asyncray.api.actor import ActorClass, kill, method
from asyncray.api.decorator import remote
from asyncray.api.handle import ActorHandle, check_name, named_handle
from asyncray.api.information import get_gpu_ids, get_runtime_context
from asyncray.api.loop_warning import warn_in_loop
from asyncray.api.object_calls import (
    cancel,
    check_timeout,
    check_wait,
    local_objects,
    partition,
    partition_anywhere,
    partition_now,
)
from asyncray.api.session import Context, is_initialized, set_auto_init, shutdown
from asyncray.messages import UNRESOLVED
from asyncray.runtime import current
from asyncray.runtime.context import in_event_loop
from asyncray.runtime.references import ValueHasLeft
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from asyncray.api import cloudpickle as cloudpickle
    from asyncray.api import types as types
    from asyncray.api.option_types import InitOptions
    from asyncray.api.progress import progress

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectID",
    "ObjectRef",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
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
    "set_auto_init",
    "shutdown",
    "wait",
]

T = TypeVar("T")

ObjectID = ObjectRef


def init(address: str | None = None, **options: Unpack[InitOptions]) -> Context:
    """Starts a node for this process, or connects to one that runs.

    Args:
        address: None or "local" starts a node, unless ASYNCRAY_ADDRESS names one; "auto" connects to the newest node
            that this user has started with `asyncray node` on this machine, "HOST:PORT" to the cluster with that head,
            "unix:PATH" to the node with that socket.
        options: ``num_cpus``, ``num_gpus``, ``resources`` (name -> amount), ``object_store_memory`` (bytes), for a
            node that is started; ``namespace``, ``log_to_driver`` (None is True), ``ignore_reinit_error`` (False),
            ``logging_level`` (of the logger "asyncray" here). Ray's other arguments are accepted as long
            as they keep their default meaning.

    Returns:
        A context, usable with ``with``: it shuts down at the end.

    Raises:
        RuntimeError: this process is connected already, or an unknown keyword.
        ConnectionError: no node at the address, or the cluster there cannot be joined.
        ValueError: amounts for a node that runs already, or something that this release does not have.

    Example::

        with ray.init(num_cpus=2):
            print(ray.get(square.remote(3)))
    """
    return session.SessionStart(address or None, {**options}).run()


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(object_refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(object_refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs, in order. Waits for them.

    Args:
        object_refs: a ref, or a list or tuple of refs; the same ref may appear twice.
        timeout: seconds, or None for ever. 0 does not wait.

    Returns:
        The value, or a list of values. Arrays are read-only.

    Raises:
        GetTimeoutError: not all have arrived in time.
        ValueError: an argument that is no ref.
        OwnerDiedError: a ref of a session that has ended.
        Exception: the exception of the task: an instance of its own class, and of ``TaskError``. With a list, it is
            raised as soon as one task is known to have failed.

    Example::

        ref = square.remote(3)
        assert ray.get(ref) == 9
        assert ray.get([ref, square.remote(4)], timeout=10) == [9, 16]
    """
    if isinstance(object_refs, ObjectRef):
        local = object_refs._local
        objects = current.session_of(local).objects
        timeout = check_timeout(timeout)
        if local.kind != UNRESOLVED:  # the hot path
            try:
                return objects.load(local)
            except ValueHasLeft:
                pass
        found = [local]
    else:
        current.check_started()
        timeout = check_timeout(timeout)
        found = local_objects(object_refs)
        if not found:
            return []
    if timeout != 0 and in_event_loop() and any(local.kind == UNRESOLVED for local in found):
        warn_in_loop("get")
    values = require().objects.get(found, timeout)
    return values[0] if isinstance(object_refs, ObjectRef) else values


def put(value: T) -> ObjectRef[T]:
    """Stores a value; returns its ref. Arrays come back from ``get`` as read-only views of shared memory.

    Args:
        value: anything that can be pickled, except a ref.

    Returns:
        A ref: give it to many tasks, and the value is stored once.

    Raises:
        TypeError: the value is a ref itself, or cannot be pickled: names the part.
        ObjectStoreFullError: no room.

    Example::

        table = ray.put(np.ones((1000, 1000)))
        sums = ray.get([row_sum.remote(table, row) for row in range(1000)])
    """
    current.check_started()
    if isinstance(value, ObjectRef):
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. If you really want to do this, wrap it in a list."
        )
    return require().objects.put(value)


@overload
def wait(
    object_refs: list[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]: ...
@overload
def wait(
    object_refs: list[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]: ...
def wait(
    object_refs: list[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    """Waits until some of the refs are ready.

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

        ready, pending = ray.wait([square.remote(i) for i in range(8)], num_returns=2, timeout=10)
        print(ray.get(ready))
    """
    found = check_wait(object_refs, num_returns, timeout)
    if not found:
        return [], []
    parts = partition(object_refs, found, num_returns)
    if parts is None and not fetch_local:
        parts = partition_anywhere(object_refs, found, num_returns)
    if parts is None:
        objects = require().objects
        if timeout != 0:
            warn_in_loop("wait")
        objects.wait(found, num_returns, fetch=bool(fetch_local), timeout=check_timeout(timeout))
        objects.check_enough(found, num_returns)
        parts = partition_now(object_refs, found, num_returns, fetch=bool(fetch_local))
    return parts


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The handle of a named actor. It does not keep the actor alive.

    Args:
        name: as in ``options(name=...)``.
        namespace: where to look; None for that of this program.

    Returns:
        A handle. It knows the methods, whether or not this program has the class.

    Raises:
        ValueError: no such actor exists, or the name or namespace is empty.
        TypeError: the namespace is no string.

    Example::

        Counter.options(name="counter", lifetime="detached").remote()
        counter = ray.get_actor("counter")
        ray.get(counter.increment.remote())
    """
    check_name(name, namespace)
    runtime = require()
    namespace = namespace or runtime.facts["namespace"]
    return named_handle(runtime.request("get_actor", namespace, name), name, namespace)


def cluster_resources() -> dict[str, float]:
    """All resources of the cluster: of this node, if it is alone.

    Returns:
        Name -> amount: "CPU", "GPU", custom ones, and in bytes "memory" and "object_store_memory".

    Raises:
        NotStartedError: no session runs, and none is started implicitly.

    Example::

        ray.init(num_cpus=2, resources={"database": 1})
        assert ray.cluster_resources()["CPU"] == 2.0
    """
    resources: dict[str, float] = require().request("cluster_resources")
    return resources


def available_resources() -> dict[str, float]:
    """The resources that no task or actor holds now.

    Returns:
        Name -> amount, as ``cluster_resources``; one that is wholly in use is absent.

    Raises:
        NotStartedError: no session runs, and none is started implicitly.

    Example::

        free = ray.available_resources().get("CPU", 0)
        print(f"{free} of {ray.cluster_resources()['CPU']} CPUs are free")
    """
    resources: dict[str, float] = require().request("available_resources")
    return resources


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, with those that have ended.

    Returns:
        Dicts: ``NodeID`` (hex), ``Alive``, ``NodeManagerAddress``, ``NodeManagerHostname``, ``Resources``, ``Labels``.

    Raises:
        NotStartedError: no session runs, and none is started implicitly.

    Example::

        for node in ray.nodes():
            print(node["NodeID"], node["Resources"])
    """
    rows: list[dict[str, Any]] = list(require().request("nodes"))
    return rows


def __getattr__(name: str) -> Any:
    if name == "util":  # as in Ray; its modules build on this one
        return importlib.import_module(f"{__package__}.{name}")
    if name in ("cloudpickle", "types"):  # start-up cost: few programs want them
        return importlib.import_module(f"{__package__}.api.{name}")
    if name == "progress":  # as above
        return importlib.import_module(f"{__package__}.api.progress").progress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
