"""The replica: PBFT as a state machine that decides one height after another.

Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999), cited here as OSDI'99; the form
is docs/ARCHITECTURE.md section 4. `step` takes one event and returns what is to be done, in order;
nothing else happens: no clock is read, nothing is sent, stored or drawn at random.

This file goes from height to height and takes in events; height.py holds the rules below. What must
not be got wrong twice has one file each: certificates.py (sets of signatures), tally.py (counting),
promises.py (never contradict oneself), witness.py (who contradicts itself), view_change.py (what a
new view may propose), pacing.py (patience), intake.py (whose message, and of which height),
voice.py (durable before it is sent).

States of one height
--------------------

    asleep      no work is known: no deadline, nothing is sent
    open        in a view whose primary may propose: view 0, or a justified view above it
    leaving     VIEW-CHANGE for the view is sent, its PRE-PREPARE has not come; it is timed once a
                quorum follows; until then our messages are only sent again every `resend_ms`
    decided     Decide is out; nothing more is signed until Advanced

A view only grows within a height. Which votes are out is kept in `Promises`, not in further states:
each rule asks whether its message has been signed, so a rule may be tried at any time, fires once,
and a restarted replica needs nothing but its promises to go on where it stopped.

Rules, tried in this order after every event
--------------------------------------------

    rule          when                                              then
    join          over f of every group ask for views >= w > ours   VIEW-CHANGE(w)
    time view     work; and view 0, or a quorum asks for >= ours    the view's time runs
    propose       primary; work; view 0, or quorum of VIEW-CHANGEs  WantBlock, or propose again the
                  for exactly this view                             block of the highest claim
    prepare       this view's proposal is accepted and checked      PREPARE, its block durable
    commit        a quorum of PREPAREs in a view >= ours, and       COMMIT, its certificate durable;
                  its block is checked                              go to that view
    decide        a quorum of COMMITs in any view, and its block    Decide
                  is checked

A block is "checked" when Fetched or Proposed brought it: complete here, valid on our head. Work is:
Pending, Suspect, an accepted PRE-PREPARE, promises of our own, or messages of more than f voters of
every group; fewer could all be Byzantine, and would make an idle network change views for nothing.
Idle ends it, unless a block is known that could still be decided.

What the clocks do: at the end of a timed view, VIEW-CHANGE(view + 1), which comes sooner if its
primary cannot be reached; every `resend_ms`, send the latest messages again, as the stored bytes,
and ask again for blocks that have not come.

Why no two blocks are decided at one height
-------------------------------------------

docs/ARCHITECTURE.md section 4 has the argument, its sources and what checks it. In short: a quorum
has q members of every class, two of them share over f of every class, and so a correct voter of any
class that is within its bound, whatever the other classes do. In that class everything follows as
in OSDI'99 section 4.5.1: one block is prepared in a view, as nobody PREPAREs two; and what was
decided in one view is all that can be prepared in later ones (view_change.py). The rules above may
be tried in any order and at any time, since all that this needs of a voter stands in promises.py
and in the checks of a proposal. Clocks, benches and whose turn it is do not enter.

A new height starts from an applied block, with the committee that follows from it. All correct
nodes have the same one, so they have the same committee, and its votes name its height.

Why it goes on
--------------

With at most f faulty voters in *every* class, the rest is a quorum. A view is timed only when a
quorum follows it, so nobody runs ahead; whoever is behind hears over f of every class, and joins;
times double, so that correct voters are together for long enough; and of any f + 1 turns one is a
correct recorder's, as the roster has at least q of them (OSDI'99 section 4.5.2). Over f of every
class means that one class alone, lying as a whole, drives nobody from view to view. A view ends
sooner where its primary has been gone for long (pacing.py), but in one round of turns at most:
after that only time ends views, so this cannot go on for ever.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never

from consensus.certificates import SignatureCache
from consensus.committee import Committee
from consensus.events import (
    Accuse,
    Advanced,
    Blame,
    Connected,
    Disconnected,
    Effect,
    Event,
    Expired,
    Fetched,
    Heard,
    Idle,
    PassOn,
    Pending,
    Persist,
    Proposed,
    Received,
    Send,
    Suspect,
)
from consensus.height import HeightState
from consensus.intake import Intake
from consensus.links import Links
from consensus.messages import Certificate, PrePrepare, Signed
from consensus.pacing import Pacing
from consensus.settings import ConsensusSettings
from consensus.voice import Identity
from primitives.block import BlockHeader
from primitives.keys import PrivateKey

WITNESSES_MAX: Final = 3
"""Heights of which what was said is kept: what others pass on comes when we are further."""


class Replica:
    """One voter's part in consensus; a node that is no voter at a height follows it silently."""

    def __init__(
        self,
        chain_id: bytes,
        id: str,
        key: PrivateKey,
        settings: ConsensusSettings,
        head: BlockHeader,
        committee: Committee,
        promises: Sequence[Persist],
        connected: Sequence[str],
        now: int,
    ) -> None:
        """Start above `head`, bound by the `promises` recorded for that height, in their order; the
        `connected` can be reached, and whoever cannot is absent from now on.

        Raises PromiseError if the promises are not of that height or contradict each other.
        """
        self._identity = Identity(chain_id, id, key)
        self._effects: list[Effect] = []
        self._intake = Intake(chain_id, id, committee, settings.resend_ms, self._effects, now)
        self._links = Links(connected, committee, now)
        self._pacing = Pacing(settings, self._links)
        self._state = self._start_height(head, committee, promises)
        self._witnesses = deque([self._state.witness], maxlen=WITNESSES_MAX)
        self._state.restore(now)

    @property
    def height(self) -> int:
        """The height being decided: one above the head."""
        return self._state.height

    @property
    def view(self) -> int:
        """The current attempt at this height."""
        return self._state.view

    @property
    def deadline(self) -> int | None:
        """When to call step(Expired(), now), in monotonic milliseconds; None while idle."""
        return self._pacing.deadline

    @property
    def has_work(self) -> bool:
        """Whether this height has a reason to be decided, as far as we know."""
        return self._pacing.awake

    @property
    def heeds_work(self) -> bool:
        """Whether Pending would change anything now: the height rests, or waits for a block."""
        return self._state.heeds_work

    def view_over_since(self, now: int) -> int | None:
        """If the view's time is over, since when it ran; None otherwise, and where more than f
        voters of every group are busy with this height: they know of work, whatever we know.
        """
        return None if self._state.shared else self._pacing.view_over_since(now)

    @property
    def checked(self) -> tuple[bytes, ...]:
        """The hashes of the blocks that may be promised or decided here without another Fetched."""
        return self._state.checked

    @property
    def counters(self) -> dict[str, int]:
        """Peers' messages dropped so far, by reason."""
        return dict(self._intake.counters)

    @property
    def signatures(self) -> SignatureCache:
        """The verified signatures, for whoever else checks certificates in this node."""
        return self._intake.signatures

    def disowns(self, certificate: Certificate) -> bool:
        """Whether a verified certificate of the height being decided has a vote with our key that
        this replica did not cast: another process has the key, or our promises are not complete.
        """
        return certificate.height == self.height and self._state.disowns(certificate)

    def step(self, event: Event, now: int) -> list[Effect]:
        """Take one event; return what to do, in order. `now` is monotonic, in milliseconds.

        Raises ValueError for a Proposed that no WantBlock asked for, and PromiseError rather than
        contradict a promise; never for anything that a peer sends.
        """
        match event:
            case Received(signed):
                self._receive(signed, now)
            case Fetched(block):
                self._state.take_fetched(block)
            case Proposed(block):
                self._state.take_proposed(block, now)
            case Pending():
                self._state.take_pending(now)
            case Suspect():
                self._state.suspect(now)
            case Connected(peer):
                self._links.connect(peer)
                self._greet(peer)
            case Disconnected(peer):
                self._links.disconnect(peer, now)
            case Idle():
                self._state.rest()
            case Heard(peer, height, signer, statement):
                for witness in self._witnesses:
                    if witness.height == height:
                        witness.hear(peer, signer, statement)
            case Expired():
                self._state.expire(now)
            case Advanced(head, committee):
                self._advance(head, committee, now)
            case _:
                assert_never(event)
        self._state.apply_rules(now)
        self._speak_out()
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def _greet(self, peer: str) -> None:
        """Send a voter that has just (re)connected our latest messages, as stored."""
        if peer != self._identity.id and peer in self._state.committee.by_id:
            self._effects += [Send(peer, signed) for signed in self._state.latest_messages()]

    def _start_height(
        self, head: BlockHeader, committee: Committee, recorded: Sequence[Persist]
    ) -> HeightState:
        return HeightState(
            self._identity,
            head,
            committee,
            recorded,
            self._pacing,
            self._intake,
            self._effects,
        )

    def _advance(self, head: BlockHeader, committee: Committee, now: int) -> None:
        """A block above our head is applied, whether we decided it or it was synced."""
        if head.height < self._state.height:
            return
        self._links.start_height(committee, now)
        self._state = self._start_height(head, committee, ())
        self._witnesses.append(self._state.witness)
        for signed in self._intake.start_height(self._state.height, committee, now):
            self._receive(signed, now)
            self._state.apply_rules(now)

    def _speak_out(self) -> None:
        """Accuse whoever has contradicted itself, and pass on what others may contradict."""
        for witness in self._witnesses:
            if not witness.has_found:
                continue
            self._effects += [Accuse(evidence) for evidence in witness.take_evidence()]
            self._effects += [Blame(peer, "testimony_false") for peer in witness.take_forgers()]
            for signer, statement in witness.take_testimony():
                self._effects.append(PassOn(witness.height, signer, statement))

    def _receive(self, signed: Signed, now: int) -> None:
        message = signed.message
        if message.height != self._state.height:
            self._effects += self._intake.receive_elsewhere(signed, self._state.height, now)
        elif self._state.decided:
            self._intake.drop(signed, "decided")
        elif self._intake.is_from_voter(signed):
            if isinstance(message, PrePrepare):
                self._state.receive_proposal(signed, message, now)
            else:
                self._state.receive_vote(signed, message, now)
