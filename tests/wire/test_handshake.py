"""The handshake of two daemons, byte by byte, with strangers of every kind at the door."""

import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncray.wire.handshake import (
    BULK,
    LINK,
    NONCE_SIZE,
    AcceptorHandshake,
    DialerHandshake,
    Handshake,
    HandshakeError,
    derived,
)

TOKEN, CLUSTER = b"t" * 32, b"c" * 16
DIALER, ACCEPTOR = b"dialer..", b"acceptor"


def dialer(
    token: bytes = TOKEN,
    cluster: bytes = CLUSTER,
    role: int = LINK,
    expected: bytes = ACCEPTOR,
    node: bytes = DIALER,
    nonce: bytes = b"1" * NONCE_SIZE,
) -> DialerHandshake:
    return DialerHandshake(token, node, cluster, role, expected, nonce)


def acceptor(token: bytes = TOKEN, cluster: bytes = CLUSTER, nonce: bytes = b"2" * NONCE_SIZE) -> AcceptorHandshake:
    return AcceptorHandshake(token, ACCEPTOR, cluster, nonce)


def talk(near: DialerHandshake, far: AcceptorHandshake, step: int = 1 << 20) -> None:
    """Carries bytes between the two until neither has any more, in pieces of ``step`` bytes."""
    wires: dict[Handshake, bytes] = {far: near.start(), near: b""}
    while any(wires.values()):
        for side, other in ((far, near), (near, far)):
            piece, wires[side] = wires[side][:step], wires[side][step:]
            wires[other] += side.feed(piece) if piece else b""


@pytest.mark.parametrize("role", [LINK, BULK])
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_two_daemons_of_a_cluster_learn_who_the_other_is(role: int, step: int) -> None:
    near, far = dialer(role=role), acceptor()
    talk(near, far, step)
    assert near.done
    assert far.done
    assert (near.peer, far.peer, far.role) == (ACCEPTOR, DIALER, role)


def test_bytes_behind_the_handshake_are_kept() -> None:
    near, far = dialer(), acceptor()
    proof = near.feed(far.feed(near.start()))
    last = far.feed(proof + b"frames")
    assert far.done
    assert far.rest == b"frames"
    assert near.feed(last + b"more") == b""
    assert near.rest == b"more"


@pytest.mark.parametrize(
    ("near", "far"),
    [
        (dialer(token=b"x" * 32), acceptor()),
        (dialer(cluster=b"x" * 16), acceptor()),
        (dialer(expected=b"somebody"), acceptor()),
        (dialer(role=7), acceptor()),
        (dialer(node=ACCEPTOR), acceptor()),
    ],
    ids=["another token", "another cluster", "another node", "an unknown role", "the node itself"],
)
def test_a_side_that_does_not_fit_is_refused(near: DialerHandshake, far: AcceptorHandshake) -> None:
    with pytest.raises(HandshakeError):
        talk(near, far)
    assert not (near.done and far.done)


def test_a_dialer_does_not_trust_an_acceptor_without_the_token() -> None:
    near, far = dialer(), acceptor()
    proof = near.feed(far.feed(near.start()))
    assert proof
    with pytest.raises(HandshakeError, match="does not know the token"):
        near.feed(proof)  # the acceptor sends the dialer's own proof back
    assert not near.done


def test_a_recorded_proof_is_worth_nothing_the_second_time() -> None:
    near, far = dialer(), acceptor()
    proof = near.feed(far.feed(near.start()))
    again = acceptor(nonce=b"3" * NONCE_SIZE)
    again.feed(near.start())
    with pytest.raises(HandshakeError):
        again.feed(proof)


def test_another_release_is_named_and_gets_no_further() -> None:
    near, far = dialer(), acceptor()
    first = bytearray(near.start())
    first[8:10] = (99).to_bytes(2, "big")
    second = bytearray(far.feed(bytes(first)))
    proof = hmac.digest(TOKEN, b"dialer" + bytes(first) + bytes(second), "sha256")
    with pytest.raises(HandshakeError, match="another version"):
        far.feed(proof)
    assert not far.done
    second[0:2] = (99).to_bytes(2, "big")
    with pytest.raises(HandshakeError, match="speaks version 99 of the protocol, this one 1"):
        dialer().feed(bytes(second))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_bytes_of_a_stranger_never_pass(data: bytes, step: int) -> None:
    for side in (acceptor(nonce=os.urandom(NONCE_SIZE)), dialer(nonce=os.urandom(NONCE_SIZE))):
        try:
            for start in range(0, len(data), step):
                side.feed(data[start : start + step])
        except HandshakeError:
            pass
        assert not side.done


def test_derived_tokens_differ_by_purpose_and_hide_the_token() -> None:
    assert len({TOKEN, derived(TOKEN, "http"), derived(TOKEN, "files")}) == 3
    assert derived(TOKEN, "http") == derived(TOKEN, "http")
