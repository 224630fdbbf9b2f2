"""Known templates: the jobs, functions and templates that nodes tell each other, so that tasks can run elsewhere.

A node tells another one each job, function and template once, before the first task that needs it, and takes it back
when no task of its own needs it any more. At the other node a *visitor* stands for the processes of one job at one
node: it exports the functions there, and submits the tasks (``guests``). So a node forgets what nobody needs, as it
does for its own processes.

Objects that a function captures are covered (``covers``): the node that told the function keeps them until the other
has given the function up.

A function goes with the templates that need it: a node that took it back with them keeps it at most for itself.
Otherwise two nodes that tell each other the same function would keep it for ever.

A job ends where its driver is. The head reports the end to all nodes, because a chain of nodes that told each other
the job may break. With a node that is lost its jobs end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.cluster_messages import FORGET_OF, FUNCTION_OF, JOB_OF, RELEASED, TEMPLATE_OF
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.peers import Peer
from asyncray.core.functions import Functions
from asyncray.core.jobs import Jobs
from asyncray.core.leases import Shape
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.placements import Bundle, written
from asyncray.core.records import HERE, Client, Function, Job, ObjectEntry, Party, Template
from asyncray.ids import CLIENT_SIZE
from asyncray.messages import FUNCTION, TEMPLATE

if TYPE_CHECKING:
    from asyncray.words import TemplateSpec

MOST_OVER = 10_000
"""The number of ended jobs that a node remembers: tasks of them may still be on their way."""


class _Told:
    """The jobs, functions and templates of this node that another one knows."""

    __slots__ = ("functions", "jobs", "needs", "templates")

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        # Number of a function -> the objects that it captures, kept for the other node.
        self.functions: dict[int, tuple[ObjectEntry, ...]] = {}
        # Number of a function -> how many of the templates need it.
        self.needs: Counter[int] = Counter()
        self.templates: dict[int, Template] = {}


class _Visits:
    """The jobs, functions and templates of another node that this one knows."""

    __slots__ = ("covers", "templates", "visitors")

    def __init__(self) -> None:
        # JobID -> the client that stands for the processes of the job at the other node.
        self.visitors: dict[bytes, Client] = {}
        # Number of a template there -> its visitor and the template here.
        self.templates: dict[int, tuple[Client, Template]] = {}
        # Number of a function there -> the cover of what it captures.
        self.covers: dict[int, Cover] = {}


class OverJobs:
    """The jobs that have ended where they began, as far as the node remembers them."""

    def __init__(self) -> None:
        # The oldest end first.
        self._jobs: dict[bytes, None] = {}
        # The job numbers of nodes that have ended.
        self._blocks: dict[range, None] = {}

    def __repr__(self) -> str:
        return f"<OverJobs {len(self._jobs)} and {len(self._blocks)} blocks>"

    def __contains__(self, job_id: bytes) -> bool:
        number = int.from_bytes(job_id, "big")
        return job_id in self._jobs or any(number in block for block in self._blocks)

    def add(self, job_id: bytes) -> None:
        """A job has ended."""
        self._jobs[job_id] = None
        if len(self._jobs) > MOST_OVER:
            del self._jobs[next(iter(self._jobs))]

    def add_block(self, block: range) -> None:
        """A node has ended, and all jobs with these numbers."""
        self._blocks[block] = None
        if len(self._blocks) > MOST_OVER:
            del self._blocks[next(iter(self._blocks))]


class KnownTemplates:
    """Both sides: the definitions of this node at others, and those of others here.

    Args:
        node: the ID of this node.
        peer: returns the record of a node.
    """

    def __init__(
        self,
        node: bytes,
        outbox: Outbox,
        functions: Functions,
        objects: Objects,
        imports: Imports,
        jobs: Jobs,
        peer: Callable[[bytes], Peer],
    ) -> None:
        self._node = node
        self._peer = peer
        self._outbox = outbox
        self._functions = functions
        self._objects = objects
        self._imports = imports
        self._jobs = jobs
        self._told: dict[Peer, _Told] = {}
        self._visits: dict[Party, _Visits] = {}
        # Number of a template of this node -> the nodes that know it.
        self._knowing: dict[int, dict[Peer, None]] = {}
        # Lost node -> captured objects that are kept until its grace has ended.
        self._graces: dict[Peer, list[tuple[ObjectEntry, ...]]] = {}
        # Captured objects of functions that this node took back: until the other node has given them up. A function may
        # have gone there and have been taken back several times.
        self._late: dict[tuple[Peer, int], list[tuple[ObjectEntry, ...]]] = {}
        self.over = OverJobs()
        functions.elsewhere = self

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
        # 1. A job ends. 2. A worker of it that is about to be killed submits a task. 3. It goes to a node that has
        # joined since and would never learn of the end. So that node does not learn of the job: the task comes back.
        if job.id not in told.jobs and job.id not in self.over:
            told.jobs[job.id] = job
            reader = job.reports_to
            home = reader.id if isinstance(reader, Peer) else self._node
            self._outbox.send(peer, (JOB_OF, job.id, job.namespace, job.setup, home))
        if function is not None:
            if function.number not in told.functions:
                self._tell_function(peer, told, function)
            told.needs[function.number] += 1
        told.templates[template.number] = template
        self._knowing.setdefault(template.number, {})[peer] = None
        # This node has chosen the other one by the placement. Only a bundle is named: it says which account serves.
        where = template.where if isinstance(template.where, Bundle) else HERE
        digest = template.digest + b" elsewhere"
        self._outbox.send(peer, (TEMPLATE_OF, job.id, template.number, digest, spec_of(template, where)))

    def _tell_function(self, peer: Peer, told: _Told, function: Function) -> None:
        captured = [entry.id for entry in function.captured]
        told.functions[function.number] = self._objects.use_all(captured)
        number, digest, pickled = function.number, function.digest, function.pickled
        self._outbox.send(peer, (FUNCTION_OF, function.job.id, number, digest, pickled, captured or None))

    def forgotten(self, template: Template) -> None:
        """This node has forgotten a template: takes it back from the nodes that know it."""
        for peer in self._knowing.pop(template.number, ()):
            told = self._told[peer]
            del told.templates[template.number]
            numbers = [template.number]
            function = template.function
            if function is not None:
                told.needs[function.number] -= 1
                if not told.needs[function.number]:
                    self._take_back(peer, told, function.number)
                    numbers.append(function.number)
            self._outbox.send(peer, (FORGET_OF, template.job.id, numbers))

    def _take_back(self, peer: Peer, told: _Told, number: int) -> None:
        del told.needs[number]
        captured = told.functions.pop(number)
        if captured:
            self._late.setdefault((peer, number), []).append(captured)

    def told(self, job_id: bytes) -> list[Peer]:
        """Returns the nodes that this one has told a job."""
        return [peer for peer, told in self._told.items() if job_id in told.jobs]

    def jobs_told(self, peer: Peer) -> list[Job]:
        """Returns the jobs that this node has told another one."""
        told = self._told.get(peer)
        return [] if told is None else list(told.jobs.values())

    def released(self, peer: Peer, message: Any) -> None:
        """RELEASED: another node does not need what a function captures any more."""
        _, number = message
        late = self._late[peer, number]
        self._objects.unuse_all(late.pop(0))
        if not late:
            del self._late[peer, number]

    # Hearing ----------------------------------------------------------------------------------------------------------

    def job_of(self, peer: Peer, message: Any) -> None:
        """JOB_OF: tasks of this job will come from another node."""
        _, job_id, namespace, setup, home = message
        job = None if job_id in self.over else self._jobs.visiting(job_id, namespace, setup)
        if job is None:
            return
        if home != self._node:
            job.reports_to = self._peer(home)
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
        if captured:
            # Also if the job has ended: the other node waits for RELEASED.
            cover = visits.covers[number] = Cover(peer, partial(self._outbox.send, peer, (RELEASED, number)))
            self._imports.learn(cover, captured)
        if visitor is None or visitor.job is None:
            return
        self._functions.export(visitor, (FUNCTION, number, digest, pickled, captured))

    def template_of(self, peer: Peer, message: Any) -> None:
        """TEMPLATE_OF: tasks of this template may follow."""
        _, job_id, number, digest, spec = message
        visits, visitor = self._visitor(peer, job_id)
        if visitor is None or visitor.job is None:
            return
        self._functions.describe(visitor, (TEMPLATE, number, digest, spec))
        visits.templates[number] = visitor, visitor.templates[number]

    def forget_of(self, peer: Peer, message: Any) -> None:
        """FORGET_OF: no task of the other node needs these any more."""
        _, job_id, numbers = message
        visits, visitor = self._visitor(peer, job_id)
        for number in numbers:
            visits.templates.pop(number, None)
            if visitor is not None:
                self._functions.forget(visitor, [number])
            cover = visits.covers.pop(number, None)
            if cover is not None and not self._imports.end(cover):
                cover.give_up()
        if visitor is not None:
            _forget_if_over(visits, visitor, job_id)

    def jobs_over(self, jobs: Iterable[bytes] | range) -> None:
        """Jobs have ended where they began. Their functions stay until they are taken back.

        Args:
            jobs: IDs, or the numbers of all jobs of a node that has ended.
        """
        for job_id in self._in_block(jobs) if isinstance(jobs, range) else jobs:
            self.over.add(job_id)
            for told in self._told.values():
                told.jobs.pop(job_id, None)
            for visits in self._visits.values():
                visitor = visits.visitors.get(job_id)
                if visitor is not None:
                    visitor.job = None
                    _forget_if_over(visits, visitor, job_id)
            self._jobs.ended_elsewhere(job_id)

    def _in_block(self, block: range) -> list[bytes]:
        self.over.add_block(block)
        return [job_id for job_id in self._jobs.table if int.from_bytes(job_id, "big") in block]

    def _visitor(self, peer: Peer, job_id: bytes) -> tuple[_Visits, Client | None]:
        visits = self._visits.setdefault(peer, _Visits())
        return visits, visits.visitors.get(job_id)

    def find(self, peer: Party, number: int) -> tuple[Client, Template] | None:
        """Returns the visitor and the template that another node calls by a number. None: its job has ended."""
        visits = self._visits.get(peer)
        found = None if visits is None else visits.templates.get(number)
        return None if found is None or found[0].job is None else found

    def number_of(self, peer: Party, shape: Shape) -> int | None:
        """Returns a number by which another node knows a template of a shape. None: it knows none."""
        visits = self._visits.get(peer)
        known = () if visits is None else visits.templates.items()
        found = (number for number, (visitor, template) in known if template.shape is shape and visitor.job is not None)
        return next(found, None)

    # Losses -----------------------------------------------------------------------------------------------------------

    def lost(self, peer: Peer) -> None:
        """Another node is lost. ``Imports`` ends the covers that it gave."""
        told = self._told.pop(peer, None)
        kept = [] if told is None else [captured for captured in told.functions.values() if captured]
        for key in [key for key in self._late if key[0] is peer]:
            kept += self._late.pop(key)
        if kept:
            self._graces[peer] = kept
        for knowing in self._knowing.values():
            knowing.pop(peer, None)
        visits = self._visits.pop(peer, None)
        if visits is None:
            return
        for visitor in visits.visitors.values():
            self._functions.client_disconnected(visitor)

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


def spec_of(template: Template, where: Any) -> TemplateSpec:
    """Returns the description of a template for another node, as a client describes it.

    Args:
        where: the placement there, or ``HERE``.
    """
    spec: TemplateSpec = {
        "name": template.name,
        "function": b"" if template.function is None else template.function.digest,
        "returns": template.returns,
        "retries": template.retries,
        "demand": template.demand,
        "life": template.life,
        "options": template.options,
    }
    if where is not HERE:
        spec["where"] = written(where)
    return spec
