"""What this node has seen of the other members: links, queues, faults."""

from dataclasses import dataclass

from node.methods.backend import PeerStatus
from node.methods.reads import NoParams
from node.methods.service import Service


@dataclass(frozen=True, slots=True)
class PeersView:
    """All other members, by id."""

    peers: tuple[PeerStatus, ...]


async def node_peers(service: Service, _: NoParams) -> PeersView:
    """The other members as this node has met them: links, what waits, and faults by reason."""
    return PeersView(service.backend.peers())
