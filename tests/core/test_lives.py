"""The record of an actor: the order of its states, its options, and its name."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from asyncray.config import MAILBOX_WINDOW
from asyncray.core.leases import Lease, Worker
from asyncray.core.lives import Actor
from asyncray.core.records import Client, Job, Task, Template
from asyncray.core.resources import Resources
from asyncray.core.states import ALIVE, DEAD, PENDING, RESTARTING, STARTING

JOB = Job(b"\0\0\0\1", "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
STATES = (PENDING, STARTING, ALIVE, RESTARTING, DEAD)
ALLOWED = {
    (PENDING, STARTING), (PENDING, DEAD),
    (STARTING, ALIVE), (STARTING, RESTARTING), (STARTING, DEAD),
    (ALIVE, RESTARTING), (ALIVE, DEAD),
    (RESTARTING, STARTING), (RESTARTING, DEAD),
}  # fmt: skip


def actor(**options: Any) -> Actor:
    spec: Any = {"name": "Counter", "returns": 1, "retries": 0, "demand": [], "options": options}
    creator = Client(1, b"creator", "driver", 1)
    return Actor(Task(b"\7" * 4, Template(1, b"digest", JOB, None, spec), creator, 0, b""), creator)


@pytest.mark.parametrize(("before", "after"), [*itertools.product(STATES, STATES)])
def test_an_actor_starts_before_it_lives_and_does_nothing_after_its_death(before: str, after: str) -> None:
    it = actor()
    it.state = before
    if (before, after) in ALLOWED:
        it.move(after)
        assert it.state == after
    else:
        with pytest.raises(AssertionError, match=rf"Counter {before} .* cannot become {after}"):
            it.move(after)


def test_an_actor_that_is_placed_and_its_worker_know_each_other() -> None:
    it, worker = actor(), Worker(3)
    grant = Resources({"CPU": 1}).acquire((("CPU", 10_000),))
    assert grant is not None
    lease = Lease(worker, None, grant, 0.0)
    it.placed(worker, lease)
    assert (it.state, it.worker, it.lease, worker.actor, worker.lease) == (STARTING, worker, lease, it, lease)


def test_options_say_how_long_an_actor_lives_and_how_many_calls_it_gets() -> None:
    plain, special = actor(), actor(restarts=2, detached=True, ordered=False, concurrency=10)
    assert (plain.restarts, plain.detached, plain.ordered, plain.window) == (0, False, True, MAILBOX_WINDOW + 1)
    assert (special.restarts, special.detached, special.ordered) == (2, True, False)
    assert special.window == MAILBOX_WINDOW + 10


def test_an_actor_has_the_name_that_it_was_registered_with() -> None:
    it = actor()
    names = [it.registered_name]
    it.name = ("ns", "ann")
    assert [*names, it.registered_name] == ["", "ann"]
    assert it.fault("ActorDiedError", "why") == ["ActorDiedError", {"actor_id": "07" * 4, "message": "why"}]
