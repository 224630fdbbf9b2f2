"""Claims: requests for room in the store, of clients or of the daemon itself."""

from __future__ import annotations

from collections.abc import Callable

from asyncray.core.allocator import Allocation


class Claim:
    """A claim for room: ends with one call of ``granted`` or of ``refused``, unless it is withdrawn.

    Args:
        size: bytes.
        granted: takes the room, which is the claimant's from then on.
        refused: takes the reason, for people.
        waits: called with True when the store is full and the claim has to wait, and with False when that wait ends.
    """

    __slots__ = ("asked_at", "blocked", "granted", "refused", "size", "waits", "withdrawn")

    def __init__(
        self,
        size: int,
        granted: Callable[[Allocation], None],
        refused: Callable[[str], None],
        waits: Callable[[bool], None] | None = None,
    ) -> None:
        self.size = size
        self.granted = granted
        self.refused = refused
        self.waits = waits
        # ``Store.request`` writes it.
        self.asked_at = 0.0
        # ``waits`` was called for it. ``Store`` writes it.
        self.blocked = False
        # The claimant wants no answer any more. ``Store.withdraw`` writes it.
        self.withdrawn = False

    def __repr__(self) -> str:
        return f"<Claim {self.size} bytes{' withdrawn' if self.withdrawn else ''}{' blocked' if self.blocked else ''}>"

    def block(self) -> None:
        """The store is full: the claim has to wait."""
        self.blocked = True
        if self.waits is not None and not self.withdrawn:
            self.waits(True)  # noqa: FBT003 - callbacks have no keywords

    def answer(self, answer: Allocation | str) -> None:
        """Ends the claim, with room or with the reason why it gets none."""
        if self.withdrawn:
            return
        if self.blocked and self.waits is not None:
            self.waits(False)  # noqa: FBT003 - as above
        if isinstance(answer, str):
            self.refused(answer)
        else:
            self.granted(answer)
