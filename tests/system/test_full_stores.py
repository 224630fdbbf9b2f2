"""Several readers of large objects on a node whose store has room for a few of them."""

from __future__ import annotations

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
