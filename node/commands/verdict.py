"""What a checked proof says, in sentences: what it proves, and what it does not."""

from typing import Any

import click
import msgspec

from ledger.operations import Grant, RegisterRecord, Revoke
from ledger.proof_files import ProvedOperation, Verdict
from ledger.receipts import ReceiptCode
from ledger.state import person_id
from node.arguments import shown_time
from node.console import counted
from node.methods.governance_views import evidence_view
from node.methods.views import code_meaning, operation_view


def document_of(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a JSON document."""
    record = verdict.record
    return {
        "verified": True,
        "kind": verdict.kind,
        "ledger": verdict.ledger,
        "chain_id": verdict.chain_id.hex(),
        "height": verdict.height,
        "time_ms": verdict.time_ms,
        "block_hash": verdict.block_hash.hex(),
        "committee_hash": verdict.committee_hash.hex(),
        "committee": list(verdict.committee),
        "committee_since": verdict.committee_since,
        "committee_changes": verdict.committee_changes,
        "signers": list(verdict.signers),
        "transaction": None if verdict.transaction_id is None else verdict.transaction_id.hex(),
        "code": None if verdict.code is None else int(verdict.code),
        "name": None if verdict.code is None else verdict.code.name,
        "failed_operation": verdict.failed_operation,
        "record": None if verdict.record_id is None else verdict.record_id.hex(),
        "registered": None if verdict.kind == "transaction" else record is not None,
        "custodian": None if record is None else record.custodian,
        "opening_checked": verdict.opening_checked,
        "data_checked": verdict.data_checked,
        "operations": [_operation(proved, verdict) for proved in verdict.operations],
        "evidence": [msgspec.to_builtins(evidence_view(each)) for each in verdict.evidence],
        "proves": proves(verdict),
        "does_not_prove": does_not_prove(verdict),
    }


def show_verdict(verdict: Verdict) -> None:
    """Print the verdict for people."""
    click.secho("VERIFIED", bold=True)
    for sentence in proves(verdict):
        click.echo(f"  + {sentence}")
    for proved in verdict.operations:
        click.echo(f"      {_line(proved, verdict)}")
    click.echo("Not proved:")
    for sentence in does_not_prove(verdict):
        click.echo(f"  - {sentence}")


def proves(verdict: Verdict) -> list[str]:
    """What anyone may rely on who trusts the genesis file."""
    when = f"block {verdict.height} of the ledger {verdict.ledger!a}, {shown_time(verdict.time_ms)}"
    sentences = [_subject(verdict, when)]
    if verdict.data_checked:
        sentences.append("The data given is the data that was committed to, byte for byte.")
    elif verdict.opening_checked:
        sentences.append("The opening fits the commitment: give --file to compare the data.")
    sentences += [
        f"{each.signer} signed two statements at block {each.height} of which no correct voter "
        "signs both."
        for each in verdict.evidence
    ]
    sentences.append(
        f"{len(verdict.signers)} of {len(verdict.committee)} voters signed the block, a quorum of "
        f"every voting class: {', '.join(verdict.signers)}."
    )
    if verdict.committee_changes:
        sentences.append(
            f"They are the committee since block {verdict.committee_since}: "
            f"{counted(verdict.committee_changes, 'change')} from the founders in the genesis file "
            "on, each decided by the committee before it."
        )
    else:
        sentences.append("They are the founders in the genesis file.")
    return sentences


def _subject(verdict: Verdict, when: str) -> str:
    if verdict.transaction_id is not None and verdict.code is not None:
        outcome = "took effect"
        if verdict.code is not ReceiptCode.OK:
            outcome = f"was refused ({verdict.code.name}: {code_meaning(verdict.code)})"
        return f"The transaction {verdict.transaction_id.hex()} {outcome} in {when}."
    identity = "" if verdict.record_id is None else verdict.record_id.hex()
    if verdict.record is None:
        return f"No record {identity} was registered up to {when}."
    counts = (
        counted(len(verdict.shares), "share"),
        counted(len(verdict.grants), "grant") + " naming it",
        counted(len(verdict.revocations), "revocation"),
    )
    entries = len(verdict.operations)
    these = "exactly this one entry" if entries == 1 else f"exactly these {entries} entries"
    return (
        f"The record {identity} of {verdict.record.custodian} has {these} up to {when}: "
        f"{', '.join(counts)}."
    )


def does_not_prove(verdict: Verdict) -> list[str]:
    """What a reader could be tempted to conclude and must not."""
    sentences = [f"Anything that happened after block {verdict.height}."]
    if verdict.kind == "record":
        sentences.append(
            "Other chains: a grant for all records of a person is in the person's chain. "
            "Completeness is shown for this record's chain alone."
        )
    else:
        sentences.append("Completeness: that nothing else concerns the same record or person.")
    sentences.append(
        "Who has seen the labels: every member of the ledger reads all labels, and reading leaves "
        "no entry."
    )
    if not verdict.data_checked:
        sentences.append("Which data it is: no data was compared.")
    sentences.append(
        "That what was said is true: the ledger shows who said what and when. The verdict rests on "
        f"the committee {verdict.committee_hash.hex()} and holds unless a quorum in every one of "
        f"its voting classes{_or_before(verdict)} gave away its keys."
    )
    return sentences


def _or_before(verdict: Verdict) -> str:
    return ", or of those of a committee before it," if verdict.committee_changes else ""


def _operation(proved: ProvedOperation, verdict: Verdict) -> dict[str, Any]:
    view = operation_view(proved.operation, proved.transaction_id, proved.index, None)
    return {
        "height": proved.height,
        "time_ms": proved.time_ms,
        "transaction": proved.transaction_id.hex(),
        "index": proved.index,
        "author": _author(proved, verdict),
        **msgspec.to_builtins(view),
    }


def _line(proved: ProvedOperation, verdict: Verdict) -> str:
    said = _operation(proved, verdict)
    line = f"{shown_time(proved.time_ms)}  block {proved.height}  {said['operation']}"
    party = said.get("grantee") or said.get("requester")
    if party is not None:
        line += f" to {party.get('institution') or party.get('person')}"
    if "purpose" in said:
        line += f" for {said['purpose']}"
    if isinstance(proved.operation, RegisterRecord):
        line += f" ({said['labels']['category']})"
    return f"{line}, by {said['author']}"


def _author(proved: ProvedOperation, verdict: Verdict) -> str:
    """The member whose key signed, as far as the proof lists it, or else the person.

    A member without a vote that joined or has another key since genesis is not listed.
    """
    member = verdict.member_ids.get(proved.author)
    if member is not None:
        return member
    if isinstance(proved.operation, Grant | Revoke):
        return f"person {person_id(proved.author).hex()}"
    return f"the member with the key {proved.author.hex()}"
