"""Asking back: tasks and constructors of this node that wait at others while there is room elsewhere.

The rows of other nodes are old, and several homes may see one free CPU. Then some of their tasks wait where another
was faster, and would wait for ever beside an actor that lives for ever. So their home asks for them (TAKE_BACK) once it
sees room for them at home, or at a node that their placement allows. The other node sends back what has not begun
(BACK), and says nothing about the rest, which ends there as if nobody had asked.

Tasks. Their node says how many of them it runs side by side (SLOTS), but not which: as many as there is room for are
asked back, and again after ``ASK_BACK_AGAIN``, because those that have begun do not come. Several lines may lead to one
queue there, so they take turns.

Constructors. Their node names each that waits (CONSTRUCTOR_WAITS). One that has begun never waits there again, so each
is asked back once. Until it comes it counts at the node for which it was asked back: otherwise one free CPU would call
many.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from asyncray.cluster_messages import TAKE_BACK
from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.homes import queued_lives
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.placing import Placing
from asyncray.core.cluster.task_lines import TaskLine, TaskLines, units
from asyncray.core.outbox import Outbox
from asyncray.core.records import Where
from asyncray.core.shapes import Shapes
from asyncray.core.states import FINISHED
from asyncray.units import Demand

ASK_BACK_AGAIN = 0.02
"""Seconds between two requests to give tasks of one line back."""


class AskingBack:
    """Decides which of them are asked back, and when."""

    def __init__(self, outbox: Outbox, shapes: Shapes, placing: Placing, away: AwayTasks, lines: TaskLines) -> None:
        self._outbox = outbox
        self._shapes = shapes
        self._placing = placing
        self._away = away
        self._lines = lines

    def __repr__(self) -> str:
        return f"<AskingBack of {self._lines}>"

    # Tasks ------------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Some time has passed."""
        self._lines.forget_unused()
        for lines in self._lines.together():
            waiting = sum(len(line.sent) for line in lines) - max(line.slots or 0 for line in lines)
            # Those asked least recently come first: tasks that have begun would otherwise be asked for again and again.
            for line in sorted(lines, key=_asked_back_at):
                if waiting > 0 and line.sent and now >= line.asked_back_at + ASK_BACK_AGAIN:
                    waiting -= self._ask_for(line, waiting, now)

    def _ask_for(self, line: TaskLine, waiting: int, now: float) -> int:
        count = min(self._room_beside(line), waiting, len(line.sent))
        if count > 0:
            line.asked_back_at = now
            self._outbox.send(line.peer, (TAKE_BACK, [*reversed(line.sent)], count))
        return max(0, count)

    def _room_beside(self, line: TaskLine) -> int:
        shape, placing = line.shape, self._placing
        nodes = placing.others_for(shape.where, shape.demand, line.peer.id)
        own = units(shape) if placing.node in nodes and shape not in self._shapes.ready else 0
        return own or sum(placing.room(node, shape.demand) for node in nodes if node != placing.node)

    # Constructors -----------------------------------------------------------------------------------------------------

    def constructor_waits(self, peer: Peer, message: Any) -> None:
        """CONSTRUCTOR_WAITS: another node has no room for the constructor of an actor."""
        _, attempt = message
        away = self._away.at(peer, attempt)
        if away is not None and away.task.state != FINISHED:
            self._away.waiting[away] = None

    def flush(self) -> None:
        """All events of a batch have been handled: asks for the constructors for which there is room elsewhere."""
        waiting = self._away.waiting
        if not waiting:
            return
        taken = {self._placing.node: queued_lives(self._shapes)}
        for away, node in waiting.items():
            if node is not None:
                taken.setdefault(node, Counter()).update(dict(away.task.template.demand))
        # Placement, demand and node of constructors for which there is no room: others like them find none either.
        without_room: dict[tuple[Where, Demand, bytes], None] = {}
        for away, node in waiting.items():
            template = away.task.template
            key = template.where, template.demand, away.peer.id
            if node is not None or key in without_room or away.task.state == FINISHED:
                continue
            found = self._placing.move_to(template.where, template.demand, away.peer.id, taken)
            if found is None:
                without_room[key] = None
                continue
            node = waiting[away] = found.facts["node"]
            taken.setdefault(node, Counter()).update(dict(template.demand))
            self._outbox.send(away.peer, (TAKE_BACK, [away.attempt], 1))


def _asked_back_at(line: TaskLine) -> float:
    return line.asked_back_at
