"""From two contradictory statements to a transaction that shows them to the ledger.

docs/ARCHITECTURE.md section 4, evidence. Every voter that sees the contradiction reports it; the
ledger hears the first report and refuses the rest, so that nobody has to rely on one reporter.
"""

from typing import Final

from consensus.evidence import Evidence, evidence_id
from ledger.operations import ReportMisbehaviour
from ledger.standing import offence_of, standing_of
from ledger.transactions import (
    NONCE_BYTES,
    CheckedTransaction,
    TransactionBody,
    read_transaction,
    sign_transaction,
)
from node.chain import Chain
from primitives.codec import encode
from primitives.hashing import digest
from primitives.keys import PrivateKey

REPORT_VALID_MS: Final = 60 * 60 * 1_000
"""How long a report may wait to be ordered: a network may stand still over a fault."""


def report_of(
    evidence: Evidence, key: PrivateKey, chain: Chain, wall: int
) -> CheckedTransaction | None:
    """Return the report of evidence against a voter, signed with our key.

    None if the ledger has heard evidence against the signer, or would not hear this one.
    """
    offender = chain.members.get(evidence.signer)
    offence = offence_of(standing_of(chain.reader), evidence.signer)
    heard = offence is not None and (
        offence.evidence is not None or evidence.height <= offence.forgiven_height
    )
    if offender is None or heard:
        return None
    limits = chain.genesis.limits
    body = TransactionBody(
        author=key.public,
        valid_until_height=chain.head.height + limits.validity_blocks,
        valid_until_ms=wall + REPORT_VALID_MS,
        nonce=_nonce(evidence, chain.head.height),
        operations=(ReportMisbehaviour(evidence),),
    )
    chain_id = chain.genesis.chain_id
    return read_transaction(sign_transaction(chain_id, key, body), chain_id)


def _nonce(evidence: Evidence, height: int) -> bytes:
    """The same report of one height is one transaction, however often it is made."""
    return digest("report", encode((evidence_id(evidence), height)))[:NONCE_BYTES]
