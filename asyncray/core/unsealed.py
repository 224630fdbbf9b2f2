"""Room in shared memory that clients ask for and write in, until they seal it as an object.

A client asks for room (ALLOCATE) and gets it (ALLOCATED), now or later, or an error. If it has to wait because the
store is full, it gets STORE_FULL, and counts as blocked. It writes, and then seals the room as an object or gives it
back. If the client dies, its room is free again.

Each request is one claim in the store. The store decides which claim gets room and when.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncray.core.allocator import Allocation
from asyncray.core.claims import Claim
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client
from asyncray.core.store import Store
from asyncray.messages import ALLOCATED, REPLY_FAULT, STORE_FULL


class _RoomRequest:
    """A client's request for room: what its claim calls. It does not know the claim, so that the two are no cycle."""

    __slots__ = ("client", "number", "unsealed")

    def __init__(self, unsealed: Unsealed, client: Client, number: int) -> None:
        self.unsealed = unsealed
        self.client = client
        self.number = number

    def granted(self, allocation: Allocation) -> None:
        client = self.client
        client.claims.pop(self.number, None)
        place = (allocation.segment, allocation.offset)
        client.unsealed[place] = allocation
        self.unsealed.outbox.send(client, (ALLOCATED, self.number, *place, allocation.warm))

    def refused(self, why: str) -> None:
        self.client.claims.pop(self.number, None)
        fields = {"message": why}
        self.unsealed.outbox.send(self.client, (REPLY_FAULT, self.number, "ObjectStoreFullError", fields))

    def waits(self, begins: bool) -> None:  # noqa: FBT001 - a callback
        if begins:
            self.unsealed.outbox.send(self.client, (STORE_FULL, self.number))
        self.unsealed.waits(self.client, self.number, begins)


class Unsealed:
    """The clients' requests for room, and the room that they write in.

    Args:
        waits: ``waits(client, number, begins)``: the client begins or ceases to wait for room with that request.
    """

    def __init__(self, outbox: Outbox, store: Store, waits: Callable[[Client, int, bool], None]) -> None:
        self.outbox = outbox
        self._store = store
        self.waits = waits

    def __repr__(self) -> str:
        return f"<Unsealed of {self._store}>"

    def request(self, client: Client, number: int, size: int, now: float) -> None:
        """A client asks for room: answers with ALLOCATED, or with a fault if no room becomes free in time.

        Raises:
            ValueError: the size is not a whole number of bytes, or is negative, or another request with this number
                waits.
        """
        if type(size) is not int or size < 0:
            raise ValueError(f"{client} wants {size!r} bytes")
        if number in client.claims:
            raise ValueError(f"{client} asks twice with number {number}")
        request = _RoomRequest(self, client, number)
        claim = Claim(size, request.granted, request.refused, request.waits)
        if not self._store.request(claim, now):
            client.claims[number] = claim

    def take(self, client: Client, segment: str, offset: int) -> Allocation | None:
        """The client has written this room: takes it from the client, for ``Store.seal`` or ``Store.free``.

        Returns: None if the room was not the client's.
        """
        allocation = client.unsealed.pop((segment, offset), None)
        if allocation is not None:
            self._store.allocator.written(allocation)
        return allocation

    def abandon(self, client: Client, segment: str, offset: int) -> None:
        """The client will not use that room: frees it."""
        allocation = client.unsealed.pop((segment, offset), None)
        if allocation is not None:
            self._store.free(allocation)

    def client_disconnected(self, client: Client) -> None:
        """Withdraws the requests of a process that ended, and frees the room that it had."""
        claims = list(client.claims.values())
        client.claims.clear()
        self._store.withdraw(claims)
        for place in list(client.unsealed):
            self.abandon(client, *place)
