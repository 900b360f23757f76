"""Numbers of paths: one for each, in their order."""

from hypothesis import given
from hypothesis import strategies as st

from storage.places import NIBBLES_MAX, path_at, place

paths = st.lists(st.integers(0, 15), max_size=NIBBLES_MAX).map(bytes)


@given(paths, paths)
def test_numbers_lie_as_paths_do(one: bytes, other: bytes) -> None:
    assert path_at(place(one)) == one
    assert (place(one) < place(other)) == (one < other)
    assert 0 <= place(one) < 1 << 63


@given(
    st.integers(-(1 << 63), (1 << 63) - 1) | paths.map(place).map(lambda number: number ^ 1 << 5)
)
def test_no_path_has_another_number(number: int) -> None:
    path = path_at(number)
    assert path is None or place(path) == number
