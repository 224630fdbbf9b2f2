"""Tokens: the files that hold them, the modes of those files, and the search for a token."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from asyncray.io.cluster_tokens import TokenError, find_token, forget_token, keep_token, new_token, take_token

ADDRESS = "127.0.0.1:7"
HEX = "ab" * 32


def test_the_same_user_on_the_same_machine_finds_it(session_path: str) -> None:
    token, path = new_token(session_path, [ADDRESS, "localhost:7"])
    assert len(token) == 32
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert find_token(ADDRESS) == find_token("localhost:7") == token
    forget_token(session_path, [ADDRESS, "localhost:7"])
    assert not os.path.exists(path)
    with pytest.raises(TokenError, match="you run no head at this address on this machine"):
        find_token(ADDRESS)


def test_a_new_head_at_the_address_of_an_old_one_keeps_its_token(session_path: str) -> None:
    new_token(session_path, [ADDRESS])  # the old head was killed
    other = f"{session_path}_2"
    os.mkdir(other)
    token, _ = new_token(other, [ADDRESS])
    assert find_token(ADDRESS) == token
    forget_token(session_path, [ADDRESS])
    assert find_token(ADDRESS) == token


def test_the_environment_comes_first_and_workers_do_not_see_it(
    session_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_token(session_path, [ADDRESS])
    monkeypatch.setenv("ASYNCRAY_TOKEN", f" {HEX}\n")
    assert find_token(ADDRESS) == bytes.fromhex(HEX)
    assert take_token(ADDRESS) == bytes.fromhex(HEX)
    assert "ASYNCRAY_TOKEN" not in os.environ
    monkeypatch.setenv("ASYNCRAY_TOKEN", "none")
    with pytest.raises(TokenError):
        take_token(ADDRESS)
    assert "ASYNCRAY_TOKEN" not in os.environ


def test_a_file_that_is_named(session_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("ASYNCRAY_TOKEN_FILE", str(path))
    with pytest.raises(TokenError, match="cannot be read: No such file"):
        find_token(ADDRESS)
    path.write_text(HEX)
    path.chmod(0o644)
    with pytest.raises(TokenError, match="others may read the token"):
        find_token(ADDRESS)
    path.chmod(0o600)
    assert find_token(ADDRESS) == bytes.fromhex(HEX)
    path.write_bytes(b"\xff")
    with pytest.raises(TokenError, match="it holds no text"):
        find_token(ADDRESS)


@pytest.mark.parametrize("text", ["x", "ab", "zz" * 32, "ab" * 33])
def test_a_text_that_is_no_token_is_not_shown(session_path: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ASYNCRAY_TOKEN", text)
    with pytest.raises(TokenError, match="ASYNCRAY_TOKEN holds no token: that is 64 hex digits"):
        find_token(ADDRESS)


def test_what_a_cleaner_of_directories_has_removed_is_made_again(session_path: str) -> None:
    token, path = new_token(session_path, [ADDRESS, "localhost:7"])
    links = Path(session_path).parent / "clusters"
    other = links / ADDRESS
    for removed in (Path(path), other, links):
        if removed.is_dir():
            shutil.rmtree(removed)
        else:
            removed.unlink()
        keep_token(session_path, [ADDRESS, "localhost:7"], token)
        assert find_token(ADDRESS) == find_token("localhost:7") == token
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    other.unlink()
    other.symlink_to("elsewhere")  # another head has the address by now
    keep_token(session_path, [ADDRESS], token)
    assert os.readlink(other) == "elsewhere"
