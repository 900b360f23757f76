"""What a method is to those that dispatch and describe it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from node.methods.views import Params
from node.rpc_access import Role


@dataclass(frozen=True, slots=True)
class Method:
    """One method: `role` it needs, the types of its params and result, the coroutine that answers
    it.
    """

    name: str
    role: Role
    params: type[Params]
    result: type[Any]
    call: Callable[[Any, Any], Awaitable[Any]]
    """Called with the Service, or with the Subscriber where `by_websocket`."""
    by_get: bool = True
    """Whether GET /name?param=value answers it as well: only what changes nothing."""
    by_websocket: bool = False
    """Whether it belongs to one WebSocket."""

    @property
    def summary(self) -> str:
        """One sentence on what it does."""
        return (self.call.__doc__ or "").strip()
