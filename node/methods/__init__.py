"""The methods of the local RPC, and what they need from the node (docs/rpc.md)."""

from node.methods.backend import Backend, NodeStatus, Reader, SubmitOutcome
from node.methods.service import Service

__all__ = ["Backend", "NodeStatus", "Reader", "Service", "SubmitOutcome"]
