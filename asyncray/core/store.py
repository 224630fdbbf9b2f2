"""The shared-memory store of a node: gives room to claims, keeps the memory of objects, and frees it.

A *claim* asks for room. A client makes one to store a value (``unsealed``), and the daemon itself can make one. Sealed
memory is a block. A block belongs to an object of the table, or it is a copy: memory that the table does not know, by
the ID and the version of its object. Each time the node sends the place of a sealed object to a client, that client
gets a pin. The client gives its pins back when its last view has ended. Memory is free again when the object (or the
copy) was freed and no party pins it. So a view outlives its ref.

Claims that do not fit wait in order, for a bounded time, until memory is freed. Meanwhile the node asks all clients to
collect garbage, and each claim says that it waits, so that the tasks that use up the objects can run. The time counts
from the last time memory was freed, and stands still while a task that holds memory runs. Spilling to disk will come
before the error.

Invariants (``check``): a block is in use or pinned; a party that pins a block is alive and counts its pins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from asyncray.config import STORE_FULL_DEADLINE
from asyncray.core.allocator import Allocation, Allocator, MissingSegment, StoreFull
from asyncray.core.claims import Claim
from asyncray.core.dead_refs import DeadRefs
from asyncray.core.outbox import CreateSegment, Outbox, RetireSegment
from asyncray.core.records import Block, Client, Party
from asyncray.messages import RETIRED, RUN_GC


class Store:
    """Memory of objects, pins and waiting claims.

    Args:
        allocator: hands out the ranges.
        clients: all connected clients, which receive RUN_GC and RETIRED.
        dead_refs: counts returned pins that the party does not have.
    """

    def __init__(
        self, outbox: Outbox, allocator: Allocator, clients: Mapping[int, Client], dead_refs: DeadRefs
    ) -> None:
        self._outbox = outbox
        self._dead_refs = dead_refs
        self._clients = clients
        self.allocator = allocator
        # ID of an object of the table -> its memory, also after the object was freed, while it is pinned.
        self.blocks: dict[bytes, Block] = {}
        # ID of an object -> version -> a copy of it, also after it was dropped, while it is pinned.
        self.copies: dict[bytes, dict[int, Block]] = {}
        # Claims in the order in which they came. Only the first is tried.
        self._waiting: deque[Claim] = deque()
        # Segments that the shell is creating. For membership only.
        self._creating: set[str] = set()
        # The store is full: all clients were asked to collect garbage, and the claims that wait are blocked.
        self._collecting = False
        # Memory was freed since the last tick, while claims waited.
        self._freed = False
        # The last tick at which memory had been freed or a task that holds memory ran. The full time of the claims that
        # wait counts from then.
        self._hope_at = 0.0
        # How often a party has given up all views of an object: copies may have become free to be dropped.
        self.views_ended = 0
        # Called when the store is full: returns memory that can be freed at once, because the node can get the value
        # again from another node. None on a node that belongs to no cluster.
        self.evict: Callable[[], Block | None] | None = None
        # The first tick at which the store was empty and its segments were larger than ``keep``. None otherwise.
        self._idle_since: float | None = None

    def __repr__(self) -> str:
        return f"<Store {self.allocator.used} of {self.allocator.capacity} bytes, {len(self._waiting)} waiting>"

    # Room -------------------------------------------------------------------------------------------------------------

    def request(self, claim: Claim, now: float) -> bool:
        """Gives room to the claim, now or later, or refuses it if no room becomes free in time.

        Returns: True if the claim has ended already.
        """
        answer = None if self._waiting else self._try(claim)
        if answer is not None:
            claim.answer(answer)
            return True
        claim.asked_at = now
        self._waiting.append(claim)
        if self._collecting:
            claim.block()
        return False

    @property
    def is_full(self) -> bool:
        """True while claims wait and all clients have been asked to collect garbage."""
        return self._collecting

    def withdraw(self, claims: Collection[Claim]) -> None:
        """The claimants want no answer any more. Serves the claims behind these, which may be smaller."""
        for claim in claims:
            claim.withdrawn = True
        if claims and self._waiting:
            self._waiting = deque(claim for claim in self._waiting if not claim.withdrawn)
            self.retry()

    def _try(self, claim: Claim) -> Allocation | str | None:
        """Returns room for the claim, or why it gets none, or None if it has to wait."""
        if claim.size > self.allocator.capacity:
            return self._refusal(claim)
        if self._creating:
            return None
        answer = self.allocator.allocate(claim.size)
        while isinstance(answer, StoreFull) and self.evict is not None:
            block = self.evict()
            if block is None:
                break
            # Not ``object_freed``, which would serve the claims that wait: this one is the first of them.
            self._remove(block)
            self.allocator.release(block.allocation)
            answer = self.allocator.allocate(claim.size)
        if isinstance(answer, Allocation):
            return answer
        if isinstance(answer, MissingSegment):
            self._retire(answer.retire)
            self._creating.add(answer.name)
            self._outbox.do(CreateSegment(answer.name, answer.size))
        elif not self._collecting:
            self._collecting = True
            for waiting in self._waiting:
                waiting.block()
            for client in self._clients.values():
                self._outbox.send(client, (RUN_GC,))
        return None

    def _refusal(self, claim: Claim) -> str:
        used, capacity = self.allocator.used, self.allocator.capacity
        if claim.size > capacity:
            return (
                f"The value ({claim.size / 2**20:,.1f} MiB) is larger than the object store ({capacity / 2**20:,.1f} "
                "MiB): start with a larger object_store_memory."
            )
        return (
            f"The object store is full: {claim.size} bytes are needed, {used} of {capacity} are in use and still "
            "referenced. Drop references (del ref) or start with a larger object_store_memory."
        )

    def _retire(self, names: Sequence[str]) -> None:
        for name in names:
            self._outbox.do(RetireSegment(name))
            for client in self._clients.values():
                self._outbox.send(client, (RETIRED, name))

    def segment_created(self, name: str) -> None:
        """The shell has created the segment: serves the claims that wait."""
        self._creating.discard(name)
        self.allocator.segment_created(name)
        self.retry()

    def segment_failed(self, name: str, why: str) -> None:
        """The system has no room for the segment: refuses the first claim with the reason."""
        self._creating.discard(name)
        self.allocator.segment_failed(name)
        if self._waiting:
            claim = self._waiting.popleft()
            claim.answer(f"The object store cannot grow by {claim.size} bytes: {why}")
        self.retry()

    def retry(self) -> None:
        """Serves the claims that wait, in order, as far as memory goes."""
        while self._waiting:
            claim = self._waiting[0]
            answer = self._try(claim)
            if answer is None:
                return
            # Remove it before the answer, because the claimant may free memory at once, which calls this again.
            self._waiting.popleft()
            claim.answer(answer)
        self._collecting = False

    def free(self, allocation: Allocation) -> None:
        """Frees room that belongs to no object and no claimant, and serves the claims that wait."""
        self.allocator.release(allocation)
        if self._waiting:
            self._freed = True
            self.retry()

    # Objects ----------------------------------------------------------------------------------------------------------

    def seal(self, object_id: bytes, allocation: Allocation) -> Block:
        """Gives the memory to an object of the table."""
        block = self.blocks[object_id] = Block(object_id, allocation)
        return block

    def object_freed(self, block: Block) -> None:
        """The object is freed. Parties may still have views of its memory."""
        block.in_use = False
        self._free_if_unused(block)

    def seal_copy(self, object_id: bytes, version: int, allocation: Allocation) -> Block:
        """Keeps the memory as a copy of an object, until ``drop_copy``.

        The object table does not have to know the object. There is one copy of each version.
        """
        versions = self.copies.setdefault(object_id, {})
        assert version not in versions, f"{versions[version]} is here already"
        block = versions[version] = Block(object_id, allocation, version)
        return block

    def drop_copy(self, object_id: bytes, version: int) -> bool:
        """Ends a copy. Parties may still have views of its memory. Returns False if there is no such copy."""
        block = self.copies.get(object_id, {}).get(version)
        if block is None or not block.in_use:
            return False
        self.object_freed(block)
        return True

    def _free_if_unused(self, block: Block) -> None:
        if not block.in_use and not block.pins:
            self._remove(block)
            self.free(block.allocation)

    def _remove(self, block: Block) -> None:
        if block.version is None:
            del self.blocks[block.id]
        else:
            versions = self.copies[block.id]
            del versions[block.version]
            if not versions:
                del self.copies[block.id]

    # Pins -------------------------------------------------------------------------------------------------------------

    def pin(self, block: Block, party: Party) -> None:
        """Counts a pin of the party, which is about to receive the place of the block."""
        if party.alive:
            block.pins[party] = None
            party.pinned[block.id] = party.pinned.get(block.id, 0) + 1

    def unpin(self, party: Party, object_id: bytes, times: int) -> None:
        """The party has given up so many views of the object: takes back ``times`` pins.

        Clients do not know versions. So each version that a party pins stays until that party has no view of the
        object.
        """
        count = party.pinned.get(object_id)
        if count is None:
            self._dead_refs.add(object_id, "unpins", party)
        elif count > times:
            party.pinned[object_id] = count - times
        else:
            del party.pinned[object_id]
            self.views_ended += 1
            for block in list(self._versions(object_id)):
                if party in block.pins:
                    del block.pins[party]
                    self._free_if_unused(block)

    def _versions(self, object_id: bytes) -> Iterator[Block]:
        """Yields all memory of an object."""
        block = self.blocks.get(object_id)
        if block is not None:
            yield block
        if object_id in self.copies:
            yield from self.copies[object_id].values()

    def unpin_all(self, party: Party) -> None:
        """Takes back the pins of a party that has disconnected."""
        for object_id, times in list(party.pinned.items()):
            self.unpin(party, object_id, times)

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def under_pressure(self) -> bool:
        """True if memory is short: tasks that use up objects should run before tasks that make more of them."""
        return bool(self._waiting) or 2 * self.allocator.used > self.allocator.capacity

    def tick(
        self, now: float, keep: int, idle_after: float, may_free_memory: Callable[[], bool], late: float = 0.0
    ) -> None:
        """Refuses claims that waited too long, and returns memory to the system that was unused for a while.

        Args:
            now: in seconds.
            keep: bytes of empty segments to keep.
            idle_after: seconds that the store must be empty before segments are retired.
            may_free_memory: returns True if a task runs that holds memory, which it will give back.
            late: seconds for which the daemon stood still: nobody could give memory back meanwhile.
        """
        if self._waiting and (self._freed or late or (self._first_is_late(now) and may_free_memory())):
            self._hope_at = now
        self._freed = False
        while self._waiting and self._first_is_late(now):
            claim = self._waiting.popleft()
            claim.answer(self._refusal(claim))
            self.retry()
        allocator = self.allocator
        if allocator.used or allocator.reserved <= keep:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= idle_after:
            self._idle_since = None
            self._retire(allocator.trim(keep))

    def _first_is_late(self, now: float) -> bool:
        return max(self._waiting[0].asked_at, self._hope_at) + STORE_FULL_DEADLINE <= now

    @property
    def waiting(self) -> int:
        """Claims that wait for room."""
        return len(self._waiting)

    def check(self) -> None:
        """Raises AssertionError if blocks and pins contradict each other."""
        self.allocator.check()
        copies = [(version, copy) for versions in self.copies.values() for version, copy in versions.items()]
        assert all(version == copy.version for version, copy in copies), f"{copies} have other versions"
        for block in (*self.blocks.values(), *(copy for _, copy in copies)):
            assert block.in_use or block.pins, f"{block} is kept by nobody"
            assert all(party.alive for party in block.pins), f"{block} is pinned by the dead"
            assert all(party.pinned[block.id] > 0 for party in block.pins), f"{block} is pinned without a count"
