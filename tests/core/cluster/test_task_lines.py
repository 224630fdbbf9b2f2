"""Lines: windows, and tasks that are asked back."""

from __future__ import annotations

from asyncray.core.cluster.task_lines import MOST_AHEAD, Away, TaskLine, TaskLines
from asyncray.core.records import Task
from tests.core.cluster.pair import A, B, Pair
from tests.core.programs import Recipe


def line_of(world: Pair) -> tuple[TaskLine, Task]:
    driver = world.driver()
    driver.state.spawn(Recipe(extra=("R", 1), retries=1))
    world.host.talk()
    (line,) = world.members[A].part.feeding.lines
    (away,) = line.sent.values()
    return line, away.task


def line_with_queue() -> tuple[TaskLines, TaskLine, Task]:
    """The lines of A, the one to B with a task there, and that task, which stands in the queue of the line as well."""
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 2.0})
    line, task = line_of(world)
    line.queue.append(task)
    return world.members[A].part.feeding.lines, line, task


def test_a_task_of_unknown_length_is_not_sent_ahead() -> None:
    lines, line, _ = line_with_queue()
    line.slots = 2
    assert lines.room(line) == 1
    line.slots = 0
    assert lines.room(line) == 0, "one waits there already"


def test_short_tasks_are_sent_ahead_and_long_ones_are_not() -> None:
    lines, line, task = line_with_queue()
    line.slots = 1
    task.template.mean = 1.0
    assert lines.room(line) == 1 + MOST_AHEAD - 1
    task.template.mean = 1_000_000.0
    assert lines.room(line) == 0
    task.template.mean = 1.0
    task.retries = 0
    assert lines.room(line) == 0, "it may start only once"


def test_a_line_is_filled_again_when_it_is_half_empty() -> None:
    lines, line, task = line_with_queue()
    line.slots = 1
    task.template.mean = 190.0
    window = lines.room(line) + len(line.sent)
    for attempt in range(100, 101 + window // 2):
        line.sent[attempt] = Away(task, attempt, line.peer, ())
    assert lines.room(line) == 0
    del line.sent[100], line.sent[101]
    assert lines.room(line) == window - len(line.sent)


def test_a_free_slot_is_filled_although_the_line_is_not_half_empty() -> None:
    """The tasks there may wait for the task that would take the slot."""
    lines, line, task = line_with_queue()
    line.slots = 5
    task.template.mean = 10_000.0
    for attempt in (100, 101, 102):
        line.sent[attempt] = Away(task, attempt, line.peer, ())
    assert lines.room(line) == 1


def test_a_line_with_a_queue_is_kept_although_none_of_its_tasks_is_there_yet() -> None:
    lines, line, _ = line_with_queue()
    line.sent.clear()
    lines.forget_unused()
    assert lines.find(line.peer, line.shape) is line
    line.queue.clear()
    lines.forget_unused()
    assert lines.find(line.peer, line.shape) is None


def test_a_line_without_tasks_is_forgotten() -> None:
    world = Pair({"CPU": 1.0}, {"CPU": 2.0, "R": 2.0})
    line, _ = line_of(world)
    lines = world.members[A].part.feeding.lines
    assert lines.find(line.peer, line.shape) is line
    world.settle()
    assert not list(lines)
    assert B not in world.members[A].part._graces
    world.end()
