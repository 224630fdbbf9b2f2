"""Requests of clients and their answers: names, resources, and the state of the node."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.outbox import FlushOutput, StopNode
from asyncray.core.questions import Answer, Question
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import NODE_ID, World


def ask(world: World, method: str, *arguments: Any, asker: Driver | None = None) -> Any:
    answers: list[Answer] = []
    client = world.host.tool if asker is None else asker.client
    world.machine.requests.ask(Question(client, answers.append), method, arguments)
    ((ok, *rest),) = answers
    return rest[0] if ok else (rest[0], rest[1]["message"])


def test_a_named_actor_is_found_in_its_namespace_until_it_dies() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.state.make(Recipe(name="ann"))
    world.settle()
    handle = driver.state.handles[-1]
    assert ask(world, "get_actor", "ns", "ann") == [handle[:-4], b""]
    assert ask(world, "get_actor", "elsewhere", "ann") is None
    assert ask(world, "list_named_actors", None) == [{"name": "ann", "namespace": "ns"}]
    assert ask(world, "list_named_actors", "elsewhere") == []
    driver.state.kill(1)
    world.settle()
    assert ask(world, "get_actor", "ns", "ann") is None
    assert ask(world, "list_named_actors", None) == []


def test_a_name_is_taken_or_shared() -> None:
    world = World(CPU=2)
    driver = world.driver()
    driver.state.make(Recipe(name="ann"))
    world.settle()
    create = (0, b"another", 1, 0, b"", None, None, None)
    name, message = ask(world, "create_named", "ns", "ann", False, b"handle", create, asker=driver)
    assert name == "ActorAlreadyExistsError"
    assert "The name ann is already taken" in message
    shared = ask(world, "create_named", "ns", "ann", True, b"handle", create, asker=driver)
    assert shared == [driver.state.handles[-1][:-4], b""]


def test_a_crashed_actor_is_not_found_and_keeps_its_name_while_a_handle_exists() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.state.make(Recipe(name="ann"))
    world.settle()
    (worker,) = [worker for worker in world.workers if worker.is_actor]
    world.die(worker)
    world.settle()
    assert ask(world, "get_actor", "ns", "ann") is None
    assert ask(world, "list_named_actors", "ns") == []
    create = (0, b"another", 1, 0, b"", None, None, None)
    name, _ = ask(world, "create_named", "ns", "ann", True, b"handle", create, asker=driver)
    assert name == "ActorAlreadyExistsError"


def test_an_invalid_message_leaves_the_name_free() -> None:
    world = World(CPU=1)
    driver = world.driver()
    with pytest.raises(KeyError):
        ask(world, "create_named", "ns", "ann", False, b"", (0, b"actor", 99, 0, b"", None, None, None), asker=driver)
    assert world.machine.directory.find(("ns", "ann")) is None


def test_resources_are_what_the_node_has_and_what_is_left() -> None:
    world = World(CPU=2, R=1)
    driver = world.driver()
    driver.submit(extra=("R", 0.5))
    world.deliver()
    assert ask(world, "cluster_resources") == {"CPU": 2.0, "R": 1.0}
    assert ask(world, "available_resources") == {"CPU": 1.0, "R": 0.5}
    world.machine.resources.available["CPU"] = -10_000  # taken back by a task that woke up
    assert ask(world, "available_resources") == {"R": 0.5}
    world.machine.resources.available["CPU"] = 10_000
    (node,) = ask(world, "nodes")
    assert (node["NodeID"], node["Alive"], node["Resources"]) == (NODE_ID.hex(), True, {"CPU": 2.0, "R": 1.0})


def test_an_object_is_pending_then_ready_or_failed_then_unknown() -> None:
    world = World(CPU=1)
    driver = world.driver()
    good, bad = driver.submit(), driver.submit(ending="raise")
    world.talk()
    before = ask(world, "object", good)
    assert (before["state"], before["node_ids"], before["processes"]) == ("pending", [], 1)
    world.settle()
    assert [ask(world, "object", ref)["state"] for ref in (good, bad)] == ["ready", "failed"]
    assert ask(world, "object", good)["node_ids"] == [NODE_ID.hex()]
    driver.drop(good)
    world.talk()
    name, message = ask(world, "object", good)
    assert name == "ObjectLostError"
    assert good.hex() in message


def test_the_status_counts_what_there_is() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.create(lives_on=1)
    world.settle()
    driver.submit()
    world.deliver()
    status = ask(world, "status")
    assert status["tasks"] == {"unfinished": 1, "queued": 1}
    assert [(actor["class_name"], actor["state"]) for actor in status["actors"]] == [("make", "ALIVE")]
    assert status["available"] == {}
    (row,) = (row for row in status["workers"] if row["running"])
    assert row["running"] == "make"
    assert status["drivers"] == [{"pid": 1, "client": driver.client.number}]
    assert [actor["actor_id"] for actor in ask(world, "actors")] == [status["actors"][0]["actor_id"]]


def test_a_driver_that_says_goodbye_gets_the_output_of_its_workers_first() -> None:
    world = World(CPU=1)
    driver = world.driver()
    assert ask(world, "goodbye", asker=driver) is None
    assert driver.client.job is not None
    assert world.machine.outbox.commands[-1] == FlushOutput(driver.client.job)
    world.machine.outbox.commands.clear()
    assert ask(world, "goodbye") is None
    assert world.machine.outbox.commands == []


def test_a_client_may_stop_the_node() -> None:
    world = World(CPU=1)
    assert ask(world, "stop") is None
    assert world.machine.outbox.commands == [StopNode("a client asked it to stop")]
