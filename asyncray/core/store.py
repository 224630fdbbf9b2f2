"""The shared-memory store of a node: which client may write where, and when memory may be used again.

A client asks for room, writes, and seals it as an object; if the client dies, its room is free again. Each time the
node sends the place of a sealed object to a client, that client gets a pin. The client gives its pins back when its
last view is gone. Memory is free again when the object is gone and nobody pins it. So a view outlives its ref.

Requests that do not fit wait in order, for a bounded time, until memory is freed. Meanwhile the node asks all clients
to collect garbage, and counts the waiting clients as blocked, so that the tasks that use up the objects can run. The
time counts from the last time memory was freed, and stands still while a task that holds memory runs. Spilling to disk
will come before the error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from asyncray.config import STORE_FULL_DEADLINE
from asyncray.core.allocator import Allocation, Allocator, MissingSegment
from asyncray.core.dead_refs import DeadRefs
from asyncray.core.outbox import CreateSegment, Outbox, RetireSegment
from asyncray.core.records import Block, Client, Party
from asyncray.messages import ALLOCATED, REPLY_FAULT, RETIRED, RUN_GC, STORE_FULL


class _Request:
    """A client's request for room that is not answered yet."""

    __slots__ = ("asked_at", "blocked", "client", "number", "size")

    def __init__(self, client: Client, number: int, size: int, now: float) -> None:
        self.client = client
        self.number = number
        self.size = size
        self.asked_at = now
        # The client got STORE_FULL for it and counts as blocked.
        self.blocked = False


class Store:
    """Allocations, pins and waiting requests.

    Args:
        allocator: hands out the ranges.
        clients: all connected clients, which receive RUN_GC and RETIRED.
        dead_refs: counts pins that nobody has.
    """

    waits: Callable[[Client, int, bool], None]
    """``waits(client, number, begins)``: the client begins or ceases to wait for room with that request."""

    def __init__(
        self, outbox: Outbox, allocator: Allocator, clients: Mapping[int, Client], dead_refs: DeadRefs
    ) -> None:
        self._outbox = outbox
        self._dead_refs = dead_refs
        self._clients = clients
        self.allocator = allocator
        # ID of an object -> its memory, also after the object is gone, while it is pinned.
        self.blocks: dict[bytes, Block] = {}
        # Requests in the order in which they came. Only the first is tried.
        self._waiting: deque[_Request] = deque()
        # Segments that the shell is creating. For membership only.
        self._creating: set[str] = set()
        # The store is full: all clients were asked to collect garbage, and the requests that wait are blocked.
        self._collecting = False
        # Memory was freed since the last tick, while requests waited.
        self._freed = False
        # The last tick at which memory had been freed or a task that holds memory ran. The full time of the requests
        # that wait counts from then.
        self._hope_at = 0.0
        # The first tick at which the store was empty and its segments were larger than ``keep``. None otherwise.
        self._idle_since: float | None = None

    def __repr__(self) -> str:
        return f"<Store {self.allocator.used} of {self.allocator.capacity} bytes, {len(self._waiting)} waiting>"

    def request(self, client: Client, number: int, size: int, now: float) -> None:
        """A client asks for room: answers with ALLOCATED, or with a fault if no room becomes free in time.

        Raises:
            ValueError: the size is not a whole number of bytes, or is negative.
        """
        if type(size) is not int or size < 0:
            raise ValueError(f"{client} wants {size!r} bytes")
        request = _Request(client, number, size, now)
        if self._waiting or not self._serve(request):
            self._waiting.append(request)
            if self._collecting:
                self._block(request)

    def _block(self, request: _Request) -> None:
        request.blocked = True
        self._outbox.send(request.client, (STORE_FULL, request.number))
        self.waits(request.client, request.number, True)

    def _take_first(self) -> _Request:
        request = self._waiting.popleft()
        if request.blocked and request.client.alive:
            self.waits(request.client, request.number, False)
        return request

    def _serve(self, request: _Request) -> bool:
        """Returns True if the request is answered, or needs no answer because its client is dead."""
        if not request.client.alive:
            return True
        if request.size > self.allocator.capacity:
            self._refuse(request)
            return True
        if self._creating:
            return False
        answer = self.allocator.allocate(request.size)
        if isinstance(answer, Allocation):
            place = (answer.segment, answer.offset)
            request.client.unsealed[place] = answer
            self._outbox.send(request.client, (ALLOCATED, request.number, *place, answer.warm))
            return True
        if isinstance(answer, MissingSegment):
            self._retire(answer.retire)
            self._creating.add(answer.name)
            self._outbox.do(CreateSegment(answer.name, answer.size))
        elif not self._collecting:
            self._collecting = True
            for waiting in self._waiting:
                self._block(waiting)
            for client in self._clients.values():
                self._outbox.send(client, (RUN_GC,))
        return False

    def _refuse(self, request: _Request) -> None:
        used, capacity = self.allocator.used, self.allocator.capacity
        if request.size > capacity:
            message = (
                f"The value ({request.size / 2**20:,.1f} MiB) is larger than the object store ({capacity / 2**20:,.1f} "
                "MiB): start with a larger object_store_memory."
            )
        else:
            message = (
                f"The object store is full: {request.size} bytes are needed, {used} of {capacity} are in use and still "
                "referenced. Drop references (del ref) or start with a larger object_store_memory."
            )
        self._outbox.send(request.client, (REPLY_FAULT, request.number, "ObjectStoreFullError", {"message": message}))

    def _retire(self, names: Sequence[str]) -> None:
        for name in names:
            self._outbox.do(RetireSegment(name))
            for client in self._clients.values():
                self._outbox.send(client, (RETIRED, name))

    def segment_created(self, name: str) -> None:
        """The shell has created the segment: serves the requests that wait."""
        self._creating.discard(name)
        self.allocator.segment_created(name)
        self.retry()

    def segment_failed(self, name: str, why: str) -> None:
        """The system has no room for the segment: fails the first request with the reason."""
        self._creating.discard(name)
        self.allocator.segment_failed(name)
        if self._waiting:
            request = self._take_first()
            message = f"The object store cannot grow by {request.size} bytes: {why}"
            self._outbox.send(
                request.client, (REPLY_FAULT, request.number, "ObjectStoreFullError", {"message": message})
            )
        self.retry()

    def retry(self) -> None:
        """Serves the requests that wait, in order, as far as memory goes."""
        while self._waiting and self._serve(self._waiting[0]):
            self._take_first()
        if not self._waiting:
            self._collecting = False

    def take(self, client: Client, segment: str, offset: int) -> Allocation | None:
        """The client has written this room: takes it from the client, for ``seal`` or ``free``.

        Returns: None if the room was not the client's.
        """
        allocation = client.unsealed.pop((segment, offset), None)
        if allocation is not None:
            self.allocator.written(allocation)
        return allocation

    def seal(self, object_id: bytes, allocation: Allocation) -> Block:
        """Gives the memory to an object."""
        block = self.blocks[object_id] = Block(object_id, allocation)
        return block

    def abandon(self, client: Client, segment: str, offset: int) -> None:
        """The client will not use that room: frees it."""
        allocation = client.unsealed.pop((segment, offset), None)
        if allocation is not None:
            self.free(allocation)

    def free(self, allocation: Allocation) -> None:
        """Frees room that belongs to no object and no client, and serves the requests that wait."""
        self.allocator.release(allocation)
        if self._waiting:
            self._freed = True
            self.retry()

    def pin(self, block: Block, party: Party) -> None:
        """Counts a pin of the party, which is about to receive the place of the block."""
        if party.alive:
            block.pins[party] = block.pins.get(party, 0) + 1
            party.pinned[block.id] = None

    def unpin(self, party: Party, object_id: bytes, times: int) -> None:
        """The party has no view of the object any more: takes back ``times`` pins."""
        block = self.blocks.get(object_id)
        if block is None or party not in block.pins:
            self._dead_refs.add(object_id, "unpins", party)
            return
        block.pins[party] -= times
        if block.pins[party] <= 0:
            del block.pins[party]
            party.pinned.pop(object_id, None)
            self._free_if_unused(block)

    def object_gone(self, block: Block) -> None:
        """The object is freed. Parties may still have views of its memory."""
        block.in_use = False
        self._free_if_unused(block)

    def _free_if_unused(self, block: Block) -> None:
        if not block.in_use and not block.pins:
            del self.blocks[block.id]
            self.free(block.allocation)

    def client_gone(self, client: Client) -> None:
        """Takes back the pins and the unsealed room of a process that ended."""
        for place in list(client.unsealed):
            self.abandon(client, *place)
        self._unpin_all(client)

    def _unpin_all(self, party: Party) -> None:
        for object_id in list(party.pinned):
            self.unpin(party, object_id, self.blocks[object_id].pins[party])

    @property
    def under_pressure(self) -> bool:
        """True if memory is short: tasks that use up objects should run before tasks that make more of them."""
        return bool(self._waiting) or 2 * self.allocator.used > self.allocator.capacity

    def tick(self, now: float, keep: int, idle_after: float, may_free_memory: Callable[[], bool]) -> None:
        """Fails requests that waited too long, and returns memory to the system that was unused for a while.

        Args:
            now: in seconds.
            keep: bytes of empty segments to keep.
            idle_after: seconds that the store must be empty before segments are retired.
            may_free_memory: returns True if a task runs that holds memory, which it will give back.
        """
        if self._waiting and (self._freed or (self._first_is_late(now) and may_free_memory())):
            self._hope_at = now
        self._freed = False
        while self._waiting and (self._first_is_late(now) or not self._waiting[0].client.alive):
            request = self._take_first()
            if request.client.alive:
                self._refuse(request)
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
        """Requests that wait for room."""
        return len(self._waiting)

    def waits_of(self, client: Client) -> int:
        """Returns how many requests of this client wait for room."""
        return sum(1 for request in self._waiting if request.client is client)

    def check(self) -> None:
        """Raises AssertionError if blocks and pins contradict each other."""
        self.allocator.check()
        for block in self.blocks.values():
            assert block.in_use or block.pins, f"{block} is kept by nobody"
            assert all(party.alive for party in block.pins), f"{block} is pinned by the dead"
