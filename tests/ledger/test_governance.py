"""Members, votes and turns: the ledger against a model written from their meaning alone."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.committee import Committee, QuorumRule, Voter, faulty_max
from ledger.changes import (
    Change,
    ChangeType,
    Join,
    Leave,
    Reinstate,
    Relocate,
    RotateKey,
    possession_digest,
)
from ledger.entries import entries_of
from ledger.execution import stored_block
from ledger.operations import (
    ApproveChange,
    EnrolPerson,
    Operation,
    ProposeChange,
    ReportMisbehaviour,
)
from ledger.receipts import ReceiptCode
from ledger.standing import committee_record, owner_of, proposal_id, proposals_of
from ledger.state import EmptyState, chain_head, institution_chain, members
from ledger.transactions import CheckedTransaction, read_transaction
from ledger.trie import update
from primitives.institution import ConsensusClass
from primitives.keys import PrivateKey
from simulations.model import Model
from tests.ledger.council import Council, altered, hidden_commit
from tests.ledger.world import consortium, institution, key_of

TYPES = ("tertiary_hospital", "regulator", "clinic", "castle")
NEWCOMERS = tuple(f"{kind}-{n}" for kind in ("hospital", "authority", "institute") for n in (7, 8))
SPARE_KEYS = [PrivateKey(bytes([200 + n]) * 32) for n in range(4)]
OLD_KEYS = {key_of(name).public: key_of(name) for name in NEWCOMERS}
NOTHING = ProposeChange(Leave("nobody"), 1)
"""What changes nothing, and yet runs."""
number = st.integers(0, 40)


class Governing(RuleBasedStateMachine):
    """Random members say random things; now and then a block is made of them, in some view."""

    @initialize(
        shape=st.sampled_from([(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 0), (4, 1, 2)]),
        quorum=st.sampled_from(["per_class", "pooled", "flat"]),
        forgets=st.booleans(),
    )
    def found(self, shape: tuple[int, int, int], quorum: QuorumRule, forgets: bool) -> None:
        self.world = Council(
            consortium(*shape),
            quorum,
            bench_heights_min=2,
            bench_heights_max=7,
            evidence_heights_max=3 if forgets else 1_000,
        )
        self.model = Model(self.world.genesis)
        self.keys: dict[bytes, PrivateKey] = {
            member.key: key_of(member.id) for member in self.world.genesis.institutions
        }
        self.keys |= OLD_KEYS | {key.public: key for key in SPARE_KEYS}
        self.said: list[CheckedTransaction] = []
        self.proposals: list[bytes] = []
        self.height = 1

    # ---- who and what --------------------------------------------------------------------------

    def anyone(self, n: int) -> str:
        """A member, of now or not."""
        names = [*self.world.members, *NEWCOMERS, *(m.id for m in self.world.genesis.institutions)]
        return names[n % len(names)]

    def key(self, id: str) -> PrivateKey:
        member = self.world.members.get(id)
        return key_of(id) if member is None else self.keys[member.key]

    def say(self, author: int, *operations: Operation) -> None:
        """To be in the next block; also from those who may not speak any more."""
        transaction = self.world.transaction(self.key(self.anyone(author)), *operations)
        self.said.append(transaction)
        self.proposals += [
            proposal_id(transaction.id, index)
            for index, operation in enumerate(operations)
            if isinstance(operation, ProposeChange)
        ]

    def change(self, kind: int, who: int, what: int) -> Any:
        id = self.anyone(who)
        spare = (SPARE_KEYS + list(OLD_KEYS.values()) + [key_of("hospital-0")])[what % 11]
        match kind:
            case 0:
                new = altered(institution(id, 50 + what % 9), key=self.pick_key(id, what).public)
                return Join(new, self.possession(new.id, self.keys[new.key], what))
            case 1:
                return Leave(id)
            case 2:
                return ChangeType(id, TYPES[what % len(TYPES)])
            case 3:
                return RotateKey(id, spare.public, self.possession(id, spare, what))
            case 4:
                return Relocate(id, f"{self.anyone(what)}.EXAMPLE:{7600 + what % 5}")
            case _:
                return Reinstate(id)

    def pick_key(self, id: str, what: int) -> PrivateKey:
        return SPARE_KEYS[what % 4] if what % 5 == 0 else key_of(id)

    def possession(self, id: str, key: PrivateKey, what: int) -> bytes:
        """The key's signature, now and then of another id."""
        named = altered(institution("hospital-0", 1), id=id, key=key.public)
        if what % 13 == 12:
            named = altered(named, id="somebody-else")
        return key.sign(possession_digest(self.world.chain_id, named))

    # ---- rules ---------------------------------------------------------------------------------

    @rule(author=number, kind=st.integers(0, 5), who=number, what=number, notice=st.integers(1, 4))
    def propose(self, author: int, kind: int, who: int, what: int, notice: int) -> None:
        self.say(author, ProposeChange(self.change(kind, who, what), self.height + notice))

    @rule(kind=st.integers(0, 5), who=number, what=number)
    def agree(self, kind: int, who: int, what: int) -> None:
        """Everyone approves, so that changes do happen."""
        self.adopt(self.change(kind, who, what))

    @rule(who=number, what=st.integers(0, 8))
    def welcome(self, who: int, what: int) -> None:
        new = institution(NEWCOMERS[who % len(NEWCOMERS)], 50 + what)
        self.adopt(Join(new, self.possession(new.id, key_of(new.id), 0)))

    @rule(who=number)
    def pardon(self, who: int) -> None:
        """Reinstate someone who needs it."""
        offences = self.world.standing.offences
        if offences:
            self.adopt(Reinstate(offences[who % len(offences)].id))

    @rule(views=st.lists(st.integers(0, 3), max_size=4))
    def miss_turns(self, views: list[int]) -> None:
        for view in views:
            self.block(view)

    def adopt(self, change: Change) -> None:
        """All members approve."""
        self.block(0)
        first = next(iter(self.world.members))
        transaction = self.world.transaction(
            self.key(first), ProposeChange(change, self.height + 2)
        )
        proposal = proposal_id(transaction.id, 0)
        self.proposals.append(proposal)
        self.said.append(transaction)
        self.block(0)
        for id in self.world.members:
            self.said.append(self.world.transaction(self.key(id), ApproveChange(proposal)))
        self.block(0)

    @rule(author=number, which=number)
    def approve(self, author: int, which: int) -> None:
        proposal = self.proposals[which % len(self.proposals)] if self.proposals else bytes(32)
        self.say(author, ApproveChange(proposal))

    @rule(author=number, who=number, ago=st.integers(-1, 5), hidden=st.booleans())
    def report(self, author: int, who: int, ago: int, hidden: bool) -> None:
        id = self.anyone(who)
        height = max(self.height - ago, 0)
        self.world.keys[id] = self.key(id)
        if hidden:
            evidence = self.world.contradict(id, *hidden_commit(height))
        else:
            evidence = self.world.contradiction(id, height)
        if ago == 5:
            evidence = altered(evidence, height=self.height)
        self.say(author, ReportMisbehaviour(evidence))

    @rule(author=number, what=number)
    def enrol(self, author: int, what: int) -> None:
        """A person with a key that a member has, had or may want."""
        keys = list(self.keys)
        self.say(author, EnrolPerson(keys[what % len(keys)], "patient"))

    @rule(author=number, who=number, what=number, kind=st.integers(0, 5))
    def say_two_things(self, author: int, who: int, what: int, kind: int) -> None:
        """All or nothing: what fails takes back what went before it."""
        proposed = ProposeChange(self.change(kind, who, what), self.height + 2)
        evidence = self.world.contradiction(self.anyone(what), self.height)
        self.say(author, proposed, ReportMisbehaviour(evidence))

    @rule(view=st.integers(0, 9))
    def block(self, view: int) -> None:
        """The next block, of all that was said."""
        world = self.world
        before = world.committee
        proposer = before.primary(self.height, view)
        author = next(iter(world.members))
        self.said.append(world.transaction(self.key(author), NOTHING))
        batch = world.batch(*self.said, author=author, key=self.key(author))
        executed = world.execute(batch, view=view, proposer=proposer)
        header = executed.block.header
        for transaction, receipt in zip(self.said, executed.receipts, strict=True):
            expected = self.model.run(self.height, header.time_ms, transaction)
            assert (receipt.code, receipt.operation) == expected, ReceiptCode(receipt.code).name
        self.model.finish(self.height, view, proposer)
        for name in world.members:
            world.keys[name] = self.key(name)
        world.apply(world.check(executed.block, batch))
        self.said = []
        self.height += 1
        assert executed.next_committee == self.model.government.committee() == world.committee
        if executed.next_committee.voters != before.voters:
            assert world.standing.committee_since == self.height

    # ---- what always holds -----------------------------------------------------------------------

    @invariant()
    def classes_and_turns(self) -> None:
        world, committee = self.world, self.world.committee
        genesis = world.genesis
        duties = [genesis.classes[world.members[v.id].type] for v in committee.voters]
        founded = [genesis.classes[member.type] for member in genesis.institutions]
        voting = [ConsensusClass.RECORDER, ConsensusClass.AUDITOR]
        if genesis.quorum == "flat":
            voting.append(ConsensusClass.OBSERVER)
        assert ConsensusClass.RECORDER in duties
        assert all(duty in duties for duty in founded if duty in voting)
        recorders = [voter for voter in committee.voters if voter.proposes]
        n = len(recorders)
        assert 2 * len(committee.roster) > n + faulty_max(n) or len(committee.roster) == n
        assert list(committee.roster) == sorted(committee.roster)
        standing = world.standing
        assert all(bench.id in [voter.id for voter in recorders] for bench in standing.benches)
        assert all(offence.id in world.members for offence in standing.offences)
        record = committee_record(world.store, standing.committee_since)
        assert record is not None
        assert record.voters == committee.voters

    @invariant()
    def members_and_keys(self) -> None:
        state = self.world.store
        listed = list(self.world.members.values())
        for field in ("id", "key", "lei", "address"):
            values = [getattr(member, field).lower() for member in listed]
            assert len(dict.fromkeys(values)) == len(listed)
        for member in listed:
            owner = owner_of(state, member.key)
            assert owner is not None
            assert (owner.id, owner.listed) == (member.id, True)
            assert chain_head(state, institution_chain(member.id)) is not None
        assert len(proposals_of(state).pending) <= 64

    def teardown(self) -> None:
        """Whatever happened, old blocks still tell the same entries in the last state, and the
        root is that of all values.
        """
        if not hasattr(self, "world"):
            return
        store = self.world.store
        ids = {member.key: member.id for member in members(store)}
        for height in range(1, self.height):
            block = stored_block(store, height)
            transactions = [
                read_transaction(raw, self.world.chain_id)
                for batch in block.batches
                for raw in batch.transactions
            ]
            entries = entries_of(transactions, block.receipts, store, ids)
            assert tuple(sorted(entries)) == tuple(store.blocks[height].chains)
        assert update(EmptyState(), store.values).root == self.world.head.state_root


TestGoverning = Governing.TestCase
TestGoverning.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# ---- the arithmetic of quorums -------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(0, 7), st.data())
def test_two_quorums_share_an_honest_member_of_every_class(
    recorders: int, auditors: int, data: st.DataObject
) -> None:
    ids = [f"a{n}" for n in range(auditors)] + [f"r{n}" for n in range(recorders)]
    names = {"a": "auditor", "r": "recorder"}
    voters = tuple(Voter(id, bytes(32), names[id[0]], id[0] == "r") for id in ids)
    committee = Committee(voters, tuple(voter.id for voter in voters if voter.proposes))
    quorums: list[list[str]] = []
    for _ in range(2):
        quorum: list[str] = []
        for group, needed in committee.quorum_sizes.items():
            of_group = data.draw(st.permutations([v.id for v in voters if v.group == group]))
            assert not committee.is_quorum([*quorum, *of_group[: needed - 1]])
            quorum += of_group[:needed]
        assert committee.is_quorum(quorum)
        quorums.append(quorum)
    for group, n in committee.group_sizes.items():
        shared = [v for v in voters if v.group == group and all(v.id in q for q in quorums)]
        assert len(shared) > faulty_max(n)


@pytest.mark.parametrize("n", range(2, 14))
def test_a_class_within_its_bound_stays_within_it_when_a_liar_is_suspended(n: int) -> None:
    assert faulty_max(n - 1) >= faulty_max(n) - 1
    world = Council(consortium(n, 1, 0))
    assert world.report("hospital-0", world.contradiction("hospital-1")) is ReceiptCode.OK
    committee = world.committee
    assert committee.group_sizes["recorder"] == n - 1
    quorum = committee.quorum_sizes["recorder"]
    for one in list(combinations(committee.roster, quorum))[:20]:
        assert committee.is_quorum((*one, "authority-0"))
        assert not committee.is_quorum((*one[1:], "authority-0", "hospital-1"))
