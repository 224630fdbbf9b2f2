"""A fixture for pytest. Load it in a ``conftest.py``: ``pytest_plugins = ["asyncray.testing.fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asyncray import sync
from asyncray.testing.local_cluster import Cluster


@pytest.fixture
def asyncray_cluster() -> Iterator[Cluster]:
    """A cluster without nodes. After the test its nodes end, and so does the session of the test.

    Example::

        import asyncray.sync as ray


        def test_two_machines(asyncray_cluster):
            asyncray_cluster.add_node(num_cpus=1)  # the head
            asyncray_cluster.add_node(num_cpus=4)
            asyncray_cluster.connect()
            assert ray.cluster_resources()["CPU"] == 5
    """
    with Cluster() as cluster:
        try:
            yield cluster
        finally:
            sync.shutdown()
