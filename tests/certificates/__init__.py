"""Certificates of two CAs, "good" and "other", which `make.sh` has made."""

from __future__ import annotations

from pathlib import Path

from asyncray.io.tls import Tls, find_tls

HERE = Path(__file__).parent


def paths_of(name: str, authority: str | None = None) -> tuple[str, str, str]:
    """The paths of a node's certificate, its key, and the CA that it trusts: its own, unless another is named."""
    return str(HERE / f"{name}-node.pem"), str(HERE / f"{name}-node.key"), str(HERE / f"{authority or name}-ca.pem")


def tls_of(name: str, authority: str | None = None) -> Tls:
    """TLS of a node."""
    tls = find_tls(*paths_of(name, authority))
    assert tls is not None
    return tls
