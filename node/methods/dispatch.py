"""From a method's name and raw params to its encoded result: rate, role, params, call."""

import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
import msgspec.inspect

from node.jsonrpc import METHOD_CHARS_MAX, ErrorCode, RpcError
from node.limits import RateLimiter
from node.methods.events import Subscriber
from node.methods.method import Method
from node.methods.service import Service
from node.methods.table import METHODS
from node.methods.views import Params
from node.rpc_access import Caller

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


class Dispatcher:
    """Calls the methods of the table. Nothing of a call's content is ever logged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limiters: dict[str, RateLimiter] = {}
        self._decoders = {
            name: msgspec.json.Decoder(method.params) for name, method in METHODS.items()
        }
        self._lists = {name: _list_fields(method.params) for name, method in METHODS.items()}

    async def call(
        self,
        caller: Caller,
        name: str,
        raw: msgspec.Raw | None,
        now: int,
        subscriber: Subscriber | None = None,
    ) -> bytes:
        """Answer a call of JSON-RPC; raises RpcError."""
        method = self.admit(caller, name, now)
        try:
            if raw is None:
                raw = msgspec.Raw(b"{}")
            elif memoryview(raw)[0] == ord("["):
                raw = _by_name(method, raw)
            params = self._decoders[name].decode(raw)
        except RecursionError:
            raise RpcError(ErrorCode.INVALID_PARAMS, "The params are nested too deeply.") from None
        except ValueError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"The params are wrong: {error}.") from error
        return await self._run(method, params, subscriber)

    async def get(
        self, caller: Caller, name: str, query: Mapping[str, Sequence[str]], now: int
    ) -> bytes:
        """Answer GET /name?param=value with the values of each parameter; raises RpcError.

        Numbers are read from text, and a list is its parameter given several times.
        """
        method = self.admit(caller, name, now)
        if not method.by_get:
            raise RpcError(
                ErrorCode.UNSUPPORTED_REQUEST, f"{name} cannot be called by GET: use POST."
            )
        lists = self._lists[name]
        values = {n: v if n in lists or len(v) > 1 else v[0] for n, v in query.items()}
        try:
            params = msgspec.convert(values, method.params, strict=False)
        except ValueError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"The params are wrong: {error}.") from error
        return await self._run(method, params, None)

    def admit(self, caller: Caller, name: str, now: int) -> Method:
        """The method of this name, if it may be called now; raises RpcError."""
        limiter = self._limiters.get(caller.name)
        if limiter is None:
            limits = self._service.limits
            limiter = RateLimiter(limits.calls_per_second_max, limits.calls_burst_max, now)
            self._limiters[caller.name] = limiter
        if not limiter.take(now):
            raise RpcError(
                ErrorCode.BUSY,
                "Too many calls: wait a second, then put more transactions or ids into each.",
            )
        method = METHODS.get(name)
        if method is None:
            near = get_close_matches(name[:METHOD_CHARS_MAX], METHODS, n=1)
            advice = f"did you mean {near[0]}?" if near else "rpc.discover lists them all."
            raise RpcError(ErrorCode.METHOD_NOT_FOUND, f"There is no such method; {advice}")
        if not caller.may(method.role):
            raise RpcError(
                ErrorCode.FORBIDDEN,
                f"This token may not call {name}; it needs the role '{method.role.value}'.",
            )
        return method

    async def _run(self, method: Method, params: Any, subscriber: Subscriber | None) -> bytes:
        try:
            if method.by_websocket:
                if subscriber is None:
                    raise RpcError(
                        ErrorCode.UNSUPPORTED_REQUEST,
                        f"{method.name} can be called over a WebSocket only.",
                    )
                return _ENCODER.encode(await method.call(subscriber, params))
            return _ENCODER.encode(await method.call(self._service, params))
        except RpcError:
            raise
        except Exception as error:
            # The message could quote what was sent or stored; type and place are enough to find it.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._service.log.error(  # noqa: TRY400
                "rpc_call_failed",
                method=method.name,
                error=type(error).__name__,
                where=f"{frame.name}:{frame.lineno}",
            )
            raise RpcError(
                ErrorCode.INTERNAL_ERROR,
                "The node failed to answer; its log says where. `medpact verify` checks its disk.",
            ) from error


def _list_fields(params: type[Params]) -> tuple[str, ...]:
    """The names of the params that are lists."""
    found = msgspec.inspect.type_info(params)
    if not isinstance(found, msgspec.inspect.StructType):
        raise TypeError(f"{params} is no struct")
    kinds = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)
    return tuple(field.name for field in found.fields if isinstance(field.type, kinds))


def _by_name(method: Method, raw: msgspec.Raw) -> msgspec.Raw:
    """Params by position as params by name; raises ValueError."""
    values = _ARRAY.decode(raw)
    names = method.params.__struct_fields__
    if len(values) > len(names):
        raise ValueError(f"{method.name} takes at most {len(names)} params")
    members = (b'"%b":%b' % (n.encode(), bytes(v)) for n, v in zip(names, values, strict=False))
    return msgspec.Raw(b"{" + b",".join(members) + b"}")
