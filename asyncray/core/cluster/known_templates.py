"""Known templates: the jobs, functions and templates that nodes tell each other, so that tasks can run elsewhere.

A node tells another one each job, function and template once, before the first task that needs it, and takes it back
when no task of its own needs it any more. At the other node a *visitor* stands for the processes of one job at one
node: it exports the functions there, and submits the tasks (``guests``). So a node forgets what nobody needs, as it
does for its own processes.

Objects that a function captures are covered (``covers``): the node that told the function keeps them until the other
has given the function up.

A job ends where its driver is, and each node passes the end on to the nodes that it has told the job. A job that no
living node has told ends as well: it comes back with the next task of it, if there is one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from asyncray.cluster_messages import FORGET_OF, FUNCTION_OF, JOB_OF, JOB_OVER, RELEASED, TEMPLATE_OF
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.peers import Peer
from asyncray.core.functions import Functions
from asyncray.core.jobs import Jobs
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.placements import Bundle, written
from asyncray.core.records import Client, Function, Job, ObjectEntry, Template
from asyncray.ids import CLIENT_SIZE
from asyncray.messages import FUNCTION, TEMPLATE


class _Told:
    """The jobs, functions and templates of this node that another one knows."""

    __slots__ = ("functions", "jobs", "templates")

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        # Number of a function -> the objects that it captures, kept for the other node.
        self.functions: dict[int, tuple[ObjectEntry, ...]] = {}
        self.templates: dict[int, Template] = {}


class _Visits:
    """The jobs, functions and templates of another node that this one knows."""

    __slots__ = ("covers", "templates", "visitors")

    def __init__(self) -> None:
        # JobID -> what stands for the processes of the job at the other node.
        self.visitors: dict[bytes, Client] = {}
        # Number of a template there -> its visitor and the template here.
        self.templates: dict[int, tuple[Client, Template]] = {}
        # Number of a function there -> the cover of what it captures.
        self.covers: dict[int, Cover] = {}


class KnownTemplates:
    """Both sides: the definitions of this node at others, and those of others here."""

    def __init__(self, outbox: Outbox, functions: Functions, objects: Objects, imports: Imports, jobs: Jobs) -> None:
        self._outbox = outbox
        self._functions = functions
        self._objects = objects
        self._imports = imports
        self._jobs = jobs
        self._told: dict[Peer, _Told] = {}
        self._visits: dict[Peer, _Visits] = {}
        # Number of a template of this node -> the nodes that know it.
        self._knowing: dict[int, dict[Peer, None]] = {}
        # Lost node -> captured objects that are kept until its grace has ended.
        self._graces: dict[Peer, list[tuple[ObjectEntry, ...]]] = {}
        # Captured objects of functions that this node took back: until the other node has given them up.
        self._late: dict[tuple[Peer, int], tuple[ObjectEntry, ...]] = {}
        functions.elsewhere = self
        jobs.elsewhere = self

    def __repr__(self) -> str:
        return f"<KnownTemplates of {len(self._told)} nodes, of {len(self._visits)} nodes>"

    # Telling ----------------------------------------------------------------------------------------------------------

    def describe(self, peer: Peer, template: Template) -> None:
        """Tells another node a template, and before it the function and the job, unless it knows them."""
        told = self._told.get(peer)
        if told is None:
            told = self._told[peer] = _Told()
        if template.number in told.templates:
            return
        job, function = template.job, template.function
        if job.id not in told.jobs:
            told.jobs[job.id] = job
            self._outbox.send(peer, (JOB_OF, job.id, job.namespace, job.setup))
        if function is not None and function.number not in told.functions:
            self._tell_function(peer, told, function)
        told.templates[template.number] = template
        self._knowing.setdefault(template.number, {})[peer] = None
        self._outbox.send(peer, (TEMPLATE_OF, job.id, template.number, *_shown(template)))

    def _tell_function(self, peer: Peer, told: _Told, function: Function) -> None:
        captured = [entry.id for entry in function.captured]
        told.functions[function.number] = self._objects.use_all(captured)
        number, digest, pickled = function.number, function.digest, function.pickled
        self._outbox.send(peer, (FUNCTION_OF, function.job.id, number, digest, pickled, captured or None))

    def forgotten(self, template: Template) -> None:
        """This node has forgotten a template: takes it back from the nodes that know it.

        With the last template of a function the function goes, too, even if this node needs it further. Otherwise two
        nodes that told each other a function would keep it for ever.
        """
        number, function = template.number, template.function
        for peer in self._knowing.pop(number, ()):
            told = self._told[peer]
            del told.templates[number]
            numbers = [number]
            if function is not None and not any(other.function is function for other in told.templates.values()):
                numbers.append(function.number)
                captured = told.functions.pop(function.number)
                if captured:
                    self._late[peer, function.number] = captured
            self._outbox.send(peer, (FORGET_OF, template.job.id, numbers))

    def released(self, peer: Peer, message: Any) -> None:
        """RELEASED: another node does not need what a function captures any more."""
        _, number = message
        self._objects.unuse_all(self._late.pop((peer, number), ()))

    def job_over(self, job: Job) -> None:
        """A job has ended here: so it does at the nodes that this one has told it."""
        for peer, told in self._told.items():
            if told.jobs.pop(job.id, None) is not None:
                self._outbox.send(peer, (JOB_OVER, job.id))

    # Hearing ----------------------------------------------------------------------------------------------------------

    def job_of(self, peer: Peer, message: Any) -> None:
        """JOB_OF: tasks of this job will come from another node."""
        _, job_id, namespace, setup = message
        job = self._jobs.visiting(job_id, namespace, setup)
        if job is None:
            return  # it began here, and has ended
        visits = self._visits.setdefault(peer, _Visits())
        visitor = visits.visitors.get(job_id)
        if visitor is None:
            visitor = visits.visitors[job_id] = Client(0, peer.id.ljust(CLIENT_SIZE, b"\0"), "elsewhere", 0)
            visitor.alive = False
        visitor.job = job

    def function_of(self, peer: Peer, message: Any) -> None:
        """FUNCTION_OF: templates of this function may follow."""
        _, job_id, number, digest, pickled, captured = message
        visits, visitor = self._visitor(peer, job_id)
        if visits is None or visitor is None:
            return
        if captured:
            cover = visits.covers[number] = Cover(peer, partial(self._outbox.send, peer, (RELEASED, number)))
            self._imports.learn(cover, captured)
        self._functions.export(visitor, (FUNCTION, number, digest, pickled, captured))

    def template_of(self, peer: Peer, message: Any) -> None:
        """TEMPLATE_OF: tasks of this template may follow."""
        _, job_id, number, digest, spec = message
        visits, visitor = self._visitor(peer, job_id)
        if visits is None or visitor is None:
            return
        self._functions.describe(visitor, (TEMPLATE, number, digest, spec))
        visits.templates[number] = visitor, visitor.templates[number]

    def forget_of(self, peer: Peer, message: Any) -> None:
        """FORGET_OF: no task of the other node needs these any more."""
        _, job_id, numbers = message
        visits, visitor = self._visitor(peer, job_id)
        if visits is None or visitor is None:
            return
        for number in numbers:
            visits.templates.pop(number, None)
            self._functions.forget(visitor, [number])
            cover = visits.covers.pop(number, None)
            if cover is not None and not self._imports.end(cover):
                cover.give_up()
        _forget_if_over(visits, visitor, job_id)

    def job_ended(self, peer: Peer, message: Any) -> None:
        """JOB_OVER: a job has ended at the node that told it."""
        _, job_id = message
        visits = self._visits.get(peer)
        visitor = None if visits is None else visits.visitors.get(job_id)
        if visits is not None and visitor is not None:
            self._leave(visits, visitor, job_id)

    def _leave(self, visits: _Visits, visitor: Client, job_id: bytes) -> None:
        """The job has ended at one of the nodes that told it. Its functions stay until they are taken back."""
        job = visitor.job
        visitor.job = None
        others = (other.visitors.get(job_id) for other in self._visits.values())
        if job is not None and all(other is None or other.job is None for other in others):
            self._jobs.ended_elsewhere(job)
        _forget_if_over(visits, visitor, job_id)

    def _visitor(self, peer: Peer, job_id: bytes) -> tuple[_Visits | None, Client | None]:
        visits = self._visits.get(peer)
        return visits, None if visits is None else visits.visitors.get(job_id)

    def find(self, peer: Peer, number: int) -> tuple[Client, Template] | None:
        """Returns the visitor and the template that another node calls by a number. None: its job has ended."""
        visits = self._visits.get(peer)
        found = None if visits is None else visits.templates.get(number)
        return None if found is None or found[0].job is None else found

    # Losses -----------------------------------------------------------------------------------------------------------

    def lost(self, peer: Peer) -> None:
        """Another node is lost. ``Imports`` ends the covers that it gave."""
        told = self._told.pop(peer, None)
        kept = [] if told is None else [captured for captured in told.functions.values() if captured]
        for key in [key for key in self._late if key[0] is peer]:
            kept.append(self._late.pop(key))
        if kept:
            self._graces[peer] = kept
        for knowing in self._knowing.values():
            knowing.pop(peer, None)
        visits = self._visits.pop(peer, None)
        if visits is None:
            return
        for job_id, visitor in list(visits.visitors.items()):
            self._functions.client_disconnected(visitor)
            self._leave(visits, visitor, job_id)

    def grace_over(self, peer: Peer) -> None:
        """No node needs anything of a lost node any more: what its functions captured is freed."""
        for captured in self._graces.pop(peer, ()):
            self._objects.unuse_all(captured)

    def check(self) -> None:
        """Raises AssertionError if another node knows something that this node has forgotten."""
        for peer, told in self._told.items():
            assert peer.alive, f"{peer} is lost and knows {told.templates}"
            for number in told.templates:
                assert number in self._functions.templates, f"template {number} is forgotten and {peer} knows it"
            for number in told.functions:
                assert number in self._functions.functions, f"function {number} is forgotten and {peer} knows it"


def _forget_if_over(visits: _Visits, visitor: Client, job_id: bytes) -> None:
    if visitor.job is None and not visitor.templates and not visitor.functions:
        visits.visitors.pop(job_id, None)


def _shown(template: Template) -> tuple[bytes, Any]:
    """The digest and the spec of a template for another node, which this node has chosen by the placement."""
    spec: dict[str, Any] = {
        "name": template.name,
        "function": b"" if template.function is None else template.function.digest,
        "returns": template.returns,
        "retries": template.retries,
        "demand": template.demand,
        "life": template.life,
        "options": template.options,
    }
    if isinstance(template.where, Bundle):
        spec["where"] = written(template.where)
    return template.digest + b" elsewhere", spec
