"""References of one process: which objects it knows, how many refs it has, and what the daemon must be told.

A process counts its own refs and reports only the first of a borrowed object (ADD_REFS) and the last (RELEASE_REFS).
Refs end in finalizers, which may run in any thread in the middle of anything: they only append to a queue. The next
writer to the daemon drains that queue. The order of the messages is what makes counting safe:

1. ended refs are drained first, then the posted messages are counted, then the holds are taken; they are sent as
   holds, so many messages, drops. So a message that uses an object is never behind the drop of that object (it was
   posted before the ref ended), and never before the hold of an object that this process learned of earlier: a
   message that is posted meanwhile, by another thread that has just made a ref, waits for the next batch.
2. a ref that is made again from a value while its drop is on the way takes the drop back; so a drop never overtakes
   the hold that came after it.

The same queue counts *pins*: each place in shared memory that the daemon told us is given back when its object's
last ref and the last view are gone.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ADD_REFS, RELEASE_REFS, UNPIN, UNRESOLVED, Message


class Pin:
    """A place in shared memory that the daemon keeps for this process."""

    __slots__ = ("count", "id", "times")

    def __init__(self, object_id: bytes, times: int) -> None:
        self.id = object_id
        self.times = times  # how often the daemon told us
        self.count = 1  # of the local object and the views that need it

    def __repr__(self) -> str:
        return f"<Pin {self.id.hex()} times={self.times} count={self.count}>"


class LocalObject:
    """What this process knows of an object. ``kind`` is UNRESOLVED until its value came."""

    __slots__ = ("count", "id", "kind", "payload", "pin", "push_expected", "table", "waiters")

    def __init__(self, object_id: bytes, table: References, push_expected: bool) -> None:
        self.id = object_id
        self.table = table
        self.kind = UNRESOLVED
        self.payload: Any = None
        self.count = 1
        self.push_expected = push_expected  # the daemon will send the value without being asked
        self.pin: Pin | None = None
        self.waiters: list[Any] | None = None  # asyncray.runtime.waiters.Waiter, which builds on this module

    def __repr__(self) -> str:
        state = "unresolved" if self.kind == UNRESOLVED else f"kind {self.kind}"
        return f"<LocalObject {self.id.hex()} {state} refs={self.count}>"


class Watch(weakref.ref[Any]):
    """Waits for the end of a view. Its callback is a function in C, so no signal handler can raise in it."""

    __slots__ = ("bell", "pin")
    bell: weakref.ref[Any]  # which tells that something has ended
    pin: Pin


class Ref(Protocol):
    """What is counted: ``ObjectRef``, which builds on this module."""

    _local: LocalObject


class References:
    """The table of local objects, and the queue of what ended.

    Args:
        poke: called (from finalizers, too) when something is to be told some time soon.
    """

    def __init__(self, poke: Callable[[], None]) -> None:
        self._poke = poke
        self._lock = OwnedRLock()  # re-entrant: a finalizer may come here in a thread that holds it
        self._release_queue: deque[LocalObject | Pin | Watch] = deque()
        self._watches: dict[int, Watch] = {}  # by their own id: what they watch has no hash
        self._holds: list[bytes] = []
        self._drops: dict[bytes, None] = {}
        self._unpins: list[tuple[bytes, int]] = []
        # For the finalizers of refs: a C function, so no signal handler can raise in the middle of it.
        self.queue_release = self._release_queue.append
        self.table: dict[bytes, LocalObject] = {}
        self.posted: deque[Message] = deque()
        self.closed = False

    def __repr__(self) -> str:
        return f"<References {len(self.table)} objects>"

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up inside a critical section of this object."""
        return self._lock.held_by_this_thread()

    def own(self, object_id: bytes, ref: Ref) -> LocalObject:
        """The ref to a new object of this process: the message that makes it says so to the daemon."""
        ref._local = local = LocalObject(object_id, self, True)
        self.table[object_id] = local  # last: an interrupt that comes before it leaves nothing there
        return local

    def borrow(self, object_id: bytes, ref: Ref) -> None:
        """A ref was made from a value: one more for an object that is known, or the first of a borrowed one."""
        with self._lock:
            known = self.table.get(object_id)
            if known is not None:
                known.count += 1  # no call between these two: an interrupt finds both, or none
                ref._local = known
                return
        fresh = LocalObject(object_id, self, False)  # here, for memory that is asked for may start finalizers
        with self._lock:
            known = self.table.get(object_id)
            if known is not None:
                known.count += 1
                ref._local = known
                return
            self.table[object_id] = ref._local = fresh  # nor between these
            if object_id in self._drops:
                del self._drops[object_id]
            else:
                self._holds.append(object_id)
        self._poke()

    def released(self, item: LocalObject | Pin) -> None:
        """A ref or a view is gone. Called by finalizers: only appends."""
        self.queue_release(item)
        self.notify()

    def notify(self) -> None:
        """What has ended is told some time soon."""
        if not self.closed:
            self._poke()

    def watch(self, pin: Pin, view: object) -> None:
        """One more view needs the pin, until it is gone."""
        bell = weakref.ref(view, self._ring)  # made first: of several callbacks the first one comes last
        watch = Watch(view, self._release_queue.append)
        watch.pin, watch.bell = pin, bell
        key = id(watch)
        with self._lock:
            pin.count += 1  # no call between these two: an interrupt finds both, or none
            self._watches[key] = watch

    def _ring(self, view: object) -> None:
        self.notify()

    def on_shared_value(self, object_id: bytes) -> LocalObject | None:
        """The daemon has told where an object is, and keeps it for us. None if nobody here wants it any more."""
        with self._lock:  # else the last ref could end in between, and leave the pin behind
            local = self.table.get(object_id)
            if local is None:
                self._unpins.append((object_id, 1))
            elif local.pin is None:
                local.pin = Pin(object_id, 1)
            else:
                local.pin.times += 1
        if local is None:
            self._poke()
        return local

    def collect(self) -> list[Message]:
        """What is to be sent now, in the right order (see the module)."""
        posted = self.posted
        with self._lock:
            self._drain()
            count = len(posted)
            holds, self._holds = self._holds, []
            drops, self._drops = self._drops, {}
            unpins, self._unpins = self._unpins, []
        messages: list[Message] = [(ADD_REFS, holds)] if holds else []
        messages += [posted.popleft() for _ in range(count)]
        if drops:
            messages.append((RELEASE_REFS, list(drops)))
        if unpins:
            messages.append((UNPIN, unpins))
        return messages

    def _drain(self) -> None:
        ended = self._release_queue
        while ended:
            item = ended.popleft()
            if isinstance(item, Watch):
                del self._watches[id(item)]
                item = item.pin
            item.count -= 1
            if item.count:
                continue
            if type(item) is LocalObject:
                self._forget(item)
            elif type(item) is Pin:
                self._unpins.append((item.id, item.times))

    def _forget(self, local: LocalObject) -> None:
        if self.table.get(local.id) is local:
            del self.table[local.id]
        self._drops[local.id] = None
        if local.pin is not None:
            local.pin.count -= 1
            if not local.pin.count:
                self._unpins.append((local.id, local.pin.times))

    def close(self) -> None:
        """The session is over: nothing is told any more."""
        self.closed = True
