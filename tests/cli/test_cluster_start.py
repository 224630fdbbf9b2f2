"""How the command makes or joins a cluster, before any process starts."""

from __future__ import annotations

import asyncio
import os

import pytest

from asyncray.cli import cluster_start
from asyncray.cli.cluster_start import JoinedCluster, NewCluster, _is_head
from asyncray.io import addresses, cluster_tokens
from asyncray.io.cluster_tokens import TokenError
from tests.node.hosts import cluster


def close(new: NewCluster) -> None:
    new._listener.close()


def test_a_node_of_the_same_user_joins_without_a_token(session_path: str) -> None:
    new = NewCluster("localhost", 0, "first", {"zone": "east"})
    plan = new.plan(session_path)
    assert (plan.head, plan.host, plan.name, plan.labels) == (None, "127.0.0.1", "first", {"zone": "east"})
    joined = JoinedCluster(new.address, None, "second", {}).plan(session_path)
    assert (joined.token, joined.host, joined.bind) == (plan.token, "127.0.0.1", "127.0.0.1")
    assert joined.head == addresses.parse_address(new.address)
    assert plan.token.hex() not in f"{plan!r}{joined!r}{new!r}{new.announcement()}"
    assert f"asyncray node --address {new.address}\n" in new.announcement()
    assert new.warning() == ""
    new.ended(session_path)
    with pytest.raises(TokenError):
        JoinedCluster(new.address, None, "", {})
    assert os.listdir(session_path) == []
    close(new)


def test_a_head_for_other_machines_warns_and_says_how_they_join(
    session_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "shown_host", lambda bound: "10.0.0.1")
    new = NewCluster("0.0.0.0", 0, "", {})
    new.plan(session_path)
    port = new.address.rpartition(":")[2]
    token = f"$(ssh 10.0.0.1 cat {session_path}/cluster.token)"
    line = f"ASYNCRAY_TOKEN={token} asyncray node --address 10.0.0.1:{port}\n"
    assert line in new.announcement()
    assert "is not encrypted" in new.warning()
    # Nodes on this machine find the token by both addresses.
    assert cluster_tokens.find_token(f"127.0.0.1:{port}") == cluster_tokens.find_token(new.address)
    close(new)


async def test_a_second_head_at_the_same_port_is_named_so(session_path: str) -> None:
    async with cluster(1) as (head,):
        port = head.address[1]
        assert await asyncio.to_thread(_is_head, "127.0.0.1", port)
        with pytest.raises(OSError, match=f"a head runs at 127.0.0.1:{port} already: join it with"):
            await asyncio.to_thread(NewCluster, "127.0.0.1", port, "", {})


def test_a_port_in_use_is_named_so(session_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_start, "_ASK_DEADLINE", 0.05)
    with addresses.listen_at("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is in use"):
            NewCluster("127.0.0.1", port, "", {})


def test_a_node_cannot_join_at_an_address_of_another_machine() -> None:
    with pytest.raises(OSError, match=r"203\.0\.113\.7 is no address of this machine"):
        JoinedCluster("127.0.0.1:1", "203.0.113.7", "", {})
