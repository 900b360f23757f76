"""`medpact verify`: hash, execute and check the whole stored chain again."""

import click

from node.config import load_config
from node.console import CommandError, ExitCode, emit_fields, home_path, note, options, progress
from node.home import StartError, printable
from node.startup import read_genesis
from storage.errors import DamagedError, StorageError
from storage.verify import verify_chain


@click.command()
@options
@click.option(
    "--fast",
    is_flag=True,
    help="Trust the certificates for the transactions' own signatures; finds any damage as well.",
)
def verify(fast: bool) -> None:
    """Check every block, batch, signature and index of a home; its node may go on meanwhile."""
    config = load_config(home_path())
    genesis = read_genesis(config)
    path = config.home.database
    if not path.exists():
        raise StartError(
            f"{printable(path)} does not exist: the node of this home has not been started yet."
        )
    note(f"Checking {printable(path)}")
    try:
        # The number of blocks is known only when the first is read.
        steps = verify_chain(path, genesis, check_signatures=not fast)
        done = next(steps)
        with progress("Blocks", done.head_height + 1) as bar:
            bar.advance(1)
            for step in steps:
                done = step
                bar.advance(1)
    except DamagedError as error:
        details = {"verified": False, "height": error.height}
        raise CommandError(str(error), ExitCode.REFUSED, **details) from error
    except StorageError as error:
        raise CommandError(str(error), ExitCode.FILE) from error
    document = {
        "verified": done.complete,
        "chain_id": genesis.chain_id.hex(),
        "height": done.height,
        "transactions": done.transactions,
    }
    fields = [
        (
            "verified",
            f"all {done.height + 1} blocks from genesis up, {done.transactions} transactions",
        ),
        ("ledger", genesis.chain_id.hex()),
    ]
    emit_fields(document, fields)
