"""Large objects cross between the daemons of a cluster, over sockets and into shared memory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.testing import Cluster, ClusterNode

SIZE = 20_000_003
DEADLINE = 60.0


def pattern(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)


@ray.remote(resources={"far": 1})
def make_there(seed: int) -> np.ndarray:
    return pattern(seed)


@ray.remote(resources={"far": 1})
def put_there(seed: int) -> list[ray.ObjectRef[np.ndarray]]:
    return [ray.put(pattern(seed))]


@ray.remote(resources={"nowhere": 1})
def never() -> None:
    """No node has what it needs."""


@ray.remote(resources={"far": 1})
def put_beside_one_that_never_comes(seed: int) -> list[ray.ObjectRef[Any]]:
    return [ray.put(pattern(seed)), never.remote()]


@ray.remote(resources={"far": 1})
def is_pattern(array: np.ndarray, seed: int) -> bool:
    return np.array_equal(array, pattern(seed))


@pytest.fixture
def far(nothing_left: object) -> Iterator[ClusterNode]:
    """The other node. This process is a driver at the head."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        node = cluster.add_node(num_cpus=1, resources={"far": 1})
        cluster.connect()
        yield node


def test_large_objects_go_both_ways_whole(far: ClusterNode) -> None:
    result = make_there.remote(1)
    (put,) = ray.get(put_there.remote(2), timeout=DEADLINE)
    mine = ray.put(pattern(3))
    checks = [is_pattern.remote(ref, seed) for seed, ref in ((1, result), (2, put), (3, mine))]
    assert np.array_equal(ray.get(result, timeout=DEADLINE), pattern(1))
    assert np.array_equal(ray.get(put, timeout=DEADLINE), pattern(2))
    assert ray.get(checks, timeout=DEADLINE) == [True] * 3


def test_a_wait_that_fetches_nothing_is_ready_when_the_values_exist_and_brings_none_here(far: ClusterNode) -> None:
    """The other node stands still, so nothing can come from it."""
    result = make_there.remote(6)
    (put,) = ray.get(put_there.remote(7), timeout=DEADLINE)
    (asked,) = ray.get(put_there.remote(8), timeout=DEADLINE)
    refs = [result, put, ray.put(pattern(9)), ray.put(1)]
    assert ray.wait(refs, num_returns=4, timeout=DEADLINE, fetch_local=False) == (refs, [])
    os.kill(far.pid, signal.SIGSTOP)
    try:
        assert ray.wait([asked, *refs], num_returns=4, timeout=0, fetch_local=False) == (refs, [asked])
        assert ray.wait(refs, num_returns=3, timeout=0) == (refs[2:], refs[:2])
        assert asyncio.run(asyncray.wait(refs, num_returns=4, timeout=0, fetch_local=False)) == (refs, [])
    finally:
        os.kill(far.pid, signal.SIGCONT)
    assert asyncio.run(asyncray.wait([asked], timeout=DEADLINE, fetch_local=False)) == ([asked], [])
    for ref, seed in ((result, 6), (put, 7), (asked, 8)):
        assert np.array_equal(ray.get(ref, timeout=DEADLINE), pattern(seed))


def test_a_value_comes_although_it_was_asked_for_together_with_one_that_never_comes(far: ClusterNode) -> None:
    refs = ray.get(put_beside_one_that_never_comes.remote(10), timeout=DEADLINE)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(refs, timeout=0.1)
    assert np.array_equal(ray.get(refs[0], timeout=DEADLINE), pattern(10))


def test_a_node_that_stands_still_for_a_moment_goes_on_sending(far: ClusterNode) -> None:
    (put,) = ray.get(put_there.remote(4), timeout=DEADLINE)
    os.kill(far.pid, signal.SIGSTOP)
    try:
        ready, _ = ray.wait([put], timeout=0.5)
    finally:
        os.kill(far.pid, signal.SIGCONT)
    assert ready == []
    assert np.array_equal(ray.get(put, timeout=DEADLINE), pattern(4))


def test_r16_a_node_that_dies_before_it_has_sent_an_object_leaves_nobody_waiting(far: ClusterNode) -> None:
    (put,) = ray.get(put_there.remote(5), timeout=DEADLINE)
    os.kill(far.pid, signal.SIGSTOP)
    assert ray.wait([put], timeout=0.5)[0] == []  # the order is on its way
    os.kill(far.pid, signal.SIGKILL)
    with pytest.raises(
        ray.exceptions.OwnerDiedError, match=rf"lost with its owner: node {far.node_id} at .* is lost: ."
    ):
        ray.get(put, timeout=DEADLINE)


@ray.remote(resources={"third": 1})
def is_pattern_at_a_third(array: np.ndarray, seed: int) -> bool:
    return np.array_equal(array, pattern(seed))


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_task_whose_argument_stops_coming_goes_on_from_another_holder_or_fails(
    nothing_left: object, has_copy: bool
) -> None:
    """The node that has made the argument stands still in the middle of the transfer, and dies."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        far = cluster.add_node(num_cpus=1, resources={"far": 1})
        cluster.add_node(num_cpus=1, resources={"third": 1})
        cluster.connect()
        array = make_there.remote(11)
        if has_copy:
            assert np.array_equal(ray.get(array, timeout=DEADLINE), pattern(11))
        else:
            assert ray.wait([array], timeout=DEADLINE, fetch_local=False)[0] == [array]
        os.kill(far.pid, signal.SIGSTOP)
        check = is_pattern_at_a_third.remote(array, 11)
        ray.wait([check], timeout=0.5)  # the order is on its way
        os.kill(far.pid, signal.SIGKILL)
        if has_copy:
            assert ray.get(check, timeout=DEADLINE)
        else:
            lost = rf"The last one: node {far.node_id} at .* is lost: ."
            with pytest.raises(ray.exceptions.ObjectLostError, match=lost):
                ray.get(check, timeout=DEADLINE)
            with pytest.raises(ray.exceptions.ObjectLostError, match=lost):
                ray.get(array, timeout=DEADLINE)
