"""Strangers at every entrance of a cluster: the socket of a node, its port for other nodes, and the head's HTTP server.

Through each come 10,000 frames: hostile pickles, random bytes, and beginnings of what honest processes send. None is
loaded, the daemon serves its members as before, and its memory stays as it was.
"""

from __future__ import annotations

import os
import pickle
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncray import messages
from asyncray.cli.observer import Observer
from asyncray.testing import Cluster, ClusterNode
from asyncray.wire.frames import encode
from asyncray.wire.handshake import CLUSTER_SIZE, LINK, NONCE_SIZE, DialerHandshake
from asyncray.wire.link_frames import header

FRAMES = 10_000
WARM_UP = 2_000
"""Frames until the daemon's caches are full."""

MOST_GROWTH = 4 << 20
"""Bytes by which the memory of a daemon may differ afterwards."""

DEADLINE = 20.0

Send = Callable[[bytes], None]
"""Sends bytes on a connection of their own, as a stranger does."""


class Bomb:
    """Makes a directory when it is loaded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self._path,)


@pytest.fixture
def cluster(nothing_left: object) -> Iterator[Cluster]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as made:
        made.add_node(num_cpus=1)
        yield made


def head_of(cluster: Cluster) -> ClusterNode:
    assert cluster.head_node is not None
    return cluster.head_node


def send_to(family: int, address: Any) -> Send:
    """Returns a function that sends, waits until the daemon ends the connection, and ends it itself."""

    def send(data: bytes) -> None:
        with socket.socket(family) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(address)
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass  # the daemon has ended the connection

    return send


def attack(daemon: int, send: Send, honest: list[bytes], bomb: bytes) -> None:
    """Sends frames, and looks at the memory of the daemon."""
    chance = random.Random(7)
    process = psutil.Process(daemon)
    before = 0
    for number in range(FRAMES):
        if number == WARM_UP:
            before = process.memory_info().rss
        start = chance.choice(honest)
        kind = number % 4
        if kind == 0:
            data = chance.randbytes(chance.randrange(1, 400))
        elif kind == 1:
            data = start[: chance.randrange(len(start))]
        elif kind == 2:
            place = chance.randrange(len(start))
            data = start[:place] + chance.randbytes(chance.randrange(1, 40)) + start[place:]
        else:
            data = chance.choice(
                (bomb, start + bomb, len(bomb).to_bytes(4, "little") + bomb, header(bomb, 1, 0) + bomb)
            )
        send(data)
    assert process.memory_info().rss - before <= MOST_GROWTH


@pytest.mark.parametrize("entrance", ["socket", "link", "http", "stream"])
def test_ten_thousand_frames_change_nothing(cluster: Cluster, entrance: str, tmp_path: Path) -> None:
    head = head_of(cluster)
    bomb = pickle.dumps(Bomb(str(tmp_path / "loaded")))
    hello = encode([(messages.HELLO, messages.VERSION, "observer", {"pid": os.getpid()})])
    host, _, port = cluster.address.rpartition(":")
    host_line = f"Host: {cluster.address}\r\n".encode()
    (row,) = [row for row in head.rows().values() if row["NodeID"] == head.node_id]
    link = DialerHandshake(
        bytes(32), os.urandom(8), os.urandom(CLUSTER_SIZE), LINK, bytes.fromhex(head.node_id), os.urandom(NONCE_SIZE)
    )
    entrances: dict[str, tuple[Send, list[bytes]]] = {
        "socket": (
            send_to(socket.AF_UNIX, head.address.removeprefix("unix:")),
            [hello, hello + encode([(messages.REQUEST, 1, "status", [])])],
        ),
        "link": (send_to(socket.AF_INET, (host, row["NodeManagerPort"])), [link.start(), link.start() + bytes(32)]),
        "http": (
            send_to(socket.AF_INET, (host, int(port))),
            [
                b"GET /api/status HTTP/1.1\r\n" + host_line + b"Authorization: Bearer x\r\n\r\n",
                b"PUT /api/kv/key HTTP/1.1\r\n" + host_line + b"Content-Length: 9\r\n\r\n123456789",
                b"GET /join HTTP/1.1\r\n" + host_line + b"\r\n",
            ],
        ),
        "stream": (
            send_to(socket.AF_INET, (host, int(port))),
            [
                b"GET /stream HTTP/1.1\r\n" + host_line + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Asyncray-Node: 00\r\nAsyncray-Proof: 00\r\n\r\n"
            ],
        ),
    }
    send, honest = entrances[entrance]
    attack(head.pid, send, honest, bomb)
    assert not (tmp_path / "loaded").exists()
    for node in cluster.list_all_nodes():
        assert [row["State"] for row in node.rows().values()] == ["ALIVE", "ALIVE"]
    with Observer(head.address) as observer:
        assert observer.request("status")["problem"] == ""
    log = Path(head.session_dir, "logs", "node.log").read_text()
    assert "a defect" not in log
    # A process of the same user that has said hello and then sends nonsense is worth one.
    assert entrance == "socket" or "Traceback" not in log
