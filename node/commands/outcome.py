"""How the commands that submit report what became of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ledger.receipts import ReceiptCode
from node.console import CommandError, ExitCode, emit_fields
from node.submission import OUTCOME_WAIT_MS_MAX, Sent

wait_option = click.option(
    "--no-wait",
    "wait",
    is_flag=True,
    default=True,
    flag_value=False,
    help="Return once the node has taken it, before the ledger has decided.",
)

_ADVICE: Mapping[ReceiptCode, str] = {
    ReceiptCode.EXPIRED: "The network was too slow or without a quorum; look at `medpact status`.",
    ReceiptCode.TOO_FAR_AHEAD: "Your node may be far behind the others; look at `medpact status`.",
    ReceiptCode.UNKNOWN_AUTHOR: "Have an institution enrol the key first: `medpact person enrol`.",
    ReceiptCode.NOT_AN_INSTITUTION: "Run it with the home of an institution's node.",
    ReceiptCode.UNKNOWN_PERSON: "Enrol the person first: `medpact person enrol`.",
    ReceiptCode.UNKNOWN_RECORD: "Check the record id: `medpact record show ID`.",
    ReceiptCode.NOT_ENTITLED: "Sign with the key of the records' subject (--key).",
    ReceiptCode.UNKNOWN_PARTY: "Check the institution's id, or enrol the person first.",
    ReceiptCode.UNKNOWN_GRANT: "Check the grant id that `medpact grant` printed.",
    ReceiptCode.GRANT_REVOKED: "Nothing may be handed over; ask the patient for a new grant.",
    ReceiptCode.GRANT_EXPIRED: "Ask for a new grant, or give a later --expires.",
    ReceiptCode.GRANT_NOT_COVERING: "Compare record, requester and purpose with the grant's.",
    ReceiptCode.NOT_CUSTODIAN: "Only the institution that registered the record can do this.",
}


def finish(
    sent: Sequence[Sent],
    document: Mapping[str, Any],
    fields: Sequence[tuple[str, object]],
    *,
    wait: bool,
) -> None:
    """Print the result of a submission; raises CommandError unless the ledger took all of it.

    `document` and `fields` say what was made, `sent` what became of the transactions. Without
    `wait` their outcomes are not known yet, which is no failure.
    """
    for one in sent:
        if one.is_refused:
            raise _refused(one)
    unknown = [one.signed.id.hex() for one in sent if one.outcome is None]
    if unknown and wait:
        raise CommandError(
            f"The outcome is not known after {OUTCOME_WAIT_MS_MAX // 1000} s: the network is slow "
            f"or has no quorum. It may still happen; ask again with: medpact tx show {unknown[0]}",
            ExitCode.PENDING,
            transactions=unknown,
        )
    lines = [*fields]
    for one in sent:
        lines.append(("transaction", one.signed.id.hex()))
        if one.outcome is not None:
            lines.append(("block", one.outcome["height"]))
    if unknown:
        lines.append(("outcome", "not waited for; ask with `medpact tx show`"))
    transactions = [one.outcome or {"id": one.signed.id.hex()} for one in sent]
    emit_fields({**document, "transactions": transactions}, lines)


def _refused(one: Sent) -> CommandError:
    outcome = one.outcome or {}
    advice = _ADVICE.get(outcome["code"], "")
    which = ""
    if len(one.signed.operations) > 1:
        failed = outcome["failed_operation"] + 1
        which = f" (operation {failed} of {len(one.signed.operations)}; none was carried out)"
    text = f"The ledger refused it: {outcome['meaning']}{which} [{outcome['name']}]. {advice}"
    return CommandError(text.strip(), ExitCode.REFUSED, transaction=dict(outcome))
