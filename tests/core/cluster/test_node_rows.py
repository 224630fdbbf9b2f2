"""The rows in which a node describes all nodes, in the simulated cluster."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.cluster import members
from asyncray.core.cluster.node_rows import NodeRows
from asyncray.core.questions import Answer, Question
from asyncray.units import UNIT
from tests.core.cluster.test_placing import Stage
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost


def ask(host: ClusterHost, method: str) -> Any:
    answers: list[Answer] = []
    host.machine.requests.ask(Question(host.machine.observer_connected(1), answers.append), method, [])
    assert answers[0][0] is True
    return answers[0][1]


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(1, 3)
    for host in found.living:
        facts: Any = {"hostname": "", "name": host.name, "labels": {"zone": "east"}, "resources": {"CPU": 20_000}}
        host.part.members._facts.update(facts)
    found.run(2.0)
    return found


def test_each_node_shows_all_with_what_they_have(cluster: Cluster) -> None:
    *_, last = cluster.living
    grant = last.machine.resources.acquire((("CPU", 10_000),))
    assert grant is not None
    cluster.run(1.5)
    for host in cluster.living:
        rows = {row["NodeName"]: row for row in ask(host, "nodes")}
        assert [row["State"] for row in rows.values()] == ["ALIVE"] * 3
        assert {row["NodeID"] for row in rows.values()} == {other.id.hex() for other in cluster.living}
        assert rows[last.name]["Available"]["CPU"] == 1.0
        assert rows[last.name]["Resources"] == {"CPU": 2.0}
        assert rows[last.name]["Labels"] == {"zone": "east", "ray.io/node-id": last.id.hex()}
        assert ask(host, "cluster_resources") == {"CPU": 6.0}
        assert ask(host, "available_resources") == {"CPU": 5.0}
        asked: Any = None
        status = host.machine.requests.status(asked)
        assert status["nodes"] == list(rows.values())
        assert status["available"]["CPU"] == (1.0 if host is last else 2.0)


def test_free_store_memory_is_what_the_objects_leave() -> None:
    """Tasks do not request it, so the account of a node never takes any away."""
    members = Stage(b"a").members
    members.table[b"a"].row["available"] = {"CPU": UNIT, "object_store_memory": 500 * UNIT}
    members.table[b"a"].row["store_free"] = 80
    assert NodeRows(members).available()["object_store_memory"] == 80.0


def test_a_lost_node_is_shown_with_the_reason(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    head, one, other = cluster.living
    cluster.kill(one)
    cluster.run(2.0)
    for host in (head, other):
        row = ask(host, "nodes")[-1]
        assert (row["NodeID"], row["Alive"], row["State"]) == (one.id.hex(), False, "LOST")
        assert "refuses connections" in row["DeathReasonMessage"]
        assert row["Resources"] == row["Available"] == {}
        assert ask(host, "cluster_resources") == {"CPU": 4.0}
    monkeypatch.setattr(members, "MOST_PAST", 1)
    cluster.kill(other)
    cluster.run(2.0)
    assert [row["NodeID"] for row in ask(head, "nodes")] == [head.id.hex(), other.id.hex()]
