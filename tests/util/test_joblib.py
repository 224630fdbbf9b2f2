"""joblib's batches as tasks."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

from asyncray.util.joblib import AsyncrayBackend, register_asyncray
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]

pytestmark = pytest.mark.usefixtures("node")


@pytest.fixture(autouse=True)
def backend() -> Any:
    register_asyncray()
    with joblib.parallel_config("asyncray"):
        yield


def test_results_in_order_from_other_processes() -> None:
    assert Parallel()(delayed(pow)(i, 2) for i in range(200)) == [i * i for i in range(200)]
    assert os.getpid() not in Parallel()(delayed(plain.pid)(i) for i in range(4))


def test_results_as_a_generator() -> None:
    assert list(Parallel(return_as="generator")(delayed(pow)(i, 2) for i in range(20))) == [i * i for i in range(20)]
    unordered = Parallel(n_jobs=2, return_as="generator_unordered")(delayed(pow)(i, 2) for i in range(20))
    assert sorted(unordered) == [i * i for i in range(20)]


def test_an_error_keeps_its_class_and_the_backend_goes_on() -> None:
    with Parallel(n_jobs=2) as parallel:
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(plain.divide)(1, i) for i in range(5))
        assert parallel(delayed(plain.divide)(1, 1) for _ in range(3)) == [1.0] * 3


def test_a_large_array_is_stored_once_and_read_only() -> None:
    array = np.ones(1 << 18)
    places = Parallel(n_jobs=2, batch_size=1)(delayed(plain.address_and_flag)(array, key=array) for _ in range(4))
    assert all(first == second and not writeable for first, second, writeable in places)


def test_a_time_limit() -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, timeout=0.05)(delayed(plain.wait_for_ever)() for _ in range(2))


def test_options_are_those_of_tasks() -> None:
    with joblib.parallel_config("asyncray", num_cpus=2):
        assert Parallel(n_jobs=2)(delayed(pow)(i, 2) for i in range(3)) == [0, 1, 4]
    with joblib.parallel_config("asyncray", num_cpu=2), pytest.raises(ValueError, match="num_cpu"):
        Parallel(n_jobs=2)(delayed(pow)(i, 2) for i in range(3))


def test_the_number_of_jobs() -> None:
    backend = AsyncrayBackend()
    assert [backend.effective_n_jobs(n) for n in (None, 1, 7, -1, -2, -9)] == [1, 1, 7, 2, 1, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
