"""What the tests of consensus share: committees with keys, blocks, messages, certificates."""

from collections.abc import Iterable, Mapping, Sequence

from consensus.certificates import assemble
from consensus.committee import POOL, Committee, Voter
from consensus.events import (
    Advanced,
    Blame,
    Broadcast,
    Effect,
    Event,
    Expired,
    Fetched,
    PassOn,
    Pending,
    Persist,
    Received,
)
from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Message,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    sign,
)
from consensus.replica import Replica
from consensus.settings import ConsensusSettings
from consensus.view_change import justify
from primitives.block import HEADER_VERSION, Block, BlockHeader
from primitives.hashing import ZERO_DIGEST, digest
from primitives.keys import PrivateKey

CHAIN = digest("tests", b"the chain of these tests")


def key_of(name: str) -> PrivateKey:
    """The key of an institution in these tests; the same name has the same key."""
    return PrivateKey(digest("tests", name.encode()))


def make_committee(recorders: int, auditors: int = 0, *, pooled: bool = False) -> Committee:
    """Recorders r0, r1... and auditors a0, a1..."""
    names = [f"a{i}" for i in range(auditors)] + [f"r{i}" for i in range(recorders)]
    voters = tuple(
        Voter(
            name,
            key_of(name).public,
            POOL if pooled else {"a": "auditor", "r": "recorder"}[name[0]],
            name[0] == "r",
        )
        for name in sorted(names)
    )
    return Committee(voters, tuple(voter.id for voter in voters if voter.proposes))


def make_block(
    head: BlockHeader, proposer: str, view: int = 0, payload: bytes = b"", chain_id: bytes = CHAIN
) -> Block:
    """A block on `head`; its header binds the payload as the ledger's would."""
    header = BlockHeader(
        HEADER_VERSION,
        chain_id,
        head.height + 1,
        head.hash(),
        view,
        proposer,
        head.time_ms + 1,
        digest("tests", payload),
        ZERO_DIGEST,
        ZERO_DIGEST,
        ZERO_DIGEST,
        head.next_committee_hash,
    )
    return Block(header, payload)


def genesis(committee: Committee) -> BlockHeader:
    """The head of a chain without blocks."""
    nothing = (ZERO_DIGEST, ZERO_DIGEST, ZERO_DIGEST, ZERO_DIGEST)
    return BlockHeader(HEADER_VERSION, CHAIN, 0, ZERO_DIGEST, 0, "", 0, *nothing, committee.hash)


def by(name: str, message: Message) -> Signed:
    """The message as signed by `name`."""
    return sign(CHAIN, name, key_of(name), message)


def certify(phase: Phase, signers: Iterable[str], block: Block, view: int = 0) -> Certificate:
    """The certificate of these voters' PREPAREs or COMMITs for the block in that view."""
    kind = Prepare if phase is Phase.PREPARE else Commit
    height = block.header.height
    signatures = {name: by(name, kind(height, view, block.hash)).signature for name in signers}
    return assemble(phase, height, view, block.hash, signatures)


def view_changes(
    committee: Committee, height: int, view: int, prepared: Mapping[str, Certificate | None]
) -> Justification:
    """The justification that these voters' VIEW-CHANGEs make."""
    asked = [(name, ViewChange(height, view, prepared[name])) for name in sorted(prepared)]
    justification = justify([(by(name, message), message) for name, message in asked], committee)
    if justification is None:
        raise ValueError("these voters are no quorum")
    return justification


def proposal(block: Block, view: int = 0, justification: Justification | None = None) -> PrePrepare:
    """A PRE-PREPARE for the block at its own height."""
    return PrePrepare(block.header.height, view, block, justification)


class Stage:
    """One replica under test; everyone else is played by the test. Time is in milliseconds."""

    def __init__(
        self,
        name: str,
        committee: Committee | None = None,
        settings: ConsensusSettings | None = None,
        promises: Sequence[Persist] = (),
        head: BlockHeader | None = None,
        absent: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.committee = committee or make_committee(4)
        self.settings = settings or ConsensusSettings()
        self.head = head or genesis(self.committee)
        self.now = 1_000
        self.recorded: list[Persist] = list(promises)
        self.blamed: list[Blame] = []
        self.passed_on: list[PassOn] = []
        self.replica = Replica(
            CHAIN,
            name,
            key_of(name),
            self.settings,
            self.head,
            self.committee,
            promises,
            [voter.id for voter in self.committee.voters if voter.id not in absent],
            self.now,
        )

    def step(self, event: Event) -> list[Effect]:
        """The effects but for Blame and PassOn, which are gathered apart."""
        heeded = event != Pending() or self.replica.heeds_work
        effects = self.replica.step(event, self.now)
        assert heeded or not effects
        self.recorded += [effect for effect in effects if isinstance(effect, Persist)]
        self.blamed += [effect for effect in effects if isinstance(effect, Blame)]
        self.passed_on += [effect for effect in effects if isinstance(effect, PassOn)]
        return [effect for effect in effects if not isinstance(effect, Blame | PassOn)]

    def hear(self, *messages: tuple[str, Message]) -> list[Effect]:
        """Messages come, each with its signer."""
        return [
            effect
            for name, message in messages
            for effect in self.step(Received(by(name, message)))
        ]

    def hear_all(self, names: Iterable[str], message: Message) -> list[Effect]:
        """The same message comes from each of these voters, ourselves left out."""
        return self.hear(*((name, message) for name in names if name != self.name))

    def wait(self, milliseconds: int) -> list[Effect]:
        """Let time pass; alarms ring when they are due."""
        until, effects = self.now + milliseconds, []
        while (deadline := self.replica.deadline) is not None and deadline <= until:
            self.now = max(deadline, self.now)
            effects += self.step(Expired())
        self.now = until
        return effects

    def accept(self, block: Block, view: int = 0, claims: Justification | None = None) -> None:
        """The primary's proposal comes and the node finds it valid."""
        primary = self.committee.primary(block.header.height, view)
        self.hear((primary, proposal(block, view, claims)))
        self.step(Fetched(block))

    def advance(self, *blocks: Block) -> list[Effect]:
        """The node has applied these blocks."""
        self.head = blocks[-1].header
        return self.step(Advanced(self.head, self.committee))

    def dropped(self, reason: str) -> int:
        return self.replica.counters.get(reason, 0)

    def restarted(self) -> "Stage":
        """The same voter in a new process, with nothing but its promises."""
        return Stage(self.name, self.committee, self.settings, self.recorded, self.head)


def said(effects: Iterable[Effect]) -> list[Message]:
    """The messages that were newly signed."""
    return [effect.signed.message for effect in effects if isinstance(effect, Persist)]


def sent(effects: Iterable[Effect]) -> list[Message]:
    """The messages that went to everyone, new or again."""
    return [effect.signed.message for effect in effects if isinstance(effect, Broadcast)]
