"""Facts that programs may ask for: about the node, job, task and actor that they run in."""

from __future__ import annotations

from typing import Any

from asyncray.api.handle import ActorHandle, weak_handle
from asyncray.ids import CLIENT_SIZE, TASK_PREFIX_SIZE, JobID, NodeID, TaskID
from asyncray.runtime.context import current_group, running_task
from asyncray.runtime.runtime import Runtime, require
from asyncray.units import plain


class RuntimeContext:
    """The node, job, task and actor that this code runs in, from ``get_runtime_context()``. IDs are hex strings."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"<RuntimeContext {self.get()}>"

    def get(self) -> dict[str, Any]:
        """The IDs that exist here, and the namespace."""
        facts = {"node_id": self.get_node_id(), "job_id": self.get_job_id(), "namespace": self.namespace}
        for name, value in (("task_id", self.get_task_id()), ("actor_id", self.get_actor_id())):
            if value is not None:
                facts[name] = value
        return facts

    def get_job_id(self) -> str:
        """The driver's job."""
        return JobID(self._runtime.connection.ids.prefix[CLIENT_SIZE:TASK_PREFIX_SIZE]).hex()

    def get_node_id(self) -> str:
        """The node of this process."""
        return NodeID(self._runtime.facts["node_id"]).hex()

    def get_worker_id(self) -> str:
        """This process."""
        return bytes(self._runtime.facts["client_id"]).hex()

    def get_task_id(self) -> str | None:
        """The running task; None in a driver."""
        task = running_task()
        return None if task is None else TaskID(task.id).hex()

    def get_task_name(self) -> str | None:
        """The name of the running task: ``options(name=)``, the function's name, or ``Class.method``."""
        task = running_task()
        return None if task is None else task.name

    def get_task_function_name(self) -> str | None:
        """The module-qualified name of the running function: ``module.f``, or ``module.Class.method``."""
        task = running_task()
        return None if task is None else task.function_name

    def get_actor_id(self) -> str | None:
        """The actor that this code is part of; None outside of actors."""
        workplace = self._runtime.workplace
        actor_id = None if workplace is None else workplace.actor_id
        return None if actor_id is None else actor_id.hex()

    def get_actor_name(self) -> str | None:
        """The name of that actor, empty if it has none; None outside of actors."""
        workplace = self._runtime.workplace
        return None if workplace is None else workplace.actor_name

    def get_assigned_resources(self) -> dict[str, float]:
        """The resources that the running task or actor holds: name -> amount."""
        workplace = self._runtime.workplace
        return {} if workplace is None else plain((name, amount) for name, amount in workplace.demand)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices of the running task or actor, by kind."""
        return {"GPU": [str(device) for device in get_gpu_ids()]}

    def get_placement_group_id(self) -> str | None:
        """The placement group that the running task or actor is in; None outside of groups."""
        group = current_group()
        return None if group is None else group[0].hex()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """True if tasks and actors that the running task submits go to its placement group."""
        group = current_group()
        return group is not None and group[1]

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        namespace: str = self._runtime.facts.get("namespace", "")
        return namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """True in an actor that was restarted."""
        workplace = self._runtime.workplace
        return workplace is not None and workplace.restarted

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the actor that this code is part of. It does not keep the actor alive.

        Raises:
            RuntimeError: this is no actor.
        """
        workplace = self._runtime.workplace
        if workplace is None or workplace.actor_id is None:
            raise RuntimeError("This method is only available in an actor.")
        return weak_handle(workplace.actor_id, workplace.descriptor)

    def is_canceled(self) -> bool:
        """True if the running task was cancelled. It may stop then."""
        task = running_task()
        return task is not None and task.cancelled


def get_runtime_context() -> RuntimeContext:
    """The node, job, task and actor that this code runs in.

    Returns:
        A ``RuntimeContext``: IDs of node, job, task and actor, the resources that they hold, and whether the task is
        cancelled.

    Raises:
        NotStartedError: no session runs, and none is started implicitly.

    Example::

        context = ray.get_runtime_context()
        print(context.get_node_id(), context.get_task_name())
        print(context.get_assigned_resources())
    """
    return RuntimeContext(require())


def get_gpu_ids() -> list[Any]:
    """The GPUs that the running task or actor may use.

    Returns:
        Numbers, or names if CUDA_VISIBLE_DEVICES had names. Nothing in a driver, and in tasks without ``num_gpus``.

    Raises:
        NotStartedError: no session runs, and none is started implicitly.

    Example::

        @ray.remote(num_gpus=1)
        def train():
            print(ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"])
    """
    workplace = require().workplace
    return [] if workplace is None else list(workplace.devices)


def node_ip_address() -> str:
    """The address of this machine as other nodes see it."""
    ip: str = require().facts.get("ip", "127.0.0.1")
    return ip
