"""A network of several machines on this one: a network namespace for each, and one with the switch between them.

Nothing of it is in the namespace of the tests. Each machine has an address of its own, and its sessions in a directory
of its own. Needs root and the command ``ip``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from asyncray.testing import ClusterNode
from asyncray.testing.local_cluster import start_daemon

_DEADLINE = 60.0

_NOBODY = "02:00:00:00:00:99"
"""The hardware address of no machine: packets to it are lost, and nobody says so."""

_PREFIX = "asyncray-"
"""Names of namespaces begin with this and the pid of the tests."""


def lacks() -> str:
    """Names the thing that this machine lacks for such a network; empty if it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the command ip (iproute2)"
    probe = f"{_PREFIX}{os.getpid()}-probe"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"this machine makes no network namespace: {done.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=_DEADLINE)


class Machine:
    """One machine of the network.

    Args:
        number: from 1.
        switch: the name of the namespace with the switch.
        directory: of its sessions.
    """

    def __init__(self, number: int, switch: str, directory: Path) -> None:
        self.name = f"{switch}-{number}"
        self.ip = f"10.77.0.{number}"
        self._switch = switch
        self._port = f"port{number}"
        self.variables = {"ASYNCRAY_TMPDIR": str(directory)}

    def __repr__(self) -> str:
        return f"<Machine {self.ip}>"

    def connect(self) -> None:
        """Makes the machine and its cable to the switch."""
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "add", "eth0", "type", "veth", "peer", "name", self._port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", self._port, "master", "switch", "up")
        _ip("-n", self.name, "address", "add", f"{self.ip}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """Runs a command on this machine."""
        return ["ip", "netns", "exec", self.name]

    def pull_plug(self) -> None:
        """Packets from and to this machine are lost from now on."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def plug_in(self) -> None:
        """The opposite."""
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def lose_packets_to(self, other: Machine) -> None:
        """Packets to another machine are lost from now on; those to all others still arrive."""
        _ip("-n", self.name, "neighbor", "replace", other.ip, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")

    def start_node(self, *options: str, token: str = "") -> ClusterNode:
        """Runs ``asyncray node`` here."""
        variables = {**self.variables, "ASYNCRAY_TOKEN": token}
        return start_daemon(["--num-cpus", "1", *options], variables, self.prefix)

    def run(self, *arguments: str, **variables: str) -> str:
        """Runs Python here; returns what it prints."""
        done = subprocess.run(
            [*self.prefix, sys.executable, *arguments],
            env={**os.environ, **self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def program(self, text: str, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a program here that goes on while the test does. It ends with its standard input."""
        with subprocess.Popen(
            [*self.prefix, sys.executable, "-c", text, *arguments],
            env={**os.environ, **self.variables, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def network(count: int, directory: Path) -> Iterator[list[Machine]]:
    """So many machines, connected by one switch."""
    switch = f"{_PREFIX}{os.getpid()}"
    _delete_abandoned()
    with ExitStack() as stack:
        _ip("netns", "add", switch)
        stack.callback(_ip, "netns", "delete", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        _ip("-n", switch, "link", "set", "switch", "up")
        machines = []
        for number in range(1, count + 1):
            own = directory / str(number)
            own.mkdir(mode=0o700, exist_ok=True)
            machine = Machine(number, switch, own)
            stack.callback(_delete, machine.name)
            machine.connect()
            machines.append(machine)
        yield machines


def _delete(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _delete_abandoned() -> None:
    """Deletes the machines of tests that were killed."""
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
        found = re.match(rf"{_PREFIX}(\d+)", line)
        if found is not None and not Path("/proc", found[1]).exists():
            _delete(line.split()[0])


class NetworkCluster:
    """A head on the first machine, and nodes on others."""

    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines
        self.nodes: dict[Machine, ClusterNode] = {}
        head = machines[0].start_node("--head", "--host", machines[0].ip, "--resources", '{"first": 1}')
        self.nodes[machines[0]] = self.head = head
        self.address = head.cluster_address
        self.token = Path(head.session_dir, "cluster.token").read_text().strip()

    def add(self, machine: Machine, *options: str) -> ClusterNode:
        """Starts a node that joins. An earlier one of the machine has ended."""
        if machine in self.nodes:
            self.nodes.pop(machine).end()
        node = self.nodes[machine] = machine.start_node("--address", self.address, *options, token=self.token)
        return node

    def rows(self, node: ClusterNode) -> Mapping[str, Mapping[str, Any]]:
        """The rows of all nodes as one of them knows them, by the address of their machines."""
        return {row["NodeManagerAddress"]: row for row in node.rows().values()}

    def states(self, node: ClusterNode | None = None) -> dict[str, str]:
        """The states of all nodes, by the address of their machines, as the head or another node knows them."""
        return {ip: str(row["State"]) for ip, row in self.rows(node or self.head).items()}

    def status(self, machine: Machine) -> dict[str, Any]:
        """The answer of ``asyncray status`` there."""
        found: dict[str, Any] = json.loads(machine.run("-m", "asyncray", "status", "--json"))
        return found

    def close(self) -> None:
        """Ends all nodes; the head comes last."""
        for node in reversed(list(self.nodes.values())):
            if node.is_alive:
                node.ask_to_end()
            node.end()
