"""config.toml: what it says is used, and every mistake is named with its key and a remedy."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.genesis import parse_genesis
from node.config import ConfigError, NetworkConfig, load_config
from node.home import HomeError


def _write(home: Path, text: str | bytes) -> Path:
    raw = text if isinstance(text, bytes) else text.encode()
    (home / "config.toml").write_bytes(raw)
    return home


def test_the_shortest_file_gets_the_layout_of_the_home(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, 'institution = "recorder-1"'))
    assert config.institution == "recorder-1"
    assert config.home.path == tmp_path
    assert config.genesis_file == config.home.genesis_file
    assert config.key_file == config.home.key_file
    assert config.rpc_socket == config.home.rpc_socket
    assert (config.listen, config.rpc_tcp) == (None, None)
    assert (config.log_level, config.log_format) == ("info", "json")
    assert config.network == NetworkConfig()


def test_every_key_is_used(tmp_path: Path) -> None:
    text = """
    institution = "clinic-9"
    listen = "0.0.0.0:22001"
    genesis = "/etc/medpact/genesis.toml"
    key_file = "keys/node.key"
    [rpc]
    socket = "/run/medpact/rpc.sock"
    tcp = "127.0.0.1:22002"
    [log]
    level = "debug"
    format = "text"
    [network]
    dial_timeout_ms = 1000
    """
    config = load_config(_write(tmp_path, text))
    assert config.listen == "0.0.0.0:22001"
    assert config.genesis_file == Path("/etc/medpact/genesis.toml")
    assert config.key_file == tmp_path / "keys" / "node.key"
    assert config.rpc_socket == Path("/run/medpact/rpc.sock")
    assert config.rpc_tcp == ("127.0.0.1", 22002)
    assert (config.log_level, config.log_format) == ("debug", "text")
    assert config.network.dial_timeout_ms == 1000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the key 'institution' is missing; add it."),
        ('instituton = "a"', "unknown key 'instituton'; did you mean 'institution'?"),
        ('institution = "a"\n[rpc]\nsokcet = ""', "'rpc.sokcet'; did you mean 'rpc.socket'?"),
        ('institution = "a"\n[log]\nzzz = 1', "unknown key 'log.zzz'; known keys here are level,"),
        ("institution = 7", "the key 'institution' has a wrong value: expected text, got a whole"),
        ('institution = "a"\nrpc = 3', "the key 'rpc' has a wrong value: expected a table, got"),
        ('institution = "a"\n[rpc]\ntcp = 80', "'rpc.tcp' has a wrong value: expected text, got"),
        ('institution = "A b"', "'institution' holds 'A b', which is no institution id"),
        ('institution = "a"\nlisten = "a"', "'listen' cannot be used. The address 'a' is not"),
        ('institution = "a"\nlisten = "a:99999"', "no port number from 1 to 65535"),
        ('institution = "a"\n[rpc]\ntcp = "0.0.0.0:80"', "'rpc.tcp' holds '0.0.0.0:80', an addr"),
        ('institution = "a"\n[rpc]\nsocket = ""', "the key 'rpc.socket' holds no file name"),
        ('institution = "a"\ngenesis = "\\u0000"', "the key 'genesis' holds no file name"),
        ('institution = "a"\n[log]\nlevel = "loud"', "must be one of debug, info, warning, error."),
        ('institution = "a"\n[network]\ndial_timeout_ms = -1', "a whole number of at least 100"),
        ('institution = "a"\n[network]\nredial_ms_max = 9999999999999999999', "at most 600000"),
        ('institution = "a"\n[rpc]\ntokens = [1]', "'rpc.tokens[0]' has a wrong value"),
        ('institution = "a', "is not valid TOML: "),
        ('institution = "a"\ninstitution = "b"', "is not valid TOML: "),
        ("x = " + "[" * 100_000, "is not valid TOML"),
        (b'institution = "a"\nlisten = "\xff"', "line 2 is not UTF-8 text"),
        (b"#" * 2_000_000, "is larger than 1048576 bytes"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, text))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.toml"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.toml does not exist; is .* the home of a node"):
        load_config(tmp_path)
    with pytest.raises(HomeError, match="does not exist; give the node's directory"):
        load_config(tmp_path / "missing")
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load_config(tmp_path)


@given(content=st.binary() | st.text().map(str.encode))
def test_no_content_escapes_the_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    home = tmp_path_factory.getbasetemp()
    with pytest.raises(ConfigError):
        load_config(_write(home, content))


EXAMPLES = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["recorder", "auditor", "observer"])
def test_the_examples_can_be_used(tmp_path: Path, name: str) -> None:
    config = load_config(_write(tmp_path, (EXAMPLES / f"{name}.toml").read_bytes()))
    genesis = parse_genesis((EXAMPLES / "genesis.toml").read_bytes())
    members = {member.id: member for member in genesis.institutions}
    member = members[config.institution]
    assert genesis.classes[member.type] == name
    assert genesis.warnings == ()


def test_the_example_shows_every_default(tmp_path: Path) -> None:
    text = (EXAMPLES / "recorder.toml").read_text()
    # What is commented out is "# key = value"; prose never looks like that.
    shown = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text)
    shortest = load_config(_write(tmp_path, 'institution = "first-hospital"'))
    config = load_config(_write(tmp_path, shown))
    assert config.rpc_tcp == ("127.0.0.1", 8545)
    assert replace(config, listen=None, rpc_tcp=None) == shortest
