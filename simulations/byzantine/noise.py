"""Liars without a thought: noise, and silence."""

from typing import TYPE_CHECKING

from node.wire import Message, Request, Response
from primitives.codec import encode
from simulations.byzantine.behaviour import Behaviour

if TYPE_CHECKING:
    from simulations.host import Host


class Garbler(Behaviour):
    """Sends bytes that are no message, or nearly one, besides what it should send."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Precede messages by garbage."""
        raw = self.plain(message)
        return [self._garble(raw), raw] if self.chance.random() < 0.3 else [raw]

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Answer with garbage half of the time."""
        raw = encode(response)
        return self._garble(raw) if self.chance.random() < 0.5 else raw

    def _garble(self, raw: bytes) -> bytes:
        self.lies["garbage"] += 1
        style = self.chance.randrange(3)
        if style == 0:
            return self.chance.randbytes(self.chance.randint(0, 200))
        if style == 1:
            return raw[: self.chance.randrange(len(raw))]
        damaged = bytearray(raw)
        for _ in range(self.chance.randint(1, 3)):
            damaged[self.chance.randrange(len(damaged))] ^= 1 << self.chance.randrange(8)
        return bytes(damaged)


class Silent(Behaviour):
    """Hears everything and says nothing."""

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Nothing."""
        self.lies["silence"] += 1
        return []

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Nothing."""
        self.lies["no answer"] += 1
        return None
