"""The stream of events: every transaction that blocks hold, in order, from any cursor on.

The ledger itself is the buffer. A subscription reads block after block as fast as its client takes
them, so nothing is ever dropped: whoever was away names the cursor of the last event seen and
misses none.
"""

from typing import Annotated, Final, Protocol

import msgspec

from ledger.receipts import ReceiptCode
from ledger.store import LedgerReader
from node.methods.blocks import BlockContent
from node.methods.view import View
from node.methods.views import Hex32, Natural, Params, TransactionView

CHAINS_MAX: Final = 64
"""Records and persons that one subscription may name."""
INDEX_MAX: Final = 2**31 - 1
HEIGHTS_AHEAD_MAX: Final = 256
"""Heights looked up at a time for a subscription that names records or persons."""


class Cursor(View, frozen=True):
    """How far a subscription came: the height of a block, and the index of the last transaction
    told of it.
    """

    height: Natural
    index: Annotated[int, msgspec.Meta(ge=-1, le=INDEX_MAX)] = -1
    """-1, also where it is absent, stands before the first transaction of the block."""


class EventsSubscribe(Params, frozen=True):
    """What to be told: all transactions after a cursor (without it, from now on), or only some."""

    after: Cursor | None = None
    ids: Annotated[tuple[Hex32, ...], msgspec.Meta(max_length=CHAINS_MAX)] = ()
    """Only those that concern one of these records or persons."""
    failed: bool = False
    """Also those without effect (code other than 0); not together with `ids`."""


class EventsUnsubscribe(Params, frozen=True):
    """Which subscription of this WebSocket to end."""

    subscription: Natural


class SubscriptionView(View, frozen=True):
    """The number of a subscription, and the cursor from which it starts."""

    subscription: int
    cursor: Cursor


class Event(View, frozen=True):
    """The params of the notification `event`."""

    subscription: int
    cursor: Cursor
    transaction: TransactionView


class Subscriber(Protocol):
    """A WebSocket that can be sent events."""

    async def subscribe(self, params: EventsSubscribe) -> SubscriptionView:
        """Start a subscription; raises RpcError."""
        ...

    async def unsubscribe(self, params: EventsUnsubscribe) -> SubscriptionView:
        """End a subscription; raises RpcError."""
        ...


async def events_subscribe(subscriber: Subscriber, params: EventsSubscribe) -> SubscriptionView:
    """Be sent a notification `event` for each transaction after a cursor; over a WebSocket only."""
    return await subscriber.subscribe(params)


async def events_unsubscribe(subscriber: Subscriber, params: EventsUnsubscribe) -> SubscriptionView:
    """End a subscription; the answer says how far it came."""
    return await subscriber.unsubscribe(params)


def next_heights(
    reader: LedgerReader, above: int, head: int, chains: tuple[bytes, ...]
) -> tuple[list[int], int]:
    """Heights above `above` that may hold events, ascending, and up to where these are all; some,
    if they are many.
    """
    if not chains:
        last = min(head, above + HEIGHTS_AHEAD_MAX)
        return list(range(above + 1, last + 1)), last
    found: dict[int, None] = {}
    complete = head
    for chain in chains:
        heights = reader.chain_heights(chain, max(above, 0), HEIGHTS_AHEAD_MAX)
        found.update(dict.fromkeys(heights))
        if len(heights) == HEIGHTS_AHEAD_MAX:
            complete = min(complete, heights[-1])
    return [height for height in sorted(found) if height <= complete], complete


def events_of(
    reader: LedgerReader,
    height: int,
    first: int,
    params: EventsSubscribe,
    chains: tuple[bytes, ...],
) -> list[TransactionView]:
    """The events of a block from index `first` on that a subscription asks for."""
    content = BlockContent(reader, height)
    found = []
    for index, transaction in enumerate(content.transactions()):
        if index < first:
            continue
        if not params.failed and content.receipts[index].code != ReceiptCode.OK:
            continue
        if chains and not any(chain in chains for chain in content.chains(index, transaction)):
            continue
        found.append(content.view(index, transaction))
    return found
