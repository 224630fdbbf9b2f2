"""Strangers: connections that have not proved yet that they belong to the cluster, counted by their addresses.

Each address may have some at once, so one that opens many keeps out nobody but itself; and there is a limit for all
addresses that no member has, so that many addresses cannot use up the descriptors. Failures of one address are logged
once a minute.
"""

from __future__ import annotations

import logging
from collections import Counter

MOST_OF_ADDRESS = 64
MOST_OF_ALL = 1024
"""Connections at once. The second limit does not count members' addresses."""

LOG_AGAIN_AFTER = 60.0
"""Seconds between two lines about one address."""

_MOST_LOGGED = 1000
"""Addresses that are remembered for that."""

log = logging.getLogger("asyncray.node")


class Strangers:
    """Counts strangers."""

    def __init__(self) -> None:
        # Address -> its connections.
        self._counts: Counter[str] = Counter()
        # Address -> when a failure of it was logged, the oldest first.
        self._logged: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Strangers {self._counts.total()}>"

    def came(self, address: str, *, is_member: bool) -> bool:
        """A connection came. Returns False if it must go; otherwise ``went`` has to follow."""
        full = self._counts[address] >= MOST_OF_ADDRESS or (not is_member and self._counts.total() >= MOST_OF_ALL)
        if not full:
            self._counts[address] += 1
        return not full

    def went(self, address: str) -> None:
        """A connection has proved that it belongs to the cluster, or has ended."""
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def failed(self, address: str, why: str, now: float) -> None:
        """A connection was refused: logs that, not too often."""
        last = self._logged.get(address)
        if last is not None and now - last < LOG_AGAIN_AFTER:
            return
        self._logged.pop(address, None)
        self._logged[address] = now
        if len(self._logged) > _MOST_LOGGED:
            del self._logged[next(iter(self._logged))]
        log.warning("a connection from %s was refused: %s", address, why)
