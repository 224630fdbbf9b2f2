"""A full store: processes of other nodes collect garbage, too."""

from __future__ import annotations

from asyncray.cluster_messages import COLLECT
from asyncray.core.cluster.garbage import ASK_AGAIN
from asyncray.messages import RUN_GC
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.programs import Recipe


def asked(world: Pair) -> list[int]:
    return [world.kinds(A, node).count(COLLECT) for node in (B, C)]


def test_nodes_with_a_link_collect_garbage_while_the_store_of_another_is_full() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0})
    world.driver().submit(Recipe(extra=("R", 1)))
    other = world.members[B].host.driver()
    world.settle()
    store = world.machine.store
    assert not store.is_full
    world.wait(1.0)
    assert asked(world) == [0, 0]
    store._collecting = True
    world.wait(1.0)
    world.talk()
    assert asked(world) == [1, 0], "C has no link to A"
    part = world.members[B].part
    part.garbage.collect(part.peers[A], (COLLECT,))
    assert other.client.out == [(RUN_GC,)]
    world.wait(1.0)
    world.talk()
    assert asked(world) == [1, 0]
    world.wait(ASK_AGAIN)
    world.talk()
    assert asked(world) == [2, 0]
    store._collecting = False
    world.wait(ASK_AGAIN)
    world.talk()
    assert asked(world) == [2, 0]
    world.settle()
    world.end()
