"""Searches in the states of the model: all of them, breadth first, or random ways through more than can be stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.sim.model.protocol import Draft, Rules, State, events, first_state, leak, violation

LONGEST_WALK = 200
"""Steps of a random way. None is so long."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    states: int
    complete: bool
    # Why the last state is wrong. None: no state is.
    wrong: str | None = None
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        numbered = [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
        how_far = "all" if self.complete else "some"
        return "\n".join([f"{how_far} states, {self.states}: {self.wrong or 'nothing is wrong'}", *numbered])


def successors(rules: Rules, state: State) -> Iterator[tuple[str, State]]:
    for name, happens in events(rules, state):
        draft = Draft(rules, state)
        happens(draft)
        yield name, draft.state()


def exhaust(rules: Rules, most_states: int = 5_000_000) -> Found:
    """Visits every state, the nearest first. Ends at the first that is wrong, so the way to it is a shortest one."""
    first = first_state(rules)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        wrong, last = violation(state), True
        for name, following in successors(rules, state) if wrong is None else ():
            last = False
            if following not in came_from:
                came_from[following] = state, name
                waiting.append(following)
        if wrong is None and last:
            wrong = leak(state)
        if wrong is not None:
            return Found(len(came_from), complete=False, wrong=wrong, steps=_way(came_from, state))
        if len(came_from) > most_states:
            return Found(len(came_from), complete=False)
    return Found(len(came_from), complete=True)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came_from[state]) is not None:
        state, name = before
        steps.append(name)
    return tuple(reversed(steps))


def walk(rules: Rules, seed: int, walks: int) -> Found:
    """Goes random ways to their ends."""
    random = Random(seed)
    count = 0
    for _ in range(walks):
        state = first_state(rules)
        steps: list[str] = []
        for _ in range(LONGEST_WALK):
            count += 1
            possible = list(successors(rules, state))
            wrong = violation(state) or (None if possible else leak(state))
            if wrong is not None:
                return Found(count, complete=False, wrong=wrong, steps=tuple(steps))
            if not possible:
                break
            name, state = random.choice(possible)
            steps.append(name)
    return Found(count, complete=False)
