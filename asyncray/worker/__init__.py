"""The worker process and the zygote that forks it."""
