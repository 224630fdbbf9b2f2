"""Lines of workers at other nodes: their way to the driver, the bound on lines under way, and the line about others."""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import OUTPUT_OF, OUTPUT_READ
from asyncray.core.cluster import far_output
from asyncray.core.cluster.far_output import MOST_UNREAD
from asyncray.core.records import Job
from asyncray.messages import OUTPUT
from tests.core.cluster.pair import A, B, C, Pair
from tests.core.processes import Driver
from tests.core.programs import Recipe

FAR = Recipe(extra=("R", 1))


def pair() -> tuple[Pair, Driver]:
    """Two nodes, and a driver at the first whose job has run at the second."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0})
    driver = world.driver()
    driver.state.spawn(FAR)
    world.settle()
    return world, driver


def job_at(world: Pair, node: bytes) -> Job:
    (job,) = world.members[node].host.machine.jobs.table.values()
    return job


def write(world: Pair, node: bytes, *texts: str, prefix: str = "(f pid=7)") -> None:
    """A worker at a node has printed something, and the messages arrive."""
    member = world.members[node]
    member.part.output.send(job_at(world, node), [("out", prefix, text) for text in texts])
    member.host.after()
    world.deliver()


def printed(driver: Driver) -> list[tuple[str, str]]:
    """The prefixes and texts that a driver has got."""
    batches = [message[1] for message in (*driver.news, *driver.inbox) if message[0] == OUTPUT]
    return [(prefix, text) for lines in batches for _, prefix, text in lines]


def read(world: Pair, node: bytes, *, is_behind: bool = False) -> None:
    """The shell of a node looks at what drivers have read."""
    world.members[node].part.output.acknowledge(lambda party: is_behind)
    world.members[node].host.after()
    world.deliver()


def test_a_line_reaches_the_driver_and_names_the_node() -> None:
    world, driver = pair()
    write(world, B, "hello")
    assert printed(driver) == [("(f pid=7, ip=node000B)", "hello")]
    read(world, A)
    assert world.members[B].part.output._sent == {world.members[B].part.peers[A]: {}}
    assert not world.members[A].part.output.owed
    world.end()


def test_a_line_from_the_end_of_a_chain_goes_straight_to_the_home_of_the_driver() -> None:
    """A tells the job to B, and B to C."""
    world = Pair({"CPU": 1.0}, {"CPU": 1.0, "R": 1.0}, {"CPU": 1.0, "S": 1.0})
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), steps=(("spawn", Recipe(extra=("S", 1))),)))
    world.settle()
    write(world, C, "hello")
    assert printed(driver) == [("(f pid=7, ip=node000C)", "hello")]
    assert OUTPUT_OF not in world.kinds(C, B)
    world.end()


def test_output_waits_while_the_driver_does_not_read() -> None:
    world, driver = pair()
    output, job = world.members[B].part.output, job_at(world, B)
    for _ in range(40):
        if output.is_full(job):
            break
        write(world, B, "x" * 50_000)
        read(world, A, is_behind=True)
    assert output.is_full(job)
    assert MOST_UNREAD < sum(len(text) for _, text in printed(driver)) < MOST_UNREAD + 100_000
    assert OUTPUT_READ not in world.kinds(A, B)
    read(world, A)
    assert not output.is_full(job)
    world.end()


def test_what_cannot_wait_is_counted_and_a_line_says_so_once_there_is_room() -> None:
    world, driver = pair()
    output = world.members[B].part.output
    write(world, B, "x" * (MOST_UNREAD + 1))
    write(world, B, "lost", "lost")
    write(world, B, "lost")
    assert len(printed(driver)) == 1
    read(world, A)
    text = f"... 3 lines of workers are not shown, because nobody read fast enough, see {output._directory}"
    assert printed(driver)[1:] == [("(ip=node000B)", text)]
    write(world, B, "again")
    assert printed(driver)[2:] == [("(f pid=7, ip=node000B)", "again")]
    read(world, A)
    world.end()


def test_before_the_driver_ends_it_learns_how_many_lines_were_left_out() -> None:
    world, driver = pair()
    write(world, B, "x" * (MOST_UNREAD + 1))
    write(world, B, "lost")
    world.members[B].part.output.finish(job_at(world, B))
    world.members[B].host.after()
    world.deliver()
    assert printed(driver)[1][1].startswith("... 1 lines of workers are not shown")
    world.end()


def test_a_flood_travels_in_messages_of_a_bounded_size() -> None:
    world, driver = pair()
    write(world, B, *("x" * 1000 for _ in range(500)))
    sizes = [message[2] for _, _, message in world.written if message[0] == OUTPUT_OF]
    assert max(sizes) < far_output._PART + 2000
    assert len(printed(driver)) == 500
    world.end()


def test_output_for_a_driver_that_has_ended_is_taken_and_dropped() -> None:
    world, driver = pair()
    job = job_at(world, B)
    peer = world.members[B].part.peers[A]
    world.die(driver)
    world.talk()
    job.reports_to = peer  # node B has not learned of the end
    world.members[B].part.output.send(job, [("out", "(f pid=7)", "late")])
    world.members[B].host.after()
    world.deliver()
    read(world, A)
    assert not world.members[B].part.output._sent[peer]
    job.reports_to = None
    world.members[B].part.output.send(job, [("out", "(f pid=7)", "nobody")])
    assert not peer.out
    world.end()


def test_output_for_a_driver_whose_node_is_lost_is_dropped_and_not_counted() -> None:
    world, _ = pair()
    part = world.members[B].part
    peer = part.peers[A]
    peer.alive = False
    part.output.send(job_at(world, B), [("out", "(f pid=7)", "late")])
    assert not peer.out
    assert not part.output._sent.get(peer)
    peer.alive = True
    world.end()


def test_a_lost_node_takes_the_counts_with_it() -> None:
    world, _ = pair()
    write(world, B, "x")
    part: Any = world.members[A].part
    assert part.output.owed
    world.lose(B)
    assert not part.output.owed
    assert repr(part.output) == "<FarOutput to 0 nodes, owed to 0>"
