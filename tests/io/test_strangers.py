"""The limit of strangers for an address, and the limit of log lines about them."""

from __future__ import annotations

import logging

import pytest

from asyncray.io import strangers
from asyncray.io.strangers import LOG_AGAIN_AFTER, MOST_OF_ADDRESS, MOST_OF_ALL, Strangers


def test_h27_an_address_with_many_keeps_out_only_itself() -> None:
    counted = Strangers()
    for _ in range(MOST_OF_ADDRESS):
        assert counted.came("bad", is_member=False)
    assert not counted.came("bad", is_member=False)
    assert counted.came("good", is_member=False)
    counted.went("bad")
    assert counted.came("bad", is_member=False)


def test_h27_many_addresses_keep_out_no_member() -> None:
    counted = Strangers()
    for number in range(MOST_OF_ALL):
        assert counted.came(f"10.0.{number}", is_member=False)
    assert not counted.came("another", is_member=False)
    assert counted.came("member", is_member=True)
    for number in range(MOST_OF_ALL):
        counted.went(f"10.0.{number}")
    counted.went("member")
    assert repr(counted) == "<Strangers 0>"


def test_failures_of_one_address_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "_MOST_LOGGED", 2)
    counted = Strangers()
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, LOG_AGAIN_AFTER - 0.1, LOG_AGAIN_AFTER):
            counted.failed("10.0.0.1", "a wrong token", now)
        counted.failed("10.0.0.2", "a wrong token", 0.0)
        assert len(caplog.records) == 3
        counted.failed("10.0.0.3", "a wrong token", 0.0)  # that makes it forget the first address
        counted.failed("10.0.0.1", "a wrong token", LOG_AGAIN_AFTER)
        assert len(caplog.records) == 5
