"""The store against a model that knows who asked for room, who has it, and what each client may look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncray.config import ALIGNMENT, STORE_FULL_DEADLINE
from asyncray.core.allocator import PAGE, Allocation, Allocator
from asyncray.core.claims import Claim
from asyncray.core.dead_refs import DeadRefs
from asyncray.core.outbox import CreateSegment, Outbox
from asyncray.core.records import Block, Client, Party
from asyncray.core.store import Store
from asyncray.core.unsealed import Unsealed
from asyncray.messages import ALLOCATED, REPLY_FAULT, STORE_FULL, Message

CAPACITY = 4 * PAGE
SIZES = st.sampled_from([0, 1, 64, PAGE, 2 * PAGE, 3 * PAGE, CAPACITY, CAPACITY + 1])
OBJECTS = st.sampled_from([b"a", b"b"])
INDEX = st.integers(0, 20)


def aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


class Wish:
    """One claim, of the daemon or of a client, and all that was said to it."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client
        self.heard: list[str] = []
        self.claim: Claim | None = None

    def __repr__(self) -> str:
        return f"<Wish of {self.client or 'the daemon'}: {self.heard}>"


class Listening(Outbox):
    """Hears each message when it is sent, so that the order between clients and the daemon is known."""

    __slots__ = ("hear",)

    def __init__(self, hear: Callable[[Client, Message], None]) -> None:
        super().__init__()
        self.hear = hear

    def send(self, party: Party, message: Any) -> None:
        assert isinstance(party, Client)
        if party.alive:
            self.hear(party, message)


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.outbox = Listening(self.told)
        self.clients: dict[int, Client] = {}
        allocator = Allocator("shm", CAPACITY, 2 * PAGE)
        self.store = Store(self.outbox, allocator, self.clients, DeadRefs(self.outbox, b"thisnode"))
        self.unsealed = Unsealed(self.outbox, self.store, self.client_waits)
        self.count = 0
        # In the order in which they were asked for, without withdrawn ones; and in the order in which they ended.
        self.wishes: list[Wish] = []
        self.ended: list[Wish] = []
        self.by_number: dict[tuple[Client, int], Wish] = {}
        self.rooms: list[tuple[Allocation, Client | None]] = []
        self.blocks: list[Block] = []
        self.orders: list[str] = []
        for _ in range(2):
            self.connect()
        # One segment exists, so that room is found at once until it is full.
        self.daemon_asks(1, gives_back=True)
        self.deliver()
        self.created()

    def next(self) -> int:
        self.count += 1
        return self.count

    # Messages of the store --------------------------------------------------------------------------------------------

    def hear(self, wish: Wish, word: str) -> None:
        wish.heard.append(word)
        if word in ("granted", "refused"):
            self.ended.append(wish)

    def granted(self, wish: Wish, gives_back: bool, allocation: Allocation) -> None:
        self.hear(wish, "granted")
        if gives_back:
            self.store.free(allocation)
        else:
            self.rooms.append((allocation, None))

    def client_waits(self, client: Client, number: int, begins: bool) -> None:
        self.hear(self.by_number[client, number], "waits" if begins else "goes on")

    def told(self, client: Client, message: Message) -> None:
        if message[0] == ALLOCATED:
            self.hear(self.by_number[client, message[1]], "granted")
            self.rooms.append((client.unsealed[message[2], message[3]], client))
        elif message[0] == REPLY_FAULT:
            self.hear(self.by_number[client, message[1]], "refused")
        elif message[0] == STORE_FULL:
            assert self.by_number[client, message[1]].heard == []

    @invariant()
    def deliver(self) -> None:
        """The commands reach the shell."""
        self.orders += [command.name for command in self.outbox.commands if isinstance(command, CreateSegment)]
        self.outbox.commands.clear()

    # Rules ------------------------------------------------------------------------------------------------------------

    @rule()
    def connect(self) -> None:
        number = self.next()
        self.clients[number] = Client(number, number.to_bytes(12, "big"), "driver", 1)

    @rule(size=SIZES, gives_back=st.booleans())
    def daemon_asks(self, size: int, gives_back: bool) -> None:
        wish = Wish()
        claim = wish.claim = Claim(
            size,
            partial(self.granted, wish, gives_back),
            lambda why: self.hear(wish, "refused"),
            lambda begins: self.hear(wish, "waits" if begins else "goes on"),
        )
        self.wishes.append(wish)
        assert self.store.request(claim, self.now) == (wish in self.ended)

    @rule(size=SIZES, index=INDEX)
    def client_asks(self, size: int, index: int) -> None:
        client, number = self.a_client(index), self.next()
        wish = self.by_number[client, number] = Wish(client)
        self.wishes.append(wish)
        self.unsealed.request(client, number, size, self.now)
        if number in client.claims:
            wish.claim = client.claims[number]

    @rule(index=INDEX)
    def withdraw(self, index: int) -> None:
        waiting = [wish for wish in self.wishes if wish.client is None and wish not in self.ended]
        if waiting:
            wish = waiting[index % len(waiting)]
            assert wish.claim is not None
            self.wishes.remove(wish)
            self.store.withdraw([wish.claim])

    @precondition(lambda self: self.orders)
    @rule()
    def created(self) -> None:
        self.store.segment_created(self.orders.pop(0))

    @precondition(lambda self: self.orders)
    @rule()
    def failed(self) -> None:
        self.store.segment_failed(self.orders.pop(0), "no space")

    @precondition(lambda self: self.rooms)
    @rule(index=INDEX, object_id=OBJECTS, version=st.integers(0, 2))
    def seal(self, index: int, object_id: bytes, version: int) -> None:
        """Version 0: an object of the table, with an ID of its own."""
        allocation = self.take(index)
        if not version:
            self.blocks.append(self.store.seal(self.next().to_bytes(4, "big"), allocation))
        elif version in self.store.copies.get(object_id, {}):
            with pytest.raises(AssertionError, match="already"):
                self.store.seal_copy(object_id, version, allocation)
            self.store.free(allocation)
        else:
            self.blocks.append(self.store.seal_copy(object_id, version, allocation))

    @rule(size=SIZES, object_id=OBJECTS, version=st.integers(1, 2), who=INDEX)
    def pull(self, size: int, object_id: bytes, version: int, who: int) -> None:
        """A copy arrives that a client asked for."""
        before = len(self.rooms)
        self.daemon_asks(size, gives_back=False)
        if len(self.rooms) > before:
            self.seal(before, object_id, version)
            self.pin(len(self.blocks) - 1, who)

    @precondition(lambda self: self.rooms)
    @rule(index=INDEX)
    def give_back(self, index: int) -> None:
        self.store.free(self.take(index))

    @precondition(lambda self: self.blocks)
    @rule(index=INDEX, who=INDEX)
    def pin(self, index: int, who: int) -> None:
        block = self.blocks[index % len(self.blocks)] if self.blocks else None
        if block is not None and block.in_use:
            self.store.pin(block, self.a_client(who))

    @rule(index=INDEX, which=INDEX, times=st.integers(1, 2))
    def unpin(self, index: int, which: int, times: int) -> None:
        client = self.a_client(index)
        if client.pinned:
            object_id = sorted(client.pinned)[which % len(client.pinned)]
            left = client.pinned[object_id] - times
            self.store.unpin(client, object_id, times)
            assert client.pinned.get(object_id, 0) == max(left, 0)
            self.forget()

    @precondition(lambda self: self.blocks)
    @rule(index=INDEX)
    def end_object(self, index: int) -> None:
        """The object is freed, or the copy is dropped; a copy perhaps twice."""
        block = self.blocks[index % len(self.blocks)]
        if block.version is not None:
            was_kept = block.in_use
            assert self.store.drop_copy(block.id, block.version) == was_kept
        elif block.in_use:
            self.store.object_freed(block)
        assert not block.in_use
        self.forget()

    @rule(index=INDEX)
    def die(self, index: int) -> None:
        if len(self.clients) > 1:
            client = self.a_client(index)
            client.alive = False
            del self.clients[client.number]
            self.wishes = [wish for wish in self.wishes if wish.client is not client or wish in self.ended]
            self.rooms = [room for room in self.rooms if room[1] is not client]
            self.unsealed.client_disconnected(client)
            self.store.unpin_all(client)
            assert (client.claims, client.unsealed, client.pinned) == ({}, {}, {})
            self.forget()

    @rule(seconds=st.sampled_from([0.1, STORE_FULL_DEADLINE]), keep=st.sampled_from([0, CAPACITY]), hope=st.booleans())
    def tick(self, seconds: float, keep: int, hope: bool) -> None:
        self.now += seconds
        self.store.tick(self.now, keep, 1.0, lambda: hope)

    def a_client(self, index: int) -> Client:
        return list(self.clients.values())[index % len(self.clients)]

    def take(self, index: int) -> Allocation:
        """Room that was granted, from its holder."""
        allocation, client = self.rooms.pop(index % len(self.rooms))
        if client is None:
            self.store.allocator.written(allocation)
            return allocation
        taken = self.unsealed.take(client, allocation.segment, allocation.offset)
        assert taken is allocation
        return taken

    def forget(self) -> None:
        self.blocks = [block for block in self.blocks if block.in_use or block.pins]

    # Invariants -------------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        self.store.check()
        kept = [*self.store.blocks.values(), *(c for versions in self.store.copies.values() for c in versions.values())]
        assert sorted(map(id, kept)) == sorted(map(id, self.blocks))
        taken = [allocation for allocation, _ in self.rooms] + [block.allocation for block in self.blocks]
        assert self.store.allocator.used == sum(aligned(one.size) for one in taken)

    @invariant()
    def the_first_claim_wants_room(self) -> None:
        """Otherwise it would hold back those behind it."""
        assert not any(claim.withdrawn for claim in self.store._waiting)

    @invariant()
    def claims_end_once_and_in_order(self) -> None:
        assert self.ended == self.wishes[: len(self.ended)]
        for wish in self.wishes:
            ends = [word for word in wish.heard if word in ("granted", "refused")]
            assert len(ends) == (wish in self.ended)
            assert wish.heard in ([], ["waits"], ends, ["waits", "goes on", *ends])

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for client in list(self.clients.values()):
            client.alive = False
            self.clients.pop(client.number)
            self.unsealed.client_disconnected(client)
            self.store.unpin_all(client)
        self.rooms = [room for room in self.rooms if room[1] is None]
        self.wishes = [wish for wish in self.wishes if wish.client is None or wish in self.ended]
        for _ in range(len(self.wishes) + 1):
            self.deliver()
            while self.orders:
                self.created()
                self.deliver()
            while self.rooms:
                self.give_back(0)
            self.forget()
            for block in self.blocks[:]:
                self.end_object(self.blocks.index(block))
            self.tick(2 * STORE_FULL_DEADLINE, CAPACITY, False)
        self.claims_end_once_and_in_order()
        assert all(wish in self.ended for wish in self.wishes)
        assert (self.store.waiting, self.store.allocator.used) == (0, 0)
        assert (self.store.blocks, self.store.copies) == ({}, {})


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Stored:
    """A store with one segment, a client, and two versions of an object."""

    def __init__(self) -> None:
        self.client = Client(1, bytes(12), "driver", 1)
        self.outbox = Outbox()
        allocator, dead_refs = Allocator("shm", CAPACITY, CAPACITY), DeadRefs(self.outbox, b"thisnode")
        self.store = Store(self.outbox, allocator, {1: self.client}, dead_refs)
        self.answers: list[Allocation | str] = []
        self.ask(PAGE)
        self.store.segment_created("shm-0")
        self.ask(PAGE)
        self.copies = [self.store.seal_copy(b"a", version, self.room()) for version in (1, 2)]

    def ask(self, size: int) -> Claim:
        claim = Claim(size, self.answers.append, self.answers.append)
        self.store.request(claim, 0.0)
        return claim

    def room(self) -> Allocation:
        answer = self.answers.pop(0)
        assert isinstance(answer, Allocation)
        return answer


def test_a_copy_is_kept_without_an_object_until_it_is_dropped() -> None:
    stored = Stored()
    assert not stored.store.blocks
    assert stored.store.drop_copy(b"a", 1)
    assert not stored.store.drop_copy(b"a", 1)
    assert stored.store.copies == {b"a": {2: stored.copies[1]}}
    assert stored.store.allocator.used == PAGE
    assert stored.store.drop_copy(b"a", 2)
    assert not stored.store.drop_copy(b"a", 2)
    assert (stored.store.copies, stored.store.allocator.used) == ({}, 0)


def test_views_of_any_version_keep_all_versions_that_the_client_was_sent() -> None:
    stored, client = Stored(), Client(2, bytes(12), "worker", 2)
    for block in stored.copies:
        stored.store.pin(block, stored.client)
    stored.store.pin(stored.copies[0], client)
    for version in (1, 2):
        stored.store.drop_copy(b"a", version)
    stored.store.unpin(stored.client, b"a", 1)
    assert stored.store.allocator.used == 2 * PAGE
    stored.store.unpin(stored.client, b"a", 1)
    assert stored.store.copies == {b"a": {1: stored.copies[0]}}
    stored.store.unpin_all(client)
    assert (stored.store.copies, stored.store.allocator.used) == ({}, 0)
    stored.store.check()


def test_a_claim_that_is_withdrawn_makes_way_at_once() -> None:
    stored = Stored()
    first, second, _ = stored.ask(CAPACITY), stored.ask(CAPACITY), stored.ask(PAGE)
    assert (stored.store.waiting, stored.answers) == (3, [])
    stored.store.withdraw([first, second])
    assert stored.store.waiting == 0
    assert stored.room().size == PAGE


def test_a_claim_waits_its_full_time_although_the_daemon_stood_still() -> None:
    stored = Stored()
    stored.ask(CAPACITY)
    stored.store.tick(100.0, 0, 1.0, lambda: False, late=99.0)
    assert stored.answers == []
    stored.store.tick(100.0 + STORE_FULL_DEADLINE, 0, 1.0, lambda: False)
    assert len(stored.answers) == 1


def test_a_claim_of_the_daemon_is_refused_in_time_and_hears_why() -> None:
    stored = Stored()
    stored.ask(CAPACITY)
    stored.store.tick(STORE_FULL_DEADLINE, 0, 1.0, lambda: True)
    assert stored.answers == []
    stored.store.tick(2 * STORE_FULL_DEADLINE, 0, 1.0, lambda: False)
    (why,) = stored.answers
    assert f"{CAPACITY} bytes are needed, {2 * PAGE} of {CAPACITY} are in use" in str(why)
