"""The files by which programs find a node of a cluster."""

from __future__ import annotations

import logging
import os
import shutil

import pytest

from asyncray.io import sessions
from asyncray.node.cluster_notes import ClusterNotes

ADDRESS = "127.0.0.1:7"
TOKEN = b"t" * 32


def test_a_head_keeps_its_token_and_its_note_and_another_member_its_note(session_path: str) -> None:
    for token, wanted in ((TOKEN, {sessions.TOKEN_FILE, sessions.CLUSTER_FILE}), (None, {sessions.CLUSTER_FILE})):
        notes = ClusterNotes(session_path, [ADDRESS], token)
        notes.keep()
        assert os.listdir(session_path) == [], "it is no member yet"
        notes.begin()
        for name in wanted:
            os.unlink(os.path.join(session_path, name))
            notes.keep()
        assert {*os.listdir(session_path)} == wanted
        for name in wanted:
            os.unlink(os.path.join(session_path, name))


def test_a_node_for_one_driver_has_no_notes(session_path: str) -> None:
    ClusterNotes(session_path, None, None).begin()
    assert os.listdir(session_path) == []


def test_a_failure_is_logged_once(session_path: str, caplog: pytest.LogCaptureFixture) -> None:
    notes = ClusterNotes(session_path, [ADDRESS], None)
    shutil.rmtree(session_path)
    with caplog.at_level(logging.WARNING):
        notes.begin()
        notes.keep()
        assert len(caplog.records) == 1
        os.mkdir(session_path)
        notes.keep()
        assert os.listdir(session_path) == [sessions.CLUSTER_FILE]
        shutil.rmtree(session_path)
        notes.keep()
    assert len(caplog.records) == 2
    os.mkdir(session_path)
