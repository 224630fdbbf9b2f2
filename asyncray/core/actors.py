"""Actors: their states from creation to death. Their calls are in ``mailboxes``.

::

    PENDING --placed--> STARTING --constructed--> ALIVE --process ended--> RESTARTING --placed--> STARTING
       |                   |                        |                          |
       +-------------------+------------------------+--------------------------+---------------> DEAD

The resources of an actor become free when its process has ended, not before: the process may hold a device or a lock.

Invariants (``check``): an actor has a worker while it is STARTING or ALIVE; a dead actor without handles is not in the
table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asyncray.core.clock import Clock
from asyncray.core.directory import Directory, NameKeeper, RegisteredName
from asyncray.core.lives import Actor, GuestActor, Seat
from asyncray.core.mailboxes import Mailboxes
from asyncray.core.pauses import FIRST_PAUSE, LONGEST_PAUSE
from asyncray.core.records import Fault, Guest, Task
from asyncray.core.scheduler import Scheduler
from asyncray.core.states import ALIVE, CRASHED, DEAD, DIED_WITH_ZYGOTE, FINISHED, PENDING, RESTARTING, STARTING
from asyncray.exceptions import ActorDiedError, ActorUnavailableError
from asyncray.messages import FAULT, PLAIN

MOST_CAUSES = 1000
"""The number of forgotten actors whose cause of death the node remembers, for handles that are not counted."""

LIVED_A_WHILE = 5.0
"""Seconds since its constructor returned. An actor that lived so long restarts at once when its process ends."""


class GuestActorEnds(Protocol):
    """Actors of other nodes that have their processes here, in a cluster."""

    def constructed(self, actor: GuestActor) -> None:
        """The constructor of an actor of another node has returned here."""

    def send_home(self, actor: Actor, begun: Sequence[Task], calls: Sequence[Task]) -> list[Task]:
        """The process of an actor of this node has ended: sends the calls of other nodes back, returns the others."""

    def guest_died(self, actor: GuestActor, begun: Sequence[Task], calls: Sequence[Task]) -> None:
        """An actor of another node has ended here, with calls that were sent to its process, and all calls."""


class ActorsElsewhere(Protocol):
    """Actors of this node that may have their processes at other nodes, in a cluster."""

    def end_process(self, actor: Actor, why: str, *, graceful: bool) -> bool:
        """Ends the process of an actor at another node. Returns False if it neither has nor gets one there.

        Args:
            graceful: a constructor that runs there goes on. ``Actors.constructed`` follows when it has returned.
        """

    def unreferenced(self, route: Seat) -> None:
        """No handle of an actor of another node is left here."""

    def kill_for_client(self, actor_id: bytes, *, no_restart: bool) -> None:
        """A client of this node kills an actor of any node."""

    def changed(self, actor: Actor) -> None:
        """An actor of this node is alive, restarts or is dead."""


class Actors:
    """All actors of the node.

    Args:
        finish: ends a call with a value: ``finish(call, kind, payload)``.
        abandon: cancels those of a dead process's tasks whose results no other process can use.
        directory: learns of the ends of named actors, unless the node belongs to a cluster.
    """

    def __init__(
        self,
        clock: Clock,
        scheduler: Scheduler,
        finish: Callable[[Task, int, Any], None],
        abandon: Callable[[Sequence[Task]], None],
        directory: Directory,
    ) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._finish = finish
        self._abandon = abandon
        self.mailboxes = Mailboxes(scheduler, finish, self._end_unreferenced)
        # All actors by ID, without dead ones that no handle refers to.
        self.table: dict[bytes, Actor] = {}
        # Names of actors: in a cluster the head has them.
        self.names: NameKeeper = directory
        # None on a node that belongs to no cluster.
        self.elsewhere: ActorsElsewhere | None = None
        self.guests: GuestActorEnds | None = None
        # ID of a forgotten actor -> the error of its calls. Beyond MOST_CAUSES the oldest entries are removed.
        self._causes: dict[bytes, Fault] = {}

    def __repr__(self) -> str:
        return f"<Actors {len(self.table)}>"

    def add(self, actor: Actor, name: RegisteredName | None, handle: bytes) -> None:
        """Enters a new actor, whose constructor is not queued yet.

        Args:
            name: the directory has given it to the actor.
        """
        self.table[actor.id] = actor.job.actors[actor.id] = actor.creator.actors[actor.id] = actor
        actor.name = name
        actor.handle = handle

    def absent(self, actor_id: bytes) -> Fault:
        """Returns the fault that says why an actor is not in the table."""
        text = "The actor does not exist any more: it ended, or belongs to another session."
        return self._causes.get(actor_id) or ["ActorDiedError", {"actor_id": actor_id.hex(), "message": text}]

    # Life -------------------------------------------------------------------------------------------------------------

    def constructed(self, actor: Actor) -> None:
        """The constructor has returned: sends the calls that wait."""
        if actor.state != STARTING:
            return  # the worker has reported it twice
        actor.move(ALIVE)
        actor.constructed_at = self._clock.now
        actor.task.state = FINISHED
        if isinstance(actor, GuestActor):
            assert self.guests is not None
            self.guests.constructed(actor)
        elif not actor.restarts:
            # No restart will need the constructor's arguments.
            self._finish(actor.task, PLAIN, None)
        self._report(actor)
        self.mailboxes.pump(actor)
        if actor.unreferenced and not actor.pending:
            self._end_unreferenced(actor)

    def unreferenced(self, actor: Seat) -> None:
        """The actor has no handle left on this node: ends it when it has no unfinished calls left."""
        actor.unreferenced = True
        if not isinstance(actor, Actor):
            assert self.elsewhere is not None
            self.elsewhere.unreferenced(actor)
            return
        if actor.state == DEAD:
            self._forget(actor)
        elif not actor.detached and not actor.pending:
            self._end_unreferenced(actor)

    def _end_unreferenced(self, actor: Actor) -> None:
        if actor.state == DEAD or actor.detached:
            return
        if actor.state == STARTING:
            return  # ``constructed`` calls this again
        why = "it is out of scope"
        starts = actor.state in (PENDING, RESTARTING)
        if starts and self.elsewhere is not None and self.elsewhere.end_process(actor, why, graceful=True):
            # Only that node knows whether the constructor has begun: ``constructed``, ``lost`` or ``die`` follows.
            return
        self.retire(actor, actor.fault("ActorDiedError", ActorDiedError.OUT_OF_SCOPE), why)

    def retire(self, actor: Actor, fault: Fault, why: str) -> None:
        """Ends an actor gracefully: its process runs exit handlers."""
        worker = actor.worker
        self.die(actor, fault)
        if worker is not None:
            self._scheduler.pool.retire(worker, why)
        elif self.elsewhere is not None:
            self.elsewhere.end_process(actor, why, graceful=True)

    def kill(self, actor: Actor, fault: Fault, why: str) -> None:
        """Ends an actor at once, with SIGKILL, and cancels what its running calls submitted."""
        worker = actor.worker
        submitted = self._submitted(actor)
        self.die(actor, fault)
        if worker is not None:
            self._scheduler.pool.kill(worker, why)
        elif self.elsewhere is not None:
            self.elsewhere.end_process(actor, why, graceful=False)
        self._abandon(submitted)

    def die(self, actor: Actor, fault: Fault) -> None:
        """Moves an actor to DEAD: every call, now and later, fails with the fault."""
        if actor.state == DEAD:
            return
        if actor.state in (PENDING, RESTARTING):
            self._scheduler.pauses.forget(actor.task)
            self._scheduler.shapes.forget(actor.task)
        actor.move(DEAD)
        actor.cause = fault
        del actor.job.actors[actor.id], actor.creator.actors[actor.id]
        self._leave_worker(actor)
        if actor.detached:
            self.free_name(actor)
        elif actor.name is not None:
            self.names.died(actor.name, actor.id)
        if actor.unreferenced:
            self._forget(actor)
        begun = list(actor.inflight.values())
        calls = self.mailboxes.close(actor)
        if isinstance(actor, GuestActor):
            assert self.guests is not None
            self.guests.guest_died(actor, begun, calls)
        else:
            self._report(actor)
            for call in calls:
                self._finish(call, FAULT, fault)
        # No restart will need the constructor's arguments.
        self._finish(actor.task, FAULT, fault)

    def _report(self, actor: Actor) -> None:
        """Other nodes with calls for the actor learn of its new state."""
        if self.elsewhere is not None and not actor.is_guest:
            self.elsewhere.changed(actor)

    def _leave_worker(self, actor: Actor) -> None:
        if actor.lease is not None:
            actor.lease.grant.end_life()
        if actor.worker is not None:
            actor.worker.actor = None
        actor.worker = actor.lease = actor.peer = actor.pid = None

    @staticmethod
    def _submitted(actor: Actor) -> list[Task]:
        """Returns the tasks that the calls in flight have submitted.

        Collect them first, because a call forgets its children when it ends, and cancel them after that.
        """
        return [child for call in actor.inflight.values() for child in (call.children or {}).values()]

    def _forget(self, actor: Actor) -> None:
        """Removes an actor that is dead and has no counted handle left."""
        self.free_name(actor)
        self.table.pop(actor.id, None)
        if actor.cause is not None:
            self._causes[actor.id] = actor.cause
            if len(self._causes) > MOST_CAUSES:
                del self._causes[next(iter(self._causes))]

    def free_name(self, actor: Actor) -> None:
        """Makes the name of the actor available to other actors."""
        if actor.name is not None:
            self.names.free(actor.name, actor.id)

    def lost(self, actor: Actor, message: str, *, blameless: bool = False) -> None:
        """The actor's process ended by itself: restarts the actor if it has restarts left and is still in use.

        Args:
            blameless: the process ended because its zygote or its node did.
        """
        if actor.state == DEAD:
            return
        submitted = self._submitted(actor)
        if actor.restarts and actor.is_wanted:
            self._restart(actor, message, blameless=blameless)
        else:
            if isinstance(actor.task, Guest):
                actor.task.how = DIED_WITH_ZYGOTE if blameless else CRASHED
            self.die(actor, actor.fault("ActorDiedError", message))
        self._abandon(submitted)

    def _restart(self, actor: Actor, message: str, *, blameless: bool) -> None:
        if actor.restarts > 0:
            actor.restarts -= 1
        actor.restarted += 1
        self._leave_worker(actor)
        # Only an ALIVE actor was sent calls. Calls that arrived before stay in the mailbox, in their order.
        begun = list(actor.inflight.values())
        calls = self.mailboxes.take_posted(actor) if actor.state == ALIVE else []
        if self.guests is not None:
            calls = self.guests.send_home(actor, begun, calls)
        actor.move(RESTARTING)
        actor.task.worker = actor.task.lease = None
        lost = self.mailboxes.interrupted(actor, calls)
        self._report(actor)
        self._enqueue_restart(actor, blameless=blameless)  # which ends the actor if no node can have it any more
        # Fail the lost calls last, because the end of the last call may end the actor. Calls that wait in lanes were
        # not sent yet, so they are not lost.
        unavailable = actor.fault("ActorUnavailableError", f"{ActorUnavailableError.RESTARTING} {message}")
        for call in lost:
            self._finish(call, FAULT, call.cancelled_fault() if call.cancelled else unavailable)

    def _enqueue_restart(self, actor: Actor, *, blameless: bool) -> None:
        """Queues the constructor again, after a pause if the actor's process ends by itself soon after each start."""
        now = self._clock.now
        if actor.constructed_at is not None and now - actor.constructed_at >= LIVED_A_WHILE:
            actor.restart_pause = 0.0
        actor.constructed_at = None
        if blameless:
            self._scheduler.shapes.enqueue(actor.task)
            return
        if actor.restart_pause:
            self._scheduler.pauses.add(actor.task, now + actor.restart_pause)
        else:
            self._scheduler.shapes.enqueue(actor.task)
        actor.restart_pause = min(2 * actor.restart_pause, LONGEST_PAUSE) or FIRST_PAUSE

    def check(self) -> None:
        """Raises AssertionError if an actor's fields contradict each other or those of its job, creator and worker."""
        self.mailboxes.check(self.table.values())
        for actor in self.table.values():
            known = [actor.id in actors for actors in (actor.job.actors, actor.creator.actors)]
            assert known == 2 * [actor.state != DEAD], f"{actor} and its job and creator disagree"
            has_process = actor.worker is not None or actor.peer is not None
            assert has_process == (actor.state in (STARTING, ALIVE)), f"{actor} and {actor.worker}"
            if actor.worker is not None:
                assert actor.worker.actor is actor, f"{actor} is not its worker's"
            if actor.state == DEAD:
                assert not actor.unreferenced, f"{actor} should be forgotten"
                assert actor.cause is not None, f"{actor} is dead without a cause"
