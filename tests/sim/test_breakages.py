"""The protocol is broken on purpose, in one place each, and the simulation notices it.

A check that cannot fail proves nothing. Each of these defects is one that the rules of references, tasks, actors,
memory or groups exclude. Any day notices a lost BORROW, a result that counts twice and a grant that takes nothing.
The others need something that a day may lack, and which seeds have it changes with the code, so a script shows them.
Four of 14 days have no task that comes back, six of eight none that is asked back while it runs, and half of them no
lost ADOPT. A cover that is given up too early shows in one of 14, and uses that end at the cancel in one of 19. The
grace of a lost node matters only if that node alone kept an object, and code of another one keeps it: 40 days did not
contain that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asyncray.cluster_words import WANTED_BACK
from asyncray.core.cluster.adoptions import Adoptions
from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.cluster.covers import Cover
from asyncray.core.cluster.guests import Guests
from asyncray.core.cluster.homes import Homes
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.routes import Routes
from asyncray.core.group_records import PREPARING
from asyncray.core.groups import Groups
from asyncray.core.lives import Route
from asyncray.core.objects import Objects
from asyncray.core.records import Block, ObjectEntry, Task
from asyncray.core.resources import Grant, Resources
from asyncray.core.states import SENT
from asyncray.core.store import Store
from asyncray.units import UNIT, Demand
from tests.core.cluster import test_actor_races
from tests.core.programs import Recipe
from tests.sim import test_groups, test_references, test_tasks, test_transfers
from tests.sim.days import begin, end, live

Patch = pytest.MonkeyPatch


def a_borrow_is_lost(patch: Patch) -> None:
    """The owner answers BORROW and does not note it."""
    patch.setattr(Objects, "hold", lambda self, party, ids, hold=Objects.hold: party.is_node or hold(self, party, ids))


def a_cover_is_given_up_before_the_registration(patch: Patch) -> None:
    """The message that gives a cover up does not wait for the owner, a third node."""
    register = Imports._register

    def at_once(self: Imports, entry: ObjectEntry, cover: Cover) -> None:
        register(self, entry, cover)
        if cover.waiting:
            assert entry.far is not None
            entry.far.late.remove(cover)
            cover.waiting -= 1

    patch.setattr(Imports, "_register", at_once)


def the_grace_of_a_lost_node_is_missed(patch: Patch) -> None:
    """A node frees at once what only the lost node needed."""
    ended = ClusterMachine.member_ended

    def without(self: ClusterMachine, node: bytes, state: str, how: str) -> None:
        ended(self, node, state, how)
        self.grace_over(node)

    patch.setattr(ClusterMachine, "member_ended", without)


def a_back_is_lost(patch: Patch) -> None:
    """The home does not learn that a task has not started."""
    patch.setattr(AwayTasks, "back", lambda self, peer, message: None)


def a_result_counts_twice(patch: Patch) -> None:
    """The uses of a task end once with its result, and once more."""
    end = AwayTasks._end_uses

    def twice(self: AwayTasks, peer: Any, away: Any, *, later: bool) -> None:
        end(self, peer, away, later=later)
        end(self, peer, away, later=later)

    patch.setattr(AwayTasks, "_end_uses", twice)


def uses_end_at_the_cancel(patch: Patch) -> None:
    """The uses of a cancelled task end at once, and not at the last message about it."""
    cancel = AwayTasks.cancel

    def early(self: AwayTasks, task: Task, *, force: bool, recursive: bool) -> None:
        cancel(self, task, force=force, recursive=recursive)
        away = self._of_task.get(task)
        if away is not None:
            uses, away.uses = away.uses, ()
            self._objects.unuse_all(uses)

    patch.setattr(AwayTasks, "cancel", early)


def a_seat_of_is_lost(patch: Patch) -> None:
    """Nodes that have asked for an actor do not learn that it has moved."""
    patch.setattr(Homes, "changed", lambda self, actor: None)


def a_call_that_did_not_start_counts_as_begun(patch: Patch) -> None:
    """NOT_HERE costs a call the retry that it has not used."""
    back = Homes.call_came_back
    patch.setattr(Homes, "call_came_back", lambda self, call, *, begun: back(self, call, begun=True))


def a_route_does_not_wait_for_old_calls(patch: Patch) -> None:
    """Calls go to the next process of an actor while earlier ones may still come back from the last."""
    go_on = Routes.go_on

    def at_once(self: Routes, route: Route) -> None:
        inflight, route.inflight = route.inflight, {}
        go_on(self, route)
        route.inflight |= inflight

    patch.setattr(Routes, "go_on", at_once)


def a_task_that_has_started_comes_back(patch: Patch) -> None:
    """TAKE_BACK is answered with a task that runs."""
    take_back = Guests.take_back

    def also_started(self: Guests, peer: Peer, message: Any) -> None:
        take_back(self, peer, message)
        for guest in list(self.table.get(peer, {}).values()):
            if guest.state == SENT:
                self.send_back(guest, WANTED_BACK)

    patch.setattr(Guests, "take_back", also_started)


def resources_are_granted_twice(patch: Patch) -> None:
    """A grant does not take what it grants."""

    def acquire(self: Resources, demand: Demand) -> Grant | None:
        devices = dict.fromkeys(self.devices, UNIT) if any(name == "GPU" for name, _ in demand) else {}
        return Grant(self, (), tuple(devices.items())) if self.fits(demand) else None

    patch.setattr(Resources, "acquire", acquire)


def an_adopt_is_lost(patch: Patch) -> None:
    """The head's node does not learn of a detached actor."""
    patch.setattr(Adoptions, "adopt", lambda self, peer, message: None)


def a_copy_is_freed_while_it_is_sent(patch: Patch) -> None:
    """The pins of other nodes keep no memory."""
    free_if_unused = Store._free_if_unused

    def frees(self: Store, block: Block) -> None:
        for peer in [party for party in block.pins if party.is_node]:
            del block.pins[peer]
        free_if_unused(self, block)

    patch.setattr(Store, "_free_if_unused", frees)


def a_group_is_committed_without_prepare(patch: Patch) -> None:
    """The head decides as soon as the first node of a round has answered."""
    answered = Groups.answered

    def at_once(self: Groups, node: bytes, group_id: bytes, pairs: Any, *, ready: bool, now: float) -> None:
        group = self.table.get(group_id)
        others = [] if group is None else [other for other in group.asked if other != node]
        answered(self, node, group_id, pairs, ready=ready, now=now)
        for other in others:
            if group is not None and group.asked:
                answered(self, other, group_id, group.pairs(group.where(PREPARING)[other]), ready=True, now=now)

    patch.setattr(Groups, "answered", at_once)


def some_days() -> None:
    for seed in range(3):
        live(begin(seed), events=80)


def group_days() -> None:
    for seed in range(6):
        test_groups.live(seed, events=40)


def transfers() -> None:
    with Patch.context() as patch:
        test_transfers.shrink_sizes(patch)
        for seed in range(6):
            test_transfers.play(seed)


def runs_at_that_moment() -> None:
    test_tasks.test_r7_a_task_that_is_asked_back_runs_at_that_moment()


def lost_adopt() -> None:
    cluster = begin(0)
    _, host, *_ = cluster.living
    driver = host.driver()
    assert driver is not None
    driver.state.make(Recipe(detached=True, name="ann", lives_on=1))
    host.wake()
    end(cluster)


def lost_back() -> None:
    test_tasks.test_r7_a_task_that_is_asked_back_and_has_not_started_goes_elsewhere()


def missed_grace() -> None:
    test_tasks.test_h10_what_only_a_lost_node_kept_stays_until_all_have_registered()


def early_end() -> None:
    test_tasks.test_the_arguments_of_a_task_whose_job_has_ended_stay_until_the_last_word_about_it()


def lost_seat() -> None:
    test_actor_races.test_r33_a_call_to_a_process_that_has_ended_waits_for_word_of_the_home()


def not_begun() -> None:
    test_actor_races.test_h17_a_call_that_has_not_started_may_go_to_the_next_process_without_a_retry()


def old_calls() -> None:
    test_actor_races.test_r34_the_result_of_the_old_process_comes_after_word_of_the_new_one()


def early_give_up() -> None:
    test_references.test_a_ref_of_a_third_owner_that_outlives_its_task_is_given_up_later()


@pytest.mark.parametrize(
    ("defect", "notices"),
    [
        (a_borrow_is_lost, some_days),
        (a_back_is_lost, lost_back),
        (a_result_counts_twice, some_days),
        (a_cover_is_given_up_before_the_registration, early_give_up),
        (uses_end_at_the_cancel, early_end),
        (the_grace_of_a_lost_node_is_missed, missed_grace),
        (a_seat_of_is_lost, lost_seat),
        (a_call_that_did_not_start_counts_as_begun, not_begun),
        (a_route_does_not_wait_for_old_calls, old_calls),
        (a_task_that_has_started_comes_back, runs_at_that_moment),
        (resources_are_granted_twice, some_days),
        (an_adopt_is_lost, lost_adopt),
        (a_copy_is_freed_while_it_is_sent, transfers),
        (a_group_is_committed_without_prepare, group_days),
    ],
)
def test_the_simulation_notices(
    defect: Callable[[Patch], None], notices: Callable[[], None], monkeypatch: Patch
) -> None:
    notices()
    defect(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        notices()
