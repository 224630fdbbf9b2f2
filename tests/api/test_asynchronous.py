"""The async face over a connection whose other end the test plays: awaiting, cancelling, and wrong arguments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncray.api import asynchronous as ray
from asyncray.exceptions import GetTimeoutError
from asyncray.messages import PLAIN, REPLY, REQUEST, VALUE
from asyncray.runtime import current
from asyncray.runtime.refs import ObjectRef, own
from asyncray.runtime.serialization import serialize
from tests.runtime.daemon_side import DEADLINE, DaemonSide


def new(number: int) -> ObjectRef[Any]:
    assert current.session is not None
    return own(current.session.references, number.to_bytes(26, "big"))


def resolve(daemon: DaemonSide, ref: ObjectRef[Any], value: object) -> None:
    daemon.send((VALUE, ref.binary(), PLAIN, serialize(value).pickled))


async def test_values_come_in_the_order_of_their_refs(daemon: DaemonSide) -> None:
    one, two = new(1), new(2)
    resolve(daemon, two, "two")
    resolve(daemon, one, "one")
    assert await ray.get([one, two, one], timeout=DEADLINE) == ["one", "two", "one"]
    assert await ray.get(two) == "two"
    assert await ray.get([]) == []
    with pytest.raises(ValueError, match="ObjectRef"):
        await ray.get([5])  # type: ignore[arg-type]


async def test_a_get_that_is_cancelled_or_late_leaves_the_object_to_others(daemon: DaemonSide) -> None:
    ref = new(1)
    cancelled, other = asyncio.ensure_future(ray.get(ref)), asyncio.ensure_future(ray.get(ref))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(GetTimeoutError):
        await ray.get(ref, timeout=0)
    resolve(daemon, ref, 5)
    assert await asyncio.wait_for(other, DEADLINE) == 5
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_wait_names_those_that_are_ready_and_no_more_than_wanted(daemon: DaemonSide) -> None:
    refs = [new(number) for number in range(3)]
    assert await ray.wait(refs, timeout=0) == ([], refs)
    for ref in (refs[2], refs[1]):
        resolve(daemon, ref, None)
    assert await ray.wait(refs, num_returns=2, timeout=DEADLINE) == ([refs[1], refs[2]], [refs[0]])
    assert await ray.wait(refs) == ([refs[1]], [refs[0], refs[2]])
    with pytest.raises(ValueError, match=r"unique|duplicate"):
        await ray.wait([refs[0], refs[0]])


async def test_put_needs_no_answer_and_takes_no_ref(daemon: DaemonSide) -> None:
    ref = ray.put([1])
    assert await ray.get(ref) == [1]
    with pytest.raises(TypeError, match="wrap it in a list"):
        ray.put(ref)


@pytest.mark.parametrize(
    ("call", "method", "answer"),
    [
        (ray.cluster_resources, "cluster_resources", {"CPU": 2.0}),
        (ray.available_resources, "available_resources", {"CPU": 1.0}),
        (ray.nodes, "nodes", [{"NodeID": "00"}]),
    ],
)
async def test_facts_of_the_node_are_asked_for(daemon: DaemonSide, call: Any, method: str, answer: object) -> None:
    """The call does not block the loop: the test answers in that loop."""
    asked = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    _, number, name, _ = daemon.next(REQUEST)
    daemon.send((REPLY, number, answer))
    assert name == method
    assert await asyncio.wait_for(asked, DEADLINE) == answer


async def test_an_actor_is_looked_for_in_the_namespace_of_the_program(daemon: DaemonSide) -> None:
    for given, used in ((None, "here"), ("elsewhere", "elsewhere")):
        asked = asyncio.ensure_future(ray.get_actor("ann", given))
        await asyncio.sleep(0)
        _, number, method, arguments = daemon.next(REQUEST)
        assert (method, list(arguments)) == ("get_actor", [used, "ann"])
        daemon.send((REPLY, number, None))
        with pytest.raises(ValueError, match="ann"):
            await asyncio.wait_for(asked, DEADLINE)
    for name, namespace in (("", None), ("ann", "")):
        with pytest.raises(ValueError, match=r"name|namespace"):
            await ray.get_actor(name, namespace)


def test_an_init_that_is_not_awaited_is_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        ray.init()


def test_the_blocking_form_of_with_names_the_right_one() -> None:
    pending: Any = ray.init()
    with pytest.raises(TypeError, match="async with"), pending:
        pass
    pending._used = True


async def test_shutdown_without_a_session_does_nothing() -> None:
    await ray.shutdown()
