"""However a driver, a daemon or a zygote ends: five seconds later nothing of the session is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

import asyncray.sync as ray
from asyncray.api import session as api_session
from asyncray.exceptions import LocalNodeDiedError, WorkerCrashedError
from asyncray.io.session_names import name_of
from asyncray.runtime import launch
from tests.system.busy_driver import Parent, occupy
from tests.system.conftest import DEADLINE, sockets
from tests.system.crashes import crash_by_code, crash_by_exit, crash_by_signal, crash_in_c

ROOT = Path(__file__).parents[2]


def processes_of(*marks: str) -> list[psutil.Process]:
    """The processes whose command line holds a mark: a session's directory, or an argument of the grandchildren.

    Zombies are not ours to bury: the parent that they have now is this machine's first process.
    """
    found = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    mine = os.getpid()
    return [p for p in found if p.pid != mine and any(m in part for m in marks for part in p.info["cmdline"] or [])]


def assert_nothing_left(session: str, directory: Path) -> None:
    processes = processes_of(session, str(directory))
    psutil.wait_procs(processes, timeout=DEADLINE)
    left = processes_of(session, str(directory))
    for process in left:
        process.kill()
    assert not left, f"processes are left: {left}"
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(name_of(session))]
    assert not sockets(Path(session))
    assert not (Path(session) / "lock").exists()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Starts a busy driver in a process group of its own; tells its process and its session."""
    started: list[subprocess.Popen[str]] = []

    def start(ending: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "tests.system.busy_driver", ending, str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["session_dir"]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def daemon_and_zygote(session: str) -> tuple[psutil.Process, psutil.Process]:
    found = processes_of(session)
    daemon = next(p for p in found if any("asyncray.node" in part for part in p.cmdline()))
    zygote = next(p for p in daemon.children() if any("asyncray.worker.zygote" in part for part in p.cmdline()))
    return daemon, zygote


@pytest.mark.parametrize(
    ("ending", "number", "code", "tidy"),
    [
        ("return", None, 0, True),
        ("exception", None, 1, True),
        ("_exit", None, 7, False),
        ("get", signal.SIGINT, -signal.SIGINT, True),
        ("get", signal.SIGTERM, signal.SIGTERM, True),
        ("wait", signal.SIGTERM, signal.SIGTERM, True),
        ("await", signal.SIGTERM, signal.SIGTERM, True),
        ("get", signal.SIGKILL, -signal.SIGKILL, False),
    ],
)
def test_the_end_of_a_driver(
    driver: Any, tmp_path: Path, ending: str, number: signal.Signals | None, code: int, tidy: bool
) -> None:
    process, session = driver(ending)
    if number is not None:
        os.killpg(process.pid, number)  # as a terminal does: to the whole foreground group
    assert process.wait(DEADLINE) == code
    assert_nothing_left(session, tmp_path)
    assert ("exit handlers ran" in process.stdout.read()) == tidy


def kill_both(daemon: psutil.Process, zygote: psutil.Process) -> None:
    daemon.suspend()  # so that it starts no other zygote in between
    zygote.kill()
    daemon.kill()


@pytest.mark.parametrize(
    ("end", "bare"),
    [
        (lambda daemon, zygote: daemon.terminate(), True),
        (lambda daemon, zygote: daemon.kill(), True),
        (kill_both, False),
        (lambda daemon, zygote: (zygote.suspend(), daemon.kill()), False),
    ],
    ids=["SIGTERM", "SIGKILL", "zygote too", "zygote stopped"],
)
def test_the_end_of_a_daemon(sessions: Path, tmp_path: Path, end: Any, bare: bool) -> None:
    """Calls that wait and later calls raise the right error, and the driver can start again."""
    session = ray.init(num_cpus=4)["session_dir"]
    things = occupy(tmp_path, bare)
    end(*daemon_and_zygote(session))
    with pytest.raises(LocalNodeDiedError):
        ray.get(things["lasting"])
    for use in (
        lambda: ray.get(things["lasting"][0]),
        lambda: ray.wait(things["lasting"]),
        lambda: ray.put(b"x" * 1_000_000),
        lambda: ray.get(things["parent"].pid.remote()),
        lambda: ray.get(ray.put(1)) and ray.nodes(),
    ):
        with pytest.raises(LocalNodeDiedError):
            use()
    with ray.init(num_cpus=1) as again:
        assert again["session_dir"] != session
        assert ray.get(ray.remote(os.getpid).remote()) != os.getpid()
        assert_nothing_left(session, tmp_path)


def test_the_end_of_a_zygote(sessions: Path, tmp_path: Path) -> None:
    """All workers end with it, and so do the processes that they started; the node goes on with another zygote."""
    with ray.init(num_cpus=4) as context:
        things = occupy(tmp_path)
        actor = ray.get(things["parent"].pid.remote())
        daemon, zygote = daemon_and_zygote(context["session_dir"])
        workers = zygote.children()
        zygote.kill()
        for ref in things["lasting"]:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref)
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(things["parent"].pid.remote())
        _, alive = psutil.wait_procs([*workers, *processes_of(str(tmp_path))], timeout=DEADLINE)
        assert not alive
        assert ray.get(ray.remote(Parent).remote(tmp_path).pid.remote()) != actor
        assert daemon.is_running()


def test_a_daemon_that_hangs_at_shutdown(sessions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOODBYE_DEADLINE", "STOP_DEADLINE"):
        monkeypatch.setattr(api_session, name, 0.1)
    session = ray.init(num_cpus=4)["session_dir"]
    occupy(tmp_path)
    daemon, _ = daemon_and_zygote(session)
    daemon.suspend()
    ray.shutdown()
    assert_nothing_left(session, tmp_path)


def test_a_zygote_that_hangs_at_shutdown(sessions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon waits for nothing that a zygote does. A busy one, which loads modules ahead, may take seconds."""
    monkeypatch.setenv("ASYNCRAY_STOP_DEADLINE", "1000")  # of the daemon
    killed: list[int] = []

    def kill(pid: int) -> None:
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(launch, "kill", kill)
    session = ray.init(num_cpus=4)["session_dir"]
    occupy(tmp_path)
    _, zygote = daemon_and_zygote(session)
    zygote.suspend()
    ray.shutdown()
    assert not killed
    assert_nothing_left(session, tmp_path)


def test_a_zygote_that_does_not_fork_is_replaced(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_START_DEADLINE", "2")  # of the daemon, and of the start of its next zygote
    with ray.init(num_cpus=1) as context:
        pid = ray.remote(os.getpid)
        first = ray.get(pid.remote())
        _, zygote = daemon_and_zygote(context["session_dir"])
        zygote.suspend()
        psutil.Process(first).kill()  # its successor is what the zygote does not fork
        assert ray.get(pid.remote()) != first
        assert not zygote.is_running()


def test_what_killed_sessions_leave_is_swept_at_the_next_start(driver: Any, tmp_path: Path) -> None:
    process, session = driver("get")
    daemon, zygote = daemon_and_zygote(session)
    daemon.suspend()
    for one in (process, zygote, daemon):
        one.kill()
    psutil.wait_procs([zygote, daemon], timeout=DEADLINE)
    assert (Path(session) / "lock").exists()
    assert sockets(Path(session))
    bare = [p for p in processes_of(str(tmp_path)) if p.environ() == {}]  # that one shows in no way whose it is
    assert len(bare) == 1
    bare[0].kill()
    with ray.init(num_cpus=0):
        assert_nothing_left(session, tmp_path)


def run(program: str, *arguments: str) -> str:
    """Runs a driver to its end; returns its output."""
    code = "import multiprocessing, os, signal, sys\nimport asyncray.sync as ray\n" + dedent(program)
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_forks_of_a_driver() -> None:
    """Neither disturbs the other, and one that starts for itself has a node of its own."""
    printed = run(
        """
        @ray.remote
        def pid(): return os.getpid()

        def child(queue):
            queue.put(ray.is_initialized())
            ray.init(num_cpus=1)
            queue.put((ray.get(pid.remote()), ray.get_runtime_context().get_node_id()))
            ray.shutdown()

        ray.init(num_cpus=1)
        ref = pid.remote()
        fork = multiprocessing.get_context("fork")
        queue = fork.SimpleQueue()
        process = fork.Process(target=child, args=(queue,))
        process.start()
        assert queue.get() is False
        theirs, node = queue.get()
        process.join()
        assert process.exitcode == 0
        assert ray.get(ref) == ray.get(pid.remote()) != theirs
        assert node != ray.get_runtime_context().get_node_id()

        process = fork.Process(target=signal.pause)
        process.start()
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM, process.exitcode
        print("well")
        """
    )
    assert printed == "well\n"


IN_AN_EXIT_HANDLER = """
    atexit.register(term)
    atexit.register(print, "exit handlers ran")
"""
IN_SHUTDOWN = """
    stop = session._Driver.end
    def end(driver, deadline):
        term()
        stop(driver, deadline)
    session._Driver.end = end
    atexit.register(print, "exit handlers ran")
"""
BEFORE_SHUTDOWN_IS_SAFE = """
    goodbye = current.session.request
    def request(*arguments, **options):
        term()
        return goodbye(*arguments, **options)
    current.session.request = request
    atexit.register(print, "exit handlers ran")
"""
AMONG_THREADS = """
    def wait():
        threading.main_thread().join()
        term_in_its_sleep()
        forever.wait()
    forever = threading.Event()
    threading.Thread(target=wait).start()
    atexit.register(print, "exit handlers ran")
"""
AMONG_POOLS = """
    def wait():
        while not thread._shutdown:
            pass
        term_in_its_sleep()
        forever.wait()
    forever = threading.Event()
    thread.ThreadPoolExecutor().submit(wait)
    atexit.register(print, "exit handlers ran")
"""


@pytest.mark.parametrize("when", [IN_AN_EXIT_HANDLER, IN_SHUTDOWN, BEFORE_SHUTDOWN_IS_SAFE, AMONG_THREADS, AMONG_POOLS])
def test_sigterm_while_the_program_ends(sessions: Path, tmp_path: Path, when: str) -> None:
    """It dies by that signal, without a traceback, and leaves nothing.

    Python 3.13 loses signals that come when a thread has let go of the interpreter and does not sleep yet (one of ten
    programs of five lines, with ``threading`` and ``signal`` alone), so the sender of a signal waits until it sleeps.
    """
    program = f"""
    import atexit, os, signal, threading
    from concurrent.futures import thread
    import asyncray.sync as ray
    from asyncray.api import session
    from asyncray.runtime import current

    def term(): os.kill(os.getpid(), signal.SIGTERM)

    def term_in_its_sleep():
        state = f"/proc/self/task/{{threading.main_thread().native_id}}/stat"
        while open(state).read().rsplit(")")[1].split()[0] != "S":
            pass
        term()

    print(ray.init(num_cpus=1)["session_dir"])
    {when.strip()}
    """
    command = [sys.executable, "-c", dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    directory, words = done.stdout.splitlines()
    assert words == "exit handlers ran"
    assert_nothing_left(directory, tmp_path)


def test_a_driver_without_standard_descriptors(tmp_path: Path) -> None:
    """Nothing of ours takes their numbers: the program may write to them."""
    run(
        """
        for number in range(3):
            os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None

        @ray.remote
        def pid(): return os.getpid()

        for _ in range(2):
            with ray.init(num_cpus=1):
                os.write(1, b"to nobody")
                os.write(2, b"to nobody")
                with open(sys.argv[1], "a") as file:
                    print(ray.get(pid.remote()) != os.getpid(), file=file)
        """,
        str(tmp_path / "result"),
    )
    assert (tmp_path / "result").read_text() == "True\nTrue\n"


def test_too_many_open_files() -> None:
    """The node's log says so, no process ends, and a task that waits for a worker gets one when others have ended."""
    printed = run(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        @ray.remote(num_cpus=0)
        class A:
            def pid(self): return os.getpid()

        context = ray.init(num_cpus=1)
        actors = {}
        for _ in range(24):
            actor = A.remote()
            actors[actor.pid.remote()] = actor
        log = ""
        while "the limit of 64 open files is reached: raise it with `ulimit -n`" not in log:
            with open(os.path.join(context["session_dir"], "logs", "node.log")) as file:
                log = file.read()
        while actors:
            done, _ = ray.wait(list(actors))
            ray.kill(actors.pop(done[0]))
        ray.shutdown()
        with open(os.path.join(context["session_dir"], "logs", "node.err")) as file:
            print(file.read(), end="")

        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        try:
            ray.init(num_cpus=1)
        except OSError as error:
            print(error)
        """
    )
    assert printed.startswith("[Errno 24] Too many open files: the limit is 16, and a node needs"), printed
    assert len(printed.splitlines()) == 1


def test_a_fork_does_not_keep_the_node_alive(sessions: Path, tmp_path: Path) -> None:
    """It has a copy of the driver's connection, and outlives the driver."""
    printed = run(
        """
        context = ray.init(num_cpus=1)
        print(context["session_dir"], flush=True)
        if os.fork() == 0:
            os.close(1)
            signal.pause()
        os._exit(0)
        """
    )
    processes = [p for p in processes_of(str(sessions)) if p.info["cmdline"][1] != "-W"]
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE)
    for process in psutil.process_iter(["cmdline"]):
        if any("signal.pause" in part for part in process.info["cmdline"] or []):
            process.kill()
    assert not alive
    assert_nothing_left(printed.strip(), tmp_path)


def test_forks_of_a_worker(sessions: Path) -> None:
    @ray.remote
    def fork() -> tuple[bool, int]:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, str(ray.is_initialized()).encode())
            sys.exit(7)
        _, status = os.waitpid(pid, 0)
        return os.read(read, 10) == b"False", os.waitstatus_to_exitcode(status)

    with ray.init(num_cpus=1):
        assert ray.get([fork.remote() for _ in range(3)]) == [(True, 7)] * 3


@pytest.mark.parametrize(
    ("crash", "told"),
    [
        (crash_by_signal, ["killed by signal SIGABRT (6)", "crash_by_signal"]),
        (crash_by_code, ["exit code 5", "the last words"]),
        (crash_by_exit, ["exit code 1", "enough is enough"]),
        (crash_in_c, ["killed by signal SIGSEGV (11)", "Fatal Python error: Segmentation fault", "in crash_in_c"]),
    ],
)
def test_the_end_of_a_worker_is_told(sessions: Path, crash: Callable[[], None], told: list[str]) -> None:
    with ray.init(num_cpus=1, log_to_driver=False):
        with pytest.raises(WorkerCrashedError) as raised:
            ray.get(ray.remote(max_retries=0)(crash).remote())
        for text in told:
            assert text in str(raised.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_finalizer_is_not_lost(sessions: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A finalizer cannot raise: the driver raises the signal's exception again, later."""
    program = f"""
    import os, threading
    import asyncray.sync as ray

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), {int(number)})

    print(ray.init(num_cpus=1)["session_dir"], flush=True)
    Finalized()
    threading.Event().wait({DEADLINE})
    print("nothing came")
    """
    command = [sys.executable, "-c", dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=2 * DEADLINE, text=True)
    expected = (number, "") if number == signal.SIGTERM else (-number, "KeyboardInterrupt")
    assert (done.returncode, done.stderr.strip().rpartition("\n")[2]) == expected
    (directory,) = done.stdout.splitlines()
    assert_nothing_left(directory, tmp_path)


def test_what_finalizers_raise_otherwise_is_reported_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    before, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__

    class Finalized:
        def __del__(self) -> None:
            raise ValueError("of its own")

    try:
        with ray.init(num_cpus=1):
            assert sys.unraisablehook is not sys.__unraisablehook__
            Finalized()
        assert sys.unraisablehook is sys.__unraisablehook__
    finally:
        sys.unraisablehook = before
    assert "ValueError: of its own" in capfd.readouterr().err
