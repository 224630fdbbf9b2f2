"""Pull sets: their order, their room, and the end of a store that is full."""

from __future__ import annotations

import pytest

from asyncray.core.states import QUEUED, WAITING
from tests.core.cluster.scene import Scene
from tests.sim.transfers import LargeNode

Patch = pytest.MonkeyPatch

BIG = 30_000
"""Two such objects fit in a store, and three do not."""


def view(node: LargeNode, object_id: bytes) -> bool:
    return bool(node.views.get(object_id))


def carry(scene: Scene) -> None:
    """Messages and chunks arrive until none is under way. No time passes, and no task starts."""
    moved = True
    while moved:
        scene.talk()
        pairs = [(one, other) for one in scene.nodes for other in scene.nodes if one is not other]
        moved = sum(scene.chunks(one, other) for one, other in pairs) > 0


def test_h7_two_nodes_with_room_for_one_object_read_two_of_them(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch, 4)
    a, b, *readers = scene.nodes
    x, y = scene.put(a, BIG), scene.put(b, BIG)
    for node in readers:
        scene.put(node, BIG)  # its own value leaves room for one more
    scene.read(readers[0], x)
    scene.read(readers[0], y)
    scene.read(readers[1], y)
    scene.read(readers[1], x)
    for _ in range(2):
        carry(scene)
        for node in readers:
            (ref,) = node.views
            node.unpin(ref)
        scene.flush()
    assert not any(node.awaited for node in readers)
    assert "ObjectStoreFullError" not in scene.game.seen
    scene.end()


def test_objects_of_one_read_come_only_when_there_is_room_for_all(scene: Scene) -> None:
    a, b, c = scene.nodes
    first, second, third = scene.put(a, 20_000), scene.put(a, 20_000), scene.put(c, 20_000)
    scene.read(b, first, second)
    scene.read(b, third, scene.o)
    scene.talk()
    assert set(b.large.receiving.pulls) == {first, second}
    carry(scene)
    assert set(b.views) == {first, second, third}  # the second read went alone: nothing else was on its way
    b.unpin(first)
    scene.flush()
    carry(scene)
    assert set(b.views) == {second, third, scene.o}
    scene.end()


def test_who_only_wants_to_know_that_a_value_exists_fetches_nothing(scene: Scene) -> None:
    a, b, c = scene.nodes
    far = scene.run_at(c, a, 9000)
    own = scene.put(b, 9000)
    for ref in (scene.o, far):
        b.hold(ref)
    b.objects.subscribe(b.process, [scene.o, far, own], fetch=False)
    scene.flush()
    scene.settle()
    assert dict(b.said_away) == {scene.o: [False], far: [False]}
    assert set(b.views) == {own}
    assert not b.large.receiving.pulls
    scene.read(b, far)
    scene.settle()
    assert b.said_away[far] == [False, True]
    assert view(b, far)
    scene.end()


def test_a_read_says_that_a_value_exists_before_there_is_room_for_it(scene: Scene) -> None:
    a, b, _ = scene.nodes
    x = scene.put(a, BIG)
    for _ in range(2):
        scene.read(b, scene.put(b, BIG))
    scene.read(b, x)
    scene.talk()
    assert b.said_away[x] == [True]
    assert b.awaited == {x: None}
    scene.settle()
    scene.end()


def test_h8_objects_that_are_not_needed_together_do_not_wait_for_each_other(scene: Scene) -> None:
    a, b, c = scene.nodes
    a.hand_over(c, [])
    never = next(iter(a.returns.values())).id
    scene.read(b, scene.o)
    scene.read(b, never)
    scene.settle()
    assert view(b, scene.o)
    assert b.awaited == {never: None}
    scene.end()


@pytest.mark.parametrize("asks_first", [True, False])
def test_an_object_that_is_asked_for_again_waits_no_more_for_the_others(monkeypatch: Patch, asks_first: bool) -> None:
    """A process gives up a read of two objects, of which one never exists, and reads the other."""
    scene = Scene(monkeypatch)
    a, b, c = scene.nodes
    a.hand_over(c, [])
    never = next(iter(a.returns.values())).id
    for ref in (scene.o, never):
        b.hold(ref)
    b.objects.subscribe(b.process, [scene.o, never])
    scene.flush()
    if not asks_first:
        scene.settle()
        assert not view(b, scene.o)
    b.objects.subscribe(b.process, [scene.o])
    scene.flush()
    scene.settle()
    assert view(b, scene.o)
    for _ in range(3):
        b.objects.subscribe(b.process, [never])
        scene.flush()
    (pull_set,) = b.large.pulls._of_client[b.process]
    entry = b.objects.table[never]
    assert list(pull_set.entries) == [entry]
    assert entry.waiting == [pull_set]
    scene.end()


def test_a_value_without_room_is_an_error_after_the_time_that_a_put_would_wait(scene: Scene) -> None:
    a, b, _ = scene.nodes
    x = scene.put(a, BIG)
    for _ in range(2):
        ref = scene.put(b, BIG)
        scene.read(b, ref)  # a view of its own value
    scene.read(b, x)
    scene.talk()
    assert b.awaited
    scene.settle()
    assert scene.game.seen["ObjectStoreFullError"] == 1
    scene.end()


def test_objects_that_are_together_larger_than_the_store_are_refused_at_once(monkeypatch: Patch) -> None:
    scene = Scene(monkeypatch)
    a, b, c = scene.nodes
    refs = [scene.put(a, BIG), scene.put(c, BIG), scene.put(a, 9000)]
    scene.loaded(b, refs[2])
    scene.read(b, *refs)
    carry(scene)
    assert scene.game.seen["ObjectStoreFullError"] == 3
    assert not b.awaited
    assert not b.views
    scene.read(b, *refs[:2])
    scene.settle()
    assert set(b.views) == set(refs[:2])
    scene.end()


def test_a_read_takes_the_room_of_arguments_whose_task_has_not_started(scene: Scene) -> None:
    a, b, c = scene.nodes
    x, z = scene.put(a, 40_000), scene.put(c, 40_000)
    a.hand_over(b, [x])
    scene.flush()
    carry(scene)
    (job,) = b.jobs.values()
    assert job.state == QUEUED
    scene.read(b, z)
    carry(scene)
    assert set(b.views) == {z}
    assert job.state == WAITING
    b.unpin(z)
    scene.flush()
    carry(scene)
    assert job.state == QUEUED
    scene.end()


def test_arguments_leave_a_fifth_of_the_store_for_results_and_wait_for_it(scene: Scene) -> None:
    a, b, c = scene.nodes
    x, y = scene.put(a, BIG), scene.put(c, BIG)
    a.hand_over(b, [x])
    scene.flush()
    carry(scene)
    (first,) = b.jobs.values()
    b.start(first.number)
    c.hand_over(b, [y])
    scene.flush()
    carry(scene)
    _, second = b.jobs.values()
    assert second.state == WAITING
    b.unpin(x)
    b.finish(first.number, [])
    scene.flush()
    carry(scene)
    assert second.state == QUEUED
    scene.end()


def test_a_copy_that_nothing_uses_is_dropped_for_another(scene: Scene) -> None:
    a, b, _ = scene.nodes
    refs = [scene.put(node, BIG) for node in (a, scene.nodes[2])]
    scene.loaded(b, scene.o)
    for ref in refs:
        scene.loaded(b, ref)
    assert scene.o not in b.store.copies
    assert list(a.large.holders._table) == [refs[0]]
    scene.loaded(b, scene.o)
    scene.end()
