"""Conspirators: all that the Byzantine members of a run could do together, if they were one.

They pool what they hear (plot.py), agree for each view on what to do, and send each other's lines.
The network is theirs as well where it is cut: the cut divides the honest into the two sides that
are to decide differently. What they do in one view is drawn from what the literature names:

* split       the primary is theirs: two blocks, one for each side, with all their votes for either;
              in a later view whichever blocks they can justify, honest claims left out or not;
* one side    PREPAREs for all, COMMITs for one side, which may decide; before the other they claim
              to have prepared nothing, so that another block may take its place;
* half        votes before one side only;
* starve      PREPAREs but no COMMITs, so that every view prepares and none decides;
* keep        no votes at all, so that only they can show what the view has prepared;
* rush        requests for later views, before anyone else wants them;
* honest      nothing; without it evidence would end every plot at its first height.

As they leave a view they claim what they please of what they can show: all of it, nothing before
one side, the oldest, what is of an older height, or what was never prepared. A *patient* plot keeps
what its first view has prepared, lets another block be prepared in the second, and then claims the
first: whoever does not take the highest claim undoes what may be decided.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Prepare,
    PreparedClaim,
    PrePrepare,
    ViewChange,
)
from consensus.messages import Message as ConsensusMessage
from node.wire import BlockFound, BlockWanted, Consensus, Message, Request, Response
from primitives.block import Block
from primitives.codec import VIEW_MAX, encode
from simulations.byzantine.behaviour import Behaviour, other_block, own_message
from simulations.byzantine.forgeries import invented, relabelled, spoilt
from simulations.byzantine.plot import Plot

if TYPE_CHECKING:
    from simulations.host import Host

STYLES = ("one side", "one side", "half", "starve", "keep", "rush", "honest")
LEAVING = ("honest", "hide", "hide", "hide", "oldest", "old height", "false")
PLOTS_KEPT_MAX = 3


class Conspirator(Behaviour):
    """One of them."""

    # ---- what it hears ---------------------------------------------------------------------------

    def incoming(self, host: "Host", peer: str, message: Message) -> bool:
        """Tell the others what an honest member says, and act on it."""
        if isinstance(message, Consensus):
            signed = message.signed
            if signed.signer == peer and peer not in self.collusion.members:
                plot = self._plot(host, signed.message.height)
                plot.learn(signed)
                if isinstance(signed.message, PrePrepare):
                    self._see_proposal(host, plot, signed.message)
                if isinstance(signed.message, Commit):
                    # Whoever decides would tell the others.
                    return self._style(plot, signed.message.view) not in ("starve", "keep")
        return True

    def _plot(self, host: "Host", height: int) -> Plot:
        plots = self.collusion.plots
        self.collusion.hosts[host.id] = host
        plot = plots.get(height)
        if plot is None:
            chance = self.chance
            plot = plots[height] = Plot(height, chance.random() < 0.6, chance.random() < 0.3)
            if plot.patient:
                plot.styles.update({0: "keep", 1: "starve"})
                plot.leaving.update({1: "none", 2: "oldest"})
            if len(plots) > PLOTS_KEPT_MAX:
                del plots[min(plots)]
        return plot

    def _style(self, plot: Plot, view: int) -> str:
        if not plot.active:
            return "honest"
        if view not in plot.styles:
            plot.styles[view] = self.chance.choice(STYLES)
        return plot.styles[view]

    def _see_proposal(self, host: "Host", plot: Plot, said: PrePrepare) -> None:
        """An honest primary proposes: those without a vote give one, the impatient ask for more."""
        if not plot.active:
            return
        if host.id not in host.running.chain.committee.by_id:
            self.lies["vote without a seat"] += 1
            for kind in (Prepare, Commit):
                self.spread(host, kind(said.height, said.view, said.block.hash), self.others(host))
        if self._style(plot, said.view) == "rush":
            self.lies["rush"] += 1
            wanted = min(said.view + self.chance.choice((1, 2, 2, 7)), VIEW_MAX)
            for one in self._hosts():
                self._let(one, ViewChange(said.height, wanted, None), self.others(one))

    # ---- what it says ----------------------------------------------------------------------------

    def outgoing(self, host: "Host", peer: str, message: Message) -> list[bytes]:
        """Say what the plan for this view is."""
        said = own_message(host, message)
        if said is None:
            return [self.plain(message)]
        plot = self._plot(host, said.height)
        match said:
            case PrePrepare():
                if plot.active:
                    self._split(host, plot, said)
                if said.view in plot.told:
                    return [self.sign(host, plot.told[said.view][self.collusion.side(host, peer)])]
                plot.blocks[said.block.hash] = said.block
            case Prepare() | Commit():
                return self._vote(host, peer, plot, said, message)
            case ViewChange():
                return self._leave(host, peer, plot, said, message)
        return [self.plain(message)]

    def _vote(
        self, host: "Host", peer: str, plot: Plot, said: Prepare | Commit, message: Message
    ) -> list[bytes]:
        side = self.collusion.side(host, peer)
        told = plot.told.get(said.view)
        if told is not None:
            return [self.sign(host, type(said)(said.height, said.view, told[side].block.hash))]
        style = self._style(plot, said.view)
        kept = {
            "one side": side == 1 and isinstance(said, Commit),
            "half": side == 1,
            "starve": isinstance(said, Commit),
            "keep": True,
        }
        if kept.get(style, False) and peer not in self.collusion.members:
            self.lies[style] += 1
            return []
        return [self.plain(message)]

    def _leave(
        self, host: "Host", peer: str, plot: Plot, said: ViewChange, message: Message
    ) -> list[bytes]:
        """Hide what was prepared; or claim something else, or more than was."""
        if not plot.active or peer in self.collusion.members:
            return [self.plain(message)]
        style = plot.leaving.setdefault(said.view, self.chance.choice(LEAVING))
        claim = said.prepared
        match style:
            case "none":
                claim = None
            case "hide" if self.collusion.side(host, peer) == 1:
                claim = None
            case "oldest":
                claim = next(iter(self._proofs(host, plot, said.view)), claim)
            case "old height":
                claim = self._old_claim(host, plot, said.view) or claim
            case "false":
                if (host.id, said.view) not in plot.false:
                    plot.false[host.id, said.view] = self._false_claim(host, plot, said.view)
                claim = plot.false[host.id, said.view] or claim
        if claim == said.prepared:
            return [self.plain(message)]
        self.lies[f"claim: {style}"] += 1
        return [self.sign(host, ViewChange(said.height, said.view, claim))]

    def _proofs(self, host: "Host", plot: Plot, below: int) -> list[Certificate]:
        return plot.proofs(self._hosts(), host.running.chain.committee, below)

    def _old_claim(self, host: "Host", plot: Plot, view: int) -> Certificate | None:
        """What was prepared at a height before."""
        for height in sorted(self.collusion.plots, reverse=True):
            proofs = self._proofs(host, self.collusion.plots[height], view)
            if height < plot.height and proofs:
                return proofs[0]
        return None

    def answer(self, host: "Host", request: Request, response: Response) -> bytes | None:
        """Serve the blocks of the plot as well."""
        if isinstance(request, BlockWanted):
            for plot in self.collusion.plots.values():
                if request.block_hash in plot.blocks:
                    return encode(BlockFound(plot.blocks[request.block_hash]))
        return encode(response)

    # ---- the split -------------------------------------------------------------------------------

    def _hosts(self) -> list["Host"]:
        """The conspirators whose machines run."""
        return [host for host in self.collusion.hosts.values() if host.up]

    def _let(self, host: "Host", message: ConsensusMessage, peers: Sequence[str]) -> None:
        """Let a conspirator say something to those of these that are honest."""
        if host.behaviour is not None:
            honest = [who for who in peers if who not in self.collusion.members]
            host.behaviour.spread(host, message, honest)

    def _split(self, host: "Host", plot: Plot, said: PrePrepare) -> None:
        """Propose one block to each side, once for each view, with everybody's votes for either."""
        if said.view in plot.tried:
            return
        plot.tried.append(said.view)
        choices = self._choices(host, plot, said)
        if said.view == 0 and len(choices) < 2:
            return
        self._try_false(host, plot, said)
        self.lies["split" if len(choices) > 1 else "chosen block"] += 1
        plot.told[said.view] = choices[0], choices[-1]
        plot.blocks.update({choice.block.hash: choice.block for choice in choices})
        for one in self._hosts():
            for peer in self.others(one):
                chosen = plot.told[said.view][self.collusion.side(host, peer)]
                for kind in (Prepare, Commit):
                    vote = kind(said.height, said.view, chosen.block.hash)
                    self._let(one, vote, [peer])

    def _choices(self, host: "Host", plot: Plot, said: PrePrepare) -> list[PrePrepare]:
        """The proposals that honest voters must accept in this view, the least expected first."""
        fresh = self._fresh(host, said)
        if said.view == 0:
            return [said, PrePrepare(said.height, 0, fresh, None)] if fresh is not None else [said]
        committee = host.running.chain.committee
        found: dict[bytes, PrePrepare] = {}
        if fresh is not None:
            why = plot.justify(self._hosts(), committee, said.view, None)
            if why is not None:
                found[fresh.hash] = PrePrepare(said.height, said.view, fresh, why)
        for proof in plot.proofs(self._hosts(), committee, said.view):
            block = plot.blocks.get(proof.block_hash)
            why = plot.justify(self._hosts(), committee, said.view, proof)
            if block is not None and why is not None:
                found[block.hash] = PrePrepare(said.height, said.view, block, why)
        found.setdefault(said.block.hash, said)
        return list(found.values())

    def _fresh(self, host: "Host", said: PrePrepare) -> Block | None:
        time_ms = host.wall + self.chance.randint(1, 9)
        block = other_block(host, said.height, said.view, time_ms)
        return None if block is None or block.hash == said.block.hash else block

    # ---- what nobody should believe --------------------------------------------------------------

    def _try_false(self, host: "Host", plot: Plot, said: PrePrepare) -> None:
        """Before anything true, propose another block with a justification that is none."""
        fresh = self._fresh(host, said)
        if said.justification is None or fresh is None:
            return
        self.lies["false justification"] += 1
        older = other_block(host, said.height, self.chance.randrange(said.view), host.wall + 11)
        plot.blocks.update({block.hash: block for block in (fresh, older) if block is not None})
        why = self._false_reason(host, plot, said.justification, said.view)
        block = fresh
        if why.prepared is not None and why != said.justification:
            block = plot.blocks.get(why.prepared.block_hash, fresh)
        self._let(host, PrePrepare(said.height, said.view, block, why), self.others(host))

    def _false_reason(
        self, host: "Host", plot: Plot, true: Justification, view: int
    ) -> Justification:
        committee = host.running.chain.committee
        proofs = self._proofs(host, plot, view)
        claim = self._false_claim(host, plot, view)
        if claim is not None and self.chance.random() < 0.5:
            why = plot.justify(self._hosts(), committee, view, claim)
            if why is not None:
                return why
        groups = [
            [voter.id for voter in committee.voters if voter.group == group]
            for group in committee.group_sizes
        ]
        if self.chance.random() < 0.3:
            # Nothing is false but the block, if this obliges to another.
            return true
        return spoilt(self.chance, true, proofs, groups)

    def _false_claim(self, host: "Host", plot: Plot, view: int) -> Certificate | None:
        """A certificate of the last view for a block that was not prepared there."""
        hashes = [made for made, block in plot.blocks.items() if block.header.view < view]
        if not hashes or view == 0:
            return None
        block_hash = self.chance.choice(hashes)
        proofs = self._proofs(host, plot, view)
        claim = PreparedClaim(view - 1, block_hash)
        made = invented(host, plot.height, view - 1, block_hash)
        return self.chance.choice([made, *(relabelled(claim, proof) for proof in proofs)])
