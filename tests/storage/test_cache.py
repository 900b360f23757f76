"""The bounded memory of a cached reader."""

from hypothesis import given
from hypothesis import strategies as st

from storage.cache import NIBBLES_KEPT, UNKNOWN, Cache, NodeCache


def test_what_was_not_used_for_long_is_forgotten() -> None:
    cache = Cache(4)
    for key in (b"a", b"b", b"c"):
        cache.put(key, key)
    # All three are old now. What is used is young again.
    assert cache.get(b"a") == b"a"
    cache.put(b"d", None)
    cache.put(b"e", b"5")
    assert len(cache) == 3
    assert (cache.get(b"b"), cache.get(b"c")) == (UNKNOWN, UNKNOWN)
    assert (cache.get(b"a"), cache.get(b"d"), cache.get(b"e")) == (b"a", None, b"5")


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.integers(0, 8))
def test_it_never_holds_what_was_and_never_too_much(
    steps: list[tuple[int, bool]], entries_max: int
) -> None:
    cache, model = Cache(entries_max), dict[bytes, bytes]()
    for number, (name, put) in enumerate(steps):
        key = bytes([name])
        if put:
            model[key] = bytes([number % 256])
            cache.put(key, model[key])
        found = cache.get(key)
        assert found == model.get(key) or (found is UNKNOWN and (not put or entries_max < 2))
        assert len(cache) <= entries_max + 1


def test_absence_is_remembered() -> None:
    cache = Cache(1)
    cache.put(b"a", None)
    assert cache.get(b"a") is None


def test_many_at_once_replace_what_was_known() -> None:
    cache = Cache(8)
    cache.put(b"a", None)
    cache.put_all({b"a": b"1", b"b": b"2"})
    assert (cache.get(b"a"), cache.get(b"b")) == (b"1", b"2")
    # More than there is room for.
    cache.put_all({bytes([n]): b"" for n in range(10)})
    assert len(cache) == 12
    assert (cache.get(bytes([0])), cache.get(bytes([9]))) == (b"", b"")


def test_no_room_remembers_one() -> None:
    cache = Cache(0)
    cache.put(b"a", b"1")
    cache.put(b"b", b"1")
    assert len(cache) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans())), st.integers(0, 8))
def test_upper_nodes_are_never_forgotten_and_others_as_ever(
    steps: list[tuple[int, int, bool]], entries_max: int
) -> None:
    cache, model = NodeCache(entries_max), dict[bytes, bytes]()
    for number, (length, nibble, together) in enumerate(steps):
        path, node = bytes([nibble]) * length, bytes([number % 256])
        model[path] = node
        if together:
            cache.put_all({path: node})
        else:
            cache.put(path, node)
        assert cache.get(path) in ([node] if entries_max > 1 else [node, UNKNOWN])
        for known, held in model.items():
            found = cache.get(known)
            assert found == held or (found is UNKNOWN and len(known) > NIBBLES_KEPT)
        below = {path for part in cache.parts() for path in part if len(path) > NIBBLES_KEPT}
        assert len(below) <= entries_max + 1
        assert len(cache) == len(below) + sum(len(path) <= NIBBLES_KEPT for path in model)
