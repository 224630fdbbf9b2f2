"""One object on its way: sources that fail, connections that break, losses in the middle, and the sender's pins."""

from __future__ import annotations

from asyncray.cluster_messages import FETCH, FETCHED, GONE, SEEK, SOURCE_FAILED, UNHOLD
from asyncray.core.cluster.commands import ReceiveRange
from asyncray.messages import FAULT, SHARED
from tests.core.cluster.scene import CHUNK, Scene


def fetching(scene: Scene, *, chunks: int = 1) -> None:
    """Node C fetches a copy of o from node B, and has got some chunks of it."""
    a, b, c = scene.nodes
    scene.loaded(b, scene.o)
    a.large.holders._turn = 0  # the next choice falls on B
    scene.read(c, scene.o)
    scene.talk()
    assert c.lines == {}
    for _ in range(chunks):
        scene.chunk(b, c)


def received(scene: Scene) -> int:
    return scene.nodes[2].large.receiving.pulls[scene.o].received


def test_room_is_taken_before_a_source_is_sought(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.read(b, scene.o)
    scene.arrive(b, a)
    scene.game.deliver(("A", "B"))  # BORROWED
    scene.game.deliver(("A", "B"))  # LOCATED
    assert b.segments  # the store grows for it
    assert SEEK not in scene.under_way(b, a)
    scene.create_segments()
    assert SEEK in scene.under_way(b, a)
    scene.end()


def test_a_pull_that_ends_while_it_waits_for_room_takes_none(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.read(b, scene.o)
    scene.arrive(b, a)
    scene.game.deliver(("A", "B"))  # BORROWED
    scene.game.deliver(("A", "B"))  # LOCATED
    assert b.large.receiving.unclaimed == 9000
    b.drop(scene.o)
    scene.game.flush(b)
    assert not b.large.receiving.pulls
    scene.create_segments()
    assert b.store.allocator.used == 0
    scene.end()


def test_r16_a_source_that_dies_in_the_middle_is_replaced_and_the_rest_comes(scene: Scene) -> None:
    a, b, c = scene.nodes
    fetching(scene, chunks=2)
    scene.lose(b)
    assert SOURCE_FAILED in scene.under_way(c, a)
    scene.talk()
    assert received(scene) == 2 * CHUNK
    (order,) = c.ranges.values()
    assert order.node == a.id
    assert order.position == 2 * CHUNK
    scene.settle()
    assert scene.has(c, scene.o)
    scene.end()


def test_r17_a_source_that_has_dropped_its_copy_is_replaced(scene: Scene) -> None:
    a, b, c = scene.nodes
    scene.loaded(b, scene.o)
    a.large.holders._turn = 0
    scene.read(c, scene.o)
    scene.exchange()
    scene.arrive(a, c)
    scene.arrive(c, a)
    scene.fill(b)
    assert scene.o not in b.store.copies
    scene.arrive(a, c)
    assert FETCH in scene.under_way(c, b)
    scene.arrive(c, b)
    assert GONE in scene.under_way(b, c)
    scene.arrive(b, c)
    assert SOURCE_FAILED in scene.under_way(c, a)
    scene.settle()
    assert scene.has(c, scene.o)
    scene.end()


def test_r18_a_reader_that_loses_interest_ends_the_transfer_at_the_source_and_at_the_owner(scene: Scene) -> None:
    a, b, c = scene.nodes
    fetching(scene)
    c.drop(scene.o)
    scene.flush()
    assert FETCHED in scene.under_way(c, b)
    assert UNHOLD in scene.under_way(c, a)
    assert not c.ranges
    scene.chunk(b, c)  # it stays in step, and goes nowhere
    assert c.store.allocator.used == 0
    scene.settle()
    assert not b.peer(c.id).pinned
    assert not a.large.holders._table[scene.o].assigned
    scene.end()


def test_r19_the_pin_of_a_source_ends_with_the_word_of_the_receiver(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.read(b, scene.o)
    scene.talk()
    (block,) = a.store.blocks.values()
    while a.ordered["B"]:
        scene.game.write_chunk(a, "B")
        scene.game.flush(a)
    assert a.peer(b.id) in block.pins  # the socket has all bytes
    while a.lines["B"].chunks["B"]:
        scene.game.deliver_chunk(a, b)
    assert a.peer(b.id) in block.pins
    scene.flush()
    scene.arrive(b, a)
    assert a.peer(b.id) not in block.pins
    scene.end()


def test_a_connection_that_breaks_costs_only_the_bytes_under_way(scene: Scene) -> None:
    _, b, c = scene.nodes
    fetching(scene, chunks=3)
    scene.game.break_line(b.lines["C"])
    scene.game.notice(c, "B")
    scene.flush()
    assert received(scene) == 3 * CHUNK
    scene.settle()
    assert scene.has(c, scene.o)
    scene.end()


def test_a_break_that_only_the_sender_sees_is_reported_to_the_receiver(scene: Scene) -> None:
    _, b, c = scene.nodes
    fetching(scene)
    scene.game.break_line(b.lines["C"])
    scene.game.notice(b, "C")
    scene.flush()
    assert (GONE, True) in [(message[0], message[-1]) for message in scene.game.wires["B", "C"]]
    scene.settle()
    assert scene.has(c, scene.o)
    scene.end()


def test_r29_the_loss_of_the_owner_is_an_error_only_where_no_copy_is(scene: Scene) -> None:
    a, b, c = scene.nodes
    fetching(scene)
    scene.lose(a)
    entry = c.objects.table[scene.o]
    assert entry.kind == FAULT
    assert entry.payload[0] == "OwnerDiedError"
    assert not c.awaited
    assert b.objects.table[scene.o].kind == SHARED
    scene.read(b, scene.o)
    assert scene.has(b, scene.o)
    b.unpin(scene.o)
    b.drop(scene.o)
    scene.flush()
    assert scene.under_way(b, c) == []
    scene.settle()
    assert scene.o not in b.store.copies
    scene.end()


def test_memory_that_the_system_lacks_is_a_full_store(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.read(b, scene.o)
    scene.talk()
    (order,) = b.ranges.values()
    assert isinstance(order, ReceiveRange)
    b.large.range_failed(a.id, order.transfer, "no pages", 0.0)
    scene.flush()
    assert scene.game.seen == {"ObjectStoreFullError": 1}
    assert UNHOLD in scene.under_way(b, a)
    assert b.store.allocator.used == 0
    b.ranges.clear()
    scene.end()


def test_r46_another_version_begins_anew(scene: Scene) -> None:
    a, b, c = scene.nodes
    fetching(scene)
    entry = c.objects.table[scene.o]
    c.large.values.located(c.peer(a.id), (130, scene.o, 5, 9000, None))
    assert entry.payload == [5, 9000]
    assert received(scene) == 0
    assert not c.large.receiving._transfers
    kinds = [message[0] for message in c.peer(a.id).out]
    assert kinds == [UNHOLD, SEEK]
    assert [message[0] for message in c.peer(b.id).out] == [FETCHED]
