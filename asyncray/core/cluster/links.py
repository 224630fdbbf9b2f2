"""Links: the numbered stream between this node and one other.

Everything on a link arrives exactly once and in order, as long as both daemons live. So no message between nodes needs
an answer to the question of what happens when it is lost or comes twice; the loss of a *node* is the only failure that
the other machines handle, and only the head declares it.

A link belongs to a pair of NodeIDs. Each of them names one life of a daemon, so there is exactly one link between two
daemons, from frame 1 until one of the nodes is lost or leaves. It survives connections:

1. The sender numbers its frames, and keeps each until the other side has acknowledged it.
2. The receiver takes the frame behind the last one, drops lower numbers, and breaks the connection at a gap.
3. Connections are numbered, too. Either side dials, with a number higher than all that it knows; RESUME says the number
   and the last frame received, and each side sends again what the other lacks. A higher number replaces a connection,
   so a side that does not know that the old one is broken cannot hold up the new one.
4. If both dial at the same time, the numbers may be equal. Then the connection stays that the node with the smaller ID
   dialled. A node whose own dial has not got through yet takes the other's: perhaps only one direction works.
5. A connection is broken when it closes, and when nothing has come for ``BROKEN_AFTER`` although PING asks for it.

The shell dials, writes and reads; it knows a connection by a number that it has given it (``connection``). The link
says what to do by commands, and never touches bytes: a frame's body is opaque, with a size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from asyncray.cluster_messages import ACK, PING, RESUME
from asyncray.core.cluster.commands import CloseConnection, Dial, SendAgain, SendControl
from asyncray.core.outbox import Outbox

IDLE: Final = "idle"
"""Nothing was to be sent yet, and the other side has not dialled."""
DIALLING: Final = "dialling"
"""There is no connection, and this side tries to make one."""
OPEN: Final = "open"
BURIED: Final = "buried"
"""The other node is lost or has left: nothing is sent or taken any more."""

PING_AFTER = 1.0
"""Seconds without a frame of the other side, after which this side asks for one."""

BROKEN_AFTER = 3.0
"""Seconds without a frame of the other side, after which the connection counts as broken."""

DEAD_AFTER = 60.0
"""The same at the side that never dials: the head."""

ACK_AFTER_BYTES = 64 * 1024
"""Bytes after which frames are acknowledged at once. Fewer are acknowledged by the next frame or the next tick."""

CONGESTED_BYTES = 64 * 1024 * 1024
"""Unacknowledged bytes from which on nothing is sent that can wait."""

FIRST_REDIAL = 0.1
LONGEST_REDIAL = 1.0
"""Seconds between two dials: they double from the first to the longest."""


class LinkGap(Exception):
    """A frame is missing between the last one and this one: a defect of the other side. The connection must end."""


class Link:
    """The stream to and from one node.

    Args:
        outbox: takes the commands.
        own: the ID of this node.
        peer: the ID of the other node.
        now: in seconds on a steady clock.
    """

    __slots__ = (
        "_asked_at", "_connection", "_dialled", "_dials", "_kept", "_number", "_outbox", "_owed",
        "_owed_bytes", "_own", "_pause", "_redial_at", "_to_head", "_tried", "broken_since", "heard_at", "peer",
        "received", "sent", "state", "unacknowledged",
    )  # fmt: skip

    def __init__(
        self, outbox: Outbox, own: bytes, peer: bytes, now: float, *, dials: bool = True, to_head: bool = False
    ) -> None:
        self._outbox = outbox
        self._dials = dials
        self._to_head = to_head
        self._own = own
        self.peer = peer
        self.state = IDLE
        # The connection in use. None if there is none.
        self._connection: int | None = None
        # The connection that this side has dialled and that the other side has not resumed yet.
        self._dialled: int | None = None
        # The number of the connection in use, or of the last one.
        self._number = 0
        # The highest number with which this side has dialled.
        self._tried = 0
        # (number, body, size) of the frames that the other side has not acknowledged.
        self._kept: deque[tuple[int, Any, int]] = deque()
        # Bytes of these.
        self.unacknowledged = 0
        # The numbers of the last frame that was sent, and of the last that was taken.
        self.sent = 0
        self.received = 0
        # Frames were taken that no frame of ours has acknowledged yet, and their bytes.
        self._owed = False
        self._owed_bytes = 0
        # When the other side was last heard, and when it was last asked, by PING or by RESUME.
        self.heard_at = now
        self._asked_at = now
        # When to dial again. None: no dial is due, because one is under way or none is needed.
        self._redial_at: float | None = None
        self._pause = 0.0
        # Since when there has been no connection, although there is need of one. None: there is one, or no need.
        self.broken_since: float | None = None

    def __repr__(self) -> str:
        kept = f"{len(self._kept)} frames kept" if self._kept else "nothing kept"
        return f"<Link to {self.peer.hex()} {self.state} sent={self.sent} received={self.received}, {kept}>"

    @property
    def congested(self) -> bool:
        """True while so much is unacknowledged that only what cannot wait may be sent."""
        return self.unacknowledged > CONGESTED_BYTES

    @property
    def connection(self) -> int | None:
        """The connection that frames go out on. None if there is none."""
        return self._connection

    @property
    def tick_wanted_at(self) -> float | None:
        """When a tick should come: at once for an acknowledgement, later for a dial. None: at any time.

        Acknowledgements between a node and the head wait for the usual tick: there are many nodes, and their frames
        and the views of the head carry most of them.
        """
        return self.heard_at if self._owed and self._dials and not self._to_head else self._redial_at

    # Sending ----------------------------------------------------------------------------------------------------------

    def push(self, body: Any, size: int, now: float) -> int:
        """Numbers a frame and keeps it. Returns the number; the shell writes the frame if there is a connection."""
        assert self.state != BURIED, f"{self} takes no more frames"
        self.sent += 1
        self._kept.append((self.sent, body, size))
        self.unacknowledged += size
        self._owed = False
        self._owed_bytes = 0
        if self.state == IDLE:
            self._dial(now)
        return self.sent

    def _acknowledge(self, number: int) -> None:
        kept = self._kept
        while kept and kept[0][0] <= number:
            self.unacknowledged -= kept.popleft()[2]

    # Receiving --------------------------------------------------------------------------------------------------------

    def take(self, connection: int, number: int, acknowledged: int, size: int, now: float) -> bool:
        """A frame came. Returns True if its messages count: it is the next one, on the connection in use.

        Raises:
            LinkGap: a frame before this one is missing.
        """
        # RESUME went out on another connection, so the frame comes again there.
        if connection != self._connection:
            return False
        self.heard_at = now
        self._acknowledge(acknowledged)
        if number <= self.received:
            return False
        if number > self.received + 1:
            raise LinkGap(f"{self} misses the frames before {number}")
        self.received = number
        if not self._owed and self._dials:
            self._outbox.restless[self] = None
        self._owed = True
        self._owed_bytes += size
        if self._owed_bytes >= ACK_AFTER_BYTES:
            self._send_ack()
        return True

    def control(self, connection: int, message: Any, acknowledged: int, now: float) -> None:
        """A control message came: RESUME, PING or ACK."""
        if message[0] == RESUME:
            self._resumed(connection, message[1], message[2], now)
        elif connection == self._connection:
            self.heard_at = now
            self._acknowledge(acknowledged)
            if message[0] == PING:
                self._send_ack()

    def _send_ack(self) -> None:
        self._owed = False
        self._owed_bytes = 0
        if self._connection is not None:
            self._outbox.do(SendControl(self._connection, (ACK,)))

    # Connections ------------------------------------------------------------------------------------------------------

    def _dial(self, now: float) -> None:
        self.state = DIALLING
        self._redial_at = None
        if self.broken_since is None:
            self.broken_since = now
        if self._dials:
            self._tried = max(self._tried, self._number) + 1
            self._outbox.do(Dial(self.peer, self._to_head))

    def dialled(self, connection: int, now: float) -> None:
        """The dial got through: the other side has proved who it is."""
        if self.state != DIALLING or self._redial_at is not None or self._dialled is not None:
            self._outbox.do(CloseConnection(connection, "another connection was faster"))
            return
        self._dialled = connection
        self._asked_at = now
        self._outbox.do(SendControl(connection, (RESUME, self._tried, self.received)))

    def dial_failed(self, now: float) -> None:
        """The dial did not get through: tries again, after longer and longer pauses."""
        if self.state == DIALLING and self._dialled is None and self._redial_at is None:
            self._redial_later(now)

    def _redial_later(self, now: float) -> None:
        self._redial_at = now + self._pause
        self._outbox.restless[self] = None
        self._pause = min(max(2 * self._pause, FIRST_REDIAL), LONGEST_REDIAL)

    def _resumed(self, connection: int, number: int, last: int, now: float) -> None:
        if self.state == BURIED:
            self._outbox.do(CloseConnection(connection, "the node is lost or has left"))
        elif connection == self._connection:
            self._break(now, "it resumed twice")
        elif connection == self._dialled:
            if number == self._tried:
                self._adopt(connection, number, last, now, answer=False)
            else:
                # The other side knows of a connection with a higher number than this side: dials with one above it.
                self._dialled = None
                self._outbox.do(CloseConnection(connection, "its number was too low"))
                self._number = max(self._number, number)
                self._dial(now)
        else:
            self._offered(connection, number, last, now)

    def _offered(self, connection: int, number: int, last: int, now: float) -> None:
        """The other side has dialled: takes its connection, unless one of ours has a higher number or wins the tie."""
        known = self._number if self._dialled is None else self._tried
        tie = number == known and (self._dialled is not None or self._connection is not None)
        if number > known or (tie and self._own > self.peer):
            self._adopt(connection, number, last, now, answer=True)
            return
        if self._dialled is None and not tie:
            self._outbox.do(SendControl(connection, (RESUME, self._number, self.received)))
        # Otherwise the other side resumes the one that this side has dialled, and dials again if that one breaks.
        self._outbox.do(CloseConnection(connection, "another connection has a higher number"))

    def _adopt(self, connection: int, number: int, last: int, now: float, *, answer: bool) -> None:
        for other in (self._connection, self._dialled):
            if other is not None and other != connection:
                self._outbox.do(CloseConnection(other, "a newer connection takes its place"))
        self._connection, self._dialled, self._number = connection, None, number
        self.state = OPEN
        self._redial_at = self.broken_since = None
        self._pause = 0.0
        self.heard_at = self._asked_at = now
        self._acknowledge(last)
        if answer:
            self._outbox.do(SendControl(connection, (RESUME, number, self.received)))
        self._outbox.do(SendAgain(connection, tuple((kept, body) for kept, body, _ in self._kept)))

    def disconnected(self, connection: int, now: float) -> None:
        """A connection was closed, by either side or by a fault on the way."""
        if connection == self._connection:
            self._connection = None
            self._dial(now)
        elif connection == self._dialled:
            self._dialled = None
            if self.state == DIALLING:
                self._redial_later(now)

    def _break(self, now: float, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._outbox.do(CloseConnection(connection, why))
        self._dial(now)

    # Time and end -----------------------------------------------------------------------------------------------------

    def tick(self, now: float, late: float) -> None:
        """Some time has passed.

        Args:
            late: seconds by which this tick comes too late, because our own loop did not run. Nothing that the other
                side sent meanwhile has been read, so they do not count.
        """
        self.heard_at += late
        self._asked_at += late
        if self.broken_since is not None:
            self.broken_since = min(now, self.broken_since + late)
        if self._owed:
            self._send_ack()
        if self.state == OPEN:
            assert self._connection is not None
            # The head asks nobody: a node asks it and dials again, and membership judges silent nodes long before.
            if now - self.heard_at >= (BROKEN_AFTER if self._dials else DEAD_AFTER):
                self._break(now, "nothing came for too long")
            elif self._dials and now - max(self.heard_at, self._asked_at) >= PING_AFTER:
                self._asked_at = now
                self._outbox.do(SendControl(self._connection, (PING,)))
        elif self._dialled is not None and now - self._asked_at >= BROKEN_AFTER:
            connection, self._dialled = self._dialled, None
            self._outbox.do(CloseConnection(connection, "it was not resumed in time"))
            self._redial_later(now)
        elif self._redial_at is not None and now >= self._redial_at:
            self._dial(now)

    def bury(self, why: str) -> None:
        """The other node is lost or has left. The shell has read what was in the socket before."""
        for connection in (self._connection, self._dialled):
            if connection is not None:
                self._outbox.do(CloseConnection(connection, why))
        self._connection = self._dialled = self._redial_at = self.broken_since = None
        self._kept.clear()
        self.unacknowledged = 0
        self._owed = False
        self.state = BURIED

    def kept(self) -> Iterator[int]:
        """Yields the numbers of the frames that are not acknowledged."""
        return (number for number, _, _ in self._kept)

    def check(self) -> None:
        """Raises AssertionError if the link contradicts itself."""
        numbers = list(self.kept())
        assert numbers == list(range(self.sent - len(numbers) + 1, self.sent + 1)), f"{self} keeps {numbers}"
        assert self.unacknowledged == sum(size for _, _, size in self._kept), f"{self} counts wrong"
        assert (self._connection is not None) == (self.state == OPEN), f"{self} and connection {self._connection}"
        assert self._dialled is None or self.state == DIALLING, f"{self} dials although it need not"
        assert self.state != BURIED or not self._kept, f"{self} keeps frames for nobody"
