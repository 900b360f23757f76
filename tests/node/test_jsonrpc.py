"""node/jsonrpc.py against the specification: its examples, and a model for hypothesis."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.jsonrpc import BATCH_CALLS_MAX, ID_BYTES_MAX, ErrorCode, RpcError, answer


async def echo(method: str, params: msgspec.Raw | None) -> bytes:
    """Returns its params; methods named fail* fail."""
    if method.startswith("fail"):
        raise RpcError(ErrorCode.NOT_FOUND, "no")
    return bytes(params) if params is not None else b"[]"


def ask(data: bytes | str | object) -> Any:
    """The parsed answer to bytes, JSON text or a value; None for no answer."""
    if isinstance(data, str):
        data = data.encode()
    elif not isinstance(data, bytes):
        data = json.dumps(data).encode()
    found = asyncio.run(answer(data, echo))
    return None if found is None else json.loads(found)


def request(**members: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "method": "m", **members}


def code_of(answered: Any) -> int:
    assert answered["jsonrpc"] == "2.0"
    assert "result" not in answered
    assert answered["error"]["message"]
    return int(answered["error"]["code"])


def test_a_call_is_answered_with_its_result() -> None:
    asked = request(params=[1, 2], id=7)
    assert ask(asked) == {"jsonrpc": "2.0", "result": [1, 2], "id": 7}


def test_a_failed_call_is_answered_with_its_error() -> None:
    answered = ask(request(method="fail", id="x"))
    assert code_of(answered) == ErrorCode.NOT_FOUND
    assert answered["id"] == "x"


@pytest.mark.parametrize("method", ["m", "fail"])
def test_a_notification_is_not_answered(method: str) -> None:
    assert ask(request(method=method)) is None


@pytest.mark.parametrize(
    "text",
    ["1", "1.0", "-0", "1e3", "9" * 200, '"a\\u0041"', '""', "null", "12345678901234567890"],
)
def test_an_id_is_echoed_as_it_was_written(text: str) -> None:
    found = asyncio.run(answer(f'{{"jsonrpc":"2.0","method":"m","id":{text}}}'.encode(), echo))
    assert found is not None
    assert found.endswith(f'"id":{text}}}'.encode())


# The examples of the specification, section 7, whose answers are errors.
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', ErrorCode.PARSE_ERROR),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', ErrorCode.INVALID_REQUEST),
        ('[{"jsonrpc": "2.0", "method": "sum", "id": "1"},{"jsonrpc"', ErrorCode.PARSE_ERROR),
        ("[]", ErrorCode.INVALID_REQUEST),
    ],
)
def test_specification_examples_of_errors(text: str, code: int) -> None:
    answered = ask(text)
    assert code_of(answered) == code
    assert answered["id"] is None


def test_specification_example_of_an_invalid_batch() -> None:
    answered = ask("[1,2,3]")
    assert [code_of(one) for one in answered] == [ErrorCode.INVALID_REQUEST] * 3
    assert [one["id"] for one in answered] == [None] * 3


def test_specification_example_of_a_batch() -> None:
    answered = ask(
        """[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "fail.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"""
    )
    assert [one["id"] for one in answered] == ["1", "2", None, "5", "9"]
    assert [one.get("result") for one in answered] == [[1, 2, 4], [42, 23], None, None, []]
    assert code_of(answered[2]) == ErrorCode.INVALID_REQUEST


def test_a_batch_of_notifications_is_not_answered() -> None:
    assert ask([request(), request(method="fail")]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b"{",
        b"nonsense",
        b"NaN",
        b'{"jsonrpc":"2.0","method":"m","id":NaN}',
        b'{"jsonrpc":"2.0","method":"m","id":01}',
        b'{"jsonrpc":"2.0","method":"m","id":1} x',
        b"1 x",
        b"\xff\xfe",
        b'{"jsonrpc":"2.0","method":"m","id":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"jsonrpc":"2.0","method":"m","id":1,"params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'[{"jsonrpc":"2.0","method":"m","id":1,"params":' + b"[" * 50_000 + b"]" * 50_000 + b"}]",
    ],
)
def test_what_is_not_json_or_nested_too_deeply_is_a_parse_error(data: bytes) -> None:
    answered = ask(data)
    assert code_of(answered) == ErrorCode.PARSE_ERROR
    assert answered["id"] is None


def test_every_depth_of_nesting_is_answered() -> None:
    for depth in (*range(1, 40), *range(900, 1100), 5_000):
        params = b"[" * depth + b"]" * depth
        one = b'{"jsonrpc":"2.0","method":"m","id":1,"params":%b}' % params
        for data in (one, b"[" + one + b"]"):
            found = asyncio.run(answer(data, echo))
            assert found is not None
            assert (params in found) != (b"-32700" in found)


@pytest.mark.parametrize(
    "members",
    [
        {"jsonrpc": "1.0"},
        {"jsonrpc": 2.0},
        {"jsonrpc": None},
        {"method": None},
        {"method": 5},
        {"method": "x" * 65},
        {"params": 5},
        {"params": "text"},
        {"params": None},
    ],
)
def test_an_invalid_request_is_answered_under_its_id(members: dict[str, object]) -> None:
    answered = ask(request(id=3) | members)
    assert code_of(answered) == ErrorCode.INVALID_REQUEST
    assert answered["id"] == 3


@pytest.mark.parametrize("id", [True, [1], {"a": 1}, "x" * ID_BYTES_MAX])
def test_an_unacceptable_id_is_not_echoed(id: object) -> None:
    answered = ask(request(id=id))
    assert code_of(answered) == ErrorCode.INVALID_REQUEST
    assert answered["id"] is None


def test_an_id_that_is_no_text_is_refused() -> None:
    answered = ask(b'{"jsonrpc":"2.0","method":"m","id":"\\ud800"}')
    assert code_of(answered) in (ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST)
    assert answered["id"] is None


def test_a_batch_is_limited() -> None:
    full = [request(id=n) for n in range(BATCH_CALLS_MAX)]
    assert [one["id"] for one in ask(full)] == list(range(BATCH_CALLS_MAX))
    assert code_of(ask([*full, request(id=-1)])) == ErrorCode.TOO_LARGE


def test_answers_to_a_batch_are_limited() -> None:
    async def large(method: str, params: msgspec.Raw | None) -> bytes:
        return b'"%b"' % (b"x" * 17_000_000)

    found = asyncio.run(answer(json.dumps([request(id=n) for n in range(4)]).encode(), large))
    answered = json.loads(found or b"")
    assert ["result" in one for one in answered] == [True, True, False, False]
    assert code_of(answered[2]) == ErrorCode.TOO_LARGE


# ---- a model ------------------------------------------------------------------------------------

ABSENT = object()
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "method": st.sampled_from(["m", "fail"]) | json_values,
        "params": st.lists(json_values, max_size=2)
        | st.dictionaries(st.text(), json_values, max_size=2)
        | json_values,
        "id": st.integers() | st.text(max_size=8) | st.none() | json_values,
        "extra": json_values,
    },
)


def expected(value: Any) -> Any:
    """What the specification demands: None, or (id, result or error code)."""
    if not isinstance(value, dict):
        return None, ErrorCode.INVALID_REQUEST
    id = value.get("id", ABSENT)
    known = (
        id is ABSENT
        or id is None
        or (isinstance(id, int | float | str) and id is not True and id is not False)
    )
    known = known and len(json.dumps(id) if id is not ABSENT else "") <= ID_BYTES_MAX
    method, params = value.get("method"), value.get("params", [])
    valid = (
        known
        and value.get("jsonrpc") == "2.0"
        and isinstance(method, str)
        and len(method) <= 64
        and isinstance(params, list | dict)
    )
    if not valid:
        return (id if known and id is not ABSENT else None), ErrorCode.INVALID_REQUEST
    if id is ABSENT:
        return None
    return id, ErrorCode.NOT_FOUND if str(method).startswith("fail") else params


def seen(answered: Any) -> Any:
    if answered is None:
        return None
    assert set(answered) in ({"jsonrpc", "result", "id"}, {"jsonrpc", "error", "id"})
    if "error" in answered:
        return answered["id"], code_of(answered)
    return answered["id"], answered["result"]


@given(requests | json_values.filter(lambda value: not isinstance(value, list)))
def test_one_request_is_answered_as_the_model_says(value: Any) -> None:
    assert seen(ask(json.dumps(value))) == expected(value)


@given(st.lists(requests | json_values, min_size=1, max_size=5))
def test_a_batch_is_answered_as_the_model_says(values: list[Any]) -> None:
    wanted = [each for each in map(expected, values) if each is not None]
    answered = ask(json.dumps(values))
    assert answered is None if not wanted else [seen(one) for one in answered] == wanted


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.tuples(requests, st.integers(0, 60), st.binary(max_size=3)).map(
        lambda t: (raw := json.dumps(t[0]).encode())[: t[1]] + t[2] + raw[t[1] :]
    )
)
def test_no_bytes_raise_and_only_json_is_accepted(data: bytes) -> None:
    answered = ask(data)
    try:
        json.loads(data.decode(), parse_constant=lambda name: pytest.fail("not JSON"))
    except (ValueError, pytest.fail.Exception):
        assert code_of(answered) == ErrorCode.PARSE_ERROR
