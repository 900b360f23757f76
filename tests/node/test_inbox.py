"""Queues that take turns: order within a source, turns among sources, bounds."""

from hypothesis import given
from hypothesis import strategies as st

from node.inbox import Inbox


def everyone(source: str) -> bool:
    return True


def drain(inbox: Inbox[int]) -> list[tuple[str, int]]:
    found = []
    while (entry := inbox.take(everyone)) is not None:
        found.append(entry)
    return found


def test_sources_take_turns() -> None:
    inbox: Inbox[int] = Inbox(100, 100)
    for source, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)):
        assert inbox.put(source, item, 1)
    assert len(inbox) == 6
    found = [("a", 1), ("b", 4), ("c", 5), ("a", 2), ("b", 6), ("a", 3)]
    assert drain(inbox) == found
    assert len(inbox) == 0


def test_who_may_not_go_keeps_its_place() -> None:
    inbox: Inbox[int] = Inbox(100, 100)
    for source, item in (("a", 1), ("a", 2), ("b", 3), ("b", 4)):
        inbox.put(source, item, 1)
    assert inbox.take(lambda source: source != "a") == ("b", 3)
    assert inbox.take(lambda source: False) is None
    assert drain(inbox) == [("a", 1), ("b", 4), ("a", 2)]


def test_a_source_is_bounded_in_items_and_bytes_alone() -> None:
    inbox: Inbox[int] = Inbox(2, 10)
    assert inbox.put("a", 1, 0)
    assert inbox.put("a", 2, 0)
    assert not inbox.put("a", 3, 0)
    assert not inbox.put("b", 4, 11)
    assert inbox.put("b", 5, 10)
    assert not inbox.put("b", 6, 1)
    inbox.force("a", 7)
    inbox.force("b", 8, 5)
    assert inbox.waiting("a") == (3, 0)
    assert inbox.waiting("b") == (2, 15)
    assert inbox.waiting("c") == (0, 0)
    assert drain(inbox) == [("a", 1), ("b", 5), ("a", 2), ("b", 8), ("a", 7)]
    assert inbox.waiting("b") == (0, 0)


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_all_come_out_in_the_order_of_their_source_and_nobody_waits_for_two(given: str) -> None:
    inbox: Inbox[int] = Inbox(1_000, 1_000)
    for number, source in enumerate(given):
        inbox.put(source, number, 1)
    found = drain(inbox)
    assert sorted(number for _, number in found) == list(range(len(given)))
    for source in "abc":
        own = [number for name, number in found if name == source]
        assert own == sorted(own)
    for place, (source, _) in enumerate(found[1:], 1):
        # Whoever goes twice in a row is the last that has anything.
        if found[place - 1][0] == source:
            assert all(name == source for name, _ in found[place:])
