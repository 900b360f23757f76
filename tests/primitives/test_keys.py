"""Ed25519: round trips, and the edge cases on which implementations differ."""

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from primitives.keys import (
    SIGNATURE_BYTES,
    PrivateKey,
    each_signature_once,
    is_public_key,
    verify,
)

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD_PRIME = 2**255 - 19
# Every encoding of the eight points of small order, canonical or not (y and y + p, either sign).
SMALL_ORDER = [
    (y | sign << 255).to_bytes(32, "little")
    for y in (
        0,
        1,
        FIELD_PRIME - 1,
        FIELD_PRIME,
        FIELD_PRIME + 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
    )
    for sign in (0, 1)
]
ORDER_EIGHT = SMALL_ORDER[10]
MESSAGE = b"message"


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=500), st.data())
def test_any_changed_bit_makes_the_signature_false(
    seed: bytes, message: bytes, data: st.DataObject
) -> None:
    key = PrivateKey(seed)
    signature = key.sign(message)
    assert verify(key.public, message, signature)
    assert not verify(key.public, message + b"\x00", signature)
    bit = data.draw(st.integers(0, 8 * SIGNATURE_BYTES - 1))
    changed = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(SIGNATURE_BYTES, "big")
    assert not verify(key.public, message, changed)
    assert not verify(PrivateKey(hashlib.sha256(seed).digest()).public, message, signature)


@settings(max_examples=50)
@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
def test_lengths_that_cannot_be_are_false_and_nothing_raises(
    public: bytes, message: bytes, signature: bytes
) -> None:
    assert verify(public, message, signature) is False


def test_lengths_one_off_are_false() -> None:
    key = PrivateKey(bytes(32))
    signature = key.sign(MESSAGE)
    assert not verify(key.public[:-1], MESSAGE, signature)
    assert not verify(key.public + b"\x00", MESSAGE, signature)
    assert not verify(key.public, MESSAGE, signature[:-1])
    assert not verify(key.public, MESSAGE, signature + b"\x00")
    # The last byte of a signature may not come from the message.
    assert not verify(key.public, signature[-1:] + MESSAGE, signature[:-1])


def test_a_signature_with_s_beyond_the_group_order_is_refused() -> None:
    key = PrivateKey(bytes(32))
    signature = key.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    assert not verify(key.public, MESSAGE, signature[:32] + s.to_bytes(32, "little"))


def secret_scalar(key: PrivateKey) -> int:
    scalar = int.from_bytes(hashlib.sha512(key.seed).digest()[:32], "little")
    return scalar & (2**254 - 8) | 2**254


def challenge(r: bytes, public: bytes) -> int:
    hashed = hashlib.sha512(r + public + MESSAGE).digest()
    return int.from_bytes(hashed, "little") % GROUP_ORDER


def signature_of(r: bytes, s: int) -> bytes:
    return r + (s % GROUP_ORDER).to_bytes(32, "little")


def times_base(scalar: int) -> bytes:
    return bindings.crypto_scalarmult_ed25519_base_noclamp(scalar.to_bytes(32, "little"))


def nonces_for(public: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (R, its nonce, the challenge); every eighth challenge cancels what has small order."""
    for nonce in range(1, 100):
        r = times_base(nonce)
        yield r, nonce, challenge(r, public)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_small_order_keys_are_refused_though_the_equation_holds(point: bytes) -> None:
    holding = [(r, nonce) for r, nonce, k in nonces_for(point) if k % 8 == 0]
    assert holding
    for r, nonce in holding:
        assert not verify(point, MESSAGE, signature_of(r, nonce))
    assert not is_public_key(point)


def test_the_neutral_r_is_refused_though_the_equation_holds() -> None:
    key = PrivateKey(bytes(32))
    neutral = SMALL_ORDER[2]
    s = challenge(neutral, key.public) * secret_scalar(key)
    assert not verify(key.public, MESSAGE, signature_of(neutral, s))


def test_the_equation_is_the_one_without_the_cofactor() -> None:
    key = PrivateKey(bytes(32))
    scalar = secret_scalar(key)
    r = times_base(12345)
    k = challenge(r, key.public)
    assert verify(key.public, MESSAGE, signature_of(r, 12345 + k * scalar))
    moved = bindings.crypto_core_ed25519_add(r, ORDER_EIGHT)
    k = challenge(moved, key.public)
    assert not verify(key.public, MESSAGE, signature_of(moved, 12345 + k * scalar))


def test_a_key_of_mixed_order_signs_only_where_its_small_part_cancels() -> None:
    key = PrivateKey(bytes(32))
    mixed = bindings.crypto_core_ed25519_add(key.public, ORDER_EIGHT)
    verdicts = set()
    for r, nonce, k in nonces_for(mixed):
        verdict = verify(mixed, MESSAGE, signature_of(r, nonce + k * secret_scalar(key)))
        assert verdict == (k % 8 == 0)
        verdicts.add(verdict)
    assert verdicts == {True, False}


def test_a_public_key_is_a_point_of_prime_order() -> None:
    key = PrivateKey(bytes(32))
    assert is_public_key(key.public)
    assert not is_public_key(bindings.crypto_core_ed25519_add(key.public, ORDER_EIGHT))
    assert not is_public_key(key.public[:-1])
    assert not is_public_key(b"")
    assert not is_public_key(b"\xff" * 32)


def test_the_seed_stays_out_of_sight() -> None:
    seed = bytes(range(32))
    key = PrivateKey(seed)
    assert key.seed == seed
    assert repr(key) == f"PrivateKey(public={key.public.hex()})"
    for shown in (repr(key), str(key), f"{key}"):
        assert seed.hex() not in shown
        assert repr(seed) not in shown
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_our_own_mistake(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        PrivateKey(bytes(length))


def test_many_nodes_in_one_process_calculate_each_check_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, other = PrivateKey(bytes(32)), PrivateKey(bytes([1]) * 32)
    before = key.sign(b"before")
    calculated: list[bytes] = []
    real = bindings.crypto_sign_open

    def counting(signed: bytes, public: bytes) -> bytes:
        calculated.append(signed)
        return real(signed, public)

    monkeypatch.setattr(bindings, "crypto_sign_open", counting)
    with each_signature_once():
        signature = key.sign(b"message")
        for _ in range(2):
            assert verify(key.public, b"message", signature)
            assert verify(key.public, b"before", before)
            assert not verify(other.public, b"message", signature)
            assert not verify(key.public, b"another message", signature)
            assert not verify(key.public, b"message", bytes(64))
            assert not verify(key.public, b"message", signature[1:])
        with each_signature_once():
            assert verify(key.public, b"message", signature)
    assert len(calculated) == 4
    assert verify(key.public, b"message", signature)
    assert len(calculated) == 5
