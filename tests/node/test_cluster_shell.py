"""Shells of several nodes in one process, with real sockets between them."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import select
import subprocess
import sys

import pytest

from asyncray.cluster_messages import RESUME, VIEW
from asyncray.core.cluster.links import OPEN
from asyncray.core.cluster.members import OUTSIDE
from asyncray.core.head.membership import LEFT, LOST
from asyncray.head import head_shell
from asyncray.io import strangers
from asyncray.io.addresses import listen_at
from asyncray.io.link_streams import LinkStream
from asyncray.node import cluster_shell
from asyncray.node.cluster_shell import CAST_OUT, NOT_JOINED
from asyncray.wire.chunks import chunk_header
from asyncray.wire.frames import pack
from asyncray.wire.handshake import BULK, LINK, DialerHandshake
from asyncray.wire.link_frames import header
from tests.certificates import tls_of
from tests.node.hosts import CLUSTER, TOKEN, Host, cluster, until


def cut_links(host: Host) -> None:
    """Breaks the connections of a host to other nodes; that to the head stays."""
    for carrier, _ in list(host.shell._connections._carriers.values()):
        if isinstance(carrier, LinkStream):
            carrier.abort("the test cuts it")


async def test_nodes_join_and_see_one_another_and_talk() -> None:
    async with cluster(3) as hosts:
        for host in hosts:
            assert host.is_member()
            for other in hosts:
                if other is not host:
                    host.say(other.id, host.id, "hello")
        for host in hosts:
            heard = [await host.heard.get() for _ in range(len(hosts) - 1)]
            assert {sender for sender, *_ in heard} == host.others()


async def test_what_is_said_arrives_once_and_in_order_though_connections_break() -> None:
    async with cluster(2) as (one, other):
        for number in range(2000):
            one.say(other.id, number, bytes(500))
            if number % 400 == 399:
                cut_links(one)
            if number % 100 == 0:
                await asyncio.sleep(0)
        heard = [(await other.heard.get())[1] for _ in range(2000)]
        assert heard == list(range(2000))


async def test_a_node_comes_back_after_its_connection_to_the_head_broke() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        peer = head.head.machine.peers[node.id]
        for carrier, _ in list(head.head.connections._carriers.values()):
            carrier.abort("the test cuts it")
        await until(lambda: peer.link.state != OPEN)
        await until(lambda: peer.link.state == OPEN)
        assert node.id in head.head.machine.members.table
        assert node.is_member()


async def test_a_daemon_that_has_died_is_lost_at_once_because_its_port_refuses() -> None:
    async with cluster(3) as (head, node, victim):
        await victim.close()  # without leaving the cluster first
        await until(lambda: victim.id not in head.others() | node.others())
        assert head.head is not None
        assert head.head.machine.members.ended[victim.id].state == LOST
        assert "refuses connections" in head.head.machine.members.ended[victim.id].how


async def test_h26_words_that_a_node_wrote_before_it_was_lost_are_read_before_it_is_buried() -> None:
    async with cluster(3) as (head, node, victim):
        victim.say(node.id, 0)
        await node.heard.get()
        # 1. The node writes. 2. It is lost. 3. The verdict is handled first, because the loop has not read the words.
        victim.say(node.id, "last words")
        victim._flush()
        assert head.head is not None
        assert node.shell.part is not None
        view = node.shell.part.members._view + 1
        node.shell._receive_from_head([(VIEW, view, [], [(victim.id, LOST, "a test says so")], [], [])])
        assert victim.id not in node.shell.part.peers
        assert node.heard.get_nowait() == (victim.id, "last words")


async def test_a_node_that_is_lost_in_the_turn_in_which_it_should_be_dialled_is_not_dialled() -> None:
    async with cluster(2) as (head, node):
        assert node.shell.part is not None
        victim = node.shell.part.peer(os.urandom(8), 0.0)
        # 1. The link wants a dial. 2. The verdict comes. 3. The daemon performs the commands.
        victim.link.push(b"", 0, 0.0)
        node.shell.part.members.table[victim.id] = node.shell.part.members.table[head.id]
        view = node.shell.part.members._view + 1
        node.shell._receive_from_head([(VIEW, view, [], [(victim.id, LOST, "a test says so")], [], [])])
        node._flush()
        assert victim.id not in node.shell.part.peers
        head.say(node.id, "still alive")
        assert await node.heard.get() == (head.id, "still alive")


async def test_a_fenced_node_learns_why_and_ends() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        head.head.machine.members.lose(node.id, "a test says so", 0.0)
        head.head._request_flush()
        await node.ended
        await until(lambda: node.shell.failure is not None)
        assert node.shell.failure == (CAST_OUT, "a test says so")


async def test_a_node_that_missed_the_verdict_is_turned_away_when_it_comes_back() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        for carrier, _ in list(head.head.connections._carriers.values()):
            carrier.abort("the test cuts it")
        members = head.head.machine.members
        members._outbox.dirty.clear()
        members.table[node.id].party.alive = False  # so that FENCED does not arrive
        members.lose(node.id, "a test says so", 0.0)
        await node.ended
        assert node.shell.failure is not None
        assert node.shell.failure[0] == CAST_OUT
        assert "declared this node lost: a test says so" in node.shell.failure[1]


async def test_a_node_that_stops_in_order_leaves_the_cluster_first() -> None:
    async with cluster(3) as (head, node, leaver):
        leaver.machine.stop("it got SIGTERM")
        leaver.request_flush()
        assert await leaver.ended == "it got SIGTERM"
        assert leaver.shell.failure is None
        assert head.head is not None
        assert head.head.machine.members.ended[leaver.id].state == LEFT
        await until(lambda: leaver.id not in node.others())
        assert leaver.shell.part is not None
        assert leaver.shell.part.members.state == OUTSIDE


async def test_a_head_that_ends_in_order_ends_its_nodes() -> None:
    async with cluster(3) as (head, *nodes):
        await head.close()
        for node in nodes:
            await node.ended
            await until(lambda: node.shell.failure is not None)  # noqa: B023 - it is awaited here
            assert node.shell.failure == (CAST_OUT, "the head has ended: the test ends it")


async def test_a_farewell_that_nobody_answers_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_shell, "FAREWELL_DEADLINE", 0.01)
    async with cluster(2) as (head, node):
        assert head.head is not None
        head.head._closed = True  # the head's loop stands still
        node.machine.stop("it got SIGTERM")
        node.request_flush()
        assert await node.ended == "it got SIGTERM"


async def test_nodes_with_tls_join_and_talk_although_connections_break() -> None:
    async with cluster(3, tls=tls_of("good")) as (head, one, other):
        for number in range(200):
            one.say(other.id, number, bytes(5000))
            if number % 50 == 49:
                cut_links(one)
            if number % 10 == 0:
                await asyncio.sleep(0)
        assert [(await other.heard.get())[1] for _ in range(200)] == list(range(200))
        head.say(one.id, "hello")
        assert await one.heard.get() == (head.id, "hello")


async def test_r5_the_last_words_of_a_lost_node_are_read_through_tls() -> None:
    """1. A node writes and dies. 2. The head's verdict comes first. 3. The bytes in the socket are encrypted."""
    async with cluster(3, tls=tls_of("good")) as (head, node, lost):
        node.say(lost.id, "hello")
        await lost.heard.get()
        part = node.shell.part
        assert part is not None
        peer = part.peers[lost.id]
        ((stream, _),) = [found for found in node.shell._connections._carriers.values() if found[1] is peer]
        assert isinstance(stream, LinkStream)
        assert stream.transport is not None
        stream.transport.pause_reading()
        lost.say(node.id, "last words")
        lost.request_flush()
        await until(lambda: not lost._flush_requested)
        assert stream._descriptor is not None
        readable = select.poll()
        readable.register(stream._descriptor, select.POLLIN)
        await until(lambda: readable.poll(0))
        assert node.heard.empty()
        assert head.head is not None
        head.head.machine.members.lose(lost.id, "a test says so", 0.0)
        head.head._request_flush()
        await until(lambda: lost.id not in part.peers)
        assert node.heard.get_nowait() == (lost.id, "last words")


@pytest.mark.parametrize(
    ("head_ca", "node_ca", "words"),
    [
        ("good", None, "it speaks TLS, so this node needs --tls-cert, --tls-key and --tls-ca"),
        (None, "good", "it does not speak TLS"),
        ("good", "other", "its certificate is not good for"),
    ],
)
async def test_a_node_whose_tls_does_not_fit_says_so_at_once(
    head_ca: str | None, node_ca: str | None, words: str
) -> None:
    async with cluster(1, tls=None if head_ca is None else tls_of(head_ca)) as (head,):
        node = Host(head.address, tls=None if node_ca is None else tls_of(node_ca))
        await node.start()
        assert node.shell.failure is not None
        code, why = node.shell.failure
        assert code == NOT_JOINED
        assert f"no connection to the head at 127.0.0.1:{head.address[1]}: " in why
        assert words in why
        assert not head.others()
        await node.close()


async def test_a_node_whose_certificate_another_ca_has_signed_does_not_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_shell, "JOIN_DEADLINE", 1.0)
    async with cluster(1, tls=tls_of("good")) as (head,):
        node = Host(head.address, tls=tls_of("other", authority="good"))
        await node.start()
        assert node.shell.failure is not None
        assert "perhaps because of the certificate" in node.shell.failure[1]
        assert not head.others()
        await node.close()


async def test_a_wrong_token_is_said_in_one_line() -> None:
    async with cluster(1) as (head,):
        node = Host(head.address, token=b"w" * 32)
        await node.start()
        assert node.shell.failure == (NOT_JOINED, "the token is wrong, or missing")
        assert not head.others()
        await node.close()


async def test_a_stranger_who_got_the_port_of_the_head_ends_no_member(caplog: pytest.LogCaptureFixture) -> None:
    """1. The connection breaks. 2. Another process, or the head of another cluster, answers at the address."""
    async with cluster(2) as (head, node), cluster(1) as (other,):
        client = node.shell._head_client
        assert client is not None
        address, client.address = client.address, f"127.0.0.1:{other.address[1]}"
        for carrier, _ in list(node.shell._connections._carriers.values()):
            carrier.abort("the test cuts it")
        await until(lambda: "another cluster answers" in caplog.text)
        assert node.is_member()
        client.address = address
        head.say(node.id, "welcome back")
        assert await node.heard.get() == (head.id, "welcome back")


async def test_a_member_whose_connection_is_broken_learns_that_the_head_ends() -> None:
    async with cluster(2) as (head, node):
        for carrier, _ in list(node.shell._connections._carriers.values()):
            carrier.abort("the test cuts it")
        assert head.head is not None
        machine = head.head.machine
        await until(lambda: machine.awaits_members)
        await head.head.close("it got SIGTERM")
        await node.ended
        await until(lambda: node.shell.failure is not None)
        assert node.shell.failure == (CAST_OUT, "the head has ended: it got SIGTERM")


async def test_a_head_waits_not_for_ever_for_a_member_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_shell, "FAREWELL_DEADLINE", 0.01)
    async with cluster(2) as (head, node):
        assert head.head is not None
        assert node.shell._head_client is not None
        node.shell._head_client.address = "127.0.0.1:1"
        for carrier, _ in list(node.shell._connections._carriers.values()):
            carrier.abort("the test cuts it")
        machine = head.head.machine
        await until(lambda: machine.awaits_members)
        await head.head.close("it got SIGTERM")
        assert node.is_member()


async def test_a_tick_comes_when_a_dial_is_due_and_not_before() -> None:
    async with cluster(2) as (_, node):
        shell, loop = node.shell, asyncio.get_running_loop()
        assert shell.part is not None
        link = shell.part.peer(b"stranger", loop.time()).link
        await until(lambda: shell.part is not None and shell.part.tick_wanted_at is None)
        shell._ticking.set_after(50.0)
        planned = [shell._ticking._at]
        for due in (99.0, 20.0, 30.0, -1.0):
            link._redial_at = loop.time() + due
            shell.part.outbox.restless[link] = None
            shell.flush()
            planned.append(shell._ticking._at)
        now = loop.time()
        assert [round(at - now) for at in planned] == [50, 50, 20, 20, 0]
        link._redial_at = None


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_shell, "JOIN_DEADLINE", 1.0)
    with listen_at("127.0.0.1", 0) as listener:
        address = listener.getsockname()
    node = Host(address)
    await node.start()
    assert node.shell.failure is not None
    code, why = node.shell.failure
    assert code == NOT_JOINED
    assert f"no head answers at 127.0.0.1:{address[1]}" in why
    assert "tries in 1 s, the last one: Connection refused" in why
    await node.close()


async def test_a_port_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_shell, "JOIN_DEADLINE", 0.5)
    with listen_at("127.0.0.1", 0) as listener:
        node = Host(listener.getsockname())
        await node.start()
        assert node.shell.failure is not None
        assert (
            "1 try in 0.5 s, the last one: the connection is made, or on its way, and nothing comes"
            in (node.shell.failure[1])
        )
        await node.close()


async def test_strangers_at_the_port_of_a_node_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(3)
    async with cluster(2) as (head, node):
        assert node.shell._server is not None
        port = node.shell._server.sockets[0].getsockname()[1]
        first = DialerHandshake(b"w" * 32, os.urandom(8), CLUSTER, LINK, node.id, os.urandom(32)).start()
        for data in [pickle.dumps(OSError()), first, first + bytes(32)] + [
            chance.randbytes(chance.randrange(1, 300)) for _ in range(200)
        ]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            try:
                await reader.read()
            except ConnectionResetError:
                pass
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        await until(lambda: not node.shell._unproven)
        assert repr(node.shell._strangers) == "<Strangers 0>"
        refused = [record for record in caplog.records if "was refused" in record.message]
        assert len(refused) == 1  # the node logs it once a minute for each address
        head.say(node.id, "still alive")
        assert await node.heard.get() == (head.id, "still alive")


class Bomb:
    """Records it if a node loads the pickle."""

    loaded = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Bomb, "loaded", True)


@pytest.mark.parametrize("role", [LINK, BULK])
async def test_bad_frames_of_a_daemon_that_knows_the_token_end_its_connection_and_nothing_more(role: int) -> None:
    chance = random.Random(8)
    bomb = pickle.dumps(Bomb())
    own = os.urandom(8)
    good = pack([(RESUME, 1, 0)])
    async with cluster(2) as (head, node):
        assert node.shell._server is not None
        port = node.shell._server.sockets[0].getsockname()[1]
        for number in range(200):
            handshake = DialerHandshake(TOKEN, own, CLUSTER, role, node.id, os.urandom(32))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(handshake.start())
            while not handshake.done:
                writer.write(handshake.feed(await reader.read(1000)))
            frames = (
                header(bomb, 1, 0) + bomb,
                chance.randbytes(chance.randrange(1, 200)),
                (header(good, 0, 0) + good)[: chance.randrange(len(good) + 20)],
                header(good, 7, 0) + good,
                chunk_header(1, 0, 4) + b"what" + chunk_header(2, 1 << 60, 1000) + b"is it?",
                chunk_header(1, 0, 4) + bytes(1000),
            )
            writer.write(frames[number % len(frames)])
            writer.write_eof()
            try:
                await reader.read()
            except ConnectionResetError:
                pass
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        assert not Bomb.loaded
        assert node.shell.part is not None
        node.shell.part.peers.pop(own).bury("the test ends it")
        head.say(node.id, "still alive")
        assert await node.heard.get() == (head.id, "still alive")


async def test_h27_idle_strangers_of_one_address_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST_OF_ADDRESS", 3)
    async with cluster(2) as (_, node):
        assert node.shell._server is not None
        port = node.shell._server.sockets[0].getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await until(lambda: len(node.shell._unproven) == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        assert len(node.shell._unproven) == 3
        for _, other in [*idle, (reader, writer)]:
            other.close()


async def test_a_daemon_of_the_cluster_that_is_fenced_gets_no_link() -> None:
    async with cluster(2) as (_, node):
        assert node.shell.part is not None
        lost = os.urandom(8)
        node.shell.part.members.ended[lost] = (LOST, "a test says so")
        assert node.shell._server is not None
        port = node.shell._server.sockets[0].getsockname()[1]
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        stream = LinkStream(
            DialerHandshake(TOKEN, lost, CLUSTER, LINK, node.id, os.urandom(32)),
            lambda stream: None,
            lambda *frame: None,
            lambda stream, why: ended.set_result(why),
        )
        await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", port)
        await ended
        assert lost not in node.shell.part.peers


LONE = """
import asyncio, json, os, sys
from asyncray.cli import start_node
from asyncray.node import main

def ready(facts):
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, os.kill, os.getpid(), 15)

async def companion(ask, facts):
    await start_node._run_registry(ask, facts)

from asyncray.node.start import define_state, start_zygote_early
from asyncray.runtime.launch import configuration
config = configuration({"num_cpus": 1, "num_gpus": 0, "resources": None, "object_store_memory": None})
define_state()
zygote = start_zygote_early(config["directory"], config["lock"])
import asyncray.head.registry
main.serve(config, zygote, ready, companion)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("asyncray"))))
"""


def test_a_lone_node_imports_nothing_of_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The node has its registry, as only one of `asyncray node` does."""
    directory = tmp_path_factory.mktemp("t")
    directory.chmod(0o700)
    environment = {**os.environ, "ASYNCRAY_TMPDIR": str(directory)}
    done = subprocess.run([sys.executable, "-c", LONE], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "asyncray.node.daemon" in done.stdout
    assert "asyncray.head.registry" in done.stdout
    for name in ("cluster", "link", "handshake", "head_", "tls", "websockets", "bulk", "chunks"):
        assert name not in done.stdout, name
