"""One flood on one node: `python -m tests.hostile NETWORK MEMBER VICTIM FLOOD SECONDS`.

It acts as MEMBER, whose key it reads from its home in the directory NETWORK; the daemon of that
home must not run. When the time is over it prints what it has done, as JSON.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from node.libp2p.guest import Guest
from tests.hostile import gossips, messages, port, streams
from tests.hostile.member import Hostile

FLOODS: dict[str, Callable[[Hostile], Any]] = {
    "batches-valid": messages.direct(messages.batches_valid),
    "batches-bad": messages.direct(messages.batches_bad),
    "future-heights": messages.direct(messages.future_heights),
    "future-views": messages.direct(messages.future_views),
    "bad-signatures": messages.direct(messages.bad_signatures),
    "replayed": messages.direct(messages.replayed),
    "decisions": messages.direct(messages.decisions),
    "malformed": messages.direct(messages.malformed),
    "maximal": messages.direct(messages.maximal),
    "frames": messages.frames,
    "heartbeats": messages.heartbeats,
    "flaps": messages.flaps,
    "gossip-invented": gossips.gossip(gossips.announcements),
    "gossip-forged": gossips.gossip(gossips.forged),
    "gossip-control": gossips.gossip(gossips.promises),
    "requests": streams.requests,
    "requests-unread": streams.requests_unread,
    "answers-trickle": streams.answers(streams.trickle),
    "answers-bombs": streams.answers(streams.bombs),
    "yamux-resets": streams.frames(streams.rapid_reset),
    "yamux-pings": streams.frames(streams.ping),
    "yamux-windows": streams.frames(streams.window),
    "streams-left": streams.streams_left,
    "connections": streams.connections,
    "many-votes": messages.direct(messages.many_votes),
    "port-half-open": port.half_open,
    "port-garbage": port.garbage,
    "port-strangers": port.strangers,
    "rpc": port.rpc,
}


async def main(directory: Path, member: str, victim: str, flood: str, seconds: float) -> None:
    hostile = Hostile(directory, member, victim)
    async with hostile.running():
        with trio.move_on_after(seconds):
            await FLOODS[flood](hostile)
    print(json.dumps(dict(hostile.counts)), flush=True)


async def as_guest() -> None:
    """Run `main` under trio as the guest of asyncio, as the transport needs it."""
    guest = await Guest.join()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        try:
            directory, member, victim, flood, seconds = sys.argv[1:]
            await main(Path(directory), member, victim, flood, float(seconds))
        except BaseException as error:
            over.set_exception(error)
            raise
        over.set_result(None)

    guest.wake(lambda: guest.nursery.start_soon(run))
    try:
        await over
    finally:
        await guest.leave()


if __name__ == "__main__":
    asyncio.run(as_guest())
