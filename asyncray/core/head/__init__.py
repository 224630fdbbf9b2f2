"""The machines of the head: the registry's knowledge of the cluster, and its decisions."""
