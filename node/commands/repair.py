"""`medpact repair`: set a damaged database aside, so that the node fetches the ledger again."""

import time

import click

from node.config import load_config
from node.console import CommandError, ExitCode, emit_fields, home_path, options
from node.home import printable
from storage.errors import StorageError
from storage.repair import set_aside


@click.command()
@options
def repair() -> None:
    """Set the database of a stopped node aside; at its next start it fetches the ledger again.

    Nothing is deleted. The node does not vote until the others have gone on without it.
    """
    home = load_config(home_path()).home
    name = f"aside-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    with home.locked():
        try:
            done = set_aside(home.database, home.boot_counter, name)
        except StorageError as error:
            raise CommandError(str(error), ExitCode.FILE) from error
    directory = None if done.directory is None else printable(done.directory)
    document = {"set_aside": list(done.names), "directory": directory}
    fields = [
        ("set aside", f"{', '.join(done.names)} in {directory}" if directory else "nothing"),
        (
            "next",
            (
                f"medpact start --home {printable(home.path)}: the node fetches the ledger from "
                "the others, and votes again once they have decided two more blocks"
            ),
        ),
    ]
    emit_fields(document, fields)
