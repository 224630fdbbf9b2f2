"""The machines of the head: what the registry knows of the cluster, and what it decides."""
