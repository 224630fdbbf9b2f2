"""Room in shared memory: the steps of a reservation, and its release when either side gives up."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.exceptions import LocalNodeDiedError, ObjectStoreFullError
from asyncray.messages import ABANDON, ALLOCATE, ALLOCATED, REPLY_FAULT, REQUEST, STORE_FULL
from asyncray.runtime.connection import Connection
from asyncray.runtime.reservation import ABANDONED, GRANTED, NEW, REFUSED, SEALED, Reservation, Reservations
from tests.runtime.daemon_side import DaemonSide, connected


class Came(BaseException):
    pass


def grant(reservation: Reservation, offset: int = 64) -> tuple[Any, ...]:
    return (ALLOCATED, reservation.number, "segment", offset, True)


def settle(connection: Connection, daemon: DaemonSide) -> None:
    """Everything that was sent before has arrived, on both sides."""
    number = next(connection.request_numbers)
    connection.replies[number] = reply = connection.new_reply()
    connection.post((REQUEST, number, "ping", ()))
    assert daemon.next(REQUEST)[1] == number
    daemon.send((REPLY_FAULT, number, "ValueError", {}))
    assert connection.block_on((reply,), timeout=10)


def test_granted_and_sealed() -> None:
    with connected() as (connection, daemon):
        reservations = Reservations(connection)
        with reservations.new(100) as reservation:
            assert reservation.state == NEW
            reservation.ask()
            assert daemon.next(ALLOCATE)[1:] == [reservation.number, 100]
            daemon.send(grant(reservation))
            reservation.wait()
            assert reservation.state == GRANTED
            assert reservation.place == ["segment", 64, 100]
            with pytest.raises(AssertionError, match="cannot become sealed"):
                reservation.seal()
            reservation._move("written")
            reservation.seal()
        reservation.abandon()
        assert reservation.state == SEALED
        assert not reservations.asked


def test_a_refusal_is_the_error_of_the_daemon() -> None:
    with connected() as (connection, daemon):
        reservations = Reservations(connection)
        reservation = reservations.new(100)
        reservation.ask()
        daemon.send((REPLY_FAULT, reservation.number, "ObjectStoreFullError", {"message": "full"}))
        with pytest.raises(ObjectStoreFullError, match="full"):
            reservation.wait()
        assert reservation.state == REFUSED
        assert (reservations.asked, connection.replies) == ({}, {})


def test_room_goes_back_if_the_block_raises_and_if_it_comes_too_late() -> None:
    with connected() as (connection, daemon):
        reservations = Reservations(connection)
        held, late = reservations.new(100), reservations.new(100)

        def interrupted(reservation: Reservation, *, granted: bool) -> None:
            with reservation:
                reservation.ask()
                if granted:
                    daemon.send(grant(reservation))
                    reservation.wait()
                raise Came

        with pytest.raises(Came):
            interrupted(held, granted=True)
        assert daemon.next(ABANDON)[1:] == ["segment", 64]
        with pytest.raises(Came):
            interrupted(late, granted=False)
        assert late.state == ABANDONED
        daemon.send(grant(late, 128))
        assert daemon.next(ABANDON)[1:] == ["segment", 128]
        assert (reservations.asked, connection.replies) == ({}, {})


def test_the_end_of_the_daemon_ends_the_wait() -> None:
    with connected() as (connection, daemon):
        reservation = Reservations(connection).new(100)
        reservation.ask()
        daemon.close()
        with pytest.raises(LocalNodeDiedError):
            reservation.wait()


def test_who_waits_briefly_hears_that_the_store_is_full() -> None:
    with connected() as (connection, daemon):
        reservations = Reservations(connection)
        reservation = reservations.new(100)
        daemon.send((STORE_FULL, reservation.number + 7))  # of a reservation that nobody knows
        settle(connection, daemon)
        granted = reservations.new(100)
        daemon.send(grant(granted))  # before it was asked: nobody knows it, and it goes back
        assert daemon.next(ABANDON)[1:] == ["segment", 64]
        assert not reservation.wait_briefly()  # the daemon says nothing: a tenth of a second
        assert daemon.next(ALLOCATE)[1] == reservation.number
        daemon.send((STORE_FULL, reservation.number))
        settle(connection, daemon)
        daemon.send(grant(reservation))
        reservation.wait()
        assert reservation.state == GRANTED
