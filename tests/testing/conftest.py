"""The leak check of the system tests, around every test of clusters for tests, too."""

from tests.system.conftest import nothing_left, sessions, signal_pipe_of_uvloop

__all__ = ["nothing_left", "sessions", "signal_pipe_of_uvloop"]
