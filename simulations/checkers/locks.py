"""What must not happen long before a fork or a standstill.

`Locks`: a correct voter PREPAREs against a decision.

The proof of safety in one sentence: if in view u so many correct voters have sent COMMIT for a
block that with the liars they would be a quorum, then no correct voter ever PREPAREs another block
in a view above u. It holds whenever one group has no more liars than its bound, in whichever order
the messages come, so breaking it shows a broken rule even where luck prevented the fork.

`Views`: a correct voter takes part in a view that no quorum wanted, vouches there for another block
than those who wanted it oblige to, or is driven from view to view by one class alone.
"""

from collections.abc import Sequence

from consensus.messages import PreparedClaim
from simulations.checkers.council import Council
from simulations.checkers.violation import Violation


class Locks:
    """The PREPAREs and COMMITs of correct voters at one height."""

    def __init__(self, council: Council, liars: Sequence[str]) -> None:
        self._council = council
        self._liars = list(liars)
        self._sound = council.is_sound(liars)
        self._prepares: dict[tuple[int, bytes], list[str]] = {}
        self._commits: dict[tuple[int, bytes], list[str]] = {}

    def prepare(self, id: str, view: int, block_hash: bytes) -> None:
        """A correct voter PREPAREs. Raises Violation if it must not."""
        self._prepares.setdefault((view, block_hash), []).append(id)
        self._compare()

    def commit(self, id: str, view: int, block_hash: bytes) -> None:
        """A correct voter COMMITs. Raises Violation if others had prepared against it."""
        self._commits.setdefault((view, block_hash), []).append(id)
        self._compare()

    def may_be_prepared(self, view: int, block_hash: bytes) -> bool:
        """Whether the liars and the correct voters that vouched for a block could be a quorum."""
        voters = self._prepares.get((view, block_hash), [])
        return self._council.missing(voters + self._liars) is None

    def claims(self, below: int, block_hash: bytes) -> list[PreparedClaim]:
        """What a certificate could show of a block in views below one."""
        views = [view for view, of in self._prepares if of == block_hash and view < below]
        if self._council.missing(self._liars) is None:
            # They need no correct voter, and may claim any view.
            views = [below - 1]
        return [
            PreparedClaim(view, block_hash)
            for view in views
            if self.may_be_prepared(view, block_hash)
        ]

    def _compare(self) -> None:
        if not self._sound or len(self._prepares) < 2:
            return
        for (view, block_hash), voters in self._commits.items():
            later = [at for at in self._prepares if at[0] > view and at[1] != block_hash]
            if later and self._council.missing(voters + self._liars) is None:
                who = self._prepares[later[0]][0]
                raise Violation(
                    f"fork at height {self._council.height} under way: {who} prepares "
                    f"{later[0][1].hex()[:8]} in view {later[0][0]}, though "
                    f"{block_hash.hex()[:8]} may be decided in view {view}"
                )


class Views:
    """Which views the correct voters of one height have asked for."""

    def __init__(self, council: Council, liars: Sequence[str]) -> None:
        self._council = council
        self._liars = list(liars)
        self._asked: dict[str, int] = {}
        self._exactly: dict[int, dict[str, PreparedClaim | None]] = {}
        """By view, who has asked for exactly this one, and claiming what."""

    def enter(self, id: str, view: int) -> None:
        """A correct voter speaks in a view. Raises Violation if it cannot have begun: a quorum must
        have asked for exactly this view.
        """
        asking = [*self._exactly.get(view, {}), *self._liars]
        missing = self._council.missing(asking)
        if view > 0 and missing is not None:
            raise Violation(
                f"{id} speaks in view {view} of height {self._council.height}, which at most "
                f"{missing} can have asked for"
            )

    def vouch(self, id: str, view: int, claims: Sequence[PreparedClaim | None]) -> None:
        """A correct voter PREPAREs in a view above 0 a block for which one of these must have been
        the highest claim, or no claim for a fresh one. Raises Violation if there was no such quorum
        of VIEW-CHANGEs, whatever the liars have claimed.
        """
        for claim in claims:
            agreeing = [
                who
                for who, other in self._exactly.get(view, {}).items()
                if other is None
                or (claim is not None and (other.view < claim.view or other == claim))
            ]
            if self._council.missing(agreeing + self._liars) is None:
                return
        raise Violation(
            f"{id} prepares in view {view} of height {self._council.height} another block than any "
            "quorum that asked for this view can have obliged to"
        )

    def ask(self, id: str, view: int, claim: PreparedClaim | None) -> None:
        """A correct voter asks for a view. Raises Violation if one group alone has driven it there:
        view 1 needs only its own impatience, but it times a view, or joins others in one, only if
        more than f of every group have asked for at least the view before.
        """
        asking = [who for who, asked in self._asked.items() if asked >= view - 1] + self._liars
        for group in self._council.groups:
            present = sum(who in asking for who in group)
            if view > 1 and present <= (len(group) - 1) // 3:
                raise Violation(
                    f"{id} asks for view {view} of height {self._council.height}, where "
                    f"{present} of {len(group)} voters can have asked for view {view - 1}"
                )
        self._asked[id] = max(view, self._asked.get(id, 0))
        self._exactly.setdefault(view, {})[id] = claim
