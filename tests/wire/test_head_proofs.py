"""The proofs of nodes and the head to each other."""

from __future__ import annotations

import pytest

from asyncray.wire.handshake import HandshakeError
from asyncray.wire.head_proofs import (
    NODE_HEADER,
    NONCE_HEADER,
    NONCE_LIFE,
    OWN_NONCE_HEADER,
    PROOF_HEADER,
    VERSION_HEADER,
    HeadProofs,
    NodeProof,
    StaleNonce,
)

TOKEN = b"t" * 32
NODE = b"node0001"
HEAD = b"head0001"
OWN = b"o" * 32


def head(token: bytes = TOKEN) -> HeadProofs:
    return HeadProofs(token, HEAD, b"s" * 32)


def attempt(nonce: bytes, token: bytes = TOKEN) -> NodeProof:
    return NodeProof(token, NODE, HEAD, nonce, OWN)


def test_both_sides_prove_that_they_know_the_token() -> None:
    proofs = head()
    node = attempt(proofs.new_nonce(1.0, b"r" * 8))
    found = proofs.answer(node.headers(), 2.0)
    assert found.id == NODE
    proof = found.proof()
    node.check({PROOF_HEADER: proof})
    for other in (proof[:-1] + ("0" if proof[-1] != "0" else "1"), node.headers()[PROOF_HEADER], ""):
        with pytest.raises(HandshakeError):
            node.check({PROOF_HEADER: other})
    with pytest.raises(HandshakeError):
        node.check({})


def test_only_the_head_can_refuse_a_node_and_only_for_its_own_reason() -> None:
    proofs = head()
    node = attempt(proofs.new_nonce(1.0, b"r" * 8))
    found = proofs.answer(node.headers(), 2.0)
    assert node.is_refused({PROOF_HEADER: found.refusal("it is lost")}, "it is lost")
    for headers in ({}, {PROOF_HEADER: "zz"}, {PROOF_HEADER: found.proof()}, {PROOF_HEADER: found.refusal("other")}):
        assert not node.is_refused(headers, "it is lost")


def test_a_nonce_is_good_once_and_for_a_while() -> None:
    proofs = head()
    nonce = proofs.new_nonce(1.0, b"r" * 8)
    proofs.answer(attempt(nonce).headers(), 2.0)
    with pytest.raises(StaleNonce):
        proofs.answer(attempt(nonce).headers(), 3.0)
    late = proofs.new_nonce(1.0, b"q" * 8)
    with pytest.raises(StaleNonce):
        proofs.answer(attempt(late).headers(), 1.1 + NONCE_LIFE)
    with pytest.raises(StaleNonce):
        proofs.answer(attempt(late).headers(), 12.0)
    with pytest.raises(StaleNonce):  # no nonce of this head
        proofs.answer(attempt(b"n" * 32).headers(), 2.0)


def test_used_nonces_are_forgotten_when_they_are_too_old() -> None:
    proofs = head()
    for second in range(100):
        proofs.answer(attempt(proofs.new_nonce(second, b"r" * 8)).headers(), second)
    assert repr(proofs) == f"<HeadProofs {int(NONCE_LIFE) + 1} nonces used>"


def test_nothing_passes_without_the_token() -> None:
    proofs = head()
    nonce = proofs.new_nonce(1.0, b"r" * 8)
    good = attempt(nonce).headers()
    wrong = attempt(nonce, b"w" * 32).headers()
    cases = [wrong, {VERSION_HEADER: good[VERSION_HEADER]}]
    for name in (NODE_HEADER, NONCE_HEADER, OWN_NONCE_HEADER, PROOF_HEADER):
        cases += [{**good, name: value} for value in ("", "zz", "ab", "ab" * 32, "ab" * 8, "\udcff")]
        cases.append({key: value for key, value in good.items() if key != name})
    for headers in cases:
        with pytest.raises(HandshakeError, match="the token is wrong, or missing"):
            proofs.answer(headers, 2.0)
    proofs.answer(good, 2.0)


def test_another_version_is_named() -> None:
    proofs = head()
    headers = attempt(proofs.new_nonce(1.0, b"r" * 8)).headers()
    with pytest.raises(HandshakeError, match="the node '999': upgrade the older one"):
        proofs.answer({**headers, VERSION_HEADER: "999"}, 2.0)
    with pytest.raises(HandshakeError, match="speaks version"):
        proofs.answer({}, 2.0)
