"""The files by which programs of this user on this machine find a node of a cluster, and the cluster's token.

Cleaners of temporary directories remove what looks old. So the daemon looks at these files now and then, and makes
those again that are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from asyncray.io import cluster_sessions, cluster_tokens

log = logging.getLogger("asyncray.node")


class ClusterNotes:
    """The notes of one node.

    Args:
        session: the directory of its session.
        addresses: those by which programs may name the cluster. None: the node is for one driver, and has no notes.
        token: the token of the cluster, if this node is its head.
    """

    def __init__(self, session: str, addresses: Sequence[str] | None, token: bytes | None) -> None:
        self._session = session
        self._addresses = addresses or ()
        self._token = token
        # The node is a member.
        self._is_member = False
        # The last attempt has failed.
        self._has_failed = False

    def __repr__(self) -> str:
        return f"<ClusterNotes {self._session}>"

    def begin(self) -> None:
        """The node is a member: programs may find it from now on."""
        self._is_member = True
        self.keep()

    def keep(self) -> None:
        """Makes what is missing. Logs the first failure."""
        if not self._is_member or not self._addresses:
            return
        try:
            cluster_sessions.keep_note(self._session, self._addresses, is_head=self._token is not None)
            if self._token is not None:
                cluster_tokens.keep_token(self._session, self._addresses, self._token)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                log.warning("programs find this node by its own address only: %s", error)
            self._has_failed = True
