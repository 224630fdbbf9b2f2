"""A cluster under faults: members, views and links, from seeds; and the golden scenarios of membership."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from asyncray.core.cluster.members import CUT_OFF_AFTER, MEMBER
from asyncray.core.head import membership
from asyncray.core.head.membership import LEFT, LOST, SILENCE
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost
from tests.sim.seeds import SEEDS, in_chunks, play_each


def started(nodes: int = 3, seed: int = 1) -> Cluster:
    cluster = Cluster(seed, nodes)
    cluster.run(2.0)
    assert {host.part.members.state for host in cluster.living} == {MEMBER}
    return cluster


def chat(cluster: Cluster) -> None:
    for host in cluster.living:
        for other in list(host.part.members.table):
            if other != host.id:
                host.say_hello(other)


def trouble(cluster: Cluster) -> list[Callable[[], object]]:
    """The events that may happen next."""
    random, net = cluster.clock.random, cluster.net
    found: list[Callable[[], object]] = [partial(chat, cluster), partial(cluster.run, random.random() * 2)]
    for connection in net.live():
        found.append(partial(net.reset, connection, both=random.random() < 0.7))
    mortal = [host for host in cluster.living if host is not cluster.head_host]
    if len(mortal) > 1:
        found.append(partial(cluster.kill, random.choice(mortal)))
        found.append(partial(net.cuts.add, frozenset(host.name for host in random.sample(cluster.living, 2))))
    if net.cuts:
        found.append(net.cuts.clear)
    if len(cluster.hosts) < 8:
        found.append(cluster.add)
    return found


@pytest.mark.parametrize("large", [False, True])
@in_chunks(SEEDS)
def test_all_agree_in_the_end(seeds: range, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a large cluster news of members come together. Here it is large with three members."""
    if large:
        monkeypatch.setattr(membership, "FULL_VIEWS", 2)
    play_each(seeds, run_seed)


def run_seed(seed: int) -> None:
    """Runs some nodes through sixty accidents, and then lets them settle."""
    cluster = Cluster(seed, 3 + seed % 3)
    for _ in range(60):
        cluster.clock.random.choice(trouble(cluster))()
        cluster.run(cluster.clock.random.choice((0.0, 0.01, 0.3)))
    cluster.settle()


def member(cluster: Cluster, place: int) -> ClusterHost:
    return list(cluster.hosts.values())[place]


def test_nodes_join_and_see_one_another() -> None:
    cluster = started(5)
    for host in cluster.living:
        assert set(host.part.members.table) == set(cluster.hosts)
        assert [other.facts["joined"] for other in host.part.members.table.values()].count(0) == 0
    chat(cluster)
    cluster.settle()


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_daemon_is_lost_at_once_because_its_port_refuses(seed: int) -> None:
    cluster = started(seed=seed)
    victim = member(cluster, 1)
    cluster.kill(victim)
    cluster.run(1.5)
    for host in cluster.living:
        assert host.part.members.ended[victim.id][0] == LOST
        assert victim.id not in host.part.peers


def test_r1_a_node_that_is_cut_off_is_lost_after_the_silence_and_ends_when_it_hears_of_it() -> None:
    cluster = started()
    victim = member(cluster, 1)
    cluster.net.cuts.add(frozenset((victim.name, cluster.head_host.name)))
    cluster.run(SILENCE - 1.0)
    assert victim.id in cluster.head.members.table
    cluster.run(2.0)
    assert victim.id in cluster.head.members.ended
    assert victim in cluster.living
    cluster.heal()
    cluster.run(3.0)
    assert victim not in cluster.living
    assert "declared this node lost" in victim.why
    cluster.settle()


def test_a_short_break_of_the_connection_loses_nobody() -> None:
    cluster = started()
    for connection in cluster.net.live():
        cluster.net.reset(connection, both=True)
    cluster.run(5.0)
    assert len(cluster.head.members.table) == 3
    cluster.settle()


def test_h21_a_node_that_cannot_reach_the_head_ends_itself() -> None:
    cluster = started()
    victim = member(cluster, 1)
    cluster.net.cuts.add(frozenset((victim.name, cluster.head_host.name)))
    cluster.run(CUT_OFF_AFTER + 5.0)
    assert not victim.alive
    assert "could not reach the head" in victim.why
    cluster.settle()


def test_two_nodes_that_cannot_reach_one_another_become_one_and_the_younger_goes() -> None:
    cluster = started()
    older, younger = member(cluster, 1), member(cluster, 2)
    chat(cluster)
    cluster.run(1.0)
    cluster.net.cuts.add(frozenset((older.name, younger.name)))
    cluster.run(20.0)
    by_age = sorted((older, younger), key=lambda host: host.part.members.table[host.id].facts["joined"])
    assert by_age[1].id in cluster.head.members.ended
    assert by_age[0].id in cluster.head.members.table
    cluster.settle()


def test_a_head_that_stands_still_loses_nobody() -> None:
    """The links to its node break, too, and the members complain about that node as soon as they reach the head."""
    for seconds in (4.0, 15.0, 35.0, 55.0):
        cluster = started()
        chat(cluster)
        cluster.run(1.0)
        cluster.head_host.pause(seconds)
        cluster.run(seconds + 20.0)
        assert len(cluster.head.members.table) == 3, seconds
        assert {host.part.members.state for host in cluster.living} == {MEMBER}


def test_r3_words_of_a_lost_node_change_nothing() -> None:
    cluster = started()
    victim = member(cluster, 1)
    cluster.head.members.lose(victim.id, "a test says so", cluster.clock.now)
    cluster.head.members.beat(victim.id, 99, {"draining": True}, cluster.clock.now)
    assert victim.id not in cluster.head.members.table
    peer = member(cluster, 2).part.peer(victim.id, cluster.clock.now)
    cluster.run(1.0)
    member(cluster, 2).part.receive(peer, [(900, 1)], cluster.clock.now)
    assert victim.id not in member(cluster, 2).heard
    cluster.settle()


def test_r4_a_second_node_with_the_same_id_is_turned_away() -> None:
    cluster = started()
    twin = member(cluster, 1)
    answers: list[tuple[object, ...]] = []
    party = cluster.head.own
    before = len(party.out)
    cluster.head.members.join(party, twin.part.members._facts, twin.part._row(), cluster.clock.now)
    answers += party.out[before:]
    assert "another node has the same ID" in str(answers)
    party.out.clear()
    cluster.head.outbox.dirty.clear()


def test_a_node_that_leaves_in_order_is_no_loss() -> None:
    cluster = started()
    leaver = member(cluster, 1)
    leaver.part.members.leave("its user stopped it")
    leaver.after()
    cluster.run(1.0)
    assert cluster.head.members.ended[leaver.id].state == LEFT
    assert not leaver.alive
    for host in cluster.living:
        assert host.part.members.ended[leaver.id][0] == LEFT
    cluster.settle()


def test_h5_the_head_says_what_became_of_any_node() -> None:
    cluster = started()
    asker, killed = member(cluster, 1), member(cluster, 2)
    cluster.kill(killed)
    cluster.run(2.0)
    answers: list[tuple[object, ...]] = []
    for node in (asker.id, killed.id, b"stranger"):
        asker.part.members.ask("member", [node], answers.append)
    asker.part.members.ask("nonsense", [], answers.append)
    asker.after()
    cluster.run(1.0)
    assert answers[:3] == [(True, "alive"), (True, "lost"), (True, "unknown")]
    assert answers[3][:2] == (False, "InternalError")


def test_rows_of_all_nodes_reach_all_nodes() -> None:
    cluster = started()
    worker = member(cluster, 1)
    grant = worker.machine.resources.acquire((("CPU", 10_000),))
    assert grant is not None
    cluster.run(1.5)
    for host in cluster.living:
        assert host.part.members.table[worker.id].row["available"]["CPU"] == 10_000
