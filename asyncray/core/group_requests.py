"""Requests of clients about placement groups, and the groups that end with their creators.

A group ends with the driver of its job, or with the detached actor that created it, unless it is detached itself. The
node of the creator watches over that, and asks for the removal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.clock import Clock
from asyncray.core.group_records import CREATED, GROUP_PENDING, REMOVED
from asyncray.core.group_views import GroupViews
from asyncray.core.lives import Actor
from asyncray.core.questions import LATER, Answer, Question, Refusal
from asyncray.core.records import Client, Job
from asyncray.core.stalls import Stalls
from asyncray.core.states import DEAD
from asyncray.core.work import Work
from asyncray.messages import FAULT, PLAIN
from asyncray.units import plain

if TYPE_CHECKING:
    from asyncray.words import GroupRow


class _Owned:
    """A group that ends with its creator."""

    __slots__ = ("actor", "job", "outlives_driver", "reported")

    def __init__(self, job: Job, actor: Actor | None) -> None:
        self.job = job
        # The detached actor that created it.
        self.actor = actor
        # It was created for work that lasts after the end of the driver.
        self.outlives_driver = job.driver_ended
        # The driver has had the notice that the cluster lacks what the group asks for.
        self.reported = False

    def __repr__(self) -> str:
        return f"<_Owned by {self.actor or self.job}>"

    def has_ended(self, jobs: dict[bytes, Job]) -> bool:
        """True if the creator has ended."""
        if not self.job.driver_ended:
            return False
        if self.actor is not None:
            return self.actor.state == DEAD
        return not self.outlives_driver or self.job.id not in jobs


class GroupRequests:
    """Answers about placement groups.

    Args:
        jobs: those that have not ended.
    """

    def __init__(self, clock: Clock, work: Work, views: GroupViews, stalls: Stalls, jobs: dict[bytes, Job]) -> None:
        self._clock = clock
        self._work = work
        self._views = views
        self._stalls = stalls
        self._jobs = jobs
        views.listeners.append(self._row_changed)
        # Groups that processes of this node created and that are not detached.
        self._owned: dict[bytes, _Owned] = {}
        # Group -> the objects that are ready when it is, with the client that promised each and its value.
        self.promised: dict[bytes, list[tuple[Client, bytes, bytes]]] = {}
        # Method -> function, as in ``requests``.
        self.table: dict[str, Callable[..., Any]] = {
            "create_group": self._create,
            "remove_group": self._remove,
            "find_group": self._find,
            "groups": self._rows,
            "placement_groups": self._rows_for_people,
        }

    def __repr__(self) -> str:
        return f"<GroupRequests {len(self._owned)} groups>"

    def _create(
        self,
        question: Question,
        group: bytes,
        name: str,
        strategy: str,
        bundles: Sequence[Any],
        detached: bool,  # noqa: FBT001 - arguments come from a message
    ) -> Any:
        """Answers None, or why the group cannot be registered."""
        client = question.asker
        job = client.job
        if job is None:
            raise Refusal("ValueError", "Only drivers and workers create placement groups.")
        if not detached:
            actor = None if client.worker is None else client.worker.actor
            self._owned[group] = _Owned(job, actor if actor is not None and actor.detached else None)

        def reply(answer: Answer) -> None:
            if answer[0]:
                self._views.changed(answer[1])
                question.answer(None)
            else:
                self._owned.pop(group, None)
                if answer[1] == "ValueError":
                    question.answer(answer[2]["message"])  # the caller raises an exception of Python's
                else:
                    question.refuse(*answer[1:])

        self._views.ask("create_group", (group, job.namespace, name, strategy, bundles, detached), reply)
        return LATER

    def _remove(self, question: Question, group: bytes) -> Any:
        self._views.ask("remove_group", (group,), lambda answer: _pass_on(question, answer))
        return LATER

    def _find(self, question: Question, name: str) -> Any:
        job = question.asker.job
        namespace = "" if job is None else job.namespace
        self._views.ask("find_group", (namespace, name), lambda answer: _pass_on(question, answer))
        return LATER

    def _rows(self, question: Question, group: bytes | None) -> Any:
        method, arguments = ("groups", ()) if group is None else ("group", (group,))
        self._views.ask(method, arguments, lambda answer: _pass_on(question, answer))
        return LATER

    def _rows_for_people(self, question: Question) -> Any:
        def reply(answer: Answer) -> None:
            _pass_on(question, (True, [group_for_people(row) for row in answer[1]]) if answer[0] else answer)

        self._views.ask("groups", (), reply)
        return LATER

    def ready(self, client: Client, group: bytes, object_id: bytes, value: bytes) -> None:
        """GROUP_READY: an object of the client exists from now on, and gets its value when the group is created."""
        self._work.promise(client, object_id)
        self.promised.setdefault(group, []).append((client, object_id, value))
        row = self._views.find(group)
        if row is not None:
            self._settle(row)

    # Changes ----------------------------------------------------------------------------------------------------------

    def _row_changed(self, row: GroupRow) -> None:
        group = row["group_id"]
        owned = self._owned.get(group)
        if row["state"] == REMOVED:
            self._owned.pop(group, None)
        elif owned is not None and row["why"] and row["state"] == GROUP_PENDING and not owned.reported:
            owned.reported = True
            title = row["name"] or group.hex()
            self._stalls.notify(owned.job, f"The placement group {title} waits: {row['why']}.")
        self._settle(row)

    def _settle(self, row: GroupRow) -> None:
        """Gives the objects of ``ready`` their values, if the group is created or removed."""
        group = row["group_id"]
        if row["state"] not in (CREATED, REMOVED) or group not in self.promised:
            return
        title = row["name"] or group.hex()
        fault = ["TaskPlacementGroupRemoved", {"message": f"The placement group {title} was removed."}]
        for client, object_id, value in self.promised.pop(group):
            entry = client.promised.get(object_id)
            if entry is None:
                continue  # the client has ended
            kind, payload = (PLAIN, value) if row["state"] == CREATED else (FAULT, fault)
            self._work.keep_promise(entry, kind, payload, None)

    def settle(self) -> None:
        """Removes the groups whose creators have ended."""
        for group, owned in list(self._owned.items()):
            if owned.has_ended(self._jobs):
                del self._owned[group]
                self._views.ask("remove_group", (group,), lambda answer: None)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the groups that this node knows and that are not removed, for ``asyncray status``."""
        return [group_for_people(row) for row in self._views.rows.values() if row["state"] != REMOVED]


def group_for_people(row: GroupRow) -> dict[str, Any]:
    """Returns a row with IDs as hexadecimal text and amounts as plain numbers."""
    return {
        **row,
        "group_id": row["group_id"].hex(),
        "nodes": [None if node is None else node.hex() for node in row["nodes"]],
        "bundles": [plain(bundle) for bundle in row["bundles"]],
    }


def _pass_on(question: Question, answer: Answer) -> None:
    ok, *rest = answer
    if ok:
        question.answer(*rest)
    else:
        question.refuse(*rest)
