"""A script language for rare cases: several replicas, every message and minute by hand.

A scenario file is steps separated by empty lines; a step is commands, a line of dashes, and what
the replicas then do. After a deliberate change, `python -m tests.consensus.scenario` writes the
expectations anew; read the difference before you keep it. Commands:

    network recorders=4 auditors=3 [pooled=1]    a new network, all nodes idle
    submit NODES TRANSACTION                     a client hands these nodes a transaction
    deliver [to=NODES] [from=NODES] [phase=NAMES] [new=0]
                                                 deliver such messages until none is left; with
                                                 new=0 only those that are under way now
    lose [to=NODES] [from=NODES] [phase=NAMES]   drop such messages that are under way
    pass MILLISECONDS                            time passes; alarms ring in their order
    crash NODE | restart NODE
    connect NODES PEERS | disconnect NODES PEERS their links; at first, and after a restart, all are
                                                 connected
    say NODE KIND to=NODES height=H view=V [block=NAME] [prepared=NAMES]
                                                 a voter lies: KIND is prepare, commit,
                                                 view-change or pre-prepare; `prepared` names
                                                 the signers of a certificate for the block
    suspect NODE                                 its node suspects the primary of censorship
    clock NODE wrong                             its wall clock refuses fresh blocks
    show                                         where everyone is

NODES is a comma list or `all`. Blocks are named A, B, C in the order in which they appear.
"""

import string
from collections.abc import Callable, Iterator
from pathlib import Path

from consensus.events import (
    Accuse,
    Blame,
    Broadcast,
    Connected,
    Decide,
    Disconnected,
    Effect,
    Event,
    Expired,
    Fetch,
    Fetched,
    PassOn,
    Persist,
    Received,
    Send,
    Serve,
    Suspect,
    WantBlock,
)
from consensus.evidence import Statement, ViewChangeStatement
from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    phase_of,
)
from consensus.settings import ConsensusSettings
from primitives.block import Block
from tests.consensus.node import Node
from tests.consensus.support import by, certify, make_block, make_committee

DIRECTORY = Path(__file__).parent / "scenarios"
SETTINGS = ConsensusSettings(
    view_timeout_ms_min=1_000, view_timeout_ms_initial=1_000, view_timeout_ms_max=3_000
)


class Network:
    """The world of one scenario: nothing moves unless the script says so."""

    def __init__(self, **shape: int) -> None:
        self.now = 0
        self.committee = make_committee(
            shape["recorders"], shape.get("auditors", 0), pooled=bool(shape.get("pooled", 0))
        )
        self.output: list[str] = []
        self.under_way: list[tuple[str, str, Signed]] = []
        self.answers: list[Callable[[], None]] = []
        self.names: dict[bytes, str] = {}
        self.blocks: dict[str, Block] = {}
        self.persisted: dict[bytes, None] = {}
        self.nodes = {
            v.id: Node(self, v.id, self.committee, SETTINGS) for v in self.committee.voters
        }

    # ---- the world of the nodes --------------------------------------------------------------

    def connected(self, node: Node) -> list[str]:
        return [voter.id for voter in self.committee.voters if voter.id != node.id]

    def send(self, node: Node, to: str, signed: Signed) -> None:
        self.under_way.append((node.id, to, signed))

    def announce(self, node: Node, transaction: bytes) -> None:
        for other in self.nodes.values():
            if other is not node and other.up and transaction not in other.transactions:
                other.learn(transaction)

    def answer(self, node: Node, event: Event) -> None:
        self.answers.append(lambda: self.step(node, event))

    def look_for(self, node: Node, fetch: Fetch) -> None:
        holders = [self.nodes[name] for name in fetch.holders if self.nodes[name].up]
        found = [holder.find(fetch.block_hash) for holder in holders]
        block = next((block for block in found if block is not None), None)
        if block is not None and node.is_valid(block):
            node.seen[block.hash] = block
            self.answer(node, Fetched(block))

    def serve(self, node: Node, to: str, height: int) -> None:
        decision = node.chain[height - 1]

        def arrive() -> None:
            self.nodes[to].apply(decision)

        self.answers.append(arrive)

    def note(self, node: Node, effect: Effect) -> None:
        line = self.describe(effect)
        if line is not None:
            self.output.append(f"{node.id} {line}")

    def describe(self, effect: Effect) -> str | None:
        match effect:
            case Persist(signed, prepared, block):
                self.persisted[signed.signature] = None
                with_block = "" if block is None else ", storing the block"
                with_proof = "" if prepared is None else f", proven by {signers(prepared)}"
                return f"says {self.show(signed)}{with_proof}{with_block}"
            case Broadcast(signed):
                said = self.persisted.pop(signed.signature, True)
                return f"repeats {self.show(signed)}" if said else None
            case Send(to, signed):
                return f"repeats {self.show(signed)} to {to}"
            case WantBlock(height, view):
                return f"wants a block for {height}/{view}"
            case Fetch(block_hash, block, fresh, holders):
                what = "fetches" if block is None else "checks"
                how = "fresh " if fresh else ""
                return f"{what} {how}{self.name(block_hash)}, held by {','.join(holders)}"
            case Serve(to, height):
                return f"serves {to} height {height}"
            case Decide(decision):
                proof = decision.certificate
                name = self.name(proof.block_hash)
                return f"decides {proof.height}/{proof.view} {name}, proven by {signers(proof)}"
            case Blame():
                return None
            case PassOn(height, signer, statement):
                return f"passes on of {signer}: {self.stated(height, statement)}"
            case Accuse(evidence):
                first, second = evidence.first, evidence.second
                told = sorted(self.stated(evidence.height, each) for each in (first, second))
                return f"accuses {evidence.signer} of {' and '.join(told)}"

    def stated(self, height: int, statement: Statement) -> str:
        if isinstance(statement, ViewChangeStatement):
            claim = statement.prepared
            claimed = "" if claim is None else f" claims {self.name(claim.block_hash)}"
            return f"VIEW_CHANGE {height}/{statement.view}{claimed}"
        title = f"{Phase(statement.phase).name} {height}/{statement.view}"
        return f"{title} {self.name(statement.block_hash)}"

    def show(self, signed: Signed) -> str:
        message = signed.message
        title = f"{phase_of(message).name} {message.height}/{message.view}"
        match message:
            case PrePrepare(_, _, block, justification):
                self.blocks[self.name(block.hash)] = block
                asked = () if justification is None else justification.view_changes
                because = f" by {','.join(entry.signer for entry in asked)}" if asked else ""
                return f"{title} {self.name(block.hash)}{because}"
            case ViewChange(prepared=prepared):
                return title if prepared is None else f"{title} {self.claim(prepared)}"
            case _:
                return f"{title} {self.name(message.block_hash)}"

    def claim(self, prepared: Certificate) -> str:
        return f"prepared {self.name(prepared.block_hash)} in view {prepared.view}"

    def name(self, block_hash: bytes) -> str:
        return self.names.setdefault(block_hash, string.ascii_uppercase[len(self.names)])

    def step(self, node: Node, event: Event) -> None:
        before = {} if node.replica is None else node.replica.counters
        node.step(event)
        after = {} if node.replica is None else node.replica.counters
        for reason, count in after.items():
            if count != before.get(reason, 0):
                self.output.append(f"{node.id} drops: {reason}")

    def settle(self) -> None:
        while self.answers:
            self.answers.pop(0)()

    # ---- the commands ------------------------------------------------------------------------

    def run(self, command: str) -> None:
        words = command.split()
        plain = [word for word in words[1:] if "=" not in word]
        named = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        match words[0]:
            case "submit":
                for node in self.pick(plain[0]):
                    node.learn(plain[1].encode())
            case "deliver":
                self.deliver(named)
            case "lose":
                self.take(named)
            case "pass":
                self.let_pass(int(plain[0]))
            case "crash":
                self.nodes[plain[0]].crash()
            case "restart":
                self.nodes[plain[0]].start()
            case "connect" | "disconnect":
                event = Connected if words[0] == "connect" else Disconnected
                for node in self.pick(plain[0]):
                    for peer in self.pick(plain[1]):
                        self.step(node, event(peer.id))
            case "say":
                self.say(plain[0], plain[1], named)
            case "suspect":
                self.step(self.nodes[plain[0]], Suspect())
            case "clock":
                self.nodes[plain[0]].clock_off = True
            case "show":
                self.output += [self.show_node(node) for node in self.nodes.values()]
            case unknown:
                raise ValueError(f"no such command: {unknown}")
        self.settle()

    def pick(self, names: str) -> list[Node]:
        return [self.nodes[n] for n in (self.nodes if names == "all" else names.split(","))]

    def take(self, named: dict[str, str]) -> list[tuple[str, str, Signed]]:
        def matches(key: str, value: str) -> bool:
            return key not in named or value in named[key].split(",")

        taken: list[tuple[str, str, Signed]] = []
        kept: list[tuple[str, str, Signed]] = []
        for sender, to, signed in self.under_way:
            phase = phase_of(signed.message).name.lower().replace("_", "-")
            wanted = matches("from", sender) and matches("to", to) and matches("phase", phase)
            (taken if wanted else kept).append((sender, to, signed))
        self.under_way = kept
        return taken

    def deliver(self, named: dict[str, str]) -> None:
        only_now = named.pop("new", "1") == "0"
        while taken := self.take(named):
            for _, to, signed in taken:
                self.step(self.nodes[to], Received(signed))
                self.settle()
            if only_now:
                return

    def let_pass(self, milliseconds: int) -> None:
        until = self.now + milliseconds
        while True:
            due = [
                (node.replica.deadline, node.id)
                for node in self.nodes.values()
                if node.replica is not None and node.replica.deadline is not None
            ]
            if not due or min(due)[0] > until:
                break
            self.now = max(min(due)[0], self.now)
            self.step(self.nodes[min(due)[1]], Expired())
            self.settle()
        self.now = until

    def say(self, liar: str, kind: str, named: dict[str, str]) -> None:
        height, view = int(named["height"]), int(named["view"])
        name = named.get("block", "")
        if name and name not in self.blocks:
            head = next(iter(self.nodes.values())).head
            block = make_block(head, liar, view, b"+" + name.encode())
            self.blocks[name] = block
            self.names[block.hash] = name
        certificate = None
        if "prepared" in named:
            certificate = certify(Phase.PREPARE, named["prepared"].split(","), self.blocks[name])
        message: Prepare | Commit | ViewChange | PrePrepare
        match kind:
            case "prepare":
                message = Prepare(height, view, self.blocks[name].hash)
            case "commit":
                message = Commit(height, view, self.blocks[name].hash)
            case "view-change":
                message = ViewChange(height, view, certificate)
            case "pre-prepare":
                message = PrePrepare(height, view, self.blocks[name], None)
            case _:
                raise ValueError(f"no such message: {kind}")
        for node in self.pick(named["to"]):
            self.step(node, Received(by(liar, message)))
            self.settle()

    def show_node(self, node: Node) -> str:
        if node.replica is None:
            return f"{node.id} is down"
        replica = node.replica
        deadline = replica.deadline
        waits = "idle" if deadline is None else f"waits {deadline - self.now} ms"
        return f"{node.id} at {replica.height}/{replica.view}, {waits}"


def signers(certificate: Certificate) -> str:
    return ",".join(entry.signer for entry in certificate.signatures)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """The commands of every step with what is expected; comments belong to the commands."""
    for step in text.strip().split("\n\n"):
        commands, _, expected = step.partition("\n----\n")
        yield commands, expected


def play(text: str) -> str:
    """Run a scenario; return it with what really happened in place of what was expected."""
    network: Network | None = None
    played: list[str] = []
    for commands, _ in steps(text):
        output: list[str] = []
        for command in commands.splitlines():
            if command.startswith("#"):
                continue
            if command.startswith("network "):
                shape = dict(word.split("=") for word in command.split()[1:])
                network = Network(**{name: int(value) for name, value in shape.items()})
                continue
            if network is None:
                raise ValueError("a scenario begins with `network`")
            network.run(command)
            output, network.output = output + network.output, []
        played.append("\n".join([commands, "----", *output]) if output else commands)
    return "\n\n".join(played) + "\n"


def regenerate() -> None:
    """Write into every scenario file what happens now."""
    for path in sorted(DIRECTORY.glob("*.txt")):
        path.write_text(play(path.read_text()))


if __name__ == "__main__":
    regenerate()
