"""A cluster whose nodes are on machines of their own: what a network does to them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from asyncray.testing import ClusterNode
from tests.netns import programs
from tests.netns.network import Machine, NetworkCluster
from tests.system.waiting import until

pytestmark = pytest.mark.netns

LARGE = 800_000_000
"""Bytes of an object that crosses."""

OUTAGE = 2.0
"""Seconds for which a machine may be cut off: less than the head waits for a silent node, which is five."""

HOLDS_A_CPU = """\
import asyncray.sync as ray

@ray.remote(num_cpus=1)
class Holder:
    def ready(self):
        return True

ray.init("auto")
holder = Holder.remote()
ray.get(holder.ready.remote())
print("holds", flush=True)
input()
"""

WAITS = """\
import asyncray.sync as ray
import threading

@ray.remote(num_cpus=0, max_retries=0)
def wait():
    threading.Event().wait()

ray.init("auto")
ref = wait.remote()
print("waits", flush=True)
try:
    ray.get(ref)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""

CONNECTS = """\
import sys
import asyncray.sync as ray

with ray.init(sys.argv[1]) as context:
    print(context["node_ip_address"], ray.cluster_resources()["CPU"], flush=True)
"""


def all_alive(cluster: NetworkCluster) -> bool:
    wanted = {machine.ip: "ALIVE" for machine in cluster.nodes}
    return all(cluster.states(node) == wanted for node in cluster.nodes.values())


def ended(node: ClusterNode) -> int | None:
    """Waits until a daemon has ended, for longer than a node without its head waits."""
    until(lambda: not node.is_alive, deadline=90)
    return node.exit_code


def test_nodes_join_and_a_program_from_a_machine_without_a_node_does_too(
    cluster: NetworkCluster, machines: list[Machine]
) -> None:
    until(lambda: all_alive(cluster))
    for machine in machines[:3]:
        found = cluster.status(machine)
        assert found["cluster_address"] == cluster.address
        assert {row["NodeManagerAddress"] for row in found["nodes"]} == {each.ip for each in machines[:3]}
    output = machines[3].run("-c", CONNECTS, cluster.address, ASYNCRAY_TOKEN=cluster.token)
    assert output.split() == [machines[3].ip, "3.0"]
    assert cluster.states()[machines[3].ip] == "LEFT"
    # A program on a machine with a node needs no token.
    assert machines[1].run("-c", CONNECTS, cluster.address).split() == [machines[1].ip, "3.0"]


def test_a_killed_daemon_is_lost_for_all(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    with machines[2].program(WAITS) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waits\n"
        os.kill(cluster.nodes[machines[2]].pid, signal.SIGKILL)
        assert program.stdout.readline().startswith("LocalNodeDiedError")
    for machine in machines[:2]:
        until(lambda machine=machine: cluster.states(cluster.nodes[machine])[machines[2].ip] == "LOST")  # type: ignore[misc]
    assert "refuses connections" in cluster.rows(cluster.head)[machines[2].ip]["DeathReasonMessage"]


def test_a_short_outage_costs_no_node_and_no_news(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    second = machines[1]
    second.pull_plug()
    with second.program(HOLDS_A_CPU) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "holds\n"
        threading.Event().wait(OUTAGE)
        assert cluster.rows(cluster.head)[second.ip]["Available"]["CPU"] == 1
        second.plug_in()
        # The other nodes learn the new row of that node.
        for machine in (machines[0], machines[2]):
            until(lambda machine=machine: not free_cpus(cluster, machine, second))  # type: ignore[misc]
    until(lambda: free_cpus(cluster, machines[0], second) == 1)
    assert all_alive(cluster)


def free_cpus(cluster: NetworkCluster, machine: Machine, other: Machine) -> float:
    """The free CPUs of another machine, as the node of this one knows them."""
    return float(cluster.rows(cluster.nodes[machine])[other.ip]["Available"].get("CPU", 0))


def test_a_long_outage_loses_the_node_for_ever(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    second = machines[1]
    node = cluster.nodes[second]
    with second.program(WAITS) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waits\n"
        second.pull_plug()
        for machine in (machines[0], machines[2]):
            until(lambda machine=machine: cluster.states(cluster.nodes[machine])[second.ip] == "LOST")  # type: ignore[misc]
        assert "it was silent" in cluster.rows(cluster.head)[second.ip]["DeathReasonMessage"]
        # The node does not know of it, and works on.
        assert node.is_alive
        assert set(cluster.states(node).values()) == {"ALIVE"}
        second.plug_in()
        assert ended(node) == 3
        assert "Error: The node had to end: " in node.errors()
        assert program.stdout.readline().startswith("LocalNodeDiedError")
    # It may come again as another node.
    again = cluster.add(second)
    assert again.node_id != node.node_id
    until(lambda: again.node_id in cluster.nodes[machines[2]].rows())
    assert sorted(row["State"] for row in cluster.head.rows().values()) == ["ALIVE", "ALIVE", "ALIVE", "LOST"]


def run(cluster: NetworkCluster, text: str, *arguments: str) -> list[str]:
    """Runs a program on the machine without a node; returns the words that it prints."""
    output = cluster.machines[3].run("-c", text, cluster.address, *arguments, ASYNCRAY_TOKEN=cluster.token)
    print(output)  # pytest shows the times with -s
    return output.split()


def test_tasks_run_on_all_machines_with_cpus(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    assert run(cluster, programs.SPREADS) == [machine.ip for machine in machines[:3]]


def test_a_large_object_goes_where_it_is_used(cluster: NetworkCluster) -> None:
    until(lambda: all_alive(cluster))
    total, _, size, _ = run(cluster, programs.FETCHES, str(LARGE))
    assert float(total) == float(size) == LARGE


def test_a_large_object_goes_to_all_machines(cluster: NetworkCluster) -> None:
    until(lambda: all_alive(cluster))
    assert run(cluster, programs.BROADCASTS, str(LARGE))[0] == f"{{{float(LARGE)}}}"


def test_work_of_a_killed_daemon_runs_elsewhere(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    with machines[3].program(programs.WORKS, cluster.address, ASYNCRAY_TOKEN=cluster.token) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "works\n"
        os.kill(cluster.nodes[machines[2]].pid, signal.SIGKILL)
        assert program.stdout.readline() == "True\n"
    until(lambda: cluster.states()[machines[2].ip] == "LOST")


def test_a_task_on_a_machine_that_is_cut_off_fails_with_its_node(
    cluster: NetworkCluster, machines: list[Machine]
) -> None:
    until(lambda: all_alive(cluster))
    with machines[3].program(programs.WAITS_ELSEWHERE, cluster.address, ASYNCRAY_TOKEN=cluster.token) as program:
        assert program.stdout is not None
        until(lambda: not cluster.rows(cluster.head)[machines[2].ip]["Available"].get("third", 0))
        machines[2].pull_plug()
        error = program.stdout.readline()
        while "waits" in error:
            error = program.stdout.readline()
        assert error.startswith("NodeDiedError wait failed with its node: ")
        assert f"at {machines[2].ip}:" in error
        assert "is lost: it was silent for" in error
    machines[2].plug_in()
    assert ended(cluster.nodes[machines[2]]) == 3


def test_of_two_nodes_that_do_not_reach_each_other_the_younger_one_is_lost(
    cluster: NetworkCluster, machines: list[Machine]
) -> None:
    until(lambda: all_alive(cluster))
    _, elder, younger, _ = machines
    # They notice it only if one has something to say to the other.
    spread = elder.program(programs.SPREADS, cluster.address)
    with spread as program:
        assert program.communicate(timeout=60)[0].split() == [machine.ip for machine in machines[:3]]
    elder.lose_packets_to(younger)
    until(lambda: cluster.states()[younger.ip] == "LOST", deadline=60)
    assert ended(cluster.nodes[younger]) == 3
    assert cluster.states()[elder.ip] == "ALIVE"


def test_nodes_that_are_cut_off_from_the_head_end_themselves(cluster: NetworkCluster, machines: list[Machine]) -> None:
    until(lambda: all_alive(cluster))
    machines[0].pull_plug()
    until(lambda: sorted(cluster.states().values()) == ["ALIVE", "LOST", "LOST"])
    for machine in machines[1:3]:
        assert ended(cluster.nodes[machine]) == 3
        assert "it could not reach the head for 60 s" in cluster.nodes[machine].errors()
