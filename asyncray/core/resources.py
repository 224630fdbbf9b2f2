"""Resources: amounts in exact fixed point (``asyncray.units``), and numbered devices.

An account (``Resources``) hands out grants, and each grant returns to its account. A node has one account for all that
it has; a part that is set aside can have an account of its own, which knows the numbers of its devices.

``GPU`` amounts come with device numbers: a whole number takes whole free devices, a fraction shares one device with
other fractions.

Invariants (``check``): for every name 0 <= available <= total, except that CPU may be below zero for a while: a
task that wakes up from ``get`` takes its CPU back at once, even if another task has taken it meanwhile. The amounts
left on the devices add up to the available amount of GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from asyncray.units import UNIT, Demand, fixed, plain

if TYPE_CHECKING:
    from asyncray.core.records import Fault

_GIB = 1024**3

_WHOLE, _PART = "whole GPU", "part of a GPU"
"""How ``shortage`` names GPU: enough in sum may be spread over several devices."""


class Account(Protocol):
    """An account as shapes use it: ``Resources``, or one whose resources are elsewhere or come later."""

    @property
    def fault(self) -> Fault | None:
        """The error that ends all tasks of the shapes of this account. None while it may serve them."""

    @property
    def obstacle(self) -> str:
        """Why it can serve nothing at present, for people. Empty if it can."""

    def feasible(self, demand: Demand) -> bool:
        """True if the account could serve the demand while nothing else uses it."""

    def feasible_beside_actors(self, demand: Demand) -> bool:
        """True if the account could serve the demand when all tasks have ended, beside the actors that live."""

    def fits(self, demand: Demand) -> bool:
        """True if the demand could be granted now."""

    def shortage(self, demand: Demand) -> tuple[str, int] | None:
        """Returns what is too little for the demand, as a name for ``room`` and the amount needed; None if it fits."""

    def room(self, resource: str) -> int:
        """Returns the largest amount of what ``shortage`` names that could be granted now."""

    def acquire(self, demand: Demand) -> Grant | None:
        """Takes all of the demand, or nothing (None)."""

    def describe(self, demand: Demand, *, held: bool) -> str:
        """Says for people how a demand exceeds the account, or with ``held`` what actors leave of it."""


class Grant:
    """Resources that a task or an actor holds, with the devices among them."""

    __slots__ = ("account", "demand", "devices", "for_life", "held", "lent")

    def __init__(self, account: Resources, demand: Demand, devices: tuple[tuple[int, int], ...] = ()) -> None:
        # Where the resources come from, and where they return to.
        self.account = account
        self.demand = demand
        # Number of a device -> the amount of it, as pairs.
        self.devices = devices
        # False once it was released.
        self.held = True
        # A living actor has it, until the actor dies.
        self.for_life = False
        # Its CPU part is available to others, because its task waits in ``get``.
        self.lent = False

    def __repr__(self) -> str:
        return f"<Grant {dict(self.demand)} devices={self.devices}>"

    def release(self) -> None:
        """Makes all of the grant available again. Raises AssertionError if that was done before."""
        if not self.held:
            raise AssertionError(f"{self} was given back twice")
        self.end_life()
        self.held = False
        account = self.account
        account.grants -= 1
        for name, amount in self.demand:
            if not (self.lent and name == "CPU"):
                account.available[name] += amount
        for number, amount in self.devices:
            account.devices[number] += amount

    def lend(self) -> bool:
        """Makes the CPU part available to others while the holder waits. Returns False if it has none to lend."""
        if self.lent or not self.held:
            return False
        self.lent = True
        for name, amount in self.demand:
            if name == "CPU":
                self.account.available[name] += amount
                if self.for_life:
                    self.account.for_life[name] -= amount
                return True
        return False

    def reclaim(self) -> None:
        """The holder continues: takes its CPU back at once, even if that oversubscribes the account for a while."""
        if not self.lent or not self.held:
            return
        self.lent = False
        for name, amount in self.demand:
            if name == "CPU":
                self.account.available[name] -= amount
                if self.for_life:
                    self.account.for_life[name] += amount

    def hold_for_life(self) -> None:
        """Counts the grant as an actor's."""
        self.for_life = True
        held = self.account.for_life
        for name, amount in self.demand:
            held[name] = held.get(name, 0) + amount

    def end_life(self) -> None:
        """The actor is dead: counts the grant as an actor's no more. The process may hold it a little longer."""
        if not self.for_life:
            return
        self.for_life = False
        for name, amount in self.demand:
            if not (self.lent and name == "CPU"):
                self.account.for_life[name] -= amount


class Resources:
    """One account: the resources of a node, or of a part of it that was set aside.

    Args:
        owner: what has them, for people: "this node".
        totals: name -> amount, as programs give them.
        devices: number of a GPU -> the amount of it, in fixed point; in sum the total of GPU. None: the total of GPU is
            a whole number of devices, numbered from 0.
    """

    fault: Fault | None = None
    obstacle = ""

    def __init__(
        self, totals: Mapping[str, float], devices: Mapping[int, int] | None = None, owner: str = "this node"
    ) -> None:
        self.owner = owner
        # Name -> amount that the account has. Never changes.
        self.total: dict[str, int] = dict(fixed(totals))
        # Name -> amount that no grant holds, or that a grant lends.
        self.available: dict[str, int] = dict(self.total)
        # Name -> amount that living actors and bundles of placement groups hold, and do not lend.
        self.for_life: dict[str, int] = {}
        # How many grants are held.
        self.grants = 0
        # How many of them are bundles of placement groups. ``Bundles`` writes it.
        self.bundles = 0
        if devices is None:
            devices = dict.fromkeys(range(self.total.get("GPU", 0) // UNIT), UNIT)
        # Number of a GPU -> the amount of it that no grant holds.
        self.devices = dict(devices)

    def __repr__(self) -> str:
        return f"<Resources {plain(self.available.items())} of {plain(self.total.items())}>"

    def feasible(self, demand: Demand) -> bool:
        """True if the account could serve the demand while nothing else uses it."""
        return all(self.total.get(name, 0) >= amount for name, amount in demand)

    def feasible_beside_actors(self, demand: Demand) -> bool:
        """True if the account could serve the demand when all tasks have ended, beside the actors that live."""
        held = self.for_life
        return all(self.total.get(name, 0) - held.get(name, 0) >= amount for name, amount in demand)

    def fits(self, demand: Demand) -> bool:
        """True if the demand could be granted now."""
        available = self.available
        for name, amount in demand:
            if available.get(name, 0) < amount or (name == "GPU" and not self._choose_devices(amount)):
                return False
        return True

    def shortage(self, demand: Demand) -> tuple[str, int] | None:
        """Returns what is too little for the demand, as a name for ``room`` and the amount needed; None if it fits."""
        for name, amount in demand:
            resource = name if name != "GPU" else _WHOLE if amount >= UNIT else _PART
            if self.room(resource) < amount:
                return resource, amount
        return None

    def room(self, resource: str) -> int:
        """Returns the largest amount of what ``shortage`` names that could be granted now."""
        if resource == _WHOLE:
            return UNIT * sum(1 for left in self.devices.values() if left == UNIT)
        if resource == _PART:
            return max(self.devices.values(), default=0)
        return self.available.get(resource, 0)

    def acquire(self, demand: Demand) -> Grant | None:
        """Takes all of the demand, or nothing (None)."""
        available = self.available
        for name, amount in demand:
            if available.get(name, 0) < amount:
                return None
        devices: tuple[tuple[int, int], ...] = ()
        for name, amount in demand:
            if name == "GPU":
                devices = self._choose_devices(amount)
                if not devices:
                    return None  # enough in sum, but spread over several devices
        for name, amount in demand:
            available[name] -= amount
        for number, amount in devices:
            self.devices[number] -= amount
        self.grants += 1
        return Grant(self, demand, devices)

    def _choose_devices(self, amount: int) -> tuple[tuple[int, int], ...]:
        if amount >= UNIT:
            whole = [number for number, left in self.devices.items() if left == UNIT][: amount // UNIT]
            return tuple((number, UNIT) for number in whole) if len(whole) * UNIT == amount else ()
        # Best fit: fill up a shared device before taking a part of a free one.
        fitting = [(left, number) for number, left in self.devices.items() if left >= amount]
        return ((min(fitting)[1], amount),) if fitting else ()

    def describe(self, demand: Demand, *, held: bool) -> str:
        """Says for people how a demand exceeds the account, or with ``held`` what actors leave of it."""
        total, taken = self.total, self.for_life
        if not held:
            lacking = [(name, amount) for name, amount in demand if total.get(name, 0) < amount]
            has = readable([(name, total.get(name, 0)) for name, _ in lacking])
            return f"needs {readable(lacking)}, more than {self.owner} has ({has})"
        short = [(name, amount) for name, amount in demand if total[name] - taken.get(name, 0) < amount]
        of = [f"{readable([(name, taken.get(name, 0))])} of {readable([(name, total[name])])}" for name, _ in short]
        holders = "actors and placement groups" if self.bundles else "actors"
        return f"needs {readable(short)}, and {holders} hold {', '.join(of)}"

    def check(self) -> None:
        """Raises AssertionError if the accounts do not add up."""
        assert self.grants >= 0, f"{self} got back more grants than it gave"
        for name, total in self.total.items():
            available = self.available[name]
            assert available <= total, f"{name}: {available} of {total}"
            assert available >= 0 or name == "CPU", f"{name}: {available}"
        assert sum(self.devices.values()) == self.available.get("GPU", 0), f"devices {self.devices}"
        assert all(0 <= left <= UNIT for left in self.devices.values()), f"devices {self.devices}"


def readable(demand: Iterable[tuple[str, int]]) -> str:
    """Formats a demand for people: ``1 CPU, 0.5 GPU, 2 GiB of memory``."""
    return ", ".join(
        f"{amount / UNIT / _GIB:.4g} GiB of {name}" if "memory" in name else f"{amount / UNIT:g} {name}"
        for name, amount in demand
    )
