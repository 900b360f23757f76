"""`medpact start`, `status` and `peers`: run this institution's node, and ask it how it is."""

import os

import click

from node.arguments import shown_time
from node.config import load_config
from node.console import emit_fields, emit_table, home_path, leave, options, warn
from node.keyfile import read_key
from node.keylock import key_held
from node.startup import check_identity, read_genesis


@click.command()
@options
@click.option(
    "--override-restored-backup",
    is_flag=True,
    help="Vote although this home is a restored backup. It risks a contradictory vote.",
)
def start(override_restored_backup: bool) -> None:
    """Run this institution's node until SIGTERM or Ctrl-C. Logs go to standard output."""
    config = load_config(home_path())
    genesis = read_genesis(config)
    key = read_key(config.key_file)
    check_identity(config, genesis, key)
    for warning in genesis.warnings:
        warn(warning)
    if override_restored_backup:
        warn(
            "the node will vote although it may have forgotten votes that it cast after the backup "
            "was made. If it contradicts one of them, its key is proved to have voted twice and "
            "the institution can be suspended. Do this only if the old disk is lost, no other "
            "machine runs with this key, and the consortium has no quorum without this node."
        )
    with config.home.locked() as known, key_held(key.public):
        from node.daemon import Past, run

        # Everything that the daemon creates is its owner's alone.
        os.umask(0o077)
        leave(run(config, genesis, key, Past(known, override_restored_backup)))


@click.command()
@options
def status() -> None:
    """Show what the running node knows: head, peers, pending work."""
    from node.submission import ask

    found = ask(load_config(home_path()), "node_status")
    state = "abstaining" if found["abstaining"] else "syncing" if found["syncing"] else "up"
    fields = [
        ("institution", f"{found['institution']} ({found['name']})"),
        ("class", found["consensus_class"]),
        ("state", state),
        ("ledger", found["chain_id"]),
        ("height", found["height"]),
        ("head", found["head_hash"]),
        ("head time", shown_time(found["head_time_ms"])),
        ("view", found["view"]),
        ("primary", found.get("primary") or "-"),
        ("peers", ", ".join(found["peers"]) or "none"),
        ("pending", f"{found['pending_transactions']} transactions"),
        ("up for", f"{found['uptime_ms'] // 1000} s"),
    ]
    emit_fields(found, fields)


@click.command()
@options
def peers() -> None:
    """Show the other members as this node has met them: links, queues, faults."""
    from node.submission import ask

    found = ask(load_config(home_path()), "node_peers")
    rows = [
        (
            peer["institution"],
            "paused" if peer["paused"] else "connected" if peer["connected"] else "-",
            peer["waiting_messages"],
            ", ".join(f"{reason} {count}" for reason, count in peer["faults"].items()) or "-",
        )
        for peer in found["peers"]
    ]
    emit_table(found, ("institution", "link", "waiting", "faults since the start"), rows)
