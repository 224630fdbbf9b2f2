"""Resources of a node: amounts in exact fixed point (``asyncray.units``), and numbered devices.

``GPU`` amounts come with device numbers: a whole number takes whole free devices, a fraction shares one device with
other fractions.

Invariants (``check``): for every name 0 <= available <= total, except that CPU may be below zero for a while: a
task that wakes up from ``get`` takes its CPU back at once, even if another task has taken it meanwhile. The amounts
left on the devices add up to the available amount of GPU.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncray.units import UNIT, Demand, fixed, plain


class Grant:
    """Resources that a task or an actor holds, with the devices among them. ``Resources`` writes it."""

    __slots__ = ("demand", "devices", "for_life", "held", "lent")

    def __init__(self, demand: Demand, devices: tuple[tuple[int, int], ...] = ()) -> None:
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


class Resources:
    """The accounts of one node.

    Args:
        totals: name -> amount, as programs give them. The amount of GPU must be a whole number.
    """

    def __init__(self, totals: Mapping[str, float]) -> None:
        # Name -> amount that the node has. Never changes.
        self.total: dict[str, int] = dict(fixed(totals))
        # Name -> amount that no grant holds, or that a grant lends.
        self.available: dict[str, int] = dict(self.total)
        # Name -> amount that living actors hold and do not lend.
        self.for_life: dict[str, int] = {}
        # Number of a GPU -> the amount of it that no grant holds.
        self.devices = [UNIT] * (self.total.get("GPU", 0) // UNIT)

    def __repr__(self) -> str:
        return f"<Resources {plain(self.available.items())} of {plain(self.total.items())}>"

    def feasible(self, demand: Demand) -> bool:
        """True if an idle node of this kind could serve the demand."""
        return all(self.total.get(name, 0) >= amount for name, amount in demand)

    def fits(self, demand: Demand) -> bool:
        """True if the demand could be granted now."""
        available = self.available
        for name, amount in demand:
            if available.get(name, 0) < amount or (name == "GPU" and not self._choose_devices(amount)):
                return False
        return True

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
        for index, amount in devices:
            self.devices[index] -= amount
        return Grant(demand, devices)

    def release(self, grant: Grant) -> None:
        """Makes all of the grant available again. Raises AssertionError if that was done before."""
        if not grant.held:
            raise AssertionError(f"{grant} was given back twice")
        self.end_life(grant)
        grant.held = False
        for name, amount in grant.demand:
            if not (grant.lent and name == "CPU"):
                self.available[name] += amount
        for index, amount in grant.devices:
            self.devices[index] += amount

    def lend(self, grant: Grant) -> bool:
        """Makes the CPU part available to others while the holder waits. Returns False if it has none to lend."""
        if grant.lent or not grant.held:
            return False
        grant.lent = True
        for name, amount in grant.demand:
            if name == "CPU":
                self.available[name] += amount
                if grant.for_life:
                    self.for_life[name] -= amount
                return True
        return False

    def reclaim(self, grant: Grant) -> None:
        """The holder continues: takes its CPU back at once, even if that oversubscribes the node for a while."""
        if not grant.lent or not grant.held:
            return
        grant.lent = False
        for name, amount in grant.demand:
            if name == "CPU":
                self.available[name] -= amount
                if grant.for_life:
                    self.for_life[name] += amount

    def hold_for_life(self, grant: Grant) -> None:
        """Counts the grant as an actor's."""
        grant.for_life = True
        for name, amount in grant.demand:
            self.for_life[name] = self.for_life.get(name, 0) + amount

    def end_life(self, grant: Grant) -> None:
        """The actor is dead: counts the grant as an actor's no more. The process may hold it a little longer."""
        if not grant.for_life:
            return
        grant.for_life = False
        for name, amount in grant.demand:
            if not (grant.lent and name == "CPU"):
                self.for_life[name] -= amount

    def _choose_devices(self, amount: int) -> tuple[tuple[int, int], ...]:
        if amount >= UNIT:
            whole = [index for index, left in enumerate(self.devices) if left == UNIT][: amount // UNIT]
            return tuple((index, UNIT) for index in whole) if len(whole) * UNIT == amount else ()
        # Best fit: fill up a shared device before taking a part of a free one.
        fitting = [(left, index) for index, left in enumerate(self.devices) if left >= amount]
        return ((min(fitting)[1], amount),) if fitting else ()

    def check(self) -> None:
        """Raises AssertionError if the accounts do not add up."""
        for name, total in self.total.items():
            available = self.available[name]
            assert available <= total, f"{name}: {available} of {total}"
            assert available >= 0 or name == "CPU", f"{name}: {available}"
        assert sum(self.devices) == self.available.get("GPU", 0), f"devices {self.devices}"
        assert all(0 <= left <= UNIT for left in self.devices), f"devices {self.devices}"
