"""For tests of programs that use asyncray: clusters of several nodes on one machine."""

from asyncray.testing.local_cluster import Cluster, ClusterNode

__all__ = ["Cluster", "ClusterNode"]
