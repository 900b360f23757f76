"""Liars that accuse the honest: forged evidence on the ledger, forged testimony to the voters."""

import random
from typing import TYPE_CHECKING, TypeGuard

from consensus.evidence import Statement, VoteStatement, evidence_from, statement_of
from consensus.messages import Phase, PrePrepare, Signed, ViewChange, vote_digest
from ledger.operations import ReportMisbehaviour
from ledger.transactions import NONCE_BYTES, TransactionBody, sign_transaction
from node.wire import Consensus, Message, Testimony
from primitives.codec import encode
from simulations.byzantine.behaviour import Behaviour, Collusion

if TYPE_CHECKING:
    from simulations.host import Host

LIFE_MS = 60_000


class Slanderer(Behaviour):
    """Reports correct voters for what they never signed, or for what they may well have signed."""

    def __init__(self, chance: random.Random, collusion: Collusion) -> None:
        super().__init__(chance, collusion)
        self._heard: dict[str, Signed] = {}

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Now and then accuse whoever has just spoken."""
        if isinstance(message, Consensus) and message.signed.signer == peer:
            signed, earlier = message.signed, self._heard.get(peer)
            self._heard[peer] = signed
            if self.chance.random() < 0.1:
                forged = self._forged(host, signed)
                self._report(host, signed, forged, "forged evidence")
                testimony = encode(Testimony(signed.message.height, peer, forged))
                for other in self.others(host):
                    host.world.network.send(host, other, testimony)
            elif self._is_comparable(earlier, signed) and self.chance.random() < 0.05:
                self._report(host, signed, statement_of(earlier), "harmless evidence")
        return True

    def _is_comparable(self, earlier: Signed | None, signed: Signed) -> TypeGuard[Signed]:
        """Whether both are of one height, so that only what they say clears their signer."""
        return (
            earlier is not None
            and earlier.message.height == signed.message.height
            and earlier != signed
        )

    def _forged(self, host: "Host", signed: Signed) -> VoteStatement:
        """A vote in the same place for another block, signed with the slanderer's own key."""
        message = signed.message
        phase = Phase.COMMIT
        if isinstance(message, PrePrepare):
            phase = Phase.PRE_PREPARE
        elif not isinstance(message, ViewChange):
            phase = self.chance.choice((Phase.PREPARE, Phase.COMMIT))
        block_hash = self.chance.randbytes(32)
        chain_id = host.world.genesis.chain_id
        view = message.view
        covered = vote_digest(chain_id, signed.signer, phase, message.height, view, block_hash)
        return VoteStatement(int(phase), view, block_hash, host.key.sign(covered))

    def _report(self, host: "Host", signed: Signed, other: Statement, name: str) -> None:
        statement = statement_of(signed)
        height, genesis = signed.message.height, host.world.genesis
        body = TransactionBody(
            author=host.key.public,
            valid_until_height=host.running.head.height + genesis.limits.replay_window_blocks,
            valid_until_ms=host.wall + LIFE_MS,
            nonce=self.chance.randbytes(NONCE_BYTES),
            operations=(
                ReportMisbehaviour(evidence_from(signed.signer, height, statement, other)),
            ),
        )
        if host.submit(sign_transaction(genesis.chain_id, host.key, body)) is not None:
            self.lies[name] += 1
