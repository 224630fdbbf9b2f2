"""A recording of everything that was said in a simulated cluster, and the story of some objects or tasks.

A seed that fails is read backwards: which messages named the task, and in which order did they arrive? The recorder
keeps all messages between nodes, as they are written, and those between processes and daemons, as they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import astuple, is_dataclass
from typing import Any

from asyncray import cluster_messages, messages
from asyncray.ids import CLIENT_SIZE, NODE_SIZE, OBJECT_SIZE, TASK_PREFIX_SIZE, TASK_SIZE
from tests.core.programs import Arguments, Recipe

MOST_LINES = 120
"""Lines of a story: the last ones."""

_ID = re.compile(r"\b(?:[0-9a-f]{44}|[0-9a-f]{52})\b")


def _kinds(module: Any) -> dict[int, str]:
    """The number of each kind of message, with its name: a kind has a type of the same name."""
    types = {name.removesuffix("Message").lower() for name in vars(module) if name.endswith("Message")}
    return {
        value: name
        for name, value in vars(module).items()
        if name.isupper() and type(value) is int and name.replace("_", "").lower() in types
    }


_TO_PROCESSES = _kinds(messages)
_TO_NODES = _kinds(cluster_messages)


class Recorder:
    """Keeps all messages of a simulated cluster."""

    def __init__(self) -> None:
        # (time, sender, receiver, message), in order.
        self.said: list[tuple[float, str, str, Any]] = []

    def __repr__(self) -> str:
        return f"<Recorder of {len(self.said)} messages>"

    def record(self, now: float, sender: str, receiver: str, message: Any) -> None:
        self.said.append((now, sender, receiver, message))

    def story(self, text: str) -> str:
        """The messages about the objects and tasks whose IDs a text contains; without any, the last messages."""
        wanted = {bytes.fromhex(found)[:TASK_SIZE] for found in _ID.findall(text)}
        found = [entry for entry in self.said if not wanted or not wanted.isdisjoint(_tasks_in(entry[3]))]
        left_out = [f"... {len(found) - MOST_LINES} messages before"] if len(found) > MOST_LINES else []
        names = ", ".join(f"{short(task)} is {task.hex()}" for task in sorted(wanted))
        return "\n".join([names, *left_out, *map(_line, found[-MOST_LINES:])])


def _line(entry: tuple[float, str, str, Any]) -> str:
    now, sender, receiver, message = entry
    process = ":" in sender or ":" in receiver
    names = _TO_PROCESSES if process else _TO_PROCESSES | _TO_NODES
    kind = names.get(message[0], str(message[0]))
    return f"{now:9.4f} {sender:>12} > {receiver:<12} {kind} {', '.join(map(_shown, message[1:]))}"


def _tasks_in(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        if len(value) in (TASK_SIZE, OBJECT_SIZE):
            yield value[:TASK_SIZE]
    elif isinstance(value, (list, tuple, frozenset)):
        for part in value:
            yield from _tasks_in(part)
    elif is_dataclass(value) and not isinstance(value, (type, Recipe)):
        yield from _tasks_in(astuple(value))


def short(value: bytes) -> str:
    """An ID for people: the number of its node, of the process there, of the task, and of the object."""
    node = value[:NODE_SIZE].decode(errors="replace").removeprefix("node").lstrip("0")
    text = f"n{node}"
    if len(value) >= CLIENT_SIZE:
        text += f".{int.from_bytes(value[NODE_SIZE:CLIENT_SIZE], 'big')}"
    if len(value) >= TASK_SIZE:
        text += f".{int.from_bytes(value[TASK_PREFIX_SIZE:TASK_SIZE], 'big')}"
    if len(value) == OBJECT_SIZE:
        text += f"/{int.from_bytes(value[TASK_SIZE:], 'big')}"
    return text


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return short(value) if value.startswith(b"node") else f"{len(value)} bytes"
    if isinstance(value, Arguments):
        return f"({value.recipe.ending} {[step[0] for step in value.recipe.steps]} {_shown(value.refs)})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if is_dataclass(value) and not isinstance(value, (type, Recipe)):
        return f"{type(value).__name__}{_shown(astuple(value))}"
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."
