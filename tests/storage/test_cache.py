"""The bounded memory of a cached reader."""

import pytest

from storage.cache import Cache


def test_the_least_recently_used_is_forgotten() -> None:
    cache = Cache(2)
    cache.put(b"a", b"1")
    cache.put(b"b", None)
    assert cache.get(b"a") == b"1"
    cache.put(b"c", b"3")
    assert len(cache) == 2
    with pytest.raises(KeyError):
        cache.get(b"b")
    assert (cache.get(b"a"), cache.get(b"c")) == (b"1", b"3")


def test_absence_is_remembered() -> None:
    cache = Cache(1)
    cache.put(b"a", None)
    assert cache.get(b"a") is None


def test_many_at_once_replace_what_was_known() -> None:
    cache = Cache(3)
    cache.put(b"a", None)
    cache.put_all({b"a": b"1", b"b": b"2"})
    assert (cache.get(b"a"), cache.get(b"b")) == (b"1", b"2")
    cache.put_all({bytes([n]): b"" for n in range(10)})
    assert len(cache) == 3


def test_no_room_remembers_nothing() -> None:
    cache = Cache(0)
    cache.put(b"a", b"1")
    assert len(cache) == 0
