"""The layout of the repository is a test (docs/ARCHITECTURE.md sections 1 and 12).

The first tests apply all rules of tidy.py to this repository; the others apply them to tiny trees,
to prove that each rule can fail and that it leaves honest code alone.
"""

import subprocess
from pathlib import Path

import pytest

from tests.tidy import (
    RULES,
    Rule,
    Tree,
    directions,
    exclusive_libraries,
    locks,
    measured_coverage,
    places,
    purity,
    set_order,
    sizes,
    skipped_tests,
    sleeping_tests,
    swallowed_errors,
    timed_assertions,
    words,
)

ROOT = Path(__file__).resolve().parent.parent


def _repository() -> Tree:
    """All text files that are tracked, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    files: dict[str, str] = {}
    for path in dict.fromkeys(filter(None, listed.split("\0"))):
        if (ROOT / path).is_file():
            content = (ROOT / path).read_bytes()
            if b"\0" not in content:
                files[path] = content.decode()
    return Tree(files)


@pytest.fixture(scope="module")
def repository() -> Tree:
    return _repository()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_is_tidy(rule: Rule, repository: Tree) -> None:
    complaints = list(rule(repository))
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_repository_is_seen(repository: Tree) -> None:
    assert "tests/test_tidy.py" in repository.files
    assert "primitives/codec.py" in repository.pure()
    assert "node/core.py" in repository.pure()


CORE = "node/core.py"
BAD: list[tuple[Rule, str, str, str]] = [
    (directions, "consensus/replica.py", "from ledger import state", "consensus is below ledger"),
    (
        directions,
        "ledger/state.py",
        "def f():\n    import storage.blocks",
        "ledger is below storage",
    ),
    (directions, "storage/blocks.py", "import node.config", "storage is below node"),
    (directions, "primitives/codec.py", "from consensus.messages import Vote", "is below"),
    (directions, "node/config.py", "import cli", "node is below cli"),
    (directions, "node/config.py", "import simulations.seeds", "only cli.py does"),
    (directions, "node/commands/testnet.py", "import simulations.seeds", "only cli.py does"),
    (directions, "node/daemon.py", "import node.commands.testnet", "only cli.py does"),
    (directions, "simulations/cluster.py", "import node.daemon", "sees only the pure modules"),
    (directions, "simulations/cluster.py", "import storage.blocks", "sees only the pure modules"),
    (directions, "simulations/cluster.py", "from node.client import call", "sees only the pure"),
    (directions, "simulations/demo.py", "import node.daemon", "sees only the pure modules"),
    (directions, "ledger/state.py", "from consensus.tally import Tally", "value types only"),
    (directions, "node/config.py", "from . import home", "write the full name"),
    (directions, "node/config.py", "from tests.help import x", "code never needs tests"),
    *(
        (purity, "ledger/state.py", f"import {name}", "take the value as an argument")
        for name in (
            "asyncio trio socket sqlite3 time datetime random secrets os threading logging "
            "pathlib uuid subprocess nacl.utils"
        ).split()
    ),
    (purity, CORE, "from time import monotonic", "node/core.py:1: imports time"),
    (purity, "node/mempool.py", "import structlog", "imports structlog"),
    (purity, "node/wire.py", "import node.events", "node/events.py:1: imports os"),
    (purity, "primitives/keys.py", "k = SigningKey.generate()", "calls SigningKey.generate"),
    (purity, "consensus/tally.py", "def f(x):\n    return hash(x)", "tally.py:2: calls hash"),
    (exclusive_libraries, "node/driver.py", "import trio.lowlevel", "only node/libp2p may"),
    (exclusive_libraries, "node/driver.py", "from libp2p import new_host", "only node/libp2p may"),
    (exclusive_libraries, "storage/blocks.py", "import aiosqlite", "only storage/database.py"),
    (exclusive_libraries, "simulations/demo.py", "import sqlite3", "only storage/"),
    (exclusive_libraries, "cli.py", "import uvloop", "only node/daemon.py"),
    (exclusive_libraries, CORE, "import importlib\nimportlib.import_module(x)", "computed name"),
    (sizes, "cli.py", "\n" * 451, "451 lines, at most 450"),
    (sizes, "tests/test_cli.py", "\n" * 701, "701 lines, at most 700"),
    (sizes, "cli.py", "def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
    (places, "helpers/x.py", "", "helpers: does not belong"),
    (places, "notes.txt", "", "notes.txt: does not belong"),
    *(
        (set_order, "consensus/tally.py", source, "the order of the set")
        for source in (
            "for x in {1, 2}:\n    f(x)",
            "y = [x for x in set(z)]",
            "y = {x: 1 for x in frozenset(z)}",
            "def f(a: set[int]):\n    for x in a:\n        g(x)",
            "def f(*, a: 'frozenset[int]'):\n    return list(a)",
            "def f():\n    a = set()\n    return tuple(a)",
            "def f():\n    a: set[int] = g()\n    return [*a]",
            "def f(a: set[int]):\n    return (x for x in a - {1})",
            "def f(a: set[int]):\n    return a.pop()",
            "def f(a: set[str], b: str):\n    return ''.join(a.union(b))",
            "class A:\n  a: set[int]\n  def f(self):\n    for x in self.a:\n      g(x)",
            "class A:\n  def f(self):\n    self.a = set()\n    return next(iter(self.a))",
        )
    ),
    (swallowed_errors, "cli.py", "try:\n    f()\nexcept Exception:\n    pass", "cli.py:3: hides"),
    (swallowed_errors, "cli.py", "try:\n    f()\nexcept:\n    ...", "hides every error"),
    (
        swallowed_errors,
        "tests/test_x.py",
        "for x in y:\n  try:\n    f()\n  except (OSError, BaseException):\n    continue",
        "hides every error",
    ),
    (swallowed_errors, "cli.py", "with contextlib.suppress(Exception):\n    f()", "hides"),
    (skipped_tests, "tests/test_x.py", "def test_x():\n    pytest.skip('later')", "pytest.skip"),
    (skipped_tests, "tests/test_x.py", "@pytest.mark.xfail\ndef test_x(): ...", "xfail"),
    (skipped_tests, "tests/test_x.py", "@pytest.mark.skipif(True)\ndef test_x(): ...", "skipif"),
    (skipped_tests, "tests/test_x.py", "m = pytest.importorskip('m')", "importorskip"),
    (sleeping_tests, "tests/test_x.py", "time.sleep(0.1)", "sleeps a fixed time"),
    (sleeping_tests, "tests/test_x.py", "async def f():\n    await asyncio.sleep(2 * 3)", "sleeps"),
    (sleeping_tests, "tests/test_x.py", "from trio import sleep\nsleep(1)", "sleeps a fixed time"),
    (timed_assertions, "tests/test_x.py", "def f():\n    assert time.time() < x", "by a clock"),
    (
        timed_assertions,
        "tests/test_x.py",
        "def f():\n  a = monotonic()\n  g()\n  b = time.monotonic_ns() - a\n  assert b <= 5",
        "test_x.py:5: judges by a clock",
    ),
    (words, "docs/x.md", "a\nTODO: write", "docs/x.md:2: TODO"),
    (words, "cli.py", "# FIXME", "do it now"),
    (words, "Makefile", "cd /root/medpact", "a path of one machine"),
    (words, "docs/x.md", "(/home/ada/x)", "a path of one machine"),
    (words, "setup.cfg", "--index-url x", "the user's setting"),
    (words, "cli.py", '"""See docs/GONE.md."""', "there is no such page"),
    (locks, "requirements/a.txt", "trio", "trio: write name==version"),
    (locks, "requirements/a.txt", "trio==1 ; python_version > '3'", "write name==version"),
    (locks, "requirements/a.txt", "a_b==1\nA-b==2", "a.txt:2: A-b is locked twice"),
    (locks, "setup.cfg", "[options]\ninstall_requires =\n    trio>=1", "has none"),
    (measured_coverage, CORE, "", "node/core.py is pure but not measured"),
    (measured_coverage, "setup.cfg", "[coverage:report]\ninclude = cli.py", "not pure"),
]
# Modules that exist beside the one under test.
AROUND = dict.fromkeys(
    (
        "consensus/tally.py",
        "ledger/state.py",
        "node/client.py",
        "node/commands/testnet.py",
        "node/daemon.py",
        "node/wire.py",
        "tests/help.py",
    ),
    "",
) | {"node/events.py": "import os"}


@pytest.mark.parametrize(
    ("rule", "path", "source", "complaint"),
    BAD,
    ids=[f"{r.__name__}-{n}" for n, (r, *_) in enumerate(BAD)],
)
def test_a_rule_can_fail(rule: Rule, path: str, source: str, complaint: str) -> None:
    complaints = list(rule(Tree(AROUND | {path: source})))
    assert any(complaint in line for line in complaints), complaints


GOOD: list[tuple[Rule, str, str]] = [
    (
        directions,
        "node/driver.py",
        "import asyncio\nimport ledger.state, storage, consensus.replica",
    ),
    (directions, "node/commands/testnet.py", "import node.daemon, node.commands.show, storage"),
    (directions, "cli.py", "import simulations.demo, node.commands.testnet"),
    (directions, "simulations/cluster.py", "import simulations.seeds, node.wire, ledger.state"),
    (directions, "simulations/demo.py", "from node.client import call\nfrom node import client"),
    (directions, "ledger/state.py", "from consensus.messages import Decision"),
    (directions, "tests/test_x.py", "import node.daemon, simulations.demo"),
    (purity, "node/daemon.py", "import os, time\nopen('x')"),
    (purity, "primitives/keys.py", "import hashlib\nfrom nacl.signing import SigningKey"),
    (exclusive_libraries, "node/libp2p.py", "import trio\nimport libp2p"),
    (exclusive_libraries, "node/libp2p_host.py", "import trio"),
    (exclusive_libraries, "storage/blocks.py", "import sqlite3"),
    (exclusive_libraries, "tests/test_x.py", "import trio, sqlite3"),
    (sizes, "cli.py", "\n" * 449 + "x = 1\n"),
    (places, "requirements.txt", "a==1"),
    (places, ".github/x", ""),
    (set_order, "node/daemon.py", "for x in {1}:\n    f(x)"),
    (set_order, "consensus/tally.py", "def f(a: set[int]):\n    return sorted(a), len(a), 3 in a"),
    (
        set_order,
        "consensus/tally.py",
        "def f(a: set[int]): ...\ndef g(a: list[int]):\n    return [*a]",
    ),
    (swallowed_errors, "cli.py", "try:\n    f()\nexcept Exception as e:\n    report(e)"),
    (swallowed_errors, "cli.py", "try:\n    f()\nexcept ProcessLookupError:\n    pass"),
    (
        skipped_tests,
        "tests/test_x.py",
        "@pytest.mark.parametrize('skip', [1])\ndef test_x(skip): ...",
    ),
    (sleeping_tests, "tests/test_x.py", "asyncio.sleep(0)\nasyncio.sleep(interval)"),
    (
        timed_assertions,
        "tests/test_x.py",
        "def f():\n    a = time.monotonic()\n    assert step(a) == []",
    ),
    (
        words,
        "docs/adr/0001-x.md",
        "See 0001-x.md, docs/adr/0001-x.md, https://x.org/work/y.md, /var/lib/medpact.",
    ),
    (locks, "requirements/a.txt", "# why\na==1\nb-c==2.0.post1"),
    (
        measured_coverage,
        "setup.cfg",
        "[coverage:report]\ninclude = primitives/* consensus/* ledger/* node/wire.py",
    ),
]


@pytest.mark.parametrize(
    ("rule", "path", "source"), GOOD, ids=[f"{r.__name__}-{n}" for n, (r, *_) in enumerate(GOOD)]
)
def test_a_rule_leaves_honest_code_alone(rule: Rule, path: str, source: str) -> None:
    around = {} if rule is purity else AROUND
    assert list(rule(Tree(around | {path: source}))) == []


def test_what_the_core_imports_is_pure_and_open_to_simulations() -> None:
    files = {
        CORE: "import node.events",
        "node/events.py": "from node import wire",
        "node/wire.py": "",
        "node/home.py": "",
        "simulations/cluster.py": "import node.events, node.home",
    }
    assert sorted(Tree(files).pure()) == [CORE, "node/events.py", "node/wire.py"]
    assert [line.split(": ")[1] for line in directions(Tree(files))] == ["imports node.home"]


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule.__name__ for rule in RULES} == {rule.__name__ for rule, *_ in BAD}
