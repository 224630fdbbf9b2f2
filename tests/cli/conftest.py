"""The leak check of the system tests, around every test of the command line, too, and the node that tests share."""

from tests.system.conftest import node, nothing_left, own_node, sessions

__all__ = ["node", "nothing_left", "own_node", "sessions"]
