"""Who can be reached, and since when the others cannot."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import Committee
from consensus.links import Links
from tests.consensus.support import make_committee

COMMITTEE = make_committee(4, 2)
NAMES = ("a0", "r0", "r1", "r2", "r3", "zoe")


def absences(links: Links, names: Sequence[str] = NAMES) -> dict[str, int]:
    found = {name: links.absent_since(name) for name in names}
    return {name: since for name, since in found.items() if since is not None}


def test_whoever_is_not_there_at_first_is_absent_from_then_on() -> None:
    links = Links(("r0", "r1"), COMMITTEE, 100)
    assert absences(links) == {"r2": 100, "r3": 100}


def test_a_link_that_is_lost_twice_is_as_old_as_the_first_loss() -> None:
    links = Links(NAMES, COMMITTEE, 100)
    links.disconnect("r1", 200)
    links.disconnect("r1", 300)
    assert absences(links) == {"r1": 200}
    links.connect("r1")
    assert absences(links) == {}
    links.disconnect("r1", 400)
    assert absences(links) == {"r1": 400}


def test_nobody_waits_for_those_who_never_propose() -> None:
    links = Links(NAMES, COMMITTEE, 100)
    for name in ("a0", "zoe"):
        links.disconnect(name, 200)
    assert absences(links) == {}


def test_absences_outlast_heights_and_benches_and_end_with_the_vote() -> None:
    links = Links(("r0", "r2"), COMMITTEE, 100)
    benched = Committee(COMMITTEE.voters, ("r0", "r2", "r3"))
    links.start_height(benched, 200)
    links.start_height(COMMITTEE, 300)
    assert absences(links) == {"r1": 100, "r3": 100}
    links.start_height(make_committee(2), 400)
    assert absences(links) == {"r1": 100}
    links.start_height(COMMITTEE, 500)
    assert absences(links) == {"r1": 100, "r3": 500}, "who was no voter was not looked for"


def test_a_new_recorder_that_is_there_is_not_absent() -> None:
    links = Links((), make_committee(1), 100)
    links.connect("r1")
    links.start_height(make_committee(2), 200)
    assert absences(links) == {"r0": 100}


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans())))
def test_it_is_the_age_of_the_last_loss(changes: list[tuple[str, bool]]) -> None:
    links = Links((), COMMITTEE, 0)
    absent = {voter.id: 0 for voter in COMMITTEE.voters if voter.proposes}
    recorders = tuple(absent)
    for now, (name, connected) in enumerate(changes, 1):
        if connected:
            links.connect(name)
            absent.pop(name, None)
        else:
            links.disconnect(name, now)
            if name in recorders:
                absent.setdefault(name, now)
        assert absences(links) == absent
