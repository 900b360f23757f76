"""Who votes, how many are enough, and whose turn it is (docs/ARCHITECTURE.md section 3).

A quorum is counted inside every voting class. For a class of n members, f = (n - 1) // 3 may be
Byzantine and q = (n + f) // 2 + 1 are needed: two quorums then share more than f members of the
class, for every n, which the literal 2f + 1 does not give when n != 3f + 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from primitives.codec import Canonical, InstitutionId, PublicKey, encode
from primitives.hashing import digest

QuorumRule = Literal["per_class", "pooled", "flat"]
POOL = "all"
"""The single group of the `pooled` and `flat` rules."""
VOTERS_MAX = 256
"""Voters in one committee; bounds every certificate."""


class Voter(Canonical, frozen=True):
    """A member of the committee; its `group` is its class, or POOL where classes do not count."""

    id: InstitutionId
    key: PublicKey
    group: str
    proposes: bool


def faulty_max(n: int) -> int:
    """f: the largest number of Byzantine members that a group of n tolerates."""
    return (n - 1) // 3


def quorum_size(n: int) -> int:
    """q: the smallest number of members of a group of n whose every two choices share over f."""
    return (n + faulty_max(n)) // 2 + 1


@dataclass(frozen=True)
class Committee:
    """The voters of one height, sorted by id, and the recorders whose turn may come (the roster).

    Raises ValueError if they are not that: the ledger never builds such a committee.
    """

    voters: tuple[Voter, ...]
    roster: tuple[str, ...]

    def __post_init__(self) -> None:
        ids = [voter.id for voter in self.voters]
        if ids != sorted(set(ids)):
            raise ValueError("committee voters must be sorted by id, each once")
        if len(ids) > VOTERS_MAX:
            raise ValueError(f"a committee has at most {VOTERS_MAX} voters, not {len(ids)}")
        if not self.roster:
            raise ValueError("a committee needs at least one recorder in its roster")
        if any(name not in self.by_id or not self.by_id[name].proposes for name in self.roster):
            raise ValueError("only recorders of the committee may be in its roster")

    @cached_property
    def by_id(self) -> dict[str, Voter]:
        """Voters by institution id."""
        return {voter.id: voter for voter in self.voters}

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """n of every group, in order of the group's name."""
        names = sorted(voter.group for voter in self.voters)
        return {name: names.count(name) for name in names}

    @cached_property
    def quorum_sizes(self) -> dict[str, int]:
        """q of every group, in order of the group's name."""
        return {name: quorum_size(n) for name, n in self.group_sizes.items()}

    @cached_property
    def hash(self) -> bytes:
        """What a header commits to as the next committee: members, groups, keys; not the roster."""
        return digest("committee", encode(self.voters))

    def primary(self, height: int, view: int) -> str:
        """The recorder whose turn it is."""
        return self.roster[(height + view) % len(self.roster)]

    def _count(self, ids: Iterable[str]) -> dict[str, int]:
        counts = dict.fromkeys(self.group_sizes, 0)
        for name in dict.fromkeys(ids):
            voter = self.by_id.get(name)
            if voter is not None:
                counts[voter.group] += 1
        return counts

    def is_quorum(self, ids: Iterable[str]) -> bool:
        """Whether these voters hold q of every group; repeated and unknown ids do not count."""
        counts = self._count(ids)
        return all(counts[name] >= needed for name, needed in self.quorum_sizes.items())

    def exceeds_faulty(self, ids: Iterable[str]) -> bool:
        """Whether these voters are more than f of every group: each has an honest one here."""
        counts = self._count(ids)
        return all(counts[name] > faulty_max(n) for name, n in self.group_sizes.items())
