"""The placement groups of a node that is alone: the machine that decides about groups, with this node as the only one.

In a cluster that machine is at the head. Here it calls ``Bundles`` directly, and gets the answers after that, as it
would from another node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.core.clock import Clock
from asyncray.core.group_choice import NodeRoom, load_of
from asyncray.core.group_records import Pairs
from asyncray.core.group_views import GroupViews
from asyncray.core.groups import Groups
from asyncray.core.questions import Answer, Refusal
from asyncray.core.resources import Resources
from asyncray.units import Demand

if TYPE_CHECKING:
    from asyncray.core.bundles import Bundles
    from asyncray.words import GroupRow


class OwnGroups:
    """The placement groups of a node without a cluster.

    Args:
        labels: those of the node.
    """

    def __init__(self, clock: Clock, node: bytes, labels: Mapping[str, str], resources: Resources) -> None:
        self._clock = clock
        self._node = node
        self._labels = labels
        self._resources = resources
        self.groups = Groups(self._rooms, self)
        self.views = GroupViews(self._ask)
        # ``PlacementMachines`` sets it: it needs the views.
        self.bundles: Bundles | None = None
        # Answers of the bundles that the groups have not got yet.
        self._answers: deque[Callable[[], None]] = deque()

    def __repr__(self) -> str:
        return f"<OwnGroups {self.groups}>"

    def _rooms(self) -> list[NodeRoom]:
        total, free = self._resources.total, dict(self._resources.available)
        return [NodeRoom(self._node, total, free, self._labels, load_of(total, free))]

    def _ask(self, method: str, arguments: Sequence[Any], reply: Callable[[Answer], None]) -> None:
        try:
            value = self.groups.serve(method, arguments)
        except Refusal as refusal:
            reply((False, refusal.name, {"message": refusal.message}))
        else:
            reply((True, value))

    def flush(self) -> None:
        """All events of a batch have been handled: places groups, as far as there is room."""
        now = self._clock.now
        self.groups.flush(now)
        while self._answers:
            self._answers.popleft()()
            self.groups.flush(now)

    def tick(self) -> None:
        """Some time has passed: groups that wait are tried again."""
        self.groups.tick(self._clock.now)

    # The way to the node ----------------------------------------------------------------------------------------------

    def _bundles(self) -> Bundles:
        assert self.bundles is not None
        return self.bundles

    def prepare(self, node: bytes, group: bytes, bundles: list[tuple[int, int, Demand]], patient: bool) -> None:  # noqa: FBT001 - as in the message
        """PREPARE."""
        pairs = [(index, attempt) for index, attempt, _ in bundles]

        def reply(ready: bool) -> None:  # noqa: FBT001 - a callback
            answer = partial(self.groups.answered, node, group, pairs, ready=ready, now=self._clock.now)
            self._answers.append(answer)

        self._bundles().prepare(group, bundles, reply, patient=patient)

    def commit(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """COMMIT."""
        self._bundles().commit(group, pairs)
        self._answers.append(partial(self.groups.committed, node, group, pairs))

    def abort(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """ABORT."""
        self._bundles().abort(group, pairs)

    def release(self, node: bytes, group: bytes, pairs: Pairs) -> None:
        """RELEASE."""
        self._bundles().release(group, pairs)

    def changed(self, row: GroupRow) -> None:
        """Shows a group."""
        self.views.changed(row)
