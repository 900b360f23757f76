"""The `medpact` command: what it prints, where, and the exit code it ends with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from node.commands.outcome import finish
from node.console import CommandError, ExitCode
from node.home import Home
from node.submission import Sent, Signed
from simulations.scenario import Scenario

ROOT = Path(__file__).resolve().parents[1]
ID = "ab" * 32
COMMANDS = (
    "testnet start status peers verify repair keys person record grant revoke share tx block "
    "member evidence proof simulate bench"
).split()


def run(*arguments: str | Path, home: Path | None = None) -> Result:
    environment = {"MEDPACT_HOME": None if home is None else str(home), "NO_COLOR": "1"}
    return CliRunner().invoke(main, [str(a) for a in arguments], env=environment)


def error_of(result: Result, code: ExitCode) -> str:
    """The one sentence with which a command failed."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    first, *rest = result.stderr.strip().split("\n")
    assert not [line for line in rest if not line.startswith("See: medpact ")]
    assert first.startswith("Error: ")
    return first.removeprefix("Error: ")


def document_of(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def new_network(directory: Path, *options: str) -> Any:
    return document_of(run("testnet", "create", directory, *options, "--json"))


# ---- help and usage -----------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line[2:3].strip()] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: medpact {command} ")


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.exit_code == ExitCode.USAGE
    assert "Commands:" in result.stderr


def test_every_command_of_a_node_takes_home_and_json() -> None:
    for command in ("start", "status", "verify", "repair", "grant", "revoke", "share"):
        assert "--home" in run(command, "--help").stdout
        assert "--json" in run(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "No such command 'fly'."),
        (["status", "--fly"], "No such option '--fly'."),
        (["status"], "Say which node: give its directory with --home or MEDPACT_HOME."),
        (["record", "show", "xyz"], "'xyz' is no record id: it must be 64 hexadecimal digits."),
        (["grant", "--to", "A B", "--purpose", "TREAT"], "'A B' is neither an institution id"),
        (["grant", "--to", "a", "--purpose", "FUN"], "'FUN' is not one of 'TREAT', 'ETREAT',"),
        (["grant", "--to", "a", "--purpose", "TREAT", "--expires", "x"], "is no point in time"),
        (["person", "enrol", "--kind", "patient"], "either --key FILE or --public HEX."),
        (["person", "enrol", "--kind", "robot"], "'robot' is not one of 'patient',"),
        (["person", "enrol", "--kind", "patient", "--public", "00" * 32], "is no public key"),
        (["record", "register", "--category", "x"], "Missing argument 'FILE...'."),
        (["record", "register", "f", "--category", "Ä"], "is no label: use 1 to 64 of A-Z"),
        (["block", "show", "-1"], "No such option '-1'."),
        (["block", "show", "1e9"], "is neither a height, nor a block hash of 64 hexadecimal"),
        (["block", "show", "9" * 100], "is neither a height, nor a block hash"),
        (["testnet", "create", "d", "--recorders", "0"], "0 is not in the range 1<=x<=100."),
        (["testnet", "create", "d", "--base-port", "70000"], "is not in the range 1<=x<=65535."),
        (["keys", "generate"], "Missing option '-o' / '--output'."),
        (["keys", "token", "Big Name", "--role", "read"], "NAME must be 1 to 32 of a-z, 0-9"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    new_network(tmp_path / "n", "--auditors", "0", "--observers", "0")
    needs_home = arguments[0] not in ("status", "testnet", "keys", "fly")
    home = tmp_path / "n" / "recorder-1" if needs_home else None
    assert sentence in error_of(run(*arguments, home=home), ExitCode.USAGE)


def test_errors_are_json_when_asked_for() -> None:
    for arguments in (["--json", "fly"], ["fly", "--json"], ["status", "--json"]):
        result = run(*arguments)
        assert result.stdout == ""
        error = json.loads(result.stderr)["error"]
        assert (error["exit_code"], error["code"]) == (2, "usage")
        assert result.exit_code == 2


def test_the_environment_names_the_home(tmp_path: Path) -> None:
    by_option = error_of(run("status", "--home", tmp_path), ExitCode.START)
    by_environment = error_of(run("status", home=tmp_path), ExitCode.START)
    assert by_option == by_environment
    assert "config.toml does not exist" in by_option


# ---- starting -----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    new_network(tmp_path / "n", "--auditors", "0", "--observers", "0")
    return tmp_path / "n" / "recorder-1"


def _start(home: Path) -> str:
    return error_of(run("start", home=home), ExitCode.START)


def test_start_names_a_bad_setting(home: Path) -> None:
    with (home / "config.toml").open("a") as f:
        f.write('levle = "info"\n')
    assert "unknown key 'log.levle'; did you mean 'log.level'?" in _start(home)


def test_start_names_a_missing_and_a_readable_key(home: Path) -> None:
    (home / "node.key").chmod(0o644)
    assert f"run: chmod 600 {home}/node.key" in _start(home)
    (home / "node.key").unlink()
    assert f"The key file {home}/node.key does not exist" in _start(home)


def test_start_names_a_missing_and_a_broken_genesis(home: Path) -> None:
    genesis = home / "genesis.toml"
    text = genesis.read_text()
    genesis.write_text(text.replace("[ledger]", "[leger]"))
    assert f"The genesis file {genesis} cannot be used. The file" in _start(home)
    genesis.write_bytes(b"")
    assert f"The genesis file {genesis} is empty; copy the consortium's" in _start(home)
    genesis.write_bytes(bytes(2 * 1024 * 1024))
    assert f"The genesis file {genesis} cannot be used. The genesis file has" in _start(home)
    genesis.unlink()
    assert "cannot be read: no such file or directory; copy the consortium's" in _start(home)
    genesis.symlink_to("/dev/zero")
    assert "cannot be read: it is a device or pipe; copy the consortium's" in _start(home)


def test_what_may_not_be_read_is_named_by_whoever_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything: this makes what others meet.
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    said = error_of(run("status", home=tmp_path), ExitCode.START)
    assert said.startswith(f"The home {tmp_path} may not be read by this user; run the command as")
    missing = tmp_path / "missing"
    missing.touch()
    result = run("proof", "verify", missing, "--genesis", missing)
    assert "is not readable" not in error_of(result, ExitCode.REFUSED)


def test_start_wants_the_key_that_genesis_lists(home: Path) -> None:
    other = home.parent / "recorder-2"
    (home / "node.key").write_bytes((other / "node.key").read_bytes())
    message = _start(home)
    assert f"The key file {home}/node.key is that of recorder-2: its public key is " in message
    assert "put the right key file there or correct 'institution'" in message
    config = (home / "config.toml").read_text()
    (home / "config.toml").write_text(config.replace("recorder-1", "recorder-9"))
    assert "'institution' says recorder-9, which the genesis file" in _start(home)
    assert "does not list; it lists recorder-1, recorder-2," in _start(home)


def test_no_node_no_answer(home: Path) -> None:
    for arguments in (["status"], ["tx", "show", ID], ["block", "show", "0"]):
        message = error_of(run(*arguments, home=home), ExitCode.UNREACHABLE)
        assert message.endswith(f"start it with `medpact start --home {home}`.")


def test_a_file_is_not_registered_without_a_node(home: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    result = run("record", "register", tmp_path / "f", "--category", "x", home=home)
    error_of(result, ExitCode.UNREACHABLE)
    assert list((home / "sidecars").iterdir()) == []


def test_files_are_looked_at_before_anything_else(home: Path, tmp_path: Path) -> None:
    (tmp_path / "good").touch()
    result = run("record", "register", tmp_path / "good", tmp_path, "--category", "x", home=home)
    assert error_of(result, ExitCode.FILE).startswith(f"{tmp_path} is a directory; name the files")


def test_several_sidecars_need_a_directory(home: Path, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    files = [tmp_path / "f", tmp_path / "f"]
    options: list[str | Path] = ["--category", "x", "--sidecar", tmp_path / "nowhere"]
    result = run("record", "register", *files, *options, home=home)
    assert "must name a directory that exists when 2 files" in error_of(result, ExitCode.USAGE)


def test_a_file_that_can_not_even_be_asked_about_is_named(home: Path, tmp_path: Path) -> None:
    data, long = tmp_path / "data", tmp_path / ("x" * 300)
    data.touch()
    register = ("record", "register", data, data, "--category", "x", "--sidecar", long)
    said = error_of(run(*register, home=home), ExitCode.FILE)
    assert said == f"{long} cannot be used: file name too long."


def test_repair_sets_the_database_aside_and_says_what_is_next(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "ledger.db").write_bytes(b"damaged")
    done = json.loads(run("--json", "repair", home=home).stdout)
    assert done["set_aside"] == ["ledger.db"]
    assert (Path(done["directory"]) / "ledger.db").read_bytes() == b"damaged"
    assert (home / "data" / "boot").exists()
    again = run("repair", home=home)
    assert (again.exit_code, "nothing" in again.stdout) == (0, True)
    assert f"medpact start --home {home}" in again.stdout

    with Home(home).locked():
        message = error_of(run("repair", home=home), ExitCode.START)
    assert f"in use by the process {os.getpid()}" in message

    (home / "data" / "boot").write_bytes(b"damaged")
    (home / "data").rename(home / "elsewhere")
    (home / "data").write_bytes(b"a file")
    assert "cannot be set aside" in error_of(run("repair", home=home), ExitCode.FILE)


def test_verify_needs_a_database(home: Path) -> None:
    message = error_of(run("verify", home=home), ExitCode.START)
    assert message.endswith("the node of this home has not been started yet.")


# ---- simulations --------------------------------------------------------------------------------


def test_a_campaign_is_summed_up() -> None:
    found = document_of(
        run("simulate", "--seeds", "2", "--first-seed", "5", "--jobs", "1", "--json")
    )
    assert [one["seed"] for one in found["runs"]] == [5, 6]
    assert [one["verdict"] for one in found["runs"]] == ["passed", "passed"]
    assert (found["summary"]["runs"], found["exit_code"]) == (2, 0)


def test_one_seed_tells_its_story() -> None:
    result = run("simulate", "--seed", "5", "--verbose")
    assert result.exit_code == 0
    story, _, summary = result.stdout.partition("seed ")
    assert story.count("\n") > 10
    assert "digest" in summary
    wrong = run("simulate", "--verbose")
    assert "give it with --seed" in error_of(wrong, ExitCode.USAGE)


def test_a_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulations import campaign

    def stuck(scenario: Scenario, *_: object) -> campaign.Report:
        verdict = campaign.Verdict.STUCK
        return campaign.Report(
            scenario.seed,
            scenario.profile,
            verdict,
            "no block",
            "4 recorders",
            "00",
            None,
            {"Crash": 3},
            1,
        )

    monkeypatch.setattr(campaign, "run_scenario", stuck)
    result = run("simulate", "--seed", "7", "--profile", "crash")
    assert result.exit_code == 128
    assert "STUCK: no block" in result.stdout
    assert "medpact simulate --seed 7 --profile crash --verbose" in result.stdout
    assert "medpact simulate --seed 7 --profile crash --shrink" in result.stdout
    assert "3 in 1 runs" in result.stdout


def test_a_failure_is_shrunk_to_a_file_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from simulations.host import Host

    def vain(self: Host, peer: str, raw: bytes) -> None:
        raise KeyError("a planted bug")

    monkeypatch.setattr(Host, "message", vain)
    shrunk = run("simulate", "--seed", "3", "--shrink")
    assert shrunk.exit_code == 127
    assert "It ends with CRASHED" in shrunk.stderr
    path = tmp_path / "small scenario.json"
    path.write_text(shrunk.stdout)
    assert json.loads(shrunk.stdout)["faults"] == []
    again = run("simulate", "--scenario", path, "--verbose")
    assert again.exit_code == 127
    assert "a planted bug" in again.stdout
    monkeypatch.undo()
    passed = document_of(run("simulate", "--scenario", path, "--json"))
    assert passed["runs"][0]["verdict"] == "passed"
    message = error_of(run("simulate", "--scenario", path, "--shrink"), ExitCode.REFUSED)
    assert "nothing to shrink" in message


def test_a_scenario_that_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    message = error_of(run("simulate", "--scenario", missing), ExitCode.FILE)
    assert "none.json cannot be read: no such file" in message
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"sede": 1}')
    message = error_of(run("simulate", "--scenario", wrong), ExitCode.FILE)
    assert "wrong.json: the scenario has an unknown name, 'sede'" in message
    message = error_of(run("simulate", "--shrink"), ExitCode.USAGE)
    assert "give it with --seed" in message
    message = error_of(run("simulate", "--seed", "1", "--scenario", wrong), ExitCode.USAGE)
    assert "not both" in message


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    message = error_of(run("simulate", "--profile", "storm"), ExitCode.USAGE)
    assert "no profile 'storm'" in message
    assert "byzantine" in message


# ---- keys and tokens ----------------------------------------------------------------------------


def test_keys_are_made_once_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "my key"
    made = document_of(run("keys", "generate", "-o", path, "--json"))
    assert made == document_of(run("keys", "show", path, "--json"))
    assert made["file"] == str(path)
    assert made["public_key"] in run("keys", "show", path).stdout
    again = run("keys", "generate", "-o", path)
    assert "exists already and is left as it is" in error_of(again, ExitCode.START)


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    output = [run("keys", "generate", "-o", path).output, run("keys", "show", path).output]
    assert path.read_text().strip() not in "".join(output)


def test_a_token_comes_with_the_lines_for_the_settings(home: Path) -> None:
    result = run("keys", "token", "explorer", "--role", "read", "--role", "audit")
    assert result.exit_code == 0
    with (home / "config.toml").open("a") as f:
        f.write(result.stdout)
    from node.config import load_config

    (token,) = load_config(home).rpc_tokens
    assert (token.name, token.roles) == ("explorer", ("read", "audit"))


# ---- what became of a submission ----------------------------------------------------------------


def _sent(outcome: dict[str, Any] | None, operations: int = 1) -> Sent:
    # The operations themselves do not matter here, only how many there are.
    return Sent(Signed(bytes(32), b"", (None,) * operations), outcome)  # type: ignore[arg-type]


def test_a_refusal_is_explained_with_advice() -> None:
    outcome = {"code": 20, "name": "UNKNOWN_GRANT", "meaning": "there is no such grant"}
    with pytest.raises(CommandError) as caught:
        finish([_sent(outcome)], {}, [], wait=True)
    assert caught.value.code is ExitCode.REFUSED
    assert caught.value.message == (
        "The ledger refused it: there is no such grant [UNKNOWN_GRANT]. "
        "Check the grant id that `medpact grant` printed."
    )


def test_of_several_operations_the_failed_one_is_named() -> None:
    outcome = {"code": 15, "name": "X", "meaning": "it is registered", "failed_operation": 2}
    with pytest.raises(CommandError, match=r"registered \(operation 3 of 5; none was carried out"):
        finish([_sent(outcome, 5)], {}, [], wait=True)


def test_an_unknown_outcome_is_pending_and_says_how_to_ask() -> None:
    with pytest.raises(
        CommandError, match=f"ask again with: medpact tx show {'00' * 32}"
    ) as caught:
        finish([_sent(None)], {}, [], wait=True)
    assert caught.value.code is ExitCode.PENDING


# ---- the process --------------------------------------------------------------------------------


def _python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )


def test_verifying_a_proof_loads_no_network_code() -> None:
    code = (
        "import sys, cli\n"
        "cli.main.get_command(None, 'proof')\n"
        "print([m for m in ('aiohttp', 'libp2p', 'trio', 'uvloop', 'sqlite3')"
        " if m in sys.modules])"
    )
    done = _python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_help_loads_no_command() -> None:
    done = _python(
        "-c",
        "import sys, cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('node.commands.', 'ledger'))])",
    )
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_a_fault_of_the_program_is_shown_in_full(tmp_path: Path) -> None:
    code = (
        "import cli, node.keyfile\n"
        "def broken(*_): raise ZeroDivisionError('planted')\n"
        "node.keyfile.read_key = broken\n"
        "cli.main(['keys', 'show', 'f'])"
    )
    done = _python("-c", code)
    assert done.returncode == ExitCode.BUG
    assert "ZeroDivisionError: planted" in done.stderr
    assert "please report the lines above" in done.stderr


def test_a_closed_pipe_is_no_fault() -> None:
    command = f"{sys.executable} {ROOT / 'cli.py'} --help | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("| true", ExitCode.PIPE, ""),
        ("> /dev/full", ExitCode.FILE, "The result cannot be written to standard output: no space"),
        (">&-", ExitCode.OK, ""),
        ("2> /dev/full", ExitCode.OK, ""),
    ],
)
@pytest.mark.parametrize("json_option", ["", "--json"])
def test_output_that_cannot_be_written(
    tmp_path: Path, json_option: str, where: str, code: ExitCode, said: str
) -> None:
    command = (
        f"{sys.executable} {ROOT / 'cli.py'} {json_option} testnet create {tmp_path / 'n'}"
        f" --recorders 1 {where}; exit ${{PIPESTATUS[0]}}"
    )
    shell = ["bash", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "n" / "recorder-1" / "node.key").exists()


def test_an_error_that_nobody_can_read_keeps_its_code(tmp_path: Path) -> None:
    command = f"{sys.executable} {ROOT / 'cli.py'} status --home {tmp_path} 2> /dev/full"
    done = subprocess.run(["bash", "-c", command], timeout=60, check=False)
    assert done.returncode == ExitCode.START


def test_what_is_to_be_typed_next_is_quoted(tmp_path: Path) -> None:
    done = run("testnet", "create", tmp_path / "it's $HOME", "--recorders", "1")
    assert f"medpact testnet up '{tmp_path}/it'\"'\"'s $HOME'" in done.stderr


def test_a_directory_too_deep_for_a_database_is_left_alone(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 200) / ("f" * 200)
    done = run("testnet", "create", deep, "--recorders", "1")
    assert "choose a shorter one" in error_of(done, ExitCode.START)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("no_color", "plain"), [("1", True), ("", False)])
def test_no_color_leaves_plain_text(tmp_path: Path, no_color: str, plain: bool) -> None:
    terminal = {"NO_COLOR": no_color, "FORCE_COLOR": "1", "TERM": "xterm"}
    arguments = ["testnet", "create", str(tmp_path / "n"), "--recorders", "1"]
    done = CliRunner(env=terminal).invoke(main, arguments, color=True)
    assert "recorder-1" in done.output
    assert ("\x1b" not in done.output) == plain
