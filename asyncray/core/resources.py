"""Resources of a node: amounts in exact fixed point (``asyncray.units``), and numbered devices.

``GPU`` amounts come with device numbers: a
whole number takes whole free devices, a fraction shares one device with other fractions.

Invariants (``check``): for every name 0 <= available <= total, except that CPU may be below zero for a while: a
task that wakes up from ``get`` takes its CPU back at once, whoever has it by then. What the devices have left adds up
to what of GPU is available.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncray.units import UNIT, Demand, fixed, plain


class Grant:
    """Resources that somebody holds, with the devices among them."""

    __slots__ = ("demand", "devices", "for_life", "held", "lent")

    def __init__(self, demand: Demand, devices: tuple[tuple[int, int], ...] = ()) -> None:
        self.demand = demand
        self.devices = devices
        self.held = True
        # An actor has it, for as long as it lives.
        self.for_life = False
        self.lent = False  # its CPU part is given back while the task waits in get

    def __repr__(self) -> str:
        return f"<Grant {dict(self.demand)} devices={self.devices}>"


class Resources:
    """The accounts of one node.

    Args:
        totals: name -> amount, as programs give them. GPU must be whole.
    """

    def __init__(self, totals: Mapping[str, float]) -> None:
        self.total: dict[str, int] = dict(fixed(totals))
        self.available: dict[str, int] = dict(self.total)
        # What actors hold, without what they lend.
        self.for_life: dict[str, int] = {}
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
                    return None  # enough in sum, but in pieces on several devices
        for name, amount in demand:
            available[name] -= amount
        for index, amount in devices:
            self.devices[index] -= amount
        return Grant(demand, devices)

    def release(self, grant: Grant) -> None:
        """Gives everything back. A grant is given back once."""
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
        """Gives the CPU part back while its holder waits. False if there is nothing to lend."""
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
        """The holder goes on: its CPU is taken at once, even if that oversubscribes for a while."""
        if not grant.lent or not grant.held:
            return
        grant.lent = False
        for name, amount in grant.demand:
            if name == "CPU":
                self.available[name] -= amount
                if grant.for_life:
                    self.for_life[name] += amount

    def hold_for_life(self, grant: Grant) -> None:
        """The grant is an actor's."""
        grant.for_life = True
        for name, amount in grant.demand:
            self.for_life[name] = self.for_life.get(name, 0) + amount

    def end_life(self, grant: Grant) -> None:
        """The actor is dead. Its process may hold the grant a little longer."""
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
        # Best fit: a shared device is filled up before a fresh one is broken.
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
