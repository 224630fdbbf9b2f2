"""The credentials of the process at the other end of a socket."""

from __future__ import annotations

import os
import socket

from asyncray.io.credentials import Credentials, credentials_of


def test_the_peer_is_the_process_that_made_the_other_end() -> None:
    ours, its = socket.socketpair()
    with ours, its:
        assert credentials_of(ours) == Credentials(os.getpid(), os.geteuid())
