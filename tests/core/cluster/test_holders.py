"""The owner's side of large objects: holders, seekers and losses."""

from __future__ import annotations

import pytest

from asyncray.cluster_messages import FREE, HOLDING, PROMOTE, SEEK, SOURCE, SOURCE_FAILED, UNHOLD
from asyncray.core.cluster.holders import AT_ONCE
from asyncray.messages import FAULT, SHARED
from tests.core.cluster.scene import Scene

Patch = pytest.MonkeyPatch


def sources(scene: Scene) -> list[str]:
    """For each seeker of o, the node that it fetches from."""
    copies = scene.nodes[0].large.holders._table[scene.o]
    return [scene.game.node(source).name for _, source in copies.assigned.values()]


def test_a_holder_serves_two_nodes_at_a_time_and_each_that_is_done_serves_others(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch, 5)
    a, *others = scene.nodes
    for node in others:
        scene.read(node, scene.o)
    scene.talk()
    copies = a.large.holders._table[scene.o]
    assert sources(scene) == ["A"] * AT_ONCE
    assert len(copies.seekers) == 2
    first = scene.game.node(next(iter(copies.assigned)))
    scene.chunks(a, first)  # type: ignore[arg-type]  # it is a LargeNode
    scene.exchange()
    assert sorted(sources(scene)) == ["A", "A", first.name]
    scene.settle()
    assert all(scene.has(node, scene.o) for node in others)
    scene.end()


def test_a_smaller_object_is_fetched_by_all_at_once(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch, 5, large=10_000)
    for node in scene.nodes[1:]:
        scene.read(node, scene.o)
    scene.talk()
    assert sources(scene) == ["A"] * 4
    scene.end()


def test_r14_a_copy_of_a_freed_object_is_freed_when_its_holder_reports_it(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.read(b, scene.o)
    scene.talk()
    scene.chunks(a, b)
    assert HOLDING in scene.under_way(b, a)
    b.drop(scene.o)
    a.large.holders._table.pop(scene.o)
    a.drop(scene.o)
    scene.game.flush(a)
    scene.game.deliver(("B", "A"))  # FETCHED
    scene.game.deliver(("B", "A"))  # HOLDING
    assert FREE in scene.under_way(a, b)
    scene.end()


def test_h18_an_abandoned_fetch_takes_no_place_for_ever(scene: Scene) -> None:
    a, b, c = scene.nodes
    for _ in range(AT_ONCE + 1):
        scene.read(b, scene.o)
        scene.talk()
        b.drop(scene.o)
        scene.flush()
        assert UNHOLD in scene.under_way(b, a)
        scene.talk()
        assert scene.o not in a.large.holders._table
    scene.read(c, scene.o)
    scene.settle()
    assert scene.has(c, scene.o)
    scene.end()


def test_h13_only_the_version_that_is_named_is_freed(scene: Scene) -> None:
    a, b, _ = scene.nodes
    scene.loaded(b, scene.o)
    b.large.copies.freed(b.peer(a.id), (FREE, [(scene.o, 7)]))
    assert b.store.copies[scene.o][0].in_use
    a.large.holders.receive(b.id, (UNHOLD, [(scene.o, 7)]))
    assert list(a.large.holders.nodes(a.objects.table[scene.o])) == [b.id]
    a.large.holders.receive(b.id, (HOLDING, [(scene.o, 7)]))
    scene.flush()
    assert scene.under_way(a, b) == [FREE]
    scene.end()


def test_a_result_at_another_node_is_the_primary_copy_and_goes_when_nothing_needs_it(scene: Scene) -> None:
    a, b, _ = scene.nodes
    result = scene.run_at(a, b, 9000)
    entry = a.objects.table[result]
    assert entry.kind == SHARED
    assert entry.block is None
    assert a.large.holders.elsewhere(entry)
    assert b.large.copies.evict() is None
    a.drop(result)
    scene.flush()
    assert FREE in scene.under_way(a, b)
    scene.talk()
    assert result not in b.store.copies
    scene.end()


def test_h14_the_loss_of_the_primary_copy_makes_another_one_primary(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch, 4)
    a, b, c, d = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.loaded(c, result)
    scene.lose(b)
    assert PROMOTE in scene.under_way(a, c)
    scene.talk()
    assert c.large.copies.evict() is None
    scene.loaded(d, result)
    scene.end()


def test_h14_a_copy_that_was_dropped_before_the_loss_is_not_counted_on(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch, 4)
    a, b, c, _ = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.loaded(c, result)
    scene.fill(c)
    assert UNHOLD in scene.under_way(c, a)
    scene.game.kill(b)
    scene.report_loss(a, b)
    assert PROMOTE in scene.under_way(a, c)
    scene.talk()
    assert a.objects.table[result].kind == FAULT
    scene.report_loss(c, b)
    scene.report_loss(scene.nodes[3], b)
    scene.end()


def test_the_owner_that_has_a_copy_keeps_it_when_the_primary_one_is_lost(scene: Scene) -> None:
    a, b, _ = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.loaded(a, result)
    assert a.objects.table[result] in a.large.copies
    scene.lose(b)
    assert a.objects.table[result] not in a.large.copies
    scene.loaded(scene.nodes[2], result)
    scene.end()


def test_the_loss_of_the_last_copy_is_an_error_that_names_the_node(scene: Scene) -> None:
    a, b, c = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.read(c, result)
    scene.exchange(3)
    scene.lose(b)
    scene.settle()
    entry = a.objects.table[result]
    assert entry.kind == FAULT
    name, fields = entry.payload
    assert name == "ObjectLostError"
    assert b.id.hex() in fields["message"]
    assert not c.awaited  # its process got the error
    scene.end()


def test_a_copy_that_is_complete_when_the_source_dies_keeps_the_object(scene: Scene) -> None:
    a, b, c = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.read(c, result)
    scene.talk()
    scene.chunks(b, c)
    assert HOLDING in scene.under_way(c, a)
    scene.game.kill(b)
    scene.report_loss(a, b)
    assert a.objects.table[result].kind == SHARED
    scene.report_loss(c, b)
    scene.talk()
    assert a.large.holders._table[result].holders == {c.id: True}
    scene.end()


def test_a_source_that_the_seeker_knows_to_be_lost_is_not_named_again(scene: Scene) -> None:
    a, b, c = scene.nodes
    result = scene.run_at(a, b, 9000)
    scene.game.kill(b)
    scene.report_loss(c, b)
    scene.read(c, result)
    scene.exchange()
    scene.arrive(a, c)
    assert SEEK in scene.under_way(c, a)
    scene.arrive(c, a)
    assert SOURCE in scene.under_way(a, c)
    scene.arrive(a, c)
    assert SOURCE_FAILED in scene.under_way(c, a)
    scene.arrive(c, a)
    assert scene.under_way(a, c) == []  # it waits until A learns of the loss
    scene.report_loss(a, b)
    scene.settle()
    assert a.objects.table[result].kind == FAULT
    assert not c.awaited
    scene.end()
