"""TLS between the machines of a cluster: the files that a user names, what they make, and errors in words.

Both sides of each connection show a certificate, and each checks that the cluster's CA has signed the other's. Names
in certificates are not compared with addresses: a node is known by the CA and the cluster's token, so one certificate
may serve all nodes. So the CA must sign for nothing but the cluster.

A node that asks the head over HTTP uses the event loop's own TLS. Connections between nodes, and the registry, use that
of ``asyncray.io.tls_transport``.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

VARIABLES = {"cert": "ASYNCRAY_TLS_CERT", "key": "ASYNCRAY_TLS_KEY", "ca": "ASYNCRAY_TLS_CA"}
"""Environment variables with the paths of the certificate, its key, and the CA."""


class TlsError(Exception):
    """The files for TLS are incomplete or cannot be used. The text is for people."""


@dataclass(frozen=True)
class Tls:
    """TLS of one node.

    Args:
        server: for connections that others open.
        client: for those that this node opens.
        certificate, authority: the paths of the node's certificate and of the CA, for people.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    certificate: str
    authority: str

    def __repr__(self) -> str:
        return f"<Tls {self.certificate}>"


def find_tls(certificate: str | None = None, key: str | None = None, authority: str | None = None) -> Tls | None:
    """Makes TLS from three files. None if no file is named.

    Args:
        certificate, key, authority: paths; each that is missing comes from the environment.

    Raises:
        TlsError: only some are named, or one cannot be used.
    """
    given = {"cert": certificate, "key": key, "ca": authority}
    paths = {name: path or os.environ.get(VARIABLES[name]) for name, path in given.items()}
    if not any(paths.values()):
        return None
    missing = [f"--tls-{name} (or {VARIABLES[name]})" for name, path in paths.items() if not path]
    if missing:
        raise TlsError(f"TLS needs three files, and {' and '.join(missing)} is missing")
    chosen = [str(path) for path in paths.values()]
    return Tls(
        _context(ssl.PROTOCOL_TLS_SERVER, *chosen), _context(ssl.PROTOCOL_TLS_CLIENT, *chosen), chosen[0], chosen[2]
    )


def _context(protocol: int, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (certificate, key, authority):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise TlsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        # An empty password: a key with one is an error, and not a question at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        why = (error.reason or str(error)).replace("_", " ").lower()
        raise TlsError(f"{certificate} and {key} are no certificate and its key without a password: {why}") from None
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError:
        raise TlsError(f"{authority} holds no certificate of a CA") from None
    return context


NEEDS_FILES = "it speaks TLS, so this node needs --tls-cert, --tls-key and --tls-ca"
"""A head that speaks TLS, to a node without it."""


def probing_context() -> ssl.SSLContext:
    """For the question whether a server speaks TLS at all: trusts anyone, so nothing may be sent through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def explain(error: ssl.SSLError, tls: Tls | None) -> str:
    """A failure of TLS, as a sentence about the other side."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or "it cannot be verified"
        return f"its certificate is not good for {tls.authority if tls else 'this node'}: {why}"
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER_FAILURE" in reason:
        return "it does not speak TLS"
    if "PEER_DID_NOT_RETURN" in reason:
        return "it shows no certificate"
    if "ALERT" in reason:
        name = tls.certificate if tls else "this node"
        return f"it does not accept the certificate {name}: {reason.replace('_', ' ').lower()}"
    return f"TLS has failed: {reason.replace('_', ' ').lower() or error}"
