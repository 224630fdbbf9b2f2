"""Several readers of large objects on a node whose store has room for a few of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

import asyncray.sync as ray
from asyncray.testing import Cluster, ClusterNode

MIB = 1 << 20
SIZE = 20 * MIB
STORE = 75 * MIB
"""Room for three of the objects."""

DEADLINE = 120.0


@ray.remote(resources={"large": 0.001}, num_cpus=0)
def make(number: int) -> np.ndarray:
    return np.full(SIZE, number, np.uint8)


def is_right(array: np.ndarray, number: int) -> bool:
    return len(array) == SIZE and bool((array[:: SIZE // 64] == number).all())


@pytest.fixture
def small(nothing_left: object) -> Iterator[ClusterNode]:
    """The node with the small store. This process is a driver at the head, which makes the objects."""
    head = {"num_cpus": 1, "resources": {"large": 1}, "object_store_memory": 60 * SIZE}
    with Cluster(initialize_head=True, connect=True, head_node_args=head) as cluster:
        yield cluster.add_node(num_cpus=4, object_store_memory=STORE, resources={"small": 1})


@ray.remote(resources={"small": 0.001})
def read_one_after_another(refs: list[ray.ObjectRef[np.ndarray]]) -> list[bool]:
    return [is_right(ray.get(ref), number) for number, ref in enumerate(refs)]


def test_a_process_reads_more_than_the_store_holds_one_after_another_while_it_keeps_the_refs(
    small: ClusterNode,
) -> None:
    refs = [make.remote(number) for number in range(9)]
    assert ray.get(read_one_after_another.remote(refs), timeout=DEADLINE) == [True] * 9


@ray.remote(resources={"small": 0.001})
def read_two_results(number: int) -> list[bool]:
    """The values are on another node, and each is asked for when it exists."""
    found = []
    for turn in range(3):
        first, second = ray.get([make.remote(number), make.remote(number + turn)])
        found.append(is_right(first, number) and is_right(second, number + turn))
        del first, second  # they fill the store for the next read
    return found


def test_processes_that_need_two_objects_each_do_not_wait_for_each_other_with_one_each(small: ClusterNode) -> None:
    found = ray.get([read_two_results.remote(10 * number) for number in range(4)], timeout=DEADLINE)
    assert found == [[True] * 3] * 4


@ray.remote(resources={"small": 0.001})
def put_and_read(number: int, refs: list[ray.ObjectRef[np.ndarray]]) -> list[bool]:
    found = []
    for turn in range(3):
        mine = ray.put(np.full(SIZE // 2, number, np.uint8))
        which = (number + turn) % len(refs)
        found.append(is_right(ray.get(refs[which]), which) and ray.get(mine)[-1] == number)
        del mine
    return found


def test_puts_and_reads_of_the_same_objects_at_once(small: ClusterNode) -> None:
    refs = [make.remote(number) for number in range(4)]
    found = ray.get([put_and_read.remote(number, refs) for number in range(4)], timeout=DEADLINE)
    assert found == [[True] * 3] * 4


@ray.remote(resources={"small": 0.001})
def read_and_hold(refs: list[ray.ObjectRef[np.ndarray]]) -> bool:
    arrays = ray.get(refs)
    if len(arrays) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return is_right(arrays[0], 2)


def test_a_reader_that_is_killed_makes_room_for_those_that_wait(small: ClusterNode) -> None:
    refs = [make.remote(number) for number in range(3)]
    killed = read_and_hold.options(max_retries=0).remote(refs)
    waiting = [read_and_hold.remote([refs[2]]) for _ in range(2)]
    assert ray.get(waiting, timeout=DEADLINE) == [True, True]
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(killed, timeout=DEADLINE)
