"""The composition root: every part of a node is made here, started in order, stopped in reverse."""

import asyncio
import contextlib
import gc
import signal
import sys
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
import uvloop

from ledger.genesis import Genesis
from ledger.state import StateError
from ledger.store import LedgerReader
from ledger.transactions import BatchError, CheckedBatch
from node.admission import KeyReplaced, admitted_members
from node.backend import NodeBackend, software_version
from node.config import Config
from node.core import Core
from node.driver import Driver, monotonic_ms, wall_ms
from node.home import StartError, printable, reason
from node.intake import Rules, check_raw_batch
from node.keylock import key_held
from node.libp2p import Libp2pTransport
from node.logs import configure
from node.rpc import RpcServer, RpcSettings
from node.settings import CoreSettings
from node.startup import settled_key
from node.transport import KIB, Member, TransportError, TransportLimits
from node.wire import CONSENSUS_BYTES_MAX
from primitives.keys import PrivateKey
from storage.checked import CheckedReader
from storage.database import Database
from storage.errors import DamagedError, MismatchError, StorageError, derived_path
from storage.redo import Tell, redo

log = structlog.get_logger()

REDO_TOLD_MS = 2_000
SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter when others want it. A check gives it up for each
signature, and would wait for 5 ms, Python's default, to have it back while the loop executes."""
COLLECTED_EVERY = (10_000, 20, 20)
"""Objects made before the collector of garbage looks at the young ones, and so on; see
`spare_collector`. With Python's 700 it looked at the lists of one block again and again."""
EXIT_STOPPED = 0
EXIT_START = 4
EXIT_STORAGE = 5
EXIT_NETWORK = 6
EXIT_KEY_REPLACED = 8
"""The ledger lists another key for this node; at the next start it takes the one that waits."""
EXIT_BROKEN = 70
"""An invariant is broken: what this node did or holds contradicts what may be."""


@dataclass(frozen=True, slots=True)
class Past:
    """What whoever starts a node knows of its past, beside what its files tell."""

    known: bool = False
    """It was started before, with this home."""
    override_restored: bool = False
    """It has signed nothing that its database does not know, even if that is a restored backup."""


def run(config: Config, genesis: Genesis, key: PrivateKey, past: Past) -> int:
    """Run the node until SIGTERM or Ctrl-C; its exit code. The caller has locked the home."""
    configure(config.log_level, config.log_format)
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvloop.run(_run(config, genesis, key, past))


async def _run(config: Config, genesis: Genesis, key: PrivateKey, past: Past) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            await _compose(stack, config, genesis, key, past, stop)
    except (TransportError, MismatchError, StartError) as error:
        return _failed("start_failed", error, EXIT_START)
    except KeyReplaced as error:
        return _failed("key_replaced", error, EXIT_KEY_REPLACED)
    except StorageError as error:
        return _failed("storage_failed", error, EXIT_STORAGE)
    except StateError as error:
        what = str(error).removesuffix(".")
        state = derived_path(config.home.database)
        damage = DamagedError(state, what[:1].lower() + what[1:])
        return _failed("storage_failed", damage, EXIT_STORAGE)
    except Stopped:
        log.info("stopped")
        return EXIT_STOPPED
    except NetworkDied as error:
        return _failed("network_failed", error, EXIT_NETWORK)
    except (RuntimeError, ValueError) as error:
        log.critical("broken", trace=traceback.format_exc())
        return _failed("stopped_by_itself", error, EXIT_BROKEN)
    log.info("stopped")
    return EXIT_STOPPED


def _failed(event: str, error: Exception, code: int) -> int:
    """Tell both the log and whoever started the node why it ends."""
    log.critical(event, reason=str(error))
    with contextlib.suppress(OSError):
        # A trial network sends this to the log file, whose disk may be the one that is full.
        sys.stderr.write(f"Error: {error}\n")
    return code


class NetworkDied(Exception):
    """The peer-to-peer layer ended by itself; the node must be started again."""


async def _compose(
    stack: AsyncExitStack,
    config: Config,
    genesis: Genesis,
    key: PrivateKey,
    past: Past,
    stop: asyncio.Event,
) -> None:
    stood = await stand_up(stack, config, genesis, key, past, Redone(stop))
    core, database, reader, key = stood.core, stood.database, stood.reader, stood.key
    bootstrap = [
        Member(peer.id, bytes.fromhex(peer.key), peer.address)
        for peer in config.network.bootstrap_peers
    ]
    admitted = admitted_members(core.chain.admitted, bootstrap, reader)
    transport = _transport(config, core, key, admitted)
    driver = Driver(core, database, reader, transport, bootstrap)
    stack.callback(driver.close)
    effects = core.start(stood.pending, monotonic_ms(), wall_ms())
    await transport.start(driver)
    stack.push_async_callback(transport.stop)
    settings = RpcSettings(
        config.rpc_socket, config.rpc_tcp, config.home.rpc_token, config.rpc_tokens
    )
    rpc = RpcServer(NodeBackend(driver, transport, config, database.recent), settings)
    await rpc.start()
    stack.push_async_callback(rpc.stop)
    spare_collector()
    log.info("started", institution=config.institution, height=core.head.height)
    await _until_stopped(driver.run(effects), transport.failed, stop)


def spare_collector() -> None:
    """Have the collector of garbage leave alone what a start has made, which lives as long as the
    node: to walk it takes 50 to 100 ms, in which the node would stand still. And have it begin
    less often: it then takes 0.4 us a transaction at saturation instead of 1.1.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_EVERY)


class Stopped(Exception):
    """The node was told to stop before it had begun."""


class Redone:
    """Tells every few seconds how far a start has come that executes blocks again."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._told_ms = monotonic_ms()

    def __call__(self, height: int, head: int) -> None:
        """Raises Stopped."""
        if self._stop.is_set():
            raise Stopped
        if monotonic_ms() >= self._told_ms + REDO_TOLD_MS:
            self._told_ms = monotonic_ms()
            log.info("executing_again", height=height, head=head)


@dataclass(frozen=True, slots=True)
class Stood:
    """A node that stands on its files, and has not begun to do anything."""

    core: Core
    database: Database
    reader: CheckedReader
    key: PrivateKey
    pending: list[CheckedBatch]


async def stand_up(
    stack: AsyncExitStack,
    config: Config,
    genesis: Genesis,
    key: PrivateKey,
    past: Past,
    tell: Tell,
) -> Stood:
    """Open the files of a node, make what is missing, and take up what they hold.

    `tell` hears how far blocks have been executed again. Raises StorageError and StateError for
    what cannot be relied on, and what `tell` raises.
    """
    try:
        config.home.data.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The directory {printable(config.home.data)} cannot be made: {reason(error)}. Free or "
            "remount its disk, or let the node's user write there, then start the node again."
        ) from error
    database = await Database.open(config.home.database, genesis.chain_id)
    stack.push_async_callback(database.close)
    boot = await database.boot(config.home.boot_counter, known=past.known)
    reader = CheckedReader(config.home.database, database.recent, cached=True)
    stack.callback(reader.close)
    replay = await redo(database, reader, genesis, tell)
    key = _settle_key(stack, config, key, reader)
    core = Core(
        genesis,
        config.institution,
        key,
        reader,
        CoreSettings(),
        replay,
        boots=boot.boots,
        restored=boot.restored and not past.override_restored,
        now=monotonic_ms(),
    )
    return Stood(core, database, reader, key, _pending(core, reader))


def _pending(core: Core, reader: LedgerReader) -> list[CheckedBatch]:
    """The undecided batches of the store that their authors' present keys have signed.

    Others may be there: a key can have been rotated, a member have left, since they came. The
    transactions in them were checked before they were stored.
    """
    keys = {member.id: member.key for member in core.members.values()}
    rules = Rules(core.genesis.chain_id, core.genesis.limits, keys)
    found: list[CheckedBatch] = []
    for raw in reader.pending_batches():
        try:
            found.append(check_raw_batch(raw, rules, signatures=False))
        except BatchError as error:
            log.warning("batch_dropped", reason=str(error))
    return found


def _settle_key(
    stack: AsyncExitStack, config: Config, key: PrivateKey, reader: LedgerReader
) -> PrivateKey:
    """The key that the ledger lists, if it waits beside the present one; held like that."""
    settled = settled_key(config, reader, key)
    if settled.public != key.public:
        stack.enter_context(key_held(settled.public))
        log.info("key_replaced", key=settled.public.hex())
    return settled


def _transport(
    config: Config, core: Core, key: PrivateKey, admitted: list[Member]
) -> Libp2pTransport:
    listed = core.members.get(config.institution)
    address = config.listen or (listed.address if listed else "")
    if not address:
        raise TransportError(
            f"{config.institution} is not a member of this ledger: add the key 'listen' with the "
            f"address of its node to {printable(config.home.config_file)}."
        )
    own = Member(config.institution, key.public, listed.address if listed else address)
    # A batch is the longest message that this ledger allows; its frame adds a few bytes.
    longest = max(core.genesis.limits.batch_bytes_max, CONSENSUS_BYTES_MAX) + KIB
    limits = TransportLimits(
        message_bytes_max=longest,
        frame_bytes_max=longest + 64 * KIB,
        dial_timeout_ms=config.network.dial_timeout_ms,
        redial_ms_max=config.network.redial_ms_max,
        queue_bytes_max=config.network.queue_bytes_max,
    )
    others = [member for member in admitted if member.id != own.id]
    chain_id = core.genesis.chain_id
    return Libp2pTransport(
        key.seed, own, [own, *others], chain_id, address, limits, software_version()
    )


async def _until_stopped(
    turning: Coroutine[None, None, None], network: asyncio.Future[None], stop: asyncio.Event
) -> None:
    """Run until asked to stop; raise what ended the driver or the network before that."""
    driving = asyncio.ensure_future(turning)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((driving, stopping, network), return_when=asyncio.FIRST_COMPLETED)
        if driving.done():
            await driving
        if network.done() and not network.cancelled():
            raise NetworkDied(str(network.exception()))
    finally:
        for task in (driving, stopping):
            task.cancel()
        await asyncio.gather(driving, stopping, return_exceptions=True)
