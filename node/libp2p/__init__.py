"""The transport over py-libp2p: the one package that imports libp2p or trio.

py-libp2p is a trio library, and runs here as a guest of the asyncio loop.

    transport.py  Libp2pTransport: what the node sees; start and stop
    gate.py       who comes in at the port
    links.py      one link per peer: dialling, hello, frames, heartbeats
    requests.py   requests to peers, and answers
    gossip.py     announcements
    yamux.py      streams on a connection; packets.py: its bytes; pace.py: what a peer may cost
    guest.py      trio beside asyncio on one thread
    host.py       the library, hardened

Importing it takes about a second: only the daemon does.
"""

from node.libp2p.transport import Libp2pTransport

__all__ = ["Libp2pTransport"]
