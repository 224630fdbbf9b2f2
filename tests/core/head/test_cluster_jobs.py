"""The jobs of a cluster: they begin, end once, end with their node, and are forgotten in order."""

from __future__ import annotations

import pytest

from asyncray.core.head import cluster_jobs
from asyncray.core.head.cluster_jobs import ClusterJobs
from asyncray.words import JobRow


def row(job_id: str, node: bytes = b"node") -> JobRow:
    return {"job_id": job_id, "node_id": node.hex(), "namespace": "ns", "pid": 7, "state": "RUNNING", "why": ""}


def states(jobs: ClusterJobs) -> list[tuple[str, str, str]]:
    jobs.check()
    return [(found["job_id"], found["state"], found["why"]) for found in jobs.rows()]


def test_jobs_begin_and_end_once() -> None:
    jobs = ClusterJobs()
    jobs.began(row("1"))
    jobs.began(row("2"))
    assert jobs.rows() == [row("1"), row("2")]
    jobs.ended("1", "its driver has ended")
    jobs.ended("1", "its node has ended")
    jobs.ended("3", "nobody knows it")
    assert states(jobs) == [("1", "ENDED", "its driver has ended"), ("2", "RUNNING", "")]


def test_jobs_end_with_their_node() -> None:
    jobs = ClusterJobs()
    jobs.began(row("1", b"lost"))
    jobs.began(row("2"))
    jobs.node_ended(b"lost", "it was silent")
    assert states(jobs) == [("1", "ENDED", "its node has ended: it was silent"), ("2", "RUNNING", "")]


def test_the_oldest_end_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_jobs, "MOST_ENDED_JOBS", 2)
    jobs = ClusterJobs()
    for number in "1234":
        jobs.began(row(number))
    for number in "312":
        jobs.ended(number, "")
    assert [job_id for job_id, *_ in states(jobs)] == ["1", "2", "4"]
