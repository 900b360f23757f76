"""The `medpact` command: parse, call the RPC or a pure function, print.

Each subcommand's module is imported when it is used: `medpact proof verify` must neither need nor
wait for the network libraries of a daemon.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, get_args

import click

from consensus.committee import QuorumRule
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    emit,
    emit_fields,
    emit_table,
    fail,
    json_option,
    leave,
    note,
    progress,
    settle_errors,
    wants_json,
)
from node.home import printable, read_file, reason
from simulations.capacity_command import Order, capacity_options

if TYPE_CHECKING:
    from simulations.campaign import CampaignReport
    from simulations.profiles import Profile
    from simulations.scenario import Scenario


class _Entry(NamedTuple):
    """Where a subcommand is, and the line that describes it."""

    module: str
    name: str
    help: str


_COMMANDS: Mapping[str, _Entry] = {
    "testnet": _Entry("testnet", "testnet", "Make, start, watch and stop a trial network here."),
    "start": _Entry("node", "start", "Run this institution's node until it is told to stop."),
    "status": _Entry("node", "status", "Show what the running node knows of the ledger and peers."),
    "peers": _Entry("node", "peers", "Show the other members as this node has met them."),
    "verify": _Entry("verify", "verify", "Hash the whole stored chain again and check it."),
    "repair": _Entry("repair", "repair", "Set a damaged database aside to fetch the ledger again."),
    "keys": _Entry("keys", "keys", "Make and show keys; make tokens for apps."),
    "person": _Entry("person", "person", "Enrol persons."),
    "record": _Entry("record", "record", "Register files and show records."),
    "grant": _Entry("consent", "grant", "Allow someone to receive records, for a purpose."),
    "revoke": _Entry("consent", "revoke", "End a grant."),
    "share": _Entry("consent", "share", "Record that a record was handed over under a grant."),
    "tx": _Entry("chain", "tx", "Show transactions."),
    "block": _Entry("chain", "block", "Show blocks."),
    "member": _Entry("member", "member", "Show the members; propose and approve changes by vote."),
    "evidence": _Entry("evidence", "evidence", "Show evidence against voters; check it offline."),
    "proof": _Entry("proof", "proof", "Export proofs, and verify them offline."),
}


class MedpactGroup(click.Group):
    """The root: imports only the subcommand that is used, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every subcommand, in the order of the table."""
        return [*_COMMANDS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of this name, imported now."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"node.commands.{entry.module}")
        command: click.Command = getattr(module, entry.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands for --help, from the table."""
        rows = [(name, entry.help) for name, entry in _COMMANDS.items()]
        rows += [(name, command.get_short_help_str()) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit with its code; an error is one message on standard error."""
        arguments = list(sys.argv[1:] if args is None else args)
        before_files = arguments[: arguments.index("--")] if "--" in arguments else arguments
        as_json = "--json" in before_files
        try:
            result = super().main(
                arguments,
                "medpact",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            code = result if isinstance(result, int) else ExitCode.OK
        except click.Abort:
            code = ExitCode.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last resort
            code = _fail(error, as_json)
        settle_errors()
        sys.exit(int(code))


def _fail(error: Exception, as_json: bool) -> ExitCode:
    try:
        return fail(error, as_json)
    except Exception:  # noqa: BLE001 - a fault of ours is shown in full
        with suppress(OSError):
            traceback.print_exc()
            click.echo(
                "medpact failed by a fault of its own; please report the lines above.", err=True
            )
        return ExitCode.BUG


@click.group(cls=MedpactGroup, context_settings={"help_option_names": ["-h", "--help"]})
@json_option
@click.version_option(package_name="medpact", message="%(prog)s %(version)s")
def main() -> None:
    """Keep one ledger, among institutions, of who may use which medical data and who did.

    Start with `medpact testnet create DIR` and `medpact testnet up DIR`.
    """


@main.command()
@json_option
@click.option(
    "--seeds", default=100, show_default=True, type=click.IntRange(1), help="How many to run."
)
@click.option(
    "--first-seed", default=0, show_default=True, type=click.IntRange(0), help="Where to begin."
)
@click.option("--seed", type=click.IntRange(0), help="Run this one alone.")
@click.option(
    "--profile", "name", default="standard", show_default=True, help="What the seeds may meet."
)
@click.option("--scenario", "path", type=PATH, help="Run the scenario of this file instead.")
@click.option("--verbose", is_flag=True, help="With one run: tell what happens, line by line.")
@click.option("--shrink", is_flag=True, help="With one run that fails: print the smallest like it.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once. Default: one per core.")
@capacity_options
def simulate(
    seeds: int,
    first_seed: int,
    seed: int | None,
    name: str,
    path: Path | None,
    verbose: bool,
    shrink: bool,
    jobs: int | None,
    **capacity: Any,
) -> None:
    """Run whole networks under faults in virtual time; each seed draws one scenario.

    With --capacity instead: how much networks of any size can do, and how fast; with --genesis,
    one's own. Simulated time passes by the costs of work, measured with --calibrate.

    Profiles: standard, byzantine (liars), crash, network, membership (changes by vote), and beyond
    (more liars than any class can bear, so that forks are allowed and must be seen).

    Exit code 127: a node crashed. 128: no progress after the faults. 129: a rule was broken.
    """
    workers = jobs or len(os.sched_getaffinity(0))
    order = Order(**capacity)
    if order.calibrate:
        _calibrate(order)
    if order.capacity:
        _capacity(order, seed or 0, workers)
    if stray := order.stray(click.get_current_context()):
        raise click.UsageError(f"{stray} goes with --capacity: give that as well.")
    if seed is not None and path is not None:
        raise click.UsageError("Give --seed or --scenario, not both: each names one run.")
    alone = seed is not None or path is not None
    if verbose and not alone:
        raise click.UsageError("--verbose tells the story of one run: give it with --seed.")
    if shrink and not alone:
        raise click.UsageError("--shrink takes one run that fails: give it with --seed.")
    from simulations.campaign import run_campaign
    from simulations.profiles import PROFILES

    profile = PROFILES.get(name)
    if profile is None:
        raise click.UsageError(f"There is no profile {name!r}; take one of {', '.join(PROFILES)}.")
    if alone:
        _simulate_one(_scenario(seed, profile, path), path, verbose, shrink)
    with progress(f"Simulating {name}", seeds) as bar:
        chosen = range(first_seed, first_seed + seeds)
        report = run_campaign(chosen, workers, lambda _: bar.advance(1), profile)
    _report(report, None)
    leave(report.exit_code)


def _capacity(order: Order, seed: int, workers: int) -> NoReturn:
    """Measure networks in virtual time, and print what they can do."""
    from ledger.genesis import GenesisError
    from simulations.capacity_orders import carry_out
    from simulations.capacity_sweep import CapacityError
    from simulations.costs import CostsError

    try:
        outcome = carry_out(order, seed, workers, read_file, partial(progress, "Measuring"))
    except CapacityError as error:
        raise click.UsageError(str(error)) from error
    except (CostsError, GenesisError) as error:
        raise CommandError(str(error), ExitCode.FILE) from error
    except OSError as error:
        name = printable(error.filename or "A file")
        raise CommandError(f"{name} cannot be used: {reason(error)}.", ExitCode.FILE) from error
    emit_table(outcome.document, outcome.heads, outcome.rows)
    if not wants_json():
        click.echo("".join(f"\n{sentence}\n" for sentence in outcome.sentences), nl=False)
    leave(ExitCode.OK)


def _calibrate(order: Order) -> NoReturn:
    """Measure the unit costs on this machine; print them, and write them where --costs says."""
    from node.measure import measure_transport
    from simulations.capacity_orders import measure_costs
    from storage.errors import StorageError
    from storage.measure import measure_commits

    try:
        document, fields = measure_costs(order, measure_commits, measure_transport)
    except (OSError, StorageError) as error:
        raise CommandError(f"The costs cannot be measured: {error}.", ExitCode.FILE) from error
    emit_fields(document, fields)
    leave(ExitCode.OK)


def _scenario(seed: int | None, profile: "Profile", path: Path | None) -> "Scenario":
    """The one scenario that the user named, by file or by seed."""
    if path is None:
        from simulations.drawing import draw

        return draw(seed or 0, profile)
    from simulations.scenario_files import SCENARIO_BYTES_MAX, ScenarioError, read_scenario

    try:
        return read_scenario(read_file(path, SCENARIO_BYTES_MAX))
    except OSError as error:
        raise CommandError(
            f"The scenario file {printable(path)} cannot be read: {reason(error)}.", ExitCode.FILE
        ) from error
    except ScenarioError as error:
        raise CommandError(f"{printable(path)}: {error}", ExitCode.FILE) from error


def _simulate_one(scenario: "Scenario", path: Path | None, verbose: bool, shrink: bool) -> NoReturn:
    from simulations.campaign import CampaignReport, run_scenario

    if shrink:
        _shrink(scenario)
    show = partial(click.echo, err=wants_json()) if verbose else None
    started = time.monotonic_ns()
    run = run_scenario(scenario, show)
    report = CampaignReport((run,), (time.monotonic_ns() - started) // 1_000_000)
    _report(report, path)
    leave(report.exit_code)


def _shrink(scenario: "Scenario") -> NoReturn:
    """Print the smallest scenario that fails in the same way, as a file that can be run."""
    from simulations.scenario_files import write_scenario
    from simulations.shrink import RUNS_MAX, NothingToShrink
    from simulations.shrink import shrink as find_smallest

    try:
        with progress("Shrinking", RUNS_MAX) as bar:
            found = find_smallest(scenario, progress=lambda _: bar.advance(1))
    except NothingToShrink as error:
        raise CommandError(str(error), ExitCode.REFUSED) from error
    text, run = write_scenario(found.scenario), found.report
    note(f"Found in {found.runs} runs: {run.scenario}")
    note(f"It ends with {run.verdict.name}: {run.reason}")
    note("To run it again: save it to FILE, then `medpact simulate --scenario FILE --verbose`.")
    document = {
        "exit_code": run.verdict.exit_code,
        "verdict": run.verdict.name.lower(),
        "reason": run.reason,
        "runs": found.runs,
        "scenario": json.loads(text),
    }
    emit(document, lambda: click.echo(text))
    leave(run.verdict.exit_code)


def _report(report: "CampaignReport", path: Path | None) -> None:
    """Print what came of simulated runs, and of each failed one how to see it again."""
    from simulations.campaign import FORK_EXPECTED_RUNS, replay_command, shrink_command

    runs = [
        {
            "seed": run.seed,
            "profile": run.profile,
            "verdict": run.verdict.name.lower(),
            "reason": run.reason,
            "scenario": run.scenario,
            "digest": run.digest,
        }
        for run in report.reports
    ]
    summary = report.summary()
    mix = {name: {"runs": met, "times": times} for name, (met, times) in report.mix().items()}
    fields: list[tuple[str, object]] = []
    for run in report.failures:
        fields.append((f"seed {run.seed}", f"{run.verdict.name}: {run.reason}"))
        fields.append(("  scenario", run.scenario))
        if path is None:
            fields.append(("  replay", replay_command(run.seed, run.profile)))
    if report.failures and path is None:
        first = report.failures[0]
        fields.append(("to shrink the first", shrink_command(first.seed, first.profile)))
    if report.blind:
        fields.append(("blind", f"no fork seen, though {FORK_EXPECTED_RUNS} runs must show one"))
    if len(runs) == 1 and not report.failures:
        names = ("seed", "profile", "verdict", "scenario", "digest")
        fields += [(name, runs[0][name]) for name in names]
    fields += [(name.replace("_", " "), value) for name, value in summary.items()]
    fields += [(name, f"{of['times']} in {of['runs']} runs") for name, of in mix.items()]
    document = {"exit_code": report.exit_code, "summary": summary, "mix": mix, "runs": runs}
    emit_fields(document, fields)


@main.command()
@json_option
@click.option("--recorders", default=4, show_default=True, help="They propose and vote.")
@click.option("--auditors", default=0, show_default=True, help="They vote.")
@click.option("--observers", default=0, show_default=True, help="They follow.")
@click.option(
    "--quorum",
    default="per_class",
    show_default=True,
    type=click.Choice(get_args(QuorumRule)),
    help="How votes are counted.",
)
@click.option("--operations", default=1, show_default=True, help="In each transaction.")
@click.option(
    "--transaction-bytes",
    default=300,
    show_default=True,
    help="Of a transaction with one operation and its signature.",
)
@click.option("--seconds", default=10.0, show_default=True, help="Of each loaded phase.")
@click.option(
    "--in-flight", default=0, help="Under way in the closed loop. Default: what gives the most."
)
@click.option("--lone", default=50, show_default=True, help="Transactions sent one at a time.")
@click.option("--seed", default=0, show_default=True, help="What the transactions hold.")
@click.option("--output", type=PATH, help="Write the result, as JSON, to this file as well.")
@click.option(
    "--plot", type=PATH, help="Draw throughput and latency over time into this directory."
)
def bench(output: Path | None, plot: Path | None, **values: Any) -> None:
    """Measure real daemons on this machine: throughput, latency, cost, and the floor.

    Starts the daemons in a temporary directory, loads them from a process of its own and stops
    them. The floor is what as many processes reach that only check, hash, decode and store.
    """
    from simulations.bench import plots, report
    from simulations.bench.bench import Bench
    from simulations.bench.options import BenchError, OptionError, Options

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        measuring = Bench(Options(**values))
        if plot is not None:
            plots.check()
        if output is not None:
            with _writing(output):
                output.touch()
        with progress("Measuring", measuring.seconds) as bar:
            result = measuring.run(note, bar.advance)
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    except BenchError as error:
        raise CommandError(str(error), ExitCode.REFUSED) from error
    except KeyboardInterrupt:
        note("Interrupted. All processes of the benchmark have been stopped.")
        raise
    document = report.document(result)
    if output is not None:
        with _writing(output):
            report.write(output, document)
    if plot is not None:
        with _writing(plot):
            plots.draw(result, plot)
    emit_fields(document, report.fields(result))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """While a file or directory is written, its trouble is a CommandError."""
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{printable(path)} cannot be written: {reason(error)}.", ExitCode.FILE
        ) from error


if __name__ == "__main__":
    main()
