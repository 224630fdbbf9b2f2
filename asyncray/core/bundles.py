"""Bundles: the parts of this node that are set aside for placement groups, and the accounts of shapes that use them.

A bundle is a grant out of the node's resources. Once it is committed it is an account of its own (``Resources`` with
the numbers of its devices), from which tasks get grants: a task that waits in ``get`` lends its CPU to its bundle, and
nothing outside of the bundle gets it. The grant of the bundle returns to the node when the group is removed and no
process uses it any more.

A shape that names a bundle, or any bundle of a group, has a ``BundleAccount``. It stays the same while bundles come and
go: it has the parts that are on this node at present, perhaps none.

The machine that decides about groups (``groups``) calls ``prepare``, ``commit``, ``abort`` and ``release``, in an order
that it keeps. Bundles are named by index and attempt, so a message about an earlier attempt means nothing.

A *patient* PREPARE waits for room. While it does, the node collects what becomes free before shapes get it, leases end
after a slice, and after ``PATIENCE`` seconds the bundles are refused. One group at a time.

Invariants (``check``): a committed bundle has an account, whose total is its demand; what the bundles have is what
their grants hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.clock import Clock
from asyncray.core.group_records import REMOVED
from asyncray.core.group_views import GroupViews
from asyncray.core.placements import ANY_BUNDLE, Bundle
from asyncray.core.resources import Grant, Resources, readable
from asyncray.core.shapes import Shapes
from asyncray.units import UNIT, Demand, plain

if TYPE_CHECKING:
    from asyncray.core.records import Fault
    from asyncray.words import GroupRow

PATIENCE = 10.0
"""Seconds that a patient PREPARE waits for room."""

UNSURE_AFTER = 10.0
"""Seconds that a bundle may be prepared before the node asks what was decided, and between two questions."""

_A_BUNDLE = "a bundle"
"""The name under which shapes are parked that lack a bundle: for ``room`` of a ``BundleAccount`` without parts."""


class HeldBundle:
    """A bundle that this node has set aside. ``Bundles`` writes it."""

    __slots__ = ("ask_at", "attempt", "ending", "grant", "index", "part")

    def __init__(self, index: int, attempt: int, grant: Grant, ask_at: float) -> None:
        self.index = index
        self.attempt = attempt
        # Its share of the node.
        self.grant = grant
        # The account of its tasks. None until it is committed.
        self.part: Resources | None = None
        # It is released when its last process has ended.
        self.ending = False
        # When the node asks what was decided about it.
        self.ask_at = ask_at

    def __repr__(self) -> str:
        stage = "prepared" if self.part is None else "ending" if self.ending else "committed"
        return f"<HeldBundle {self.index} attempt {self.attempt} {stage}>"


class GroupHere:
    """A placement group with bundles on this node, or that shapes of this node name. ``Bundles`` writes it."""

    __slots__ = ("accounts", "fault", "held", "id", "parts", "row")

    def __init__(self, group_id: bytes) -> None:
        self.id = group_id
        # None while it is not known.
        self.row: GroupRow | None = None
        # (index, attempt) -> a bundle that is set aside here, until its grant has returned.
        self.held: dict[tuple[int, int], HeldBundle] = {}
        # Index -> account of the committed bundles.
        self.parts: dict[int, Resources] = {}
        # Index, or ANY_BUNDLE -> account of the shapes that name it.
        self.accounts: dict[int, BundleAccount] = {}
        # The error of its tasks once the group is removed. Its name lacks the prefix "Task" or "Actor".
        self.fault: Fault | None = None

    def __repr__(self) -> str:
        return f"<GroupHere {self.id.hex()} {list(self.held.values())}>"

    @property
    def title(self) -> str:
        """The group for people."""
        name = "" if self.row is None else self.row["name"]
        return f"the placement group {name or self.id.hex()}"


class BundleAccount:
    """The account of the shapes that name a bundle, or any bundle of a group. See ``Account``."""

    __slots__ = ("_group", "index")

    def __init__(self, group: GroupHere, index: int) -> None:
        self._group = group
        self.index = index

    def __repr__(self) -> str:
        return f"<BundleAccount {self.index} of {self._group}>"

    @property
    def parts(self) -> Sequence[Resources]:
        """The bundles on this node that it stands for."""
        parts = self._group.parts
        if self.index == ANY_BUNDLE:
            return [*parts.values()]
        part = parts.get(self.index)
        return () if part is None else (part,)

    @property
    def fault(self) -> Fault | None:
        return self._group.fault

    @property
    def obstacle(self) -> str:
        if self.parts:
            return ""
        row = self._group.row
        state = "not known yet" if row is None else row["state"].lower()
        return f"{self._group.title} is {state}{': ' + row['why'] if row is not None and row['why'] else ''}"

    def feasible(self, demand: Demand) -> bool:
        row = self._group.row
        if row is None:
            return True
        bundles = row["bundles"]
        wanted = bundles if self.index == ANY_BUNDLE else bundles[self.index : self.index + 1]
        return any(covers(bundle, demand) for bundle in wanted)

    def feasible_beside_actors(self, demand: Demand) -> bool:
        parts = self.parts
        return not parts or any(part.feasible_beside_actors(demand) for part in parts)

    def fits(self, demand: Demand) -> bool:
        return any(part.fits(demand) for part in self.parts)

    def shortage(self, demand: Demand) -> tuple[str, int] | None:
        short = None
        for part in self.parts:
            lacking = part.shortage(demand)
            if lacking is None:
                return None
            if short is None or part.feasible(demand):
                short = lacking
        return short or (_A_BUNDLE, 1)

    def room(self, resource: str) -> int:
        if resource == _A_BUNDLE:
            return len(self.parts)
        return max((part.room(resource) for part in self.parts), default=0)

    def acquire(self, demand: Demand) -> Grant | None:
        for part in self.parts:
            grant = part.acquire(demand)
            if grant is not None:
                return grant
        return None

    def describe(self, demand: Demand, *, held: bool) -> str:
        parts = self.parts
        if parts and (held or self.index != ANY_BUNDLE):
            return parts[0].describe(demand, held=held)
        return f"needs {readable(demand)}, more than a bundle of {self._group.title} has"


def covers(bundle: Sequence[tuple[str, int]], demand: Demand) -> int:
    """Returns how many tasks with this demand a bundle could serve side by side; 1 if the demand is empty."""
    amounts = dict(bundle)
    return min((amounts.get(name, 0) // amount for name, amount in demand), default=1)


class _PatientPrepare:
    """A patient PREPARE: the node collects what the bundles lack."""

    __slots__ = ("bundles", "deadline", "group", "hoard", "reply")

    def __init__(
        self, group: bytes, bundles: list[tuple[int, int, Demand]], reply: Callable[[bool], None], deadline: float
    ) -> None:
        self.group = group
        self.bundles = bundles
        self.reply = reply
        self.deadline = deadline
        # Grants of what has been collected so far.
        self.hoard: list[Grant] = []

    def __repr__(self) -> str:
        return f"<_PatientPrepare for {self.group.hex()}>"

    def drop_hoard(self) -> None:
        """Gives back what has been collected."""
        for grant in self.hoard:
            grant.release()
        self.hoard.clear()


class Bundles:
    """The bundles of a node.

    Args:
        resources: the account of the node.
        views: the placement groups that the node knows.
        evict: ends everything that runs on an account, with this fault.
    """

    def __init__(
        self,
        clock: Clock,
        resources: Resources,
        shapes: Shapes,
        views: GroupViews,
        evict: Callable[[Resources, Fault], None],
    ) -> None:
        self._clock = clock
        self._resources = resources
        self._shapes = shapes
        self.views = views
        self._evict = evict
        views.listeners.append(self._row_changed)
        # Groups that this node has bundles of, or shapes have named.
        self.groups: dict[bytes, GroupHere] = {}
        # Bundles that end, and their groups.
        self._ending: dict[HeldBundle, GroupHere] = {}
        # Bundles that are prepared and not committed, and their groups.
        self._undecided: dict[HeldBundle, GroupHere] = {}
        self._collecting: _PatientPrepare | None = None
        # Asks what was decided about bundles that have been prepared for long. None on a node that is alone.
        self.unsure: Callable[[bytes, Sequence[tuple[int, int]]], None] | None = None

    def __repr__(self) -> str:
        return f"<Bundles of {len(self.groups)} groups, {len(self._ending)} end>"

    # For shapes -------------------------------------------------------------------------------------------------------

    def account_for(self, where: Bundle) -> BundleAccount:
        """Returns the account of the shapes with this placement."""
        here = self._here(where.group)
        if here.row is None:
            row = self.views.find(where.group)
            if row is not None:
                self._learn(here, row)
        account = here.accounts.get(where.index)
        if account is None:
            account = here.accounts[where.index] = BundleAccount(here, where.index)
        return account

    def _here(self, group: bytes) -> GroupHere:
        here = self.groups.get(group)
        if here is None:
            here = self.groups[group] = GroupHere(group)
        return here

    def _row_changed(self, row: GroupRow) -> None:
        here = self.groups.get(row["group_id"])
        if here is not None:
            self._learn(here, row)

    def _learn(self, here: GroupHere, row: GroupRow) -> None:
        here.row = row
        if row["state"] == REMOVED and here.fault is None:
            here.fault = removed_fault(row)
            for account in here.accounts.values():
                self._shapes.fail(account)
            self._forget_unused(here)

    def _forget_unused(self, here: GroupHere) -> None:
        """A shape that still names a removed group keeps its account, and nothing else needs it."""
        if here.fault is not None and not here.held:
            self.groups.pop(here.id, None)

    # Two phases -------------------------------------------------------------------------------------------------------

    def prepare(
        self,
        group: bytes,
        bundles: list[tuple[int, int, Demand]],
        reply: Callable[[bool], None],
        *,
        patient: bool,
    ) -> None:
        """PREPARE: sets these bundles (index, attempt, demand) aside, all or none; ``reply`` gets the result."""
        grants = self._take([demand for _, _, demand in bundles])
        if grants is not None:
            self._hold(group, bundles, grants)
            reply(True)  # noqa: FBT003 - a callback
        elif patient and self._collecting is None and self._possible(bundles):
            self._collecting = _PatientPrepare(group, bundles, reply, self._clock.now + PATIENCE)
            self._shapes.collect = self.collect
        else:
            reply(False)  # noqa: FBT003 - a callback

    def _possible(self, bundles: Iterable[tuple[int, int, Demand]]) -> bool:
        needed: dict[str, int] = {}
        for _, _, demand in bundles:
            for name, amount in demand:
                needed[name] = needed.get(name, 0) + amount
        return self._resources.feasible_beside_actors(tuple(needed.items()))

    def _take(self, demands: Iterable[Demand]) -> list[Grant] | None:
        grants: list[Grant] = []
        for demand in demands:
            grant = self._resources.acquire(demand)
            if grant is None:
                for taken in grants:
                    taken.release()
                return None
            grants.append(grant)
        return grants

    def _hold(self, group: bytes, bundles: list[tuple[int, int, Demand]], grants: list[Grant]) -> None:
        here = self._here(group)
        for (index, attempt, _), grant in zip(bundles, grants, strict=True):
            grant.hold_for_life()
            self._resources.bundles += 1
            held = here.held[index, attempt] = HeldBundle(index, attempt, grant, self._clock.now + UNSURE_AFTER)
            self._undecided[held] = here

    def collect(self) -> None:
        """Takes what is free for the bundles of a patient PREPARE, and answers it when it has all."""
        collecting = self._collecting
        if collecting is None:
            return
        collecting.drop_hoard()
        grants = self._take([demand for _, _, demand in collecting.bundles])
        if grants is not None:
            self._stop_collecting()
            self._hold(collecting.group, collecting.bundles, grants)
            collecting.reply(True)  # noqa: FBT003 - a callback
            return
        for _, _, demand in collecting.bundles:
            for name, amount in demand:
                self._hoard(collecting, name, amount)

    def _hoard(self, collecting: _PatientPrepare, name: str, amount: int) -> None:
        free = max(0, min(amount, self._resources.available.get(name, 0)))
        # GPUs are collected one by one. A part of one is found at once, or not at all.
        size = UNIT if name == "GPU" else free
        for _ in range(free // size if size else 0):
            grant = self._resources.acquire(((name, size),))
            if grant is not None:
                collecting.hoard.append(grant)

    def _stop_collecting(self) -> None:
        assert self._collecting is not None
        self._collecting.drop_hoard()
        self._collecting = None
        self._shapes.collect = None

    def commit(self, group: bytes, pairs: Sequence[Sequence[int]]) -> None:
        """COMMIT: tasks may use these bundles."""
        here = self._here(group)
        for index, attempt in pairs:
            held = here.held.get((index, attempt))
            if held is None or held.part is not None:
                continue
            del self._undecided[held]
            grant, owner = held.grant, f"bundle {index} of {here.title}"
            held.part = here.parts[index] = Resources(plain(grant.demand), dict(grant.devices), owner)
            self._shapes.parts[held.part] = None

    def abort(self, group: bytes, pairs: Sequence[Sequence[int]]) -> None:
        """ABORT: these bundles are not wanted any more."""
        collecting = self._collecting
        if collecting is not None and collecting.group == group:
            self._stop_collecting()
        self.release(group, pairs)

    def release(self, group: bytes, pairs: Sequence[Sequence[int]]) -> None:
        """RELEASE: the group is removed. Ends what uses these bundles; each returns when its last process has ended."""
        here = self.groups.get(group)
        if here is None:
            return
        for index, attempt in pairs:
            held = here.held.get((index, attempt))
            if held is None or held.ending:
                continue
            held.ending = True
            self._undecided.pop(held, None)
            self._ending[held] = here
            if held.part is not None:
                del here.parts[index]
                self._evict(held.part, here.fault or removed_fault(here.row))

    def settle(self) -> bool:
        """Returns the bundles whose last process has ended to the node. False if there are none."""
        before = len(self._ending)
        for held, here in list(self._ending.items()):
            if held.part is not None:
                if held.part.grants:
                    continue
                del self._shapes.parts[held.part]
            held.grant.release()
            self._resources.bundles -= 1
            del self._ending[held], here.held[held.index, held.attempt]
            self._forget_unused(here)
        return len(self._ending) < before

    @property
    def has_work(self) -> bool:
        """True while ``flush`` may have something to do."""
        return bool(self._ending) or self._collecting is not None

    def flush(self) -> bool:
        """All events of a batch have been handled. Returns True if bundles have returned to the node."""
        returned = self.settle()
        self.collect()
        return returned

    def tick(self) -> None:
        """Some time has passed: ends what was patient for too long, and asks about decisions that are overdue."""
        now = self._clock.now
        collecting = self._collecting
        if collecting is not None and now >= collecting.deadline:
            self._stop_collecting()
            collecting.reply(False)  # noqa: FBT003 - a callback
        overdue: dict[bytes, list[tuple[int, int]]] = {}
        for held, here in self._undecided.items():
            if now >= held.ask_at:
                held.ask_at = now + UNSURE_AFTER
                overdue.setdefault(here.id, []).append((held.index, held.attempt))
        if self.unsure is not None:
            for group, pairs in overdue.items():
                self.unsure(group, pairs)

    def check(self) -> None:
        """Raises AssertionError if the bundles contradict the accounts."""
        bundles = [held for here in self.groups.values() for held in here.held.values()]
        assert self._resources.bundles == len(bundles), f"{self._resources.bundles} bundles, not {bundles}"
        for here in self.groups.values():
            committed = {h.index: h.part for h in here.held.values() if h.part is not None and not h.ending}
            assert here.parts == committed, f"{here} has the parts {here.parts}"
            for held in here.held.values():
                assert held.grant.held, f"{held} has returned and is kept"
                assert (held in self._ending) == held.ending, f"{held} ends, or not"
                if held.part is not None:
                    assert held.part in self._shapes.parts, f"{held} is not checked"
                    assert held.part.total == dict(held.grant.demand), f"{held} has {held.part}"
        hoards = (self._shapes.collect is not None) == (self._collecting is not None)
        assert hoards, "the scheduler and the bundles disagree about collecting"


def removed_fault(row: GroupRow | None) -> list[Any]:
    """Returns the error of the tasks of a removed group. ``Destinations`` completes the name: of a task or an actor."""
    if row is None or not row["bundles"]:
        return ["PlacementGroupRemoved", {"message": "The placement group does not exist (any more)."}]
    title = row["name"] or row["group_id"].hex()
    return ["PlacementGroupRemoved", {"message": f"The placement group {title} was removed."}]
