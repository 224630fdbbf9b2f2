"""The registry beside a node that was started by hand."""

from __future__ import annotations

import json
import stat
import threading
import urllib.request
from pathlib import Path
from typing import Any

import asyncray.sync as ray
from asyncray.io.sessions import REGISTRY_FILE
from tests.cli.test_commands import node


def wait_for(path: Path) -> dict[str, str]:
    """The registry's file: it comes when the registry answers, after the node does."""
    pause = threading.Event()
    for _ in range(400):
        try:
            content: dict[str, str] = json.loads(path.read_text())
            return content
        except (FileNotFoundError, json.JSONDecodeError):
            pause.wait(0.05)
    raise AssertionError(f"there is no {path}")


def ask(registry: dict[str, str], path: str) -> Any:
    request = urllib.request.Request(
        f"{registry['url']}/api/{path}", headers={"Authorization": f"Bearer {registry['token']}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_it_resolves_ids_and_lists_actors() -> None:
    with node("--num-cpus", "1") as (_, facts):
        file = Path(facts["session_dir"]) / REGISTRY_FILE
        registry = wait_for(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with ray.init(facts["address"]) as context:
            ref = ray.put(b"x" * 200_000)
            assert ray.get(ref) == b"x" * 200_000
            assert ray.nodes()  # an answer of the node: it has learned of the object before
            found = ask(registry, f"objects/{ref.hex()}")
            assert found["state"] == "ready"
            assert found["size"] > 200_000
            assert found["node_ids"] == [context["node_id"]] == [row["NodeID"] for row in ask(registry, "nodes")]
            assert ask(registry, "actors") == {"actors": [], "silent_nodes": []}
            (job,) = ask(registry, "jobs")
            assert (job["state"], job["node_id"]) == ("RUNNING", context["node_id"])
            assert ask(registry, "resources")["total"]["CPU"] == 1.0
            assert ask(registry, "kv") == []
            assert ask(registry, "labels").keys() == {context["node_id"]}
            assert ask(registry, "openapi.json")["openapi"] == "3.1.0"
    assert not file.exists()
