"""How actors begin and end: names, restarts, kill, exit, out of scope, the end of an owner or a driver."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.api.session import Context
from asyncray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    TaskError,
)
from asyncray.util import list_named_actors
from tests.system import actors
from tests.system.actors import DEADLINE, until

pytestmark = pytest.mark.usefixtures("node")

Gate: Any = actors.Gate
Log: Any = actors.Log
Mortal: Any = actors.Mortal

DIED = "The actor is dead because its worker process has died"
KILLED = r"it was killed by `ray\.kill`"
EXITED = r"exit_actor\(\)"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def second_driver(address: str, code: str) -> str:
    """Runs a program in a process of its own; returns what it prints."""
    start = f"import asyncray.sync as ray\nray.init(address={address!r}, namespace='shared')\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Names ----------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    ann = Log.options(name="ann").remote("first")
    assert ray.get_actor("ann") == ann
    assert ray.get(ray.get_actor("ann").all.remote()) == ["first"]
    with pytest.raises(ValueError, match=r"The name ann is already taken\. Please use a different name") as caught:
        Log.options(name="ann").remote()
    assert isinstance(caught.value, ActorAlreadyExistsError)
    assert "get_if_exists=True" in str(caught.value)
    for missing in ("bob", "Ann"):
        with pytest.raises(ValueError, match="Failed to look up actor with name"):
            ray.get_actor(missing)
    for bad in (None, "", "  ", 3):
        with pytest.raises(ValueError):
            ray.get_actor(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Log.options(name=3)
    with pytest.raises(ValueError, match="Actor name cannot be an empty string"):
        Log.options(name="")
    with pytest.raises(ValueError):
        Log.options(get_if_exists=True).remote()


def test_namespaces() -> None:
    here = Log.options(name="ann").remote("here")
    there = Log.options(name="ann", namespace="there").remote("there")
    assert ray.get(ray.get_actor("ann").all.remote()) == ["here"]
    assert ray.get(ray.get_actor("ann", "there").all.remote()) == ["there"]
    namespace = ray.get_runtime_context().namespace
    rows = [{"name": "ann", "namespace": namespace}, {"name": "ann", "namespace": "there"}]
    assert list_named_actors() == ["ann"]
    assert sorted(list_named_actors(all_namespaces=True), key=lambda row: row["namespace"] == "there") == rows

    def inside(self: Any) -> Any:
        return ray.get_runtime_context().namespace, ray.get_actor("ann")

    assert ray.get(there.__ray_call__.remote(inside)) == (namespace, here)
    wrong: list[tuple[Any, type[Exception]]] = [(3, TypeError), ("", ValueError)]
    for bad, error in wrong:
        with pytest.raises(error):
            Log.options(name="x", namespace=bad)
        with pytest.raises(error):
            ray.get_actor("ann", namespace=bad)


def test_a_name_is_free_again_after_kill() -> None:
    for turn in range(5):
        named = Log.options(name="ann", lifetime="detached" if turn % 2 else None).remote(turn)
        ray.kill(named)
        assert list_named_actors() == []
    assert ray.get(Log.options(name="ann").remote("last").all.remote()) == ["last"]


def test_the_name_of_a_crashed_actor() -> None:
    plain, detached = [Mortal.options(name=kind, lifetime=kind).remote() for kind in ("non_detached", "detached")]
    for mortal in (plain, detached):
        with pytest.raises(ActorDiedError, match=DIED):
            ray.get(mortal.end.remote("os._exit"))
    assert list_named_actors() == []
    assert ray.get(Mortal.options(name="detached").remote().add.remote(1)) == [1]
    with pytest.raises(ValueError, match="already taken"):
        Mortal.options(name="non_detached").remote()
    with pytest.raises(ValueError, match="Failed to look up"):
        ray.get_actor("non_detached")
    del mortal, plain
    assert ray.get(Mortal.options(name="non_detached").remote().add.remote(1)) == [1]


def test_kill_frees_the_name_of_a_crashed_actor() -> None:
    mortal = Mortal.options(name="ann").remote()
    with pytest.raises(ActorDiedError):
        ray.get(mortal.end.remote("os._exit"))
    ray.kill(mortal)
    assert ray.get(Mortal.options(name="ann").remote().add.remote(1)) == [1]


def test_get_if_exists_makes_one_for_all() -> None:
    class Decorated:
        def pid(self) -> int:
            return os.getpid()

    Shared = ray.remote(name="shared", get_if_exists=True)(Decorated)

    @ray.remote
    def pid_in_task() -> int:
        shared: Any = Log
        made = shared.options(name="shared", get_if_exists=True, lifetime="detached").remote()
        pid: int = ray.get(made.pid.remote())
        return pid

    tasks = [pid_in_task.remote() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(lambda _: Shared.remote(), range(12)))
    pids = {*ray.get([handle.pid.remote() for handle in handles]), *ray.get(tasks)}
    assert len(pids) == 1
    ray.kill(handles[0])
    assert ray.get(Shared.remote().pid.remote()) not in pids


def test_a_handle_got_by_name_does_not_keep_the_actor_alive() -> None:
    named = Log.options(name="ann").remote()
    weak = ray.get_actor("ann")
    weaker = ray.get(named.__ray_call__.remote(lambda self: ray.get_runtime_context().current_actor))
    pid = ray.get(weak.pid.remote())
    del named
    until(lambda: gone(pid))
    for handle in (weak, weaker):
        with pytest.raises(ActorDiedError, match="because all references to the actor were removed"):
            ray.get(handle.pid.remote())
    assert list_named_actors() == []


# Drivers --------------------------------------------------------------------------------------------------------------


def test_detached_actors_outlive_their_driver(node: Context) -> None:
    out = second_driver(
        node["address"],
        """
        from tests.system.actors import Log
        Log.options(name="plain").remote()
        keep = Log.options(name="plain too").remote()
        Log.options(name="lasting", lifetime="detached").remote("made by the second driver")
        log = ray.get_actor("lasting")
        print(ray.get([log.add.remote(1), keep.pid.remote()])[1])
        """,
    )
    until(lambda: gone(int(out)))
    assert list_named_actors(all_namespaces=True) == [{"name": "lasting", "namespace": "shared"}]
    lasting = ray.get_actor("lasting", "shared")
    assert ray.get(lasting.all.remote()) == ["made by the second driver", 1]

    def work(self: Any) -> Any:
        child = actors.Log.remote("a child")  # type: ignore[attr-defined]
        return ray.get([child.all.remote(), actors.identity.remote("a task")])

    assert ray.get(lasting.__ray_call__.remote(work)) == [["a child"], "a task"]
    third = """
        lasting = ray.get_actor("lasting")
        print(ray.get(lasting.add.remote("third")))
        ray.kill(lasting)
        """
    assert second_driver(node["address"], third) == "3\n"
    with pytest.raises(ActorDiedError, match=KILLED):
        ray.get(lasting.all.remote())


def test_actors_of_another_driver_die_with_it(node: Context) -> None:
    code = """
        from tests.system.actors import Log
        import os
        log = Log.options(name="theirs").remote()
        print(ray.get(log.pid.remote()), flush=True)
        input()
        os._exit(3)
        """
    start = f"import asyncray.sync as ray\nray.init(address={node['address']!r}, namespace='shared')\n"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=root) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        theirs = ray.get_actor("theirs", "shared")
        assert ray.get(theirs.pid.remote()) == pid
        driver.communicate("go\n", timeout=DEADLINE)
    until(lambda: gone(pid))
    with pytest.raises(ActorDiedError, match="because its owner has died"):
        ray.get(theirs.pid.remote())


def test_actors_die_with_the_actor_that_made_them() -> None:
    def make(self: Any) -> Any:
        self.children = [actors.Log.remote(), actors.Log.options(lifetime="detached", name="d").remote()]  # type: ignore[attr-defined]
        return self.children

    for how in ("kill", "scope"):
        owner = Log.remote()
        child, detached = ray.get(owner.__ray_call__.remote(make))
        pid = ray.get(child.pid.remote())
        if how == "kill":
            ray.kill(owner)
        del owner
        until(lambda pid=pid: gone(pid))  # type: ignore[misc]
        with pytest.raises(ActorDiedError, match="The actor is dead because its owner has died"):
            ray.get(child.pid.remote())
        assert ray.get(detached.add.remote(1)) == 1
        ray.kill(detached)


# Kill -----------------------------------------------------------------------------------------------------------------


def test_kill_fails_what_was_called_and_what_will_be() -> None:
    mortal = Mortal.remote()
    pid = ray.get(mortal.pid.remote())
    child = ray.get(mortal.start_child.remote())
    blocked = [mortal.block.remote(), mortal.add.remote(1)]
    ray.kill(mortal)
    ray.kill(mortal)
    for ref in (*blocked, mortal.add.remote(2)):
        with pytest.raises(ActorDiedError, match=KILLED) as caught:
            ray.get(ref)
        assert caught.value.actor_id == mortal._actor_id.hex()
    until(lambda: gone(pid) and gone(child))


def test_an_actor_may_kill_itself() -> None:
    def suicide(self: Any) -> None:
        ray.kill(ray.get_runtime_context().current_actor)
        threading.Event().wait()

    log = Log.options(max_restarts=-1).remote()
    with pytest.raises(ActorDiedError, match=KILLED):
        ray.get(log.__ray_call__.remote(suicide))


def test_children_of_actors_end_with_the_session(own_node: Context) -> None:
    child = ray.get(Mortal.options(name="keep", lifetime="detached").remote().start_child.remote())
    ray.shutdown()
    assert gone(child)


# Graceful ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "threaded", "async"])
@pytest.mark.parametrize("how", ["exit", "caught", "thread", "terminate", "scope", "kill"])
def test_handlers_run_at_graceful_ends(kind: str, how: str, tmp_path: Path) -> None:
    class Plain:
        def __init__(self) -> None:
            atexit.register((tmp_path / "atexit").touch)

        def __ray_shutdown__(self) -> None:
            (tmp_path / "shutdown").touch()
            raise RuntimeError("is swallowed")

        def __del__(self) -> None:
            (tmp_path / "del").touch()
            raise RuntimeError("is reported")

        def pid(self) -> int:
            return os.getpid()

        def exit(self) -> None:
            ray.actor.exit_actor()

        def caught(self) -> str:
            try:
                ray.actor.exit_actor()
            except BaseException:
                return "nobody gets this"

        def thread(self) -> None:
            threading.Thread(target=lambda: self.caught()).start()

    class Looped(Plain):
        async def pid(self) -> int:  # type: ignore[override]
            return os.getpid()

        async def caught(self) -> str:  # type: ignore[override]
            return super().caught()

        async def thread(self) -> None:  # type: ignore[override]
            threading.Thread(target=lambda: super(Looped, self).caught()).start()

    made: Any = ray.remote(max_restarts=-1, max_concurrency=4 if kind == "threaded" else None)(
        Looped if kind == "async" else Plain
    ).remote()
    pid = ray.get(made.pid.remote())
    refs = []
    if how in ("exit", "caught"):
        refs = [getattr(made, how).remote()]
    elif how == "thread":
        made.thread.remote()
    elif how == "terminate":
        refs = [made.__ray_terminate__.remote()]
    elif how == "scope":
        del made
    elif how == "kill":
        ray.kill(made)
    until(lambda: gone(pid))
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if how == "kill" else ["atexit", "del", "shutdown"])
    if how != "scope":
        for ref in (*refs, made.pid.remote()):
            with pytest.raises(
                ActorDiedError, match={"terminate": "__ray_terminate__", "kill": KILLED}.get(how, EXITED)
            ):
                ray.get(ref)


def test_an_orderly_end_finishes_what_the_interpreter_would(tmp_path: Path) -> None:
    kept_open: list[object] = []

    class Busy:
        def __init__(self) -> None:
            self.executor = ThreadPoolExecutor(1)

        def start(self, gate: Any) -> int:
            self.executor.submit(self.work, gate)
            self.file = (tmp_path / "file").open("w")
            self.file.write("in the buffer")
            kept_open.append(self.file)
            return os.getpid()

        def work(self, gate: Any) -> None:
            ray.get(gate.wait.remote())
            (tmp_path / "executor").touch()

    gate, busy = Gate.remote(), ray.remote(Busy).remote()
    pid = ray.get(busy.start.remote(gate))
    ray.get(gate.crowd.remote(1))
    busy.__ray_terminate__.remote()
    gate.open.remote()
    until(lambda: gone(pid))
    assert (tmp_path / "executor").exists()
    assert (tmp_path / "file").read_text() == "in the buffer"


def test_exit_in_a_constructor_and_outside() -> None:
    class Plain:
        def __init__(self, catch: bool) -> None:
            try:
                ray.actor.exit_actor()
            except BaseException:
                if not catch:
                    raise

        def m(self) -> None:
            pass

    class Looped(Plain):
        async def n(self) -> None:
            pass

    for cls, threads in ((Plain, 1), (Plain, 3), (Looped, 1)):
        for catch in (False, True):
            made: Any = ray.remote(max_restarts=1, max_concurrency=threads)(cls).remote(catch)
            with pytest.raises(ActorDiedError, match=EXITED):
                ray.get(made.m.remote())

    @ray.remote
    def outside() -> None:
        ray.actor.exit_actor()

    with pytest.raises(TypeError, match="exit_actor API is called on a non-actor worker"):
        ray.actor.exit_actor()
    with pytest.raises(TypeError, match="exit_actor API is called on a non-actor worker"):
        ray.get(outside.remote())


def test_exit_fails_what_is_queued_and_keeps_what_was_done() -> None:
    gate, log = Gate.remote(), Log.remote()
    first = log.add.remote(gate.wait.remote(1))
    leave = log.__ray_call__.remote(lambda self: ray.actor.exit_actor())
    queued = [log.add.remote(number) for number in range(500)]
    gate.open.remote()
    assert ray.get(first) == 1
    for ref in (leave, *queued):
        with pytest.raises(ActorDiedError, match=EXITED):
            ray.get(ref)


def test_exit_does_not_wait_for_other_threads() -> None:
    class Threads:
        def wait(self, gate: Any) -> None:
            gate.wait.remote()
            threading.Event().wait()

        def leave(self) -> None:
            ray.actor.exit_actor()

    gate, made = Gate.remote(), ray.remote(max_concurrency=2)(Threads).remote()
    refs = [made.wait.remote(gate), made.leave.remote()]
    for ref in refs:
        with pytest.raises(ActorDiedError, match=EXITED):
            ray.get(ref)


def test_terminate_lets_concurrent_calls_finish() -> None:
    class Threads:
        def wait(self, gate: Any) -> Any:
            return ray.get(gate.wait.remote("done"))

        def late(self) -> None:
            raise AssertionError("begins no more")

    class Loop(Threads):
        async def wait(self, gate: Any) -> Any:
            return await gate.wait.remote("done")

    for cls in (Threads, Loop):
        gate, made = Gate.remote(), ray.remote(max_concurrency=3)(cls).remote()
        early = [made.wait.remote(gate), made.wait.remote(gate)]
        ray.get(gate.crowd.remote(2))
        end = made.__ray_terminate__.remote()
        late = [made.late.remote() for _ in range(20)]
        gate.open.remote()
        assert ray.get(early) == ["done", "done"]
        for ref in (end, *late):
            with pytest.raises(ActorDiedError, match="__ray_terminate__"):
                ray.get(ref)


def test_an_actor_in_a_cycle_makes_way_for_one_that_waits() -> None:
    """Python would not find the cycle, as a program that waits makes no garbage."""
    log = Log.options(num_cpus=ray.cluster_resources()["CPU"])
    gc.disable()
    try:
        for _ in range(3):
            cycle: list[Any] = [log.remote()]
            cycle.append(cycle)
            assert ray.get(cycle[0].add.remote(1), timeout=DEADLINE) == 1
            del cycle
    finally:
        gc.enable()


def test_out_of_scope_after_what_was_submitted(tmp_path: Path) -> None:
    gate = Gate.remote()
    refs = [Log.remote().add.remote(1) for _ in range(3)]
    slow = Log.remote().give.remote(gate.wait.remote("late"))
    log = Log.remote()
    many = [log.add.remote(number) for number in range(1000)]
    del log
    assert ray.get(refs) == [1, 1, 1]
    assert ray.get(many) == list(range(1, 1001))
    gate.open.remote()
    assert ray.get(slow) == "late"
    pids = ray.get([Log.remote().pid.remote() for _ in range(2)])
    until(lambda: all(gone(pid) for pid in pids))


# Restarts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["os._exit", "sys.exit", "kill -9", "segfault", "ray.kill"])
def test_restarts(how: str) -> None:
    mortal = Mortal.options(max_restarts=2).remote("argument", log=ray.put("kept"))
    pids = set()
    for turn in range(3):
        until(lambda: alive(mortal))
        pid, argument, entries, again = ray.get(mortal.look.remote())
        assert (argument, entries, again) == (("argument", "kept"), [], turn > 0)
        ray.get(mortal.add.remote(turn))
        pids.add(pid)
        if how == "ray.kill":
            blocked = mortal.block.remote()
            ray.kill(mortal, no_restart=False)
        else:
            blocked = mortal.end.remote(how)
        with pytest.raises(ActorUnavailableError if turn < 2 else ActorDiedError) as caught:
            ray.get(blocked)
        assert caught.value.actor_id == mortal._actor_id.hex()
        if how != "ray.kill" or turn < 2:
            assert DIED in str(caught.value)
    assert len(pids) == 3
    with pytest.raises(ActorDiedError, match=KILLED if how == "ray.kill" else DIED):
        ray.get(mortal.add.remote(1))


def alive(mortal: Any) -> bool:
    try:
        ray.get(mortal.pid.remote())
    except ActorUnavailableError:
        return False
    return True


def test_without_restarts_a_crash_is_the_end() -> None:
    for kind in (Mortal, Mortal.options(max_concurrency=3), actors.MortalLoop):
        for how in ("os._exit", "sys.exit", "sys.exit text", "kill -9"):
            mortal: Any = kind.remote()
            refs = [mortal.end.remote(how), mortal.block.remote()]
            for ref in refs:
                with pytest.raises(ActorDiedError, match=DIED) as caught:
                    ray.get(ref)
            if how == "sys.exit text":
                assert "a last word" in str(caught.value)
            with pytest.raises(ActorDiedError, match=DIED):
                ray.get(mortal.add.remote(1))


def test_options_win_over_the_decorator() -> None:
    class Twice:
        def end(self) -> None:
            os._exit(1)

    Decorated = ray.remote(max_restarts=5)(Twice)
    with pytest.raises(ActorDiedError):
        ray.get(Decorated.options(max_restarts=0).remote().end.remote())
    with pytest.raises(ActorUnavailableError):
        ray.get(Decorated.remote().end.remote())


def test_calls_are_sent_again_in_order() -> None:
    gate = Gate.remote()
    mortal = Mortal.options(max_restarts=-1, max_task_retries=-1).remote()
    pid = ray.get(mortal.pid.remote())
    refs = [mortal.add.remote(number) for number in range(3)]
    refs += [mortal.add_at.remote(gate, 3), *(mortal.add.remote(number) for number in range(4, 600))]
    ray.get(gate.crowd.remote(1))
    assert ray.get(refs[2]) == [0, 1, 2]
    os.kill(pid, signal.SIGKILL)
    ray.get(gate.crowd.remote(2))
    refs += [mortal.add.remote(number) for number in range(600, 610)]
    gate.open.remote()
    assert ray.get(refs[-1]) == list(range(3, 610))  # no finished call runs again; state is lost
    assert ray.get(refs[5]) == [3, 4, 5]


def test_retries_are_counted() -> None:
    mortal = Mortal.options(max_restarts=-1, max_task_retries=1).remote()
    with pytest.raises(ActorUnavailableError):
        ray.get(mortal.end.remote("os._exit"))
    assert ray.get(mortal.add.remote(1)) == [1]
    with pytest.raises(ActorUnavailableError):
        ray.get(mortal.end.options(max_task_retries=0).remote("os._exit"))


def test_calls_wait_for_a_restart_that_waits() -> None:
    whole = Mortal.options(num_cpus=2, max_restarts=1, max_task_retries=-1).remote()
    impatient, patient = whole.end.options(max_task_retries=0).remote("os._exit"), whole.add.remote(1)
    with pytest.raises(ActorUnavailableError):
        ray.get(impatient)
    assert ray.get(patient) == [1]


def test_a_restarted_constructor_may_fail_or_be_killed() -> None:
    class Once:
        def __init__(self) -> None:
            if ray.get_runtime_context().was_current_actor_reconstructed:
                raise ValueError("only once")

        def end(self) -> None:
            os._exit(1)

    once: Any = ray.remote(max_restarts=5, max_task_retries=-1)(Once).remote()
    with pytest.raises(ActorDiedError, match=r"(?s)error raised in its creation task.*only once"):
        ray.get(once.end.remote())
    with pytest.raises(ActorDiedError, match="only once"):
        ray.get(once.end.remote())


def test_a_crash_in_the_constructor() -> None:
    class Crash:
        def __init__(self, gate: Any) -> None:
            ray.get(gate.wait.remote())
            if not ray.get_runtime_context().was_current_actor_reconstructed:
                os._exit(1)

        def m(self) -> str:
            return "made at last"

    gate = Gate.remote()
    for restarts in (0, 1):
        made: Any = ray.remote(max_restarts=restarts)(Crash).remote(gate)
        ref = made.m.remote()  # sent to no process yet, so it is not tried again, and needs no max_task_retries
        ray.get(gate.open.remote())
        if restarts:
            assert ray.get(ref) == "made at last"
        else:
            with pytest.raises(ActorDiedError, match=DIED):
                ray.get(ref)


def test_a_restarting_actor_can_be_killed_and_is_listed() -> None:
    gate = Gate.remote()

    class Slow:
        def __init__(self, gate: Any) -> None:
            if ray.get_runtime_context().was_current_actor_reconstructed:
                ray.get(gate.wait.remote())

        def end(self) -> None:
            os._exit(1)

        def m(self) -> None:
            pass

    slow: Any = ray.remote(max_restarts=5, name="slow")(Slow).remote(gate)
    with pytest.raises(ActorUnavailableError):
        ray.get(slow.end.remote())
    ray.get(gate.crowd.remote(1))
    with pytest.raises(ActorUnavailableError, match="The actor is restarting"):
        ray.get(slow.m.remote())
    waiting = slow.m.options(max_task_retries=1).remote()
    with pytest.raises(GetTimeoutError):
        ray.get(waiting, timeout=0)
    assert list_named_actors() == ["slow"]
    ray.kill(slow)
    with pytest.raises(ActorDiedError, match=KILLED):
        ray.get(waiting)
    assert list_named_actors() == []


def test_a_caller_that_died_may_call_again() -> None:
    class Caller:
        def __init__(self, log: Any) -> None:
            self.log = log

        def call(self, crash: bool) -> Any:
            entries = ray.get(self.log.add.remote("called"))
            if crash and not ray.get_runtime_context().was_current_actor_reconstructed:
                os._exit(1)
            return entries

    log = Log.remote()
    caller = ray.remote(max_restarts=1, max_task_retries=1)(Caller).remote(log)
    assert ray.get([caller.call.remote(crash) for crash in (False, True, False)]) == [1, 3, 4]


def test_a_dead_actor_fails_whoever_depends_on_it() -> None:
    gate, mortal = Gate.remote(), Mortal.remote()
    blocked = mortal.add_at.remote(gate, 1)
    dependent = actors.identity.remote(blocked)

    @ray.remote
    def nested(refs: list[Any]) -> Any:
        return ray.get(refs[0])

    inner = nested.remote([blocked])
    ray.get(gate.crowd.remote(1))
    ray.kill(mortal)
    for ref in (blocked, dependent, inner):
        with pytest.raises(ActorDiedError, match=KILLED) as caught:
            ray.get(ref)
        assert isinstance(caught.value, TaskError) == (ref is inner)
