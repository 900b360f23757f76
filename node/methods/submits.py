"""Methods that submit transactions and wait for them; apart, so that an id is never lost to a
timeout.
"""

from typing import Annotated

import msgspec

from node.jsonrpc import ErrorCode, RpcError
from node.methods.service import Service
from node.methods.view import View
from node.methods.views import Hex32, Natural, Params, code_meaning, code_name


class TransactionSubmit(Params, frozen=True):
    """Signed transactions: the canonical bytes of each in hex."""

    transactions: Annotated[list[str], msgspec.Meta(min_length=1)]


class SubmittedView(View, frozen=True):
    """One transaction: its id, null if it could not even be read, and why it was refused, if it
    was.
    """

    id: str | None
    refused: str | None = None


class SubmissionView(View, frozen=True):
    """One outcome per transaction, in the order given."""

    transactions: tuple[SubmittedView, ...]


class TransactionWait(Params, frozen=True):
    """Transactions to wait for, and for how long at most."""

    ids: Annotated[list[Hex32], msgspec.Meta(min_length=1)]
    timeout_ms: Natural = 30_000


class OutcomeView(View, frozen=True):
    """One transaction. Unless `final` only its id is known so far: it waits, has expired, or was
    never submitted.
    """

    id: str
    final: bool
    height: int | None = None
    index: int | None = None
    code: int | None = None
    name: str | None = None
    meaning: str | None = None
    failed_operation: int | None = None


class OutcomesView(View, frozen=True):
    """What is known of each transaction, in the order given, and the height of this node's head."""

    height: int
    transactions: tuple[OutcomeView, ...]


async def transaction_submit(service: Service, params: TransactionSubmit) -> SubmissionView:
    """Take signed transactions and answer at once with their ids. Submitting again is harmless."""
    texts = params.transactions
    maximum = service.limits.submit_transactions_max
    if len(texts) > maximum:
        raise RpcError(
            ErrorCode.TOO_LARGE,
            f"{len(texts)} transactions in one call; at most {maximum}: split it.",
        )
    raws: list[bytes] = []
    views: list[SubmittedView | None] = []
    for text in texts:
        try:
            raws.append(bytes.fromhex(text))
            views.append(None)
        except ValueError:
            views.append(SubmittedView(None, "The transaction is not text in hex."))
    outcomes = iter(await service.submit(raws) if raws else ())
    return SubmissionView(
        tuple(SubmittedView(*next(outcomes)) if view is None else view for view in views)
    )


async def transaction_wait(service: Service, params: TransactionWait) -> OutcomesView:
    """Wait until all these transactions have run, or the time is over; tell what is known then."""
    limits = service.limits
    if len(params.ids) > limits.wait_ids_max:
        raise RpcError(
            ErrorCode.TOO_LARGE,
            f"{len(params.ids)} ids in one call; at most {limits.wait_ids_max}.",
        )
    if params.timeout_ms > limits.wait_timeout_ms_max:
        raise RpcError(
            ErrorCode.INVALID_PARAMS,
            f"timeout_ms may be at most {limits.wait_timeout_ms_max}; call again to wait longer.",
        )
    ids = [bytes.fromhex(text) for text in params.ids]
    found = await service.waits.outcomes(ids, params.timeout_ms)
    views = []
    for identity in ids:
        known = found.get(identity)
        if known is None:
            views.append(OutcomeView(identity.hex(), False))
            continue
        code = known.code
        views.append(
            OutcomeView(
                identity.hex(),
                True,
                known.height,
                known.index,
                code,
                code_name(code),
                code_meaning(code),
                known.operation if code else None,
            )
        )
    return OutcomesView(service.backend.status().height, tuple(views))
