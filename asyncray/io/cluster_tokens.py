"""Tokens of clusters: made, kept in files that only the user can read, and found again.

A head keeps the token of its cluster in its session directory. A link beside the sessions, which names the address of
the cluster, leads there: so programs and nodes of the same user on the same machine find it by themselves. On other
machines the user brings it in an environment variable or a file. It never stands on a command line, and the variable is
taken out of the environment, because workers run code that need not know it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from asyncray.io import sessions

TOKEN_VARIABLE = "ASYNCRAY_TOKEN"
TOKEN_FILE_VARIABLE = "ASYNCRAY_TOKEN_FILE"

_SIZE = 32


class TokenError(Exception):
    """There is no token, or no good one. The text is for people."""


def new_token(session: str, addresses: list[str]) -> tuple[bytes, str]:
    """Makes the token of a new cluster. Returns it, and the path of its file.

    Args:
        session: the directory of the head's session.
        addresses: those of the cluster, as nodes on this machine may name them.

    Raises:
        OSError: a file could not be written.
    """
    token = os.urandom(_SIZE)
    path = os.path.join(session, sessions.TOKEN_FILE)
    _write(path, token)
    for address in addresses:
        _link(session, address)
    return token, path


def keep_token(session: str, addresses: Sequence[str], token: bytes) -> None:
    """Makes those files of ``new_token`` again that are missing. A link that leads elsewhere stays.

    Raises:
        OSError: a file could not be written.
    """
    path = os.path.join(session, sessions.TOKEN_FILE)
    if not os.path.exists(path):
        _write(path, token)
    for address in addresses:
        if not os.path.lexists(_link_of(session, address)):
            _link(session, address)


def _write(path: str, token: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{token.hex()}\n")


def _link_of(session: str, address: str) -> str:
    return os.path.join(os.path.dirname(session), sessions.CLUSTER_LINKS, address)


def _link(session: str, address: str) -> None:
    links = os.path.join(os.path.dirname(session), sessions.CLUSTER_LINKS)
    os.makedirs(links, mode=0o700, exist_ok=True)
    temporary = os.path.join(links, f".{address}.{os.getpid()}")
    os.symlink(os.path.join(session, sessions.TOKEN_FILE), temporary)
    os.replace(temporary, _link_of(session, address))


def forget_token(session: str, addresses: list[str]) -> None:
    """Removes the files of ``new_token``, except a link that leads to another cluster by now."""
    path = os.path.join(session, sessions.TOKEN_FILE)
    for address in addresses:
        link = _link_of(session, address)
        with contextlib.suppress(OSError):
            if os.readlink(link) == path:
                os.unlink(link)
    with contextlib.suppress(OSError):
        os.unlink(path)


def take_token(address: str) -> bytes:
    """The same as ``find_token``, for a daemon: takes the variable out of the environment that workers inherit."""
    try:
        return find_token(address)
    finally:
        os.environ.pop(TOKEN_VARIABLE, None)


def find_token(address: str) -> bytes:
    """Returns the token for a cluster: of the environment, or of a head of this user on this machine.

    Args:
        address: of the cluster, with an IP address.

    Raises:
        TokenError: there is none, or no good one.
    """
    text = os.environ.get(TOKEN_VARIABLE)
    if text:
        return _parsed(text, TOKEN_VARIABLE)
    path = os.environ.get(TOKEN_FILE_VARIABLE)
    if path:
        return _read(path)
    link = os.path.join(sessions.base_directory(), sessions.CLUSTER_LINKS, address)
    if not os.path.exists(link):
        raise TokenError(
            f"no token for the cluster at {address}: you run no head at this address on this machine. For a head "
            f"elsewhere, set {TOKEN_VARIABLE} to its token, or {TOKEN_FILE_VARIABLE} to the path of a file with it"
        )
    return _read(link)


def _read(path: str) -> bytes:
    try:
        with open(path, encoding="ascii") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise TokenError(f"others may read the token in {path}: `chmod 600` it, or make a new cluster")
            return _parsed(file.read(1024), path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds no text"
        raise TokenError(f"the token in {path} cannot be read: {why}") from None


def _parsed(text: str, source: str) -> bytes:
    try:
        token = bytes.fromhex(text.strip())
    except ValueError:
        token = b""
    if len(token) != _SIZE:
        raise TokenError(f"{source} holds no token: that is {2 * _SIZE} hex digits")
    return token
