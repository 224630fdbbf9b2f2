"""The head learns of a node's jobs: once when they begin, and once when nothing is left of them."""

from __future__ import annotations

from asyncray.cluster_messages import ASK
from tests.core.cluster.at_head import HeadNode
from tests.core.world import NODE_ID


def test_each_job_is_reported_twice() -> None:
    node = HeadNode()
    driver = node.world.driver()
    job = driver.client.job
    assert job is not None
    node.machine.client_disconnected(driver.client)
    node.machine.tick()
    reports = [message[2:] for message in node.take() if message[0] == ASK]
    began = {"job_id": job.id.hex(), "node_id": NODE_ID.hex(), "namespace": job.namespace, "pid": driver.client.pid}
    assert reports == [
        ("job_began", [{**began, "state": "RUNNING", "why": ""}]),
        ("job_ended", [job.id.hex(), "its driver has ended"]),
    ]
    assert repr(node.machine.jobs.watcher) == "<JobReports of <Members member 1>>"
