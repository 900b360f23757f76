"""node/rpc_access.py: tokens, roles and the headers of requests."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from node.home import StartError
from node.rpc_access import (
    SOCKET_CALLER,
    Caller,
    NamedToken,
    Refusal,
    Role,
    TokenFile,
    Tokens,
    check_source,
    new_token,
)


def test_the_token_file_is_private_random_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "rpc.token"
    umask = os.umask(0)
    try:
        file = TokenFile(path)
        file.create()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_text()
    assert len(bytes.fromhex(first)) == 32
    assert Tokens(file.sha256, ()).caller(f"Bearer {first.strip()}").may(Role.ADMIN)
    file.create()
    assert path.read_text() != first
    with pytest.raises(Refusal):
        Tokens(file.sha256, ()).caller(f"Bearer {first.strip()}")
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()


def test_a_token_file_left_by_a_killed_process_is_replaced_not_reused(tmp_path: Path) -> None:
    path = tmp_path / "rpc.token"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "rpc.token.new").write_text("half")
    TokenFile(path).create()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() != "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_token_file_of_another_process_is_left_alone(tmp_path: Path) -> None:
    ours, theirs = TokenFile(tmp_path / "t"), TokenFile(tmp_path / "t")
    ours.create()
    theirs.create()
    ours.remove()
    assert (tmp_path / "t").exists()


def test_a_token_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"token file .* cannot be written: no such file"):
        TokenFile(tmp_path / "none" / "t").create()


def test_roles() -> None:
    allowed = {
        role: [other.value for other in Role if Caller("x", (role,)).may(other)] for role in Role
    }
    assert allowed == {
        Role.READ: ["read"],
        Role.SUBMIT: ["read", "submit"],
        Role.AUDIT: ["read", "audit"],
        Role.ADMIN: ["read", "submit", "audit", "admin"],
    }
    assert all(SOCKET_CALLER.may(role) for role in Role)


def test_named_tokens_are_known_by_hash_and_told_by_name() -> None:
    token, sha256 = new_token()
    tokens = Tokens(new_token()[1], [NamedToken("lab", (Role.SUBMIT,), sha256)])
    for header in (f"Bearer {token}", f"bearer  {token} "):
        assert tokens.caller(header) == Caller("token-lab", (Role.SUBMIT,))
    for wrong in (None, "", token, f"Basic {token}", f"Bearer {sha256}", "Bearer \udcff"):
        with pytest.raises(Refusal) as caught:
            tokens.caller(wrong)
        assert caught.value.status == 401
        assert token not in caught.value.sentence


@pytest.mark.parametrize(
    "setting",
    [
        {"name": "Lab", "roles": ["read"], "sha256": "0" * 64},
        {"name": "lab", "roles": [], "sha256": "0" * 64},
        {"name": "lab", "roles": ["root"], "sha256": "0" * 64},
        {"name": "lab", "roles": ["read"], "sha256": "0" * 63},
        {"name": "lab", "roles": ["read"], "sha256": "0" * 64 + "\n"},
        {"name": "lab", "roles": ["read"], "sha256": "0" * 64, "token": "secret"},
    ],
)
def test_settings_of_named_tokens_are_strict(setting: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(setting, NamedToken)


@pytest.mark.parametrize("host", ["localhost", "localhost:7600", "127.0.0.1", "[::1]", "[::1]:1"])
def test_this_machine_may_call(host: str) -> None:
    check_source(host, None)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),
        ("", None),
        ("example.org", None),
        ("localhost:port", None),
        ("localhost.", None),
        ("::1", None),
        ("127.0.0.1:80:80", None),
        ("localhost\n", None),
        ("localhost", ""),
        ("localhost", "null"),
        ("localhost", "http://localhost"),
    ],
)
def test_others_may_not(host: str | None, origin: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        check_source(host, origin)
    assert caught.value.status == 403
