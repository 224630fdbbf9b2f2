"""Children that user code forks, in drivers and workers, are as they would be without asyncray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import IO, Any

import pytest

import asyncray.sync as ray

ROOT = Path(__file__).parents[2]
HELPERS = """
import os, signal, sys, threading, time
import asyncray.sync as ray

def files():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink("/proc/self/fd/" + number)
        except FileNotFoundError:
            pass
    return {number for number, name in found.items() if not name.startswith("/proc/")}

def in_a_child(check):
    pid = os.fork()
    if not pid:
        try:
            os._exit(not check())
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

before = files()
"""


def run(program: str) -> str:
    """Runs a driver to its end; returns its output."""
    command = [sys.executable, "-W", "ignore", "-c", HELPERS + dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_child_of_a_driver_whose_node_has_died_keeps_its_files() -> None:
    printed = run(
        """
        import psutil
        ray.init(num_cpus=0)
        mine = [open("/dev/null")]
        (daemon,) = psutil.Process().children()
        daemon.kill()
        while files() != before | {str(mine[0].fileno())}:  # until asyncray has closed its own
            time.sleep(0.001)
        mine += [open("/dev/null") for _ in range(6)]  # get their numbers

        def check():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            return files() >= {str(file.fileno()) for file in mine} and not blocked

        print(in_a_child(check), in_a_child(lambda: os.kill(os.getpid(), signal.SIGTERM)))
        """
    )
    assert printed == f"0 {-signal.SIGTERM}\n"


def test_a_child_that_is_forked_while_a_thread_starts_and_stops_has_nothing_of_ours() -> None:
    printed = run(
        """
        import cloudpickle  # the file of a module that another thread is importing is the interpreter's, and not ours

        def cycle():
            for _ in range(3):
                ray.init(num_cpus=0)
                ray.shutdown()
                done.append(1)
            done.append("end")

        def check():
            ray.shutdown()
            return files() == before and not ray.is_initialized()

        done = []
        thread = threading.Thread(target=cycle)
        thread.start()
        codes = set()
        while "end" not in done:
            codes.add(in_a_child(check))
        thread.join()
        print(codes)
        """
    )
    assert printed == "{0}\n"


def test_a_child_has_a_session_of_its_own_or_none() -> None:
    printed = run(
        """
        @ray.remote
        class A:
            def pid(self): return os.getpid()

        def check():
            for use in (lambda: ray.get(ref), actor.pid.remote, lambda: ray.put(ref)):
                try:
                    use()
                    return False
                except (ray.exceptions.AsyncrayError, TypeError):
                    assert not ray.is_initialized()
            with ray.init(num_cpus=1):
                return ray.get(A.remote().pid.remote()) not in (os.getpid(), ray.get)

        with ray.init(num_cpus=1):
            actor = A.options(num_cpus=0).remote()
            ref = actor.pid.remote()
            assert in_a_child(check) == 0
            assert in_a_child(lambda: in_a_child(lambda: files() == before) == 0) == 0
            print(ray.get(ref) == ray.get(actor.pid.remote()))
        """
    )
    assert printed == "True\n"


@pytest.mark.parametrize("place", ["driver", "worker"])
def test_no_wait_hangs_in_which_a_signal_handler_forks(place: str) -> None:
    """At 200 moments. The child ends in the handler, or returns into the wait, whose result it never gets."""
    printed = run(
        f"""
        @ray.remote
        def same(value):
            return value

        def forks_often(ends):
            parent, children, limit = os.getpid(), [], 200

            def handle(number, frame):
                if os.getpid() != parent or len(children) == limit:
                    return
                pid = os.fork()
                if pid:
                    children.append(pid)
                elif ends:
                    os._exit(0)

            signal.signal(signal.SIGALRM, handle)
            for number in range(limit):
                signal.setitimer(signal.ITIMER_REAL, 0.00005 + 0.00001 * (number * 37 % limit))
                try:
                    value = ray.get(same.remote(b"x" * (200_000 if number % 4 == 0 else 10)), timeout=30)
                except ray.exceptions.AsyncrayError:
                    assert os.getpid() != parent
                    os._exit(0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if os.getpid() != parent:
                    os._exit(0)
                assert value[:1] == b"x"
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            return sum(os.waitpid(pid, 0)[1] for pid in children), len(children) > 20

        with ray.init(num_cpus=2):
            for ends in (True, False):
                print(forks_often(ends) if {place == "driver"} else ray.get(ray.remote(forks_often).remote(ends)))
        """
    )
    assert printed == "(0, True)\n(0, True)\n"


def test_children_and_grandchildren_of_a_task(sessions: Path) -> None:
    @ray.remote
    def fork() -> list[int]:
        def in_a_child(check: object) -> int:
            pid = os.fork()
            if not pid:
                try:
                    os._exit(not check())  # type: ignore[operator]
                except BaseException:
                    os._exit(2)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def are_open() -> bool:
            return all(os.fstat(file.fileno()) for file in files)

        def interrupted() -> bool:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                return not ray.is_initialized()
            return False

        def child() -> bool:
            files.extend(open("/dev/null") for _ in range(6))  # noqa: SIM115 - they get the numbers that are free
            return in_a_child(are_open) == 0

        files: list[IO[str]] = []
        return [in_a_child(child), in_a_child(interrupted), in_a_child(lambda: os.kill(os.getpid(), signal.SIGTERM))]

    with ray.init(num_cpus=1):
        assert ray.get(fork.remote()) == [0, 0, -signal.SIGTERM]


def test_a_child_of_a_task_is_the_driver_of_a_session_of_its_own(
    sessions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    @ray.remote
    def double(number: int) -> int:
        return 2 * number

    @ray.remote
    def fork() -> int:
        pid = os.fork()
        if pid:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print("parent")
            return code
        with ray.init(num_cpus=1):
            print("child")
            context = ray.get_runtime_context()
            os._exit(ray.get(double.remote(4)) if context.get_task_id() is None else 1)

    with ray.init(num_cpus=1):
        assert ray.get(fork.remote()) == 8
    written = capfd.readouterr().out
    assert re.sub(r"pid=\d+", "", written) == "(fork ) child\n(fork ) parent\n"


WAYS_BACK = {"returns": 0, "raises": 1, "exits": 5}


class Forking:
    def fork(self, way: str) -> int:
        return code_of_child(way)


class ForkingInLoop:
    async def fork(self, way: str) -> int:
        return code_of_child(way)


def code_of_child(way: str) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if way == "raises":
        raise ValueError(way)
    if way == "exits":
        raise SystemExit(WAYS_BACK[way])
    return -1


def test_a_child_that_comes_to_the_end_of_its_task_or_method_ends(sessions: Path) -> None:
    expected = list(WAYS_BACK.values())
    with ray.init(num_cpus=1, log_to_driver=False):
        task = ray.remote(code_of_child)
        assert ray.get([task.remote(way) for way in WAYS_BACK]) == expected
        plain, in_loop = ray.remote(Forking), ray.remote(ForkingInLoop)
        actors: list[Any] = [plain.remote(), plain.options(max_concurrency=2).remote(), in_loop.remote()]
        for actor in actors:
            assert ray.get([actor.fork.remote(way) for way in WAYS_BACK]) == expected


AFTER_SHUTDOWN = """
import atexit, weakref

def use(actor):
    for use in (actor.pid.remote, A.remote, lambda: ray.put(1), lambda: ray.nodes()):
        try:
            use()
            print("worked")
        except ray.exceptions.AsyncrayError:
            errors.append(use)

class Client:
    def __init__(self): self.actor = A.remote()
    def __del__(self): use(self.actor)

class Watched:
    pass

@ray.remote
class A:
    def pid(self): return os.getpid()

errors = []
"""


@pytest.mark.parametrize("start", ["with ray.init(num_cpus=1):", "if True:"], ids=["explicit", "implicit"])
def test_finalizers_and_exit_handlers_start_no_node(start: str) -> None:
    """asyncray cannot tell callbacks of weak references from code that runs normally."""
    printed = run(
        f"""
{AFTER_SHUTDOWN}
{start}
    client, late, actor = Client(), Client(), A.remote()
    watched = Watched(), Watched()
    first = weakref.ref(watched[0], lambda reference: use(actor))
    second = weakref.finalize(watched[1], use, actor)
    ray.get(client.actor.pid.remote())
ray.shutdown()
del client, watched
print(ray.is_initialized(), len(errors))
atexit.register(use, actor)
weakref.finalize(A, lambda: print("at exit", ray.is_initialized(), len(errors)))
"""
    )
    assert printed == "False 12\nat exit False 16\n"


def test_a_child_starts_no_node_for_what_it_has_inherited_until_it_calls_init() -> None:
    printed = run(
        f"""
{AFTER_SHUTDOWN}
def check():
    global watched
    del watched
    use(actor)
    assert len(errors) == 8 and not ray.is_initialized(), errors
    try:
        ray.put(1)
    except ray.exceptions.AsyncraySystemError as error:
        print(error, flush=True)
    with ray.init(num_cpus=0):
        return ray.get(ray.put(1)) == 1

with ray.init(num_cpus=0):
    actor, watched = A.options(num_cpus=0).remote(), Watched()
    reference = weakref.ref(watched, lambda reference: use(actor))
    print(in_a_child(check))
"""
    )
    text, code = printed.splitlines()
    assert "forked from" in text
    assert "Call init() to start another" in text
    assert code == "0"


def test_a_program_that_relies_on_the_first_use_after_shutdown_reads_what_to_do() -> None:
    printed = run(
        """
        ray.init(num_cpus=0)
        ray.shutdown()
        for switch in (lambda: None, lambda: ray.set_auto_init(True)):
            switch()
            try:
                print(ray.get(ray.put(1)))
            except ray.exceptions.AsyncraySystemError as error:
                print(error)
        """
    )
    text, value = printed.splitlines()
    assert text.startswith(
        "Ray has not been started yet. The session of this process was left by shutdown(). Call init()"
    )
    assert value == "1"


def test_the_first_use_in_an_exit_handler_starts_no_node() -> None:
    printed = run(
        """
        import atexit

        def use():
            try:
                ray.put(1)
            except ray.exceptions.AsyncraySystemError as error:
                print(error)

        atexit.register(use)
        """
    )
    assert "The interpreter is ending" in printed
