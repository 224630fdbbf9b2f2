"""The leak check of the system tests, around every test of the command line, too."""

from tests.system.conftest import nothing_left, sessions

__all__ = ["nothing_left", "sessions"]
