"""Functions and templates: the node keeps them while a client, a task or an actor needs them.

A client *exports* a function or class (FUNCTION) and describes it with its options (TEMPLATE), each under a number of
its own; FORGET takes a number back. Equal content is one record of the job, whichever of its clients sends it.

The node keeps a template while a client has a number for it, and while one of its tasks is unfinished: a task that
waits, is queued, runs or may be tried again, and the constructor of an actor that may be restarted. A finished task
that may have to run again needs its template, too (``Work.keep``). The node keeps a function while a client has a
number for it, and while it keeps a template of it. When the last user has ended, the node forgets the record at once,
and sends UNDEFINE to the workers that know it. So a program that makes functions in a loop fills no memory.

1. *A client forgets what it exports again at the same moment.* The new export has another number, because numbers are
   never reused. So FORGET of the old number does not take the new one.
2. *A worker learns of a function again that it was to forget.* To the node that is a new record with a new number,
   which the worker does not know, so the worker is sent the function again. Messages to a worker stay in order.
3. *FORGET comes twice, or for a number that the node never learned of.* It means nothing.

Invariants (``check``): every record has a user; a record and the workers that know it agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from asyncray.core.leases import Worker
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client, Function, Template
from asyncray.core.shapes import Shapes
from asyncray.messages import DEFINE, UNDEFINE, FunctionMessage, TemplateMessage

if TYPE_CHECKING:
    from asyncray.words import WorkerSpec


class FunctionsElsewhere(Protocol):
    """The other nodes that know functions and templates of this one, for a node that belongs to a cluster."""

    def forgotten(self, template: Template) -> None:
        """This node has forgotten a template."""


class Functions:
    """The functions and templates of a node."""

    def __init__(self, outbox: Outbox, objects: Objects, shapes: Shapes) -> None:
        self._outbox = outbox
        self._objects = objects
        self._shapes = shapes
        # All functions and all templates, by the node's numbers.
        self.functions: dict[int, Function] = {}
        self.templates: dict[int, Template] = {}
        # The last number of a function or template.
        self._count = 0
        # None on a node that belongs to no cluster.
        self.elsewhere: FunctionsElsewhere | None = None

    def __repr__(self) -> str:
        return f"<Functions {len(self.functions)}, {len(self.templates)} templates>"

    def export(self, client: Client, message: FunctionMessage) -> None:
        """FUNCTION: a client may describe templates of this function from now on.

        Raises:
            ValueError: the client has used the number.
        """
        _, number, digest, pickled, nested = message
        job = client.job
        assert job is not None
        if number in client.functions:
            raise ValueError(f"{client} uses number {number} again")
        function = job.functions.get(digest)
        if function is None:
            self._count += 1
            function = job.functions[digest] = self.functions[self._count] = Function(self._count, digest, job, pickled)
            if nested:
                function.captured = self._objects.use_all(nested)
        function.users += 1
        client.functions[number] = function

    def describe(self, client: Client, message: TemplateMessage) -> Template | None:
        """TEMPLATE: a client may submit tasks of this template from now on. Returns the template if it is new.

        Raises:
            ValueError: the demands make no sense, the function was not exported, or the client has used the number.
        """
        _, number, digest, spec = message
        job = client.job
        assert job is not None
        if number in client.templates:
            raise ValueError(f"{client} uses number {number} again")
        template = job.templates.get(digest)
        new = template is None
        if template is None:
            function = job.functions.get(spec["function"])
            if function is None and spec["function"]:
                raise ValueError(f"{client} describes {spec['name']}, a function that it has not exported")
            self._count += 1
            template = Template(self._count, digest, job, function, spec)
            job.templates[digest] = self.templates[template.number] = template
            if function is not None:
                function.users += 1
        template.users += 1
        client.templates[number] = template
        return template if new else None

    def forget(self, client: Client, numbers: Iterable[int]) -> None:
        """FORGET: the client uses these numbers of functions and templates no more."""
        for number in numbers:
            template = client.templates.pop(number, None)
            if template is not None:
                template.users -= 1
                self.settle(template)
                continue
            function = client.functions.pop(number, None)
            if function is not None:
                self._leave(function)

    def client_disconnected(self, client: Client) -> None:
        """The process has ended: takes back all its numbers."""
        self.forget(client, [*client.templates, *client.functions])

    def settle(self, template: Template) -> None:
        """Forgets the template if nothing needs it any more: the last task, or the last export, has ended."""
        if template.users:
            return
        del template.job.templates[template.digest], self.templates[template.number]
        for worker in template.known_by:
            del worker.known[template]
            worker.calls.pop(template.number, None)
            self._tell(worker, [template.number], [])
        template.known_by.clear()
        if self.elsewhere is not None:
            self.elsewhere.forgotten(template)
        self._shapes.leave(template)
        if template.function is not None:
            self._leave(template.function)

    def _leave(self, function: Function) -> None:
        function.users -= 1
        if function.users:
            return
        del function.job.functions[function.digest], self.functions[function.number]
        for worker in function.known_by:
            del worker.known_functions[function]
            self._tell(worker, [], [function.number])
        function.known_by.clear()
        self._objects.unuse_all(function.captured)
        function.captured = ()

    def _tell(self, worker: Worker, templates: list[int], functions: list[int]) -> None:
        if worker.client is not None:
            self._outbox.send(worker.client, (UNDEFINE, templates, functions))

    # Workers ----------------------------------------------------------------------------------------------------------

    def define(self, template: Template, worker: Worker, client: Client) -> None:
        """Describes a template to a worker. Templates of one function share it: it is sent once."""
        worker.known[template] = template.known_by[worker] = None
        function, pickled = template.function, None
        if function is not None and function not in worker.known_functions:
            worker.known_functions[function] = function.known_by[worker] = None
            pickled = function.pickled
        spec: WorkerSpec = {
            **template.options,
            "name": template.name,
            "returns": template.returns,
            "function": 0 if function is None else function.number,
        }
        self._outbox.send(client, (DEFINE, template.number, spec, pickled))

    def worker_exited(self, worker: Worker) -> None:
        """The process has ended."""
        for template in worker.known:
            del template.known_by[worker]
        for function in worker.known_functions:
            del function.known_by[worker]
        worker.known.clear()
        worker.known_functions.clear()

    def check(self) -> None:
        """Raises AssertionError if a record has no user, or is not where it should be."""
        users = dict.fromkeys(self.functions.values(), 0)
        for template in self.templates.values():
            unfinished = sum(1 for task in template.job.tasks.values() if task.template is template)
            assert template.users >= max(1, unfinished), f"{template} has {unfinished} unfinished tasks"
            assert template.job.templates[template.digest] is template, f"{template} is not its job's"
            assert all(template in worker.known for worker in template.known_by), f"{template} and its workers disagree"
            if template.function is not None:
                users[template.function] += 1
        for function, templates in users.items():
            assert function.users >= max(1, templates), f"{function} is kept for nobody"
            assert function.job.functions[function.digest] is function, f"{function} is not its job's"
            assert all(function in worker.known_functions for worker in function.known_by), f"{function} is unknown"
