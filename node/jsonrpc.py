"""JSON-RPC 2.0 exactly (jsonrpc.org/specification): one request, a batch, notifications; bytes in,
bytes out.

The request is split into raw members without building Python objects, so that hundreds of
transactions in one call are scanned once here and decoded once, typed, by the method. An id is
checked and then echoed byte for byte: a client gets back 1.0 or a 40-digit number as it wrote it.
Whatever the bytes, `answer` raises nothing.
"""

import enum
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

BATCH_CALLS_MAX: Final = 100
"""Calls in one batch."""
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Answers to one batch, together; the calls after that are refused."""
ID_BYTES_MAX: Final = 256
"""An id is echoed, so it is kept while the call runs."""
METHOD_CHARS_MAX: Final = 64


class ErrorCode(enum.IntEnum):
    """What went wrong. The first five are the specification's, the others ours; docs/rpc.md
    explains each.
    """

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    NOT_FOUND = -32001
    UNAUTHENTICATED = -32002
    FORBIDDEN = -32003
    TOO_LARGE = -32004
    BUSY = -32005
    STOPPING = -32006
    UNSUPPORTED_REQUEST = -32007
    TOO_SLOW = -32008


class RpcError(Exception):
    """A call that failed: the code says of which kind, the sentence why and what to do."""

    def __init__(self, code: ErrorCode | int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = int(code)
        self.sentence = sentence


Call = Callable[[str, msgspec.Raw | None], Awaitable[bytes]]
"""Run a method: its name and raw params (None where there are none) in, the encoded result out;
raises RpcError.
"""


class _Request(msgspec.Struct):
    """The members of a request, each still JSON; empty where absent. Members unknown to the
    specification are ignored.
    """

    jsonrpc: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


_REQUEST = msgspec.json.Decoder(_Request)
_BATCH = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)
_TEXT = msgspec.json.Decoder(str)
_ENCODER = msgspec.json.Encoder()
_NULL: Final = b"null"
_SPACE: Final = b" \t\r\n"
_NUMBER_START: Final = b"-0123456789"
_TOO_DEEP: Final = "The request is nested too deeply; no call needs more than a few levels."


def error_answer(code: ErrorCode | int, sentence: str, raw_id: bytes = _NULL) -> bytes:
    """A response that carries an error, for the request whose id is these bytes of JSON."""
    return b'{"jsonrpc":"2.0","error":{"code":%d,"message":%b},"id":%b}' % (
        int(code),
        _ENCODER.encode(sentence),
        raw_id,
    )


def result_answer(result: bytes, raw_id: bytes) -> bytes:
    """A response that carries an encoded result."""
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, raw_id)


async def answer(data: bytes, call: Call) -> bytes | None:
    """Answer one request or one batch; None where the specification wants no answer (notifications
    only).
    """
    try:
        if not data.isascii():
            data.decode()
        if not data.lstrip(_SPACE).startswith(b"["):
            return await _answer_one(data, call)
        calls = _BATCH.decode(data)
    except RecursionError:
        return error_answer(ErrorCode.PARSE_ERROR, _TOO_DEEP)
    except ValueError as error:
        return error_answer(ErrorCode.PARSE_ERROR, f"The request is not valid JSON: {error}.")
    if not calls:
        return error_answer(ErrorCode.INVALID_REQUEST, "The batch is empty; put a call in it.")
    if len(calls) > BATCH_CALLS_MAX:
        return error_answer(
            ErrorCode.TOO_LARGE,
            f"The batch has {len(calls)} calls; at most {BATCH_CALLS_MAX} are allowed: split it.",
        )
    return await _answer_batch(calls, call)


async def _answer_batch(calls: list[msgspec.Raw], call: Call) -> bytes | None:
    answers: list[bytes] = []
    size = 0
    for raw in calls:
        if size > ANSWER_BYTES_MAX:
            found = await _answer_one(raw, _refuse_more)
        else:
            found = await _answer_one(raw, call)
        if found is not None:
            answers.append(found)
            size += len(found)
    return b"[" + b",".join(answers) + b"]" if answers else None


async def _refuse_more(_method: str, _params: msgspec.Raw | None) -> bytes:
    raise RpcError(
        ErrorCode.TOO_LARGE,
        "The answers to this batch are too large together: send smaller batches.",
    )


async def _answer_one(data: bytes | msgspec.Raw, call: Call) -> bytes | None:
    """Answer one request; raises ValueError if it is not JSON, which cannot happen to a member of a
    batch.
    """
    try:
        request = _REQUEST.decode(data)
    except RecursionError:
        return error_answer(ErrorCode.PARSE_ERROR, _TOO_DEEP)
    except msgspec.ValidationError:
        # Another type than an object, but is it JSON to its end?
        _ANY.decode(data)
        return error_answer(ErrorCode.INVALID_REQUEST, "A request must be a JSON object.")
    raw_id = _id_of(request)
    try:
        method, params = _method_of(request, raw_id)
        result = await call(method, params)
    except RpcError as error:
        if error.code == ErrorCode.INVALID_REQUEST:
            return error_answer(error.code, error.sentence, raw_id or _NULL)
        return None if raw_id is None else error_answer(error.code, error.sentence, raw_id)
    return None if raw_id is None else result_answer(result, raw_id)


def _id_of(request: _Request) -> bytes | None:
    """The id as it was written; None if there is none, b"" if it is not acceptable."""
    raw = bytes(request.id)
    if not raw:
        return None
    if raw == _NULL:
        return raw
    if len(raw) > ID_BYTES_MAX:
        return b""
    if raw.startswith(b'"'):
        return raw if _text(raw) is not None else b""
    return raw if raw[0] in _NUMBER_START else b""


def _method_of(request: _Request, raw_id: bytes | None) -> tuple[str, msgspec.Raw | None]:
    problem = None
    method = _text(bytes(request.method))
    params = memoryview(request.params)
    if _text(bytes(request.jsonrpc)) != "2.0":
        problem = 'The request must have the member "jsonrpc" with the value "2.0".'
    elif raw_id == b"":
        problem = (
            f"The request's id must be text, a number or null, of at most {ID_BYTES_MAX} bytes."
        )
    elif method is None or len(method) > METHOD_CHARS_MAX:
        problem = 'The request must have the member "method" with the name of a method.'
    elif params and params[0] not in b"{[":
        problem = 'The request\'s member "params" must be an object or an array.'
    if problem is not None or method is None:
        raise RpcError(ErrorCode.INVALID_REQUEST, problem or "")
    return method, request.params if params else None


def _text(raw: bytes) -> str | None:
    if not raw.startswith(b'"'):
        return None
    try:
        return _TEXT.decode(raw)
    except ValueError:
        return None
