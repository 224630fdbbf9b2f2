"""Rows about several nodes. Each starts a cluster of real nodes on this machine.

All nodes share its cores and its memory, so the figures say what the protocol costs and not what a network carries.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from asyncray.cli.benchmark.bench import REPETITIONS, Bench, Figures, Row
from asyncray.cli.benchmark.face import NAME, ray
from asyncray.cli.benchmark.remote import OK, PlainActor, length_of, many_small, ref_to_filled, small_value

_BATCH = 5_000
_SMALL_OBJECTS = 10_000
_ARRAY = 800_000_000
_BROADCAST = 1 << 30
_RECEIVERS = 4
_STORE = 3 << 30
_FAR: dict[str, Any] = {"resources": {"far": 0.001}, "num_cpus": 0}
"""Options of a task that only the other node can run."""

_PAUSE = 0.005
"""Seconds between two looks at what the nodes know."""

_LIMIT = 30.0
"""Seconds for which a row waits for the nodes to know something."""


def _cluster_class() -> Any:
    """Returns the class with the names of Ray's ``Cluster``."""
    module = "ray.cluster_utils" if NAME == "ray" else "asyncray.testing"
    return importlib.import_module(module).Cluster


@contextlib.contextmanager
def _nodes(*others: dict[str, Any], store: int = _STORE) -> Iterator[Any]:
    """A cluster of this program's node, with one CPU, and others."""
    cluster = _cluster_class()(
        initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "object_store_memory": store}
    )
    try:
        for options in others:
            cluster.add_node(object_store_memory=store, **options)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _two_nodes() -> contextlib.AbstractContextManager[Any]:
    return _nodes({"num_cpus": 1, "resources": {"far": 1000}})


def _all_ok(results: list[bytes]) -> bool:
    return results.count(OK) == len(results) > 0


def _tasks(bench: Bench) -> Figures:
    with _two_nodes():
        far, count = small_value.options(**_FAR), bench.sized(_BATCH)
        return bench.rate(lambda: ray.get([far.remote() for _ in range(count)]), _all_ok, count)


def _tasks_sync(bench: Bench) -> Figures:
    with _two_nodes():
        far = small_value.options(**_FAR)
        return bench.rate_with_latency(lambda: ray.get(far.remote()), OK.__eq__)


def _calls(bench: Bench) -> Figures:
    with _two_nodes():
        actor, count = PlainActor.options(**_FAR).remote(), bench.sized(_BATCH)
        return bench.rate(lambda: ray.get([actor.small_value.remote() for _ in range(count)]), _all_ok, count)


def _calls_sync(bench: Bench) -> Figures:
    with _two_nodes():
        actor = PlainActor.options(**_FAR).remote()
        return bench.rate_with_latency(lambda: ray.get(actor.small_value.remote()), OK.__eq__)


def _gigabytes(bench: Bench, *, first: bool) -> Figures:
    """Objects that the other node has made: the first one comes into memory that nothing was written to before."""
    size, values = bench.sized(_ARRAY), []
    for _ in range(REPETITIONS if first and bench.scale >= 1 else 1):
        with _two_nodes():
            for attempt in range(1 if first else 1 + REPETITIONS):
                (ref,) = ray.get(ref_to_filled.options(**_FAR).remote(size))
                seconds = bench.time(partial(ray.get, ref), lambda array: int(array[-1]) == len(array) % 251)
                if first or attempt:
                    values.append(size / seconds / 1e9)
                del ref
    return Figures(values)


def _gigabytes_first(bench: Bench) -> Figures:
    return _gigabytes(bench, first=True)


def _gigabytes_again(bench: Bench) -> Figures:
    return _gigabytes(bench, first=False)


def _receivers() -> contextlib.AbstractContextManager[Any]:
    return _nodes(*({"num_cpus": 1, "resources": {f"place{i}": 1000}} for i in range(_RECEIVERS)))


def _broadcast_once(ref: Any, size: int) -> bool:
    """Brings an object to all receivers. Returns True if each has it."""
    places = [length_of.options(resources={f"place{i}": 0.001}, num_cpus=0) for i in range(_RECEIVERS)]
    return bool(ray.get([place.remote(ref) for place in places]) == [size] * _RECEIVERS)


def _broadcast_and_say(ref: Any, size: int, done: threading.Event) -> None:
    try:
        _broadcast_once(ref, size)
    finally:
        done.set()


def _broadcast(bench: Bench) -> Figures:
    size = bench.sized(_BROADCAST)
    with _receivers():
        values = []
        for attempt in range(3):
            ref = ray.put(np.full(size, attempt, dtype=np.uint8))
            seconds = bench.time(partial(_broadcast_once, ref, size), bool)
            if attempt:
                values.append(_RECEIVERS * size / seconds / 1e9)
            del ref
    return Figures(values)


def _slowdown_by_broadcast(bench: Bench) -> Figures:
    """How many times as long small tasks take while an object goes to all other nodes."""
    size, count = bench.sized(_BROADCAST), bench.sized(1_000)
    with _receivers():
        idle = bench.rate(lambda: ray.get([small_value.remote() for _ in range(count)]), _all_ok, count).value
        values = []
        for attempt in range(3):
            ref = ray.put(np.full(size, attempt, dtype=np.uint8))
            done = threading.Event()
            thread = threading.Thread(target=_broadcast_and_say, args=(ref, size, done))
            began, tasks = time.perf_counter(), 0
            thread.start()
            while not done.is_set():
                bench.check(_all_ok(ray.get([small_value.remote() for _ in range(count)])))
                tasks += count
            values.append(idle / (tasks / (time.perf_counter() - began)))
            thread.join()
            del ref
    return Figures(values)


def _many_small(bench: Bench) -> Figures:
    count = bench.sized(_SMALL_OBJECTS)
    with _two_nodes():
        values = []
        for _ in range(REPETITIONS):
            refs = ray.get(many_small.options(**_FAR).remote(count))
            values.append(bench.time(partial(ray.get, refs), lambda found: len(found) == count))
        return Figures(values)


def _join(bench: Bench) -> Figures:
    """From the start of the process until all nodes know the new one."""
    with _two_nodes() as cluster:

        def add() -> bool:
            cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            return True

        return Figures([bench.time(add, bool) for _ in range(REPETITIONS if bench.scale >= 1 else 1)])


def _loss(bench: Bench) -> Figures:
    """From SIGKILL of a daemon until all other nodes know that it is lost."""
    values = []
    with _two_nodes() as cluster:
        for _ in range(REPETITIONS if bench.scale >= 1 else 1):
            node = cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            others = [other for other in cluster.list_all_nodes() if other is not node]
            began = time.perf_counter()
            node.kill()
            _wait_until(partial(_all_know_of_its_end, others, node.node_id))
            values.append(time.perf_counter() - began)
            cluster.remove_node(node)
            bench.check(len(cluster.list_all_nodes()) == len(others))
    return Figures(values)


def _all_know_of_its_end(nodes: list[Any], node_id: str) -> bool:
    return not any(node.rows()[node_id]["Alive"] for node in nodes)


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _LIMIT
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"the nodes do not know it after {_LIMIT:g} s")
        time.sleep(_PAUSE)


ROWS = [
    Row("tasks on another node", "tasks/s", _tasks, session=False),
    Row("tasks on another node sync", "tasks/s", _tasks_sync, session=False),
    Row("actor calls on another node", "calls/s", _calls, session=False),
    Row("actor calls on another node sync", "calls/s", _calls_sync, session=False),
    Row("get of 800 MB from another node, first time", "GB/s", _gigabytes_first, session=False),
    Row("get of 800 MB from another node", "GB/s", _gigabytes_again, session=False),
    Row("1 GiB to 4 nodes", "GB/s", _broadcast, session=False),
    Row("small tasks during that: slowdown", "times", _slowdown_by_broadcast, session=False),
    Row("get of 10,000 small objects of another node", "s", _many_small, session=False),
    Row("a node joins", "s", _join, session=False),
    Row("a lost node is known", "s", _loss, session=False),
]
