"""Room for long requests: bounded, in order, and given back by whoever gives up."""

import asyncio

from node.rpc_room import Room


async def entering(room: Room, size: int) -> "asyncio.Task[None]":
    task = asyncio.create_task(room.enter(size))
    await asyncio.sleep(0)
    return task


async def test_who_finds_no_room_waits_in_order() -> None:
    room = Room(10)
    await room.enter(6)
    large, small = await entering(room, 8), await entering(room, 1)
    assert not large.done()
    assert not small.done()  # It would fit, but is not first.
    room.leave(6)
    await asyncio.gather(large, small)
    assert not (await entering(room, 2)).done()


async def test_who_gives_up_lets_the_others_go_on() -> None:
    room = Room(10)
    await room.enter(6)
    large, small = await entering(room, 8), await entering(room, 1)
    large.cancel()
    await small
    admitted = await entering(room, 9)
    room.leave(6)
    admitted.cancel()  # It has its room by now, and never learns of it.
    await asyncio.gather(large, admitted, return_exceptions=True)
    await room.enter(9)
