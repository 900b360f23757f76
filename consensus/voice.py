"""Everything that leaves under our name: signed, promised, and only then sent."""

from dataclasses import dataclass

from consensus.events import Broadcast, Effect, Persist
from consensus.intake import Intake
from consensus.messages import Certificate, Message, Phase, Signed, sign
from consensus.promises import Promises
from primitives.block import Block
from primitives.keys import PrivateKey

REPEATED = (Phase.VIEW_CHANGE, Phase.PRE_PREPARE, Phase.PREPARE, Phase.COMMIT)
"""What is sent again, in this order: whoever is behind needs the view before the votes in it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs, and for which chain."""

    chain_id: bytes
    id: str
    key: PrivateKey


class Voice:
    """Our voice at one height. Effects are appended to the list it is given."""

    def __init__(
        self, identity: Identity, promises: Promises, intake: Intake, effects: list[Effect]
    ) -> None:
        self._identity = identity
        self._promises = promises
        self._intake = intake
        self._effects = effects

    def say(self, message: Message, prepared: Certificate | None, block: Block | None) -> Signed:
        """Sign, make durable, send. Raises PromiseError before anything of it would leave."""
        signed = sign(self._identity.chain_id, self._identity.id, self._identity.key, message)
        persist = Persist(signed, prepared, block)
        self._promises.keep(persist)
        self._intake.remember_own(signed)
        self._effects += [persist, Broadcast(signed)]
        return signed

    def repeated(self, view: int) -> list[Signed]:
        """Our messages that still matter: those of the current view, and our latest COMMIT."""
        latest = self._promises.latest
        return [
            latest[phase]
            for phase in REPEATED
            if phase in latest and (phase is Phase.COMMIT or latest[phase].message.view == view)
        ]

    def repeat(self, view: int) -> None:
        """Send them to everyone again, as the stored bytes."""
        self._effects += [Broadcast(signed) for signed in self.repeated(view)]
