"""What the `medpact` command prints, and the exit code it ends with.

Results go to standard output, as text for people or, with --json, as one JSON document. Everything
else (progress, warnings, errors) goes to standard error, so that a pipe only ever sees the result.
"""

import enum
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO, TypeVar

import click

from node.home import StartError, printable, reason

F = TypeVar("F", bound=Callable[..., Any])
Document = Mapping[str, Any]
PATH = click.Path(path_type=Path, readable=False)
"""Any file or directory: whoever opens it says what is wrong with it, click only that it is."""
_PIPE_COLUMNS = 10_000
_LINE_S = 5
"""Seconds between two lines of progress where there is no terminal."""


class ExitCode(enum.IntEnum):
    """How a command ended; docs/cli.md explains each."""

    OK = 0
    REFUSED = 1
    """The ledger refused it, it is not on the ledger, or a verification failed."""
    USAGE = 2
    UNREACHABLE = 3
    """No node answers."""
    START = 4
    """A setting, key file or home cannot be used."""
    FILE = 5
    """A file to be read or written cannot be, or the node's disk failed."""
    NETWORK = 6
    """The node's peer-to-peer layer ended by itself."""
    PENDING = 7
    """Submitted, but the outcome was not known when time ran out."""
    KEY_REPLACED = 8
    """A vote has given the node another key: start it again."""
    BUG = 70
    """The program itself failed (EX_SOFTWARE of sysexits.h)."""
    INTERRUPTED = 130
    PIPE = 141
    """Whoever read the output has gone; what shells report for a program ended by SIGPIPE."""


class CommandError(Exception):
    """Why a command failed: a sentence with what to do, an exit code, details for --json."""

    def __init__(self, message: str, code: ExitCode, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details


class _State:
    """What the options common to all commands said, kept in click's context."""

    def __init__(self) -> None:
        self.json = False
        self.home: Path | None = None


class Steps(Protocol):
    """Progress of one long task."""

    def advance(self, amount: int) -> None:
        """`amount` more is done, in the units of the total."""
        ...


def options(command: F) -> F:
    """Give a command --home and --json; both are kept in the context, not passed on."""
    home = click.option(
        "--home",
        type=PATH,
        envvar="MEDPACT_HOME",
        expose_value=False,
        callback=_keep_home,
        help="The node's home directory (or set MEDPACT_HOME).",
    )
    return home(json_option(command))


def json_option(command: F) -> F:
    """Give a command --json."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_keep_json,
        help="Print one JSON document.",
    )(command)


def _state() -> _State:
    return click.get_current_context().find_root().ensure_object(_State)


def _keep_home(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.find_root().ensure_object(_State).home = value


def _keep_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().ensure_object(_State).json = True


def wants_json() -> bool:
    """Whether the result is to be JSON."""
    return _state().json


def home_path() -> Path:
    """The home given with --home or MEDPACT_HOME; a usage error if neither is."""
    path = _state().home
    if path is None:
        raise click.UsageError("Say which node: give its directory with --home or MEDPACT_HOME.")
    return path


def emit(document: Document, text: Callable[[], None]) -> None:
    """Print a result: the document with --json, else whatever `text` prints.

    Raises CommandError if it cannot be written; ends the command if nobody reads it any more.
    """
    try:
        if wants_json():
            click.echo(json.dumps(document, indent=2))
        else:
            text()
    except BrokenPipeError:
        _drop(sys.stdout)
        leave(ExitCode.PIPE)
    except OSError as error:
        _drop(sys.stdout)
        raise CommandError(
            f"The result cannot be written to standard output: {reason(error)}.", ExitCode.FILE
        ) from error


def settle_errors() -> None:
    """Standard error that cannot be written must not decide the exit code when the process ends."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Send what is left in a stream nowhere: at the end it would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def emit_fields(document: Document, fields: Sequence[tuple[str, object]]) -> None:
    """Print a result as lines of name and value, or the document with --json."""

    def lines() -> None:
        width = max(len(name) for name, _ in fields)
        for name, value in fields:
            click.echo(f"{name:<{width}}  {value}")

    emit(document, lines)


def emit_table(document: Document, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a result as a table, or the document with --json."""

    def table() -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for head in heads:
            grid.add_column(head, overflow="fold")
        for row in rows:
            grid.add_row(*(Text(str(cell)) for cell in row))
        console = Console()
        # A pipe has no width: never break a line there.
        if not console.is_terminal:
            console = Console(width=_PIPE_COLUMNS)
        with console.capture() as drawn:
            console.print(grid)
        click.echo(drawn.get(), nl=False, color=_colour())

    emit(document, table)


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def note(message: str) -> None:
    """Say something on the way, on standard error; nothing with --json."""
    if not wants_json():
        _say(message)


def warn(message: str) -> None:
    """Say on standard error what the user should know; nothing with --json."""
    if not wants_json():
        _say(click.style("Warning: ", fg="yellow", bold=True) + message)


def _say(message: str) -> None:
    # A message that nobody can read is no reason to fail.
    with suppress(OSError):
        click.echo(message, err=True, color=_colour())


@contextmanager
def progress(title: str, total: int) -> Iterator[Steps]:
    """Show on standard error how far it is: a bar on a terminal, else a line now and then."""
    if wants_json() or not sys.stderr.isatty():
        yield _Lines(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), "{task.percentage:>3.0f} %")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(title, total=total))


class _Lines:
    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._due = time.monotonic() + _LINE_S

    def advance(self, amount: int) -> None:
        """Say how far it is, unless that was said just before; nothing with --json."""
        self._done += amount
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _LINE_S
            note(f"{self._title}: {100 * self._done // max(self._total, 1)} %")


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, amount)


def _colour() -> bool | None:
    # click itself does not know https://no-color.org; None lets it look whether this is a terminal.
    return False if os.environ.get("NO_COLOR") else None


def fail(error: Exception, as_json: bool) -> ExitCode:
    """Print an error of a command and return the exit code that belongs to it."""
    match error:
        case CommandError(message=message, code=code, details=details):
            pass
        case StartError():
            message, code, details = str(error), ExitCode.START, {}
        case OSError(filename=str() | bytes() as name):
            # Met by a question about a file rather than by opening it.
            message = f"{printable(name)} cannot be used: {reason(error)}."
            code, details = ExitCode.FILE, {"file": printable(name)}
        case click.exceptions.NoArgsIsHelpError():
            _say(error.format_message())
            return ExitCode.USAGE
        case click.UsageError():
            message, code, details = _usage(error, as_json), ExitCode.USAGE, {}
        case click.ClickException():
            message, code, details = error.format_message(), ExitCode.USAGE, {}
        case _:
            raise error
    if as_json:
        body = {"message": message, "exit_code": int(code), "code": code.name.lower(), **details}
        _say(json.dumps({"error": body}, indent=2))
    else:
        _say(click.style("Error: ", fg="red", bold=True) + message)
    return code


def _usage(error: click.UsageError, as_json: bool) -> str:
    if as_json or error.ctx is None:
        return error.format_message()
    return f"{error.format_message()}\nSee: {error.ctx.command_path} --help"


def leave(code: int) -> NoReturn:
    """End the command with an exit code after its result has been printed."""
    raise click.exceptions.Exit(code)
