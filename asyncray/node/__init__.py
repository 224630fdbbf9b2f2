"""The node daemon: the shell around the core."""
