"""`medpact member`: who belongs to the ledger, and how that is changed by vote."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from ledger.changes import (
    Change,
    ChangeType,
    Join,
    Leave,
    Reinstate,
    Relocate,
    RotateKey,
    possession_digest,
)
from ledger.operations import ApproveChange, ProposeChange
from ledger.standing import proposal_id
from node.arguments import IdType
from node.commands.outcome import finish, wait_option
from node.config import load_config
from node.console import (
    PATH,
    CommandError,
    ExitCode,
    emit_fields,
    emit_table,
    home_path,
    json_option,
    options,
    wants_json,
)
from node.files import PRIVATE_MODE, read_small, write_new
from node.home import printable
from node.keyfile import next_key_file, read_key, write_key
from node.submission import Site, ask, site, submit
from primitives.institution import (
    INSTITUTION_TYPES,
    Institution,
    InstitutionError,
    check_institution,
)
from primitives.keys import SEED_BYTES, PrivateKey

APPLICATION_BYTES_MAX: Final = 64 * 1024
NOTICE_BLOCKS: Final = 50
"""How many blocks ahead a change takes effect unless the user says otherwise."""


@click.group()
def member() -> None:
    """Show the members; propose and approve changes of the membership."""


@member.command("list")
@options
@click.option("--closed", is_flag=True, help="Show proposals that are decided, too.")
def list_members(closed: bool) -> None:
    """List the members, and the changes that wait for approval or for their height."""
    config = load_config(home_path())
    found = ask(config, "member_list")
    proposals = ask(config, "proposal_list", closed=closed)

    rows = [
        (each["id"], each["consensus_class"], each["type"], _standing(each), each["address"])
        for each in found["members"]
    ]
    heads = ("member", "class", "type", "standing", "address")
    emit_table({**found, **proposals}, heads, rows)
    if wants_json() or not proposals["proposals"]:
        return
    click.echo(f"\nProposals, at height {proposals['head_height']}:")
    for each in proposals["proposals"]:
        click.echo(f"  {each['id']}")
        click.echo(f"    {_words(each['change'])}; proposed by {each['proposer']}")
        click.echo(f"    {_state(each)}")


@member.command()
@options
@click.argument("proposal", type=IdType("proposal"))
@wait_option
def approve(proposal: bytes, wait: bool) -> None:
    """Approve a proposed change in the name of this institution.

    An approval cannot be taken back: a quorum of every class that votes is enough.
    """
    where = site()
    found = ask(where.config, "proposal_get", id=proposal.hex())
    sent = submit(where, where.node_key(), [ApproveChange(proposal)], wait=wait)
    change = _words(found["change"])
    finish(
        sent,
        {"proposal": proposal.hex(), "change": found["change"]},
        [("proposal", proposal.hex()), ("change", change)],
        wait=wait,
    )


@member.command()
@json_option
@click.option("--genesis", "genesis_file", required=True, type=PATH)
@click.option("--key", "key_file", required=True, type=PATH, help="The new node's key file.")
@click.option("--id", "id", required=True, help="A short name: a-z, 0-9 and hyphens.")
@click.option("--name", required=True)
@click.option("--type", "kind", required=True, type=click.Choice(INSTITUTION_TYPES))
@click.option("--region", required=True, help="ISO 3166, as CN-GD.")
@click.option("--lei", required=True, help="The Legal Entity Identifier, ISO 17442.")
@click.option("--address", required=True, help="Where the others reach the node, host:port.")
@click.option("-o", "--output", required=True, type=PATH)
def application(
    genesis_file: Path,
    key_file: Path,
    id: str,
    name: str,
    kind: str,
    region: str,
    lei: str,
    address: str,
    output: Path,
) -> None:
    """Write the file with which an institution asks to join: give it to any member.

    It holds no secret. It shows that the institution holds the key of its node.
    """
    from node.commands.proof import read_genesis_file

    genesis = read_genesis_file(genesis_file)
    key = read_key(key_file)
    institution = Institution(id, name, kind, region, lei, key.public, address)
    _check(institution)
    possession = key.sign(possession_digest(genesis.chain_id, institution))
    document = {
        "ledger": genesis.chain_id.hex(),
        "institution": {**msgspec.structs.asdict(institution), "key": key.public.hex()},
        "possession": possession.hex(),
    }
    write_new(output, (json.dumps(document, indent=2) + "\n").encode(), PRIVATE_MODE)
    emit_fields({"file": printable(output), **document}, [("application", printable(output))])


# ---- proposing -----------------------------------------------------------------------------------


@member.group()
def propose() -> None:
    """Propose a change; it takes effect if a quorum of every voting class approves in time."""


_at_option = click.option(
    "--at", type=click.IntRange(min=1), help="The first height that the change holds for."
)
_in_option = click.option(
    "--in",
    "ahead",
    type=click.IntRange(2, 100_000),
    default=NOTICE_BLOCKS,
    show_default=True,
    help="So many blocks ahead instead.",
)


@propose.command()
@options
@wait_option
@_at_option
@_in_option
@click.argument("application", type=PATH)
def join(application: Path, at: int | None, ahead: int, wait: bool) -> None:
    """Propose that the institution of an APPLICATION file becomes a member."""
    where = site()
    _propose(where, _read_application(where, application), at, ahead, wait)


@propose.command()
@options
@wait_option
@_at_option
@_in_option
@click.argument("institution")
def leave(institution: str, at: int | None, ahead: int, wait: bool) -> None:
    """Propose that a member leaves. Its id and key can never be used again."""
    _propose(site(), Leave(institution), at, ahead, wait)


@propose.command("change-type")
@options
@wait_option
@_at_option
@_in_option
@click.argument("institution")
@click.argument("kind", metavar="TYPE", type=click.Choice(INSTITUTION_TYPES))
def change_type(institution: str, kind: str, at: int | None, ahead: int, wait: bool) -> None:
    """Propose another institution type for a member, and so perhaps another class."""
    _propose(site(), ChangeType(institution, kind), at, ahead, wait)


@propose.command()
@options
@wait_option
@_at_option
@_in_option
@click.argument("institution")
@click.argument("address")
def relocate(institution: str, address: str, at: int | None, ahead: int, wait: bool) -> None:
    """Propose another address for a member's node."""
    _propose(site(), Relocate(institution, address), at, ahead, wait)


@propose.command()
@options
@wait_option
@_at_option
@_in_option
@click.argument("institution")
def reinstate(institution: str, at: int | None, ahead: int, wait: bool) -> None:
    """Propose that a member that evidence spoke against votes again."""
    _propose(site(), Reinstate(institution), at, ahead, wait)


@propose.command("rotate-key")
@options
@wait_option
@_at_option
@_in_option
def rotate_key(at: int | None, ahead: int, wait: bool) -> None:
    """Make a new key for this node, and propose it in place of the present one.

    The new key waits beside the key file. When the change takes effect the node ends with exit code
    8; at its next start it uses the new key, and the old one is gone.
    """
    where = site()
    following = next_key_file(where.config.key_file)
    if following.exists():
        key = read_key(following)
    else:
        key = PrivateKey(secrets.token_bytes(SEED_BYTES))
        write_key(following, key)
    institution = msgspec.structs.replace(_institution(where.member), key=key.public)
    possession = key.sign(possession_digest(where.genesis.chain_id, institution))
    _propose(where, RotateKey(institution.id, key.public, possession), at, ahead, wait)


def _propose(where: Site, change: Change, at: int | None, ahead: int, wait: bool) -> None:
    key = where.node_key()
    height = at or ask(where.config, "chain_head")["height"] + 1 + ahead
    sent = submit(where, key, [ProposeChange(change, height)], wait=wait)
    proposal = proposal_id(sent[0].signed.id, 0).hex()
    document = {"proposal": proposal, "effective_height": height}
    fields = [("proposal", proposal), ("takes effect at height", height)]
    finish(sent, document, fields, wait=wait)


def _read_application(where: Site, path: Path) -> Join:
    try:
        document = json.loads(read_small(path, APPLICATION_BYTES_MAX))
        listed = dict(document["institution"])
        listed["key"] = bytes.fromhex(listed["key"])
        institution = Institution(**listed)
        possession = bytes.fromhex(document["possession"])
        ledger = document["ledger"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{printable(path)} is not an application as `medpact member application` writes it.",
            ExitCode.FILE,
        ) from error
    if ledger != where.genesis.chain_id.hex():
        raise CommandError(
            f"{printable(path)} is an application to another ledger, {str(ledger)[:64]!a}.",
            ExitCode.REFUSED,
        )
    _check(institution)
    return Join(institution, possession)


def _check(institution: Institution) -> None:
    try:
        check_institution(institution)
    except (InstitutionError, TypeError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _institution(view: Mapping[str, Any]) -> Institution:
    fields = {name: view[name] for name in Institution.__struct_fields__}
    return Institution(**{**fields, "key": bytes.fromhex(view["key"])})


# ---- in words ------------------------------------------------------------------------------------


def _standing(view: Mapping[str, Any]) -> str:
    if view["suspended"]:
        return "suspended"
    if "passed_over_until" in view:
        return f"votes, passed over until {view['passed_over_until']}"
    if view["takes_turns"]:
        return "votes, takes turns"
    return "votes" if view["votes"] else "follows"


def _words(change: Mapping[str, Any]) -> str:
    who = change["institution"]
    match change["kind"]:
        case "join":
            return (
                f"{who} ({change['name']}, {change['type']}) joins with key {change['key'][:16]}…"
            )
        case "leave":
            return f"{who} leaves"
        case "change-type":
            return f"{who} becomes a {change['type']}"
        case "rotate-key":
            return f"{who} gets the key {change['key'][:16]}…"
        case "relocate":
            return f"{who} moves to {change['address']}"
        case _:
            return f"{who} votes again"


def _state(proposal: Mapping[str, Any]) -> str:
    if proposal["outcome"] != "pending":
        return f"{proposal['outcome']} since height {proposal['effective_height']}"
    quorums: Sequence[Mapping[str, Any]] = proposal["quorums"]
    counts = ", ".join(
        f"{each['voting_class']} {each['approved']} of {each['needed']}" for each in quorums
    )
    return f"takes effect at height {proposal['effective_height']} if approved: {counts}"
