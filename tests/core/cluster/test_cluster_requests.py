"""Requests of clients that go to the head: names, jobs, key-value pairs, actors and objects of all nodes."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.cluster_messages import INQUIRY, INQUIRY_ANSWER
from asyncray.core.cluster.members import OUTSIDE
from asyncray.core.head.inquiries import INQUIRY_DEADLINE
from tests.core.cluster.at_head import HeadNode
from tests.core.cluster.nodes import facts, row, taken
from tests.core.processes import Driver
from tests.core.programs import Recipe
from tests.core.world import NODE_ID


def create(driver: Driver, *, whole: bool = True) -> Any:
    """The message that makes an actor, as the driver has made one before."""
    number = next(number for number, template in driver.client.templates.items() if template.name == "make")
    actor = driver.client.id + bytes(4) + (1 << 40).to_bytes(6, "big")
    message = (0, actor, number, 0, b"", None, None, None)
    return message if whole else message[:3]


def named(node: HeadNode, name: str = "ann") -> Any:
    """A driver with an actor of this name."""
    driver = node.driver()
    driver.state.make(Recipe(name=name))
    node.world.settle()
    node.talk()
    node.world.settle()
    return driver


def test_a_named_actor_is_known_at_the_head_until_it_dies() -> None:
    node = HeadNode()
    driver = named(node)
    actor = driver.state.handles[-1][:-4]
    assert node.answer("get_actor", "ns", "ann") == [actor, b""]
    assert node.answer("list_named_actors", None) == [{"name": "ann", "namespace": "ns"}]
    assert node.answer("create_named", "ns", "ann", True, b"", create(driver), asker=driver) == [actor, b""]
    name, message = node.answer("create_named", "ns", "ann", False, b"", create(driver), asker=driver)
    assert name == "ActorAlreadyExistsError"
    assert "The name ann is already taken" in message
    driver.state.kill(len(driver.state.handles) - 1)
    node.world.settle()
    node.talk()
    assert node.answer("get_actor", "ns", "ann") is None
    assert list(node.machine.directory.list(None)) == []


def test_r40_a_name_is_free_at_once_for_a_client_of_the_node_that_killed_its_actor() -> None:
    """The head does not know of the end of the actor, whose home is another node."""
    node = HeadNode()
    driver = named(node)
    killed, other = driver.state.handles[-1][:-4], b"elsewher" + bytes(16)
    node.part.routes.kill(other, no_restart=True)
    node.part.routes.kill(killed, no_restart=False)
    name, _ = node.answer("create_named", "ns", "ann", False, b"", create(driver), asker=driver)
    assert name == "ActorAlreadyExistsError"
    node.part.routes.kill(killed, no_restart=True)
    assert node.answer("create_named", "ns", "ann", False, b"", create(driver), asker=driver) is None
    assert list(node.part.routes.killed) == [other]


def test_a_name_is_claimed_before_the_actor_exists() -> None:
    node = HeadNode()
    driver = node.driver()
    before = len(node.machine.actors.table)
    answers = node.ask("create_named", "ns", "ann", False, b"handle", create(driver), asker=driver)
    assert answers == []
    assert len(node.machine.actors.table) == before
    node.talk()
    assert answers == [(True, None)]
    assert len(node.machine.actors.table) == before + 1


def test_a_claim_that_the_head_cannot_answer_is_refused_with_the_reason() -> None:
    node = HeadNode()
    driver = node.driver()
    before = len(node.machine.actors.table)
    node.part.members.state, node.part.members.why = OUTSIDE, "the cluster has declared it lost"
    name, message = node.answer("create_named", "ns", "ann", False, b"handle", create(driver), asker=driver)
    assert name == "LocalNodeDiedError"
    assert "the cluster has declared it lost" in message
    assert len(node.machine.actors.table) == before


def test_h19_a_client_that_ended_before_the_grant_leaves_the_name_free() -> None:
    node = HeadNode()
    driver = node.driver()
    node.ask("create_named", "ns", "ann", False, b"handle", create(driver), asker=driver)
    node.machine.client_disconnected(driver.client)
    node.talk()
    assert node.answer("get_actor", "ns", "ann") is None
    assert not node.machine.actors.table


def test_a_message_that_is_invalid_ends_the_client_and_leaves_the_name_free() -> None:
    node = HeadNode()
    driver = node.driver()
    with pytest.raises(ValueError, match="a template that it has not sent"):
        node.ask("create_named", "ns", "ann", False, b"", (0, b"actor", 99, 0, b"", None, None, None), asker=driver)
    name, message = node.answer("create_named", "ns", "ann", False, b"", create(driver, whole=False), asker=driver)
    assert name == "InternalError"
    assert "cannot be made" in message
    assert node.answer("get_actor", "ns", "ann") is None


def test_jobs_of_all_nodes_are_listed_by_the_head() -> None:
    node = HeadNode()
    driver = node.world.driver()
    (found,) = node.answer("jobs")
    assert (found["node_id"], found["state"], found["job_id"]) == (
        NODE_ID.hex(),
        "RUNNING",
        driver.client.job.id.hex(),  # type: ignore[union-attr]  # a driver has one
    )
    node.machine.client_disconnected(driver.client)
    node.machine.tick()
    (ended,) = node.answer("jobs")
    assert (ended["state"], ended["why"]) == ("ENDED", "its driver has ended")


def test_key_value_pairs_are_those_of_the_head() -> None:
    node = HeadNode()
    assert node.answer("key_value", "put", b"", b"key", b"value", True) is False
    assert node.head.key_values.get(b"", b"key") == b"value"
    assert node.answer("key_value", "get", b"", b"key") == b"value"
    name, message = node.answer("key_value", "drop", b"", b"key")
    assert name == "ValueError"
    assert "no operation 'drop'" in message


def other_member(node: HeadNode) -> Any:
    """Another node, which the test plays."""
    peer = node.head.peer(b"othernod", 0.0)
    node.head.members.join(peer, facts(b"othernod"), row(), 0.0)
    taken(node.head.outbox, peer)
    node.head.flush(0.0)
    taken(node.head.outbox, peer)
    return peer


def test_actors_are_those_of_all_nodes_that_answer() -> None:
    node = HeadNode()
    named(node)
    peer = other_member(node)
    answers = node.ask("all_actors")
    node.talk()
    ((kind, number, method, arguments),) = taken(node.head.outbox, peer)
    assert (kind, method, arguments) == (INQUIRY, "actors", [])
    node.head.receive(peer, [(INQUIRY_ANSWER, number, True, [{"actor_id": "ff"}])], 0.0)
    node.talk()
    ((ok, found),) = answers
    assert ok
    assert found["silent_nodes"] == []
    assert [row["actor_id"] for row in found["actors"]][-1] == "ff"
    assert {row.get("node_id") for row in found["actors"]} == {NODE_ID.hex(), None}
    answers = node.ask("all_actors")
    node.talk()
    later = node.world.now + INQUIRY_DEADLINE
    node.head.tick(later, late=later)  # nobody is lost meanwhile
    node.talk()
    assert answers[0][1]["silent_nodes"] == [b"othernod".hex()]


def test_an_object_is_looked_up_at_its_home() -> None:
    node = HeadNode()
    driver = node.driver()
    driver.state.put(1)
    node.world.settle()
    own = list(driver.client.made)[-1]
    assert node.answer("object", own)["node_ids"] == [NODE_ID.hex()]
    assert node.answer("object", b"short")[0] == "ObjectLostError"
    peer = other_member(node)
    foreign = b"othernod" + bytes(18)
    answers = node.ask("object", foreign)
    node.talk()
    ((_, number, method, arguments),) = taken(node.head.outbox, peer)
    assert (method, arguments) == ("object", [foreign])
    node.head.receive(peer, [(INQUIRY_ANSWER, number, True, {"state": "ready"})], 0.0)
    node.talk()
    assert answers == [(True, {"state": "ready"})]
    assert node.answer("object", b"nowhere!" + bytes(18))[0] == "NodeDiedError"


def test_the_head_asks_a_node_only_what_it_may() -> None:
    node = HeadNode()
    node.part.inquiry_came(1, "stop", [])
    node.part.inquiry_came(2, "ping", [])
    assert [answer[:3] for answer in node.take()] == [(INQUIRY_ANSWER, 1, False), (INQUIRY_ANSWER, 2, True)]
    assert not node.machine.stopping
