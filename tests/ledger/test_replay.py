"""The replay window against a model that forgets nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.replay import ReplayWindow


def id_of(number: int) -> bytes:
    """Ids that share places and hints with each other, and some that contain others shifted."""
    return (b"\0" * 30 + bytes([number]) * 2)[number % 3 :][:30].ljust(32, bytes([number]))


blocks = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9).map(id_of), max_size=3, unique=True),
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=3, unique=True),
    ),
    max_size=12,
)


@given(blocks, st.integers(1, 4), st.integers(1, 5))
def test_the_window_is_the_last_blocks(
    added: list[tuple[list[bytes], list[tuple[str, int]]]], size: int, first: int
) -> None:
    window = ReplayWindow(size)
    kept: list[tuple[list[bytes], list[tuple[str, int]]]] = []
    for height, (drawn_ids, drawn_sequences) in enumerate(added, start=first):
        # As in a ledger: what is in the window is not there a second time.
        ids = [id for id in drawn_ids if not window.seen(id)]
        sequences = [pair for pair in drawn_sequences if not window.used(*pair)]
        window.add(height, ids, sequences)
        kept = [*kept, (ids, sequences)][-size:]
        for number in range(10):
            assert window.seen(id_of(number)) == any(id_of(number) in k[0] for k in kept)
            for author in "ab":
                assert window.used(author, number) == any((author, number) in k[1] for k in kept)
        for author in "ab":
            used = [number for _, pairs in kept for name, number in pairs if name == author]
            assert window.highest_sequence(author) == max(used, default=None)


def test_heights_follow_each_other() -> None:
    window = ReplayWindow(3)
    window.add(5, [], [])
    for height in (5, 7, 4):
        with pytest.raises(ValueError, match="cannot follow block 5"):
            window.add(height, [], [])
    window.add(6, [], [])


def test_memory_is_bounded() -> None:
    window = ReplayWindow(2)
    for height in range(1, 100):
        window.add(height, [height.to_bytes(32, "big")], [("a", height)])
    assert not window.seen((97).to_bytes(32, "big"))
    assert window.seen((98).to_bytes(32, "big"))
    assert not window.used("a", 97)
    assert window.highest_sequence("b") is None
