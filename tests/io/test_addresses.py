"""Addresses that people write, and sockets that listen at them."""

from __future__ import annotations

import socket

import pytest

from asyncray.io import addresses


@pytest.mark.parametrize(
    ("text", "parts"),
    [("10.0.0.1:6379", ("10.0.0.1", 6379)), ("[::1]:1", ("::1", 1)), ("host.example:65535", ("host.example", 65535))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert addresses.parse_address(text) == parts
    assert addresses.join_address(*parts) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:0", "host:65536", "::1:1", "host:x", "host:١"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        addresses.parse_address(text)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with addresses.listen_at("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is in use"):
            addresses.listen_at("127.0.0.1", port)
    with pytest.raises(OSError, match=r"203\.0\.113\.7 is no address of this machine"):
        addresses.listen_at("203.0.113.7", 0)


def test_hosts_have_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET6, 0, 0, "", ("::1", 1, 0, 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: both)
    assert addresses.resolve("localhost") == "127.0.0.1"

    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match=r"'no\.such' has no address: Name or service not known"):
        addresses.resolve("no.such")


def test_an_address_that_stands_for_all_is_shown_as_one_of_them() -> None:
    assert addresses.shown_host("127.0.0.1") == "127.0.0.1"
    assert addresses.shown_host("0.0.0.0") != "0.0.0.0"
    assert addresses.local_host("0.0.0.0") == "127.0.0.1"
    assert addresses.local_host("::") == "::1"
    assert addresses.local_host("10.0.0.1") == "10.0.0.1"
    assert addresses.address_towards("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(("host", "only_here"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False)])
def test_addresses_that_only_this_machine_reaches(host: str, only_here: bool) -> None:
    assert addresses.is_loopback(host) is only_here
