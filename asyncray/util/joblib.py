"""A backend for joblib, and so for scikit-learn and all else that says ``n_jobs``.

Example::

    import joblib
    from asyncray.util.joblib import register_asyncray

    register_asyncray()
    with joblib.parallel_config("asyncray"):
        scores = cross_val_score(model, X, y, cv=6)
"""

from __future__ import annotations

import concurrent.futures
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

import asyncray.sync as ray
from asyncray.runtime.refs import ObjectRef
from asyncray.util.executor import Executor

_LARGE = 1 << 20
"""Bytes from which on an array is stored once for all calls that have it as an argument. As joblib's own limit."""


class AsyncrayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the batches of ``joblib.Parallel`` as tasks.

    Args:
        options: those of joblib's own backends; the others are options of the tasks, as for ``asyncray.remote``.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options
        self._executor: Executor | None = None
        # Large arrays that were stored, by identity, with the arrays, which keeps the identities theirs.
        self._stored: dict[int, tuple[Any, ObjectRef[Any]]] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at once: ``n_jobs``, or for negative ones as many as there are CPUs, less some."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        return max(1, int(ray.cluster_resources().get("CPU", 1)) + 1 + n_jobs)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any
    ) -> int:
        """Begins a use of ``Parallel``. Returns how many batches run at once."""
        self.parallel = parallel
        most = self.effective_n_jobs(n_jobs)
        self._executor = Executor(most, **self._options)
        return most

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> concurrent.futures.Future[Any]:
        """Runs a batch: a callable whose ``items`` are calls with their arguments."""
        assert self._executor is not None
        batch, arrays = copy.copy(func), _Arrays()
        batch.items = [
            (call, [self._keep(value, arrays) for value in args], {k: self._keep(v, arrays) for k, v in kwargs.items()})
            for call, args, kwargs in func.items
        ]
        future = self._executor.submit(run_batch, batch, *arrays.refs)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _keep(self, value: Any, arrays: _Arrays) -> Any:
        """The value, or what stands for it in a batch if it is a large array, which is stored once."""
        if not isinstance(value, np.ndarray) or value.nbytes < _LARGE:
            return value
        found = self._stored.get(id(value))
        if found is None:
            found = self._stored[id(value)] = (value, ray.put(value))
        return arrays.add(found[1])

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """The results of a batch that is done."""
        return out.result()

    def stop_call(self) -> None:
        """The program has all results: arrays that were stored for them go."""
        self._stored.clear()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001 - joblib's
        """A call failed: no further batch begins."""
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self) -> None:
        """Ends a use of ``Parallel``."""
        self.stop_call()
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


class _Arrays:
    """The arrays that the calls of a batch have as arguments, each once."""

    def __init__(self) -> None:
        self.refs: list[ObjectRef[Any]] = []

    def __repr__(self) -> str:
        return f"<_Arrays {len(self.refs)}>"

    def add(self, ref: ObjectRef[Any]) -> _Place:
        """Returns what stands for the array of the ref."""
        if ref not in self.refs:
            self.refs.append(ref)
        return _Place(self.refs.index(ref))


class _Place:
    """Stands for an array in a batch.

    Args:
        index: of the array among the other arguments of ``run_batch``.
    """

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"<_Place {self.index}>"


def run_batch(batch: Any, *arrays: Any) -> Any:
    """Calls a batch after its arrays were put in their places. Runs in workers."""

    def fill(value: Any) -> Any:
        return arrays[value.index] if isinstance(value, _Place) else value

    batch.items = [
        (call, [fill(value) for value in args], {k: fill(v) for k, v in kwargs.items()})
        for call, args, kwargs in batch.items
    ]
    return batch()


def register_asyncray() -> None:
    """Lets ``joblib.parallel_config("asyncray")`` run the batches of joblib as tasks.

    Other arguments of ``parallel_config`` are options of the tasks, as ``num_cpus``. Arrays of 1 MiB or more that are
    arguments of calls are stored once, and are read-only in the workers.

    Example::

        register_asyncray()
        with joblib.parallel_config("asyncray", n_jobs=4):
            search.fit(X, y)
    """
    register_parallel_backend("asyncray", AsyncrayBackend)
