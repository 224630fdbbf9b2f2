"""References of one process: the objects that it knows, the number of its refs, and its reports to the daemon.

1. **Goal.** An object is freed when its last ref anywhere has ended, and never before. A process counts its own refs;
   the daemon counts processes. So a process reports only its first ref to a borrowed object (ADD_REFS) and its last ref
   to any object (RELEASE_REFS).
2. **Why that is hard.** Refs end in finalizers, which run in any thread, between any two instructions, also in a thread
   that is inside this module. And reports cross each other: with messages on their way, with refs that are made again
   from a value at that moment.
3. **Things that do not work.**

   * *Sending from the finalizer*: it may run in the middle of sending.
   * *A lock in the finalizer*: another thread may hold it and wait for a lock that the finalizer's thread holds.
   * *Sending releases first*: a message in the queue may use the object, and would arrive after its release.
   * *Sending additions last*: a message may pass on a borrowed ref that the daemon does not know this process has.
4. **Solution.** A finalizer appends to a queue, which is one C call. The next writer (``collect``, under a lock) drains
   that queue, *then* counts the messages posted so far, and sends one batch: ADD_REFS, those messages, RELEASE_REFS.

   * A message is always sent before the release of any object it uses: it was posted before the ref ended.
   * It is always sent after the addition of any object this process learned of before posting it.
   * A message posted while the batch is made waits for the next batch, as its thread may have just made a ref.
   * A ref that is made again while the release of its object is still queued cancels that release. So a release never
     overtakes the addition that came after it.
5. **Example.** ``f.remote(ref); del ref`` posts SUBMIT and queues a release. The batch is SUBMIT, RELEASE_REFS: the
   daemon notes that the task uses the object before it learns that the process does not. Meanwhile another thread
   unpickles a value that contains the same ref. If the release is still queued, it is cancelled; if it was sent, the
   value's own object has kept the inner one alive, and ADD_REFS follows.

The same queue counts *pins*: the daemon keeps each place in shared memory that it has sent to this process, until
UNPIN says that the object's last ref and the last view of its memory have ended. If the place is a copy of another
node's value, the end of the last view is enough: a ref keeps no copy here, and the next read brings it again. The ends
of *exports* (``asyncray.runtime.exports``) go with the same batch.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ADD_REFS, FAULT, FORGET, RELEASE_REFS, SHARED, UNPIN, UNRESOLVED, Message
from asyncray.runtime.exports import Exports

TOGETHER: Final = 2
"""The objects were asked for together, so a wait that does not need all of them asks again."""

ELSEWHERE: Final = object()
"""The payload of an object whose value is on another node: it exists, and is not here."""


class ValueHasLeft(Exception):
    """A value of another node was here, and its last view has just ended in another thread: read it once more."""


class Pin:
    """A place in shared memory that the daemon keeps for this process.

    Args:
        place: what the daemon has sent. None: the pin is for one reader, who knows the place.
        local: the object, if its value can leave this node.
    """

    __slots__ = ("count", "id", "local", "place", "times")

    def __init__(self, object_id: bytes, times: int, place: Any = None, local: LocalObject | None = None) -> None:
        self.id = object_id
        self.place = place
        # None also once the local object needs the pin no more.
        self.local = local
        # How often the daemon has sent the place: so often it must learn that it is not needed.
        self.times = times
        # The local object and the views that need the place. Changed under the lock of ``References``. Once it is 0 the
        # memory may change.
        self.count = 1

    def __repr__(self) -> str:
        return f"<Pin {self.id.hex()} times={self.times} count={self.count}>"


class LocalObject:
    """An object as this process knows it. ``kind`` is UNRESOLVED until its value came."""

    __slots__ = ("count", "id", "kind", "payload", "pin", "push_expected", "table", "waiters")

    def __init__(self, object_id: bytes, table: References) -> None:
        self.id = object_id
        # The session that the object belongs to.
        self.table = table
        # The value. Written by the thread that reads the stream, or by the thread that puts the object. Before that the
        # payload may be ELSEWHERE. It is written before the kind, so read it first. It stays, unless it is a copy of
        # another node's value: that leaves with its last view, and the object is UNRESOLVED and ELSEWHERE again.
        self.kind = UNRESOLVED
        self.payload: Any = None
        # Refs of this process. Raised under the lock of ``References``, lowered when the release queue is drained.
        self.count = 1
        # The daemon will send VALUE or AWAY without being asked. TOGETHER: a large value may wait for those of other
        # objects. No argument: a keyword would cost 0.15 us.
        self.push_expected: bool | int = True
        # The place in shared memory that the daemon keeps for this process.
        self.pin: Pin | None = None
        # None, a ``Waiter``, or a dict of them: see ``asyncray.runtime.waiters``, which builds on this module.
        self.waiters: Any = None

    def __repr__(self) -> str:
        state = "unresolved" if self.kind == UNRESOLVED else f"kind {self.kind}"
        return f"<LocalObject {self.id.hex()} {state} refs={self.count}>"


def is_failed_read(local: LocalObject) -> bool:
    """True if there was no room here for the value, which is on another node."""
    payload = local.payload  # first: see ``LocalObject``
    return local.kind == FAULT and payload is not ELSEWHERE and len(payload) > 2


def exists(local: LocalObject) -> bool:
    """True if the object has a value, here or on another node."""
    return local.payload is ELSEWHERE or local.kind != UNRESOLVED


class Watch(weakref.ref[Any]):
    """Waits for the end of a view. Its callback is a function in C, so no signal handler can raise in it."""

    __slots__ = ("bell", "pin")
    # A second weak reference, whose callback asks for the queue to be written.
    bell: weakref.ref[Any]
    pin: Pin


class Ref(Protocol):
    """A counted reference: ``ObjectRef``, which builds on this module."""

    _local: LocalObject


class References:
    """The table of local objects, and the queue of what ended.

    Args:
        request_flush: called, from finalizers too, when the daemon should learn of something. Must be quick.
    """

    def __init__(self, request_flush: Callable[[], None]) -> None:
        # ``Connection`` replaces it by that of its channel, once that is made.
        self.request_flush = request_flush
        # Re-entrant: a finalizer may come here in a thread that holds it. Guards all counts and the next four.
        self._lock = OwnedRLock()
        # By their own ``id``: they hash as what they watch, and that has no hash.
        self._watches: dict[int, Watch] = {}
        # Objects for the next ADD_REFS, RELEASE_REFS and UNPIN.
        self._added: list[bytes] = []
        self._released: dict[bytes, None] = {}
        self._unpins: list[tuple[bytes, int]] = []
        # Refs, pins and views that have ended. Finalizers append to it without a lock; drained under it.
        self._release_queue: deque[LocalObject | Pin | Watch] = deque()
        # For the finalizers of refs: a C function, so no signal handler can raise in the middle of it.
        self.queue_release = self._release_queue.append
        # The objects that this process has refs to.
        self.table: dict[bytes, LocalObject] = {}
        # Messages to send. Any thread appends to it without a lock; taken out by ``collect``.
        self.posted: deque[Message] = deque()
        # Functions and templates, whose ends are reported in the same way.
        self.exports = Exports(self.notify)
        # The session has ended.
        self.closed = False

    def __repr__(self) -> str:
        return f"<References {len(self.table)} objects>"

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up inside a critical section of this object."""
        return self._lock.held_by_this_thread()

    def own(self, object_id: bytes, ref: Ref) -> LocalObject:
        """Counts the ref to a new object. The message that makes the object reports it to the daemon."""
        ref._local = local = LocalObject(object_id, self)
        self.table[object_id] = local  # last: an interrupt before it leaves no entry
        return local

    def borrow(self, object_id: bytes, ref: Ref) -> None:
        """Counts a ref that was made from a value: one more to a known object, or the first to a borrowed one."""
        with self._lock:
            known = self.table.get(object_id)
            if known is not None:
                # No call between these two lines: an interrupt finds both done, or none.
                known.count += 1
                ref._local = known
                return
        fresh = LocalObject(object_id, self)  # outside of the lock: it may run finalizers
        fresh.push_expected = False
        with self._lock:
            known = self.table.get(object_id)
            if known is not None:
                known.count += 1
                ref._local = known
                return
            self.table[object_id] = ref._local = fresh  # nor between these two
            if object_id in self._released:
                del self._released[object_id]
            else:
                self._added.append(object_id)
        self.request_flush()

    def released(self, item: LocalObject | Pin) -> None:
        """A ref or a view has ended. Called by finalizers: only appends."""
        self.queue_release(item)
        self.notify()

    def notify(self) -> None:
        """Asks for the release queue to be written."""
        if not self.closed:
            self.request_flush()

    def watch(self, pin: Pin, view: object) -> None:
        """One more view needs the pin, until the view ends.

        Raises:
            ValueHasLeft: the pin was given back.
        """
        bell = weakref.ref(view, self._ring)  # made first: the callback that was made first runs last
        watch = Watch(view, self._release_queue.append)
        watch.pin, watch.bell = pin, bell
        key = id(watch)
        with self._lock:
            if pin.count:
                # No call between these two lines: an interrupt finds both done, or none.
                pin.count += 1
                self._watches[key] = watch
                return
        raise ValueHasLeft

    def _ring(self, view: object) -> None:
        self.notify()

    def on_shared_value(self, object_id: bytes, place: Any, *, may_leave: bool) -> LocalObject | None:
        """The daemon has sent an object's place, and keeps it for this process.

        Returns:
            the object, whose value this is. None if no ref here is left, or if it has the value.
        """
        # Otherwise the last ref, or the last view, could end in between, and the pin would stay.
        with self._lock:
            local = self.table.get(object_id)
            if local is not None:
                if local.pin is None:
                    local.pin = Pin(object_id, 1, place, local if may_leave else None)
                    return local
                local.pin.times += 1
                return None
            self._unpins.append((object_id, 1))
        self.request_flush()
        return None

    def give_back(self, objects: Iterable[LocalObject]) -> None:
        """Forgets failed reads, and gives back copies without a view: all these objects are elsewhere again."""
        with self._lock:
            self._drain()
            self._give_back(objects)
        self.request_flush()

    def collect(self) -> list[Message]:
        """The messages to send now, in the right order (see the module)."""
        posted = self.posted
        with self._lock:
            self._drain()
            forgotten = self.exports.take_ended()
            count = len(posted)
            added, self._added = self._added, []
            released, self._released = self._released, {}
            unpins, self._unpins = self._unpins, []
        messages: list[Message] = [(ADD_REFS, added)] if added else []
        messages += [posted.popleft() for _ in range(count)]
        if released:
            messages.append((RELEASE_REFS, list(released)))
        if unpins:
            messages.append((UNPIN, unpins))
        if forgotten:
            messages.append((FORGET, forgotten))
        return messages

    def _drain(self) -> None:
        queue = self._release_queue
        while queue:
            item = queue.popleft()
            if isinstance(item, Watch):
                if self._watches.pop(id(item), None) is None:
                    continue  # the value had left before the view could be used
                item = item.pin
            item.count -= 1
            if item.count:
                if item.count == 1 and type(item) is Pin and item.local is not None:
                    self._leave(item, item.local)
                continue
            if type(item) is LocalObject:
                self._forget(item)
            elif type(item) is Pin:
                self._unpins.append((item.id, item.times))

    def _give_back(self, objects: Iterable[LocalObject]) -> None:
        for local in objects:
            pin = local.pin
            if is_failed_read(local):
                self._is_elsewhere(local)
            elif pin is not None and pin.count == 1 and pin.local is local:
                self._leave(pin, local)

    def _leave(self, pin: Pin, local: LocalObject) -> None:
        """The last view of a copy has ended: the object is on another node, as far as this process knows."""
        if local.kind != SHARED:
            return
        self._is_elsewhere(local)
        local.pin = pin.local = None
        pin.count = 0
        self._unpins.append((pin.id, pin.times))

    @staticmethod
    def _is_elsewhere(local: LocalObject) -> None:
        # In this order: a thread that finds the object unresolved also finds that it has to ask for it.
        local.push_expected = False
        local.payload = ELSEWHERE
        local.kind = UNRESOLVED

    def _forget(self, local: LocalObject) -> None:
        if self.table.get(local.id) is local:
            del self.table[local.id]
        self._released[local.id] = None
        if local.pin is not None:
            local.pin.local = None
            local.pin.count -= 1
            if not local.pin.count:
                self._unpins.append((local.id, local.pin.times))

    def close(self) -> None:
        """The session has ended: nothing is reported any more."""
        self.closed = True
