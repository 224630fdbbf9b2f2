"""Accounts of resources, against a ledger of who holds what."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from asyncray.core.resources import Grant, Resources
from asyncray.units import UNIT, Demand, fixed, plain

AMOUNTS = st.sampled_from([0.0001, 0.1, 0.25, 0.3333, 0.5, 1, 2, 3])
GPUS = st.sampled_from([0.0001, 0.25, 0.5, 0.75, 1, 2, 3])


class Accounts(RuleBasedStateMachine):
    grants: Bundle[Grant] = Bundle("grants")

    @initialize(cpus=AMOUNTS, gpus=st.integers(0, 3), other=AMOUNTS)
    def start(self, cpus: float, gpus: int, other: float) -> None:
        self.resources = Resources({"CPU": cpus, "GPU": gpus, "R": other})
        self.held: list[Grant] = []

    @rule(target=grants, cpu=AMOUNTS | st.just(0), gpu=GPUS | st.just(0), other=AMOUNTS | st.just(0))
    def acquire(self, cpu: float, gpu: float, other: float) -> Grant | MultipleResults[Grant]:
        demand = fixed({"CPU": cpu, "GPU": gpu, "R": other})
        fits = self.resources.fits(demand)
        before = dict(self.resources.available)
        grant = self.resources.acquire(demand)
        assert (grant is not None) == fits
        if grant is None:
            assert self.resources.available == before, "all or nothing"
            return multiple()
        assert self.resources.feasible(demand)
        assert sum(amount for _, amount in grant.devices) == dict(demand).get("GPU", 0)
        self.held.append(grant)
        return grant

    @rule(grant=consumes(grants))
    def release(self, grant: Grant) -> None:
        grant.release()
        self.held.remove(grant)
        with pytest.raises(AssertionError, match="twice"):
            grant.release()
        assert not grant.lend()

    @rule(grant=grants)
    def lend(self, grant: Grant) -> None:
        lends = not grant.lent and "CPU" in dict(grant.demand)
        assert grant.lend() == lends

    @rule(grant=grants)
    def reclaim(self, grant: Grant) -> None:
        grant.reclaim()
        assert not grant.lent

    @invariant()
    def what_is_not_held_is_there(self) -> None:
        if not hasattr(self, "resources"):
            return
        self.resources.check()
        held: Counter[str] = Counter()
        devices: Counter[int] = Counter()
        for grant in self.held:
            held.update({name: amount for name, amount in grant.demand if not (grant.lent and name == "CPU")})
            devices.update(dict(grant.devices))
        for name, total in self.resources.total.items():
            assert self.resources.available[name] == total - held[name]
        for number, left in self.resources.devices.items():
            assert left == UNIT - devices[number]

    def teardown(self) -> None:
        if hasattr(self, "resources"):
            for grant in self.held:
                grant.release()
            assert self.resources.available == self.resources.total


TestAccounts = Accounts.TestCase


def test_fractions_share_a_device_before_a_fresh_one_is_broken() -> None:
    resources = Resources({"GPU": 2})
    half = fixed({"GPU": 0.5})
    first, second = resources.acquire(half), resources.acquire(half)
    assert first is not None
    assert second is not None
    assert [index for index, _ in (*first.devices, *second.devices)] == [0, 0]
    assert resources.acquire(fixed({"GPU": 1})) is not None


def test_enough_in_sum_is_not_enough_in_pieces() -> None:
    resources = Resources({"GPU": 2})
    for _ in range(2):
        assert resources.acquire(fixed({"GPU": 0.75})) is not None
    assert resources.available["GPU"] == UNIT // 2
    assert not resources.fits(fixed({"GPU": 0.5}))
    assert resources.acquire(fixed({"GPU": 0.5})) is None


def test_a_part_that_is_set_aside_has_an_account_with_its_own_devices() -> None:
    node = Resources({"CPU": 4, "GPU": 3})
    first, part = node.acquire(fixed({"GPU": 1})), node.acquire(fixed({"CPU": 2, "GPU": 1.5}))
    assert first is not None
    assert part is None, "one and a half devices are whole ones or a share, not both"
    part = node.acquire(fixed({"CPU": 2, "GPU": 2}))
    assert part is not None
    account = Resources(plain(part.demand), dict(part.devices))
    assert account.devices == {1: UNIT, 2: UNIT}
    grant = account.acquire(fixed({"CPU": 1, "GPU": 1}))
    assert grant is not None
    assert (grant.account, grant.devices) == (account, ((1, UNIT),))
    assert account.acquire(fixed({"GPU": 2})) is None
    assert grant.lend()
    assert (account.available["CPU"], node.available["CPU"]) == (2 * UNIT, 2 * UNIT)
    grant.release()
    account.check()
    assert (account.available, account.devices) == (account.total, dict(part.devices))
    part.release()
    first.release()
    assert node.available == node.total


def test_a_part_may_have_a_share_of_a_device() -> None:
    account = Resources({"GPU": 0.5}, {3: UNIT // 2})
    grant = account.acquire(fixed({"GPU": 0.25}))
    assert grant is not None
    assert grant.devices == ((3, UNIT // 4),)
    assert account.acquire(fixed({"GPU": 0.5})) is None
    account.check()


def test_what_a_node_does_not_have_is_infeasible() -> None:
    resources = Resources({"CPU": 1})
    assert resources.feasible(())
    assert resources.feasible(fixed({"CPU": 1}))
    assert not resources.feasible(fixed({"CPU": 1.0001}))
    assert not resources.feasible(fixed({"moon": 1}))


@given(st.dictionaries(st.sampled_from(["CPU", "GPU", "x"]), st.integers(0, 10**8).map(lambda n: n / UNIT)))
def test_fixed_point_is_exact_and_forgets_zeros(amounts: dict[str, float]) -> None:
    demand: Demand = fixed(amounts)
    assert demand == tuple(sorted(demand))
    assert plain(demand) == {name: amount for name, amount in amounts.items() if amount}
