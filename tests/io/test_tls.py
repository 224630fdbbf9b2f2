"""TLS: the three files, the environment, the faults of files, and failures in words."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from asyncray.io.tls import TlsError, explain, find_tls
from tests.certificates import HERE, paths_of, tls_of


def test_without_files_there_is_no_tls() -> None:
    assert find_tls() is None
    assert find_tls("", None, "") is None


def test_files_come_from_options_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, authority = paths_of("good")
    monkeypatch.setenv("ASYNCRAY_TLS_CERT", "/no/such/file")
    monkeypatch.setenv("ASYNCRAY_TLS_KEY", key)
    monkeypatch.setenv("ASYNCRAY_TLS_CA", authority)
    tls = find_tls(certificate)
    assert tls is not None
    assert (tls.certificate, tls.authority) == (certificate, authority)
    for context in (tls.server, tls.client):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    with pytest.raises(TlsError, match="/no/such/file cannot be read: No such file"):
        find_tls()


def test_some_files_are_too_few() -> None:
    certificate, key, _ = paths_of("good")
    with pytest.raises(TlsError, match=r"three files, and --tls-ca \(or ASYNCRAY_TLS_CA\) is missing"):
        find_tls(certificate, key)
    with pytest.raises(TlsError, match=r"--tls-key .* and --tls-ca .* is missing"):
        find_tls(certificate)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    certificate, key, authority = paths_of("good")
    other_key = str(HERE / "other-node.key")
    text = tmp_path / "text"
    text.write_text("no certificate")
    with pytest.raises(TlsError, match="are no certificate and its key without a password: key values mismatch"):
        find_tls(certificate, other_key, authority)
    with pytest.raises(TlsError, match="are no certificate and its key"):
        find_tls(str(text), key, authority)
    with pytest.raises(TlsError, match="text holds no certificate of a CA"):
        find_tls(certificate, key, str(text))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
        ("TLSV1_ALERT_UNKNOWN_CA", "it does not accept the certificate .*good-node.pem: tlsv1 alert unknown ca"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "^it shows no certificate"),
        ("BAD_RECORD_TYPE", "TLS has failed: bad record type"),
    ],
)
def test_failures_are_sentences(reason: str, words: str) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    assert re.search(words, explain(error, tls_of("good")))
