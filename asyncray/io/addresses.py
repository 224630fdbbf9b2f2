"""Network addresses: read, bound, and shown to people."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of this machine's -> the loopback address of the same family."""

_BACKLOG = 1024
"""Connections that wait until they are accepted: all nodes of a cluster may come at once."""

_SOMEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation: no packet is sent to them."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[HOST]:PORT``.

    Raises:
        ValueError: the text is no such address.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{text!r} is no address: write HOST:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The text of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int = 0) -> str:
    """The IP address of a host: of the older kind if it has both, because a head listens there unless it is said.

    Raises:
        OSError: there is none. The text says so.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(errno.EADDRNOTAVAIL, f"the host {host!r} has no address: {why}") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def listen_at(host: str, port: int) -> socket.socket:
    """A socket that listens at an IP address.

    Raises:
        OSError: the port is in use, or the address is none of this machine. The text says so.
    """
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        # A port that a connection of an ended daemon still occupies can be bound.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - takes no keyword
    except OSError as error:
        listener.close()
        why = {
            errno.EADDRINUSE: f"port {port} of {host} is in use",
            errno.EADDRNOTAVAIL: f"{host} is no address of this machine",
        }.get(error.errno or 0, f"{join_address(host, port)}: {os.strerror(error.errno or 0)}")
        raise OSError(error.errno, why) from None
    return listener


def shown_host(bound: str) -> str:
    """The address under which others reach a daemon that listens at this one."""
    return _own_address(_SOMEWHERE[_family(bound)], _WILDCARDS[bound]) if bound in _WILDCARDS else bound


def local_host(bound: str) -> str:
    """The address under which this machine reaches a daemon that listens at this one."""
    return _WILDCARDS.get(bound, bound)


def address_towards(host: str) -> str:
    """The address of this machine that packets to another one come from.

    Args:
        host: the IP address of the other one.
    """
    return _own_address(host, _WILDCARDS["::" if ":" in host else "0.0.0.0"])


def _own_address(towards: str, otherwise: str) -> str:
    with socket.socket(_family(towards), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))  # of a datagram socket: sends nothing
        except OSError:
            return otherwise
        return str(probe.getsockname()[0])


def is_loopback(host: str) -> bool:
    """True if only this machine reaches an IP address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
