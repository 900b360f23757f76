"""The rules of the layout (docs/ARCHITECTURE.md sections 1 and 12), which test_tidy.py applies.

A rule is a function from the tree of files to complaints, and a complaint says what to do. Rules
read the source, they do not run it: what they say of sets, clocks and swallowed errors holds for
the plain cases only.
"""

import ast
import configparser
import re
from collections.abc import Callable, Iterator, Mapping

from packaging.requirements import Requirement

# Each may import itself and those to its left.
LAYERS = ("primitives", "consensus", "ledger", "storage", "node", "cli")
CODE = (*LAYERS, "simulations")
PURE_PACKAGES = ("primitives", "consensus", "ledger")
# These, and every module of node that they import, are pure.
PURE_NODE_ROOTS = ("node.core", "node.intake", "node.mempool", "node.wire")
PURE_LIBRARIES = frozenset(
    (
        "__future__ abc bisect collections contextlib copy dataclasses enum functools hashlib "
        "heapq hmac ipaddress itertools math operator re string struct tomllib types typing "
        "unicodedata blake3 msgspec nacl typing_extensions"
    ).split()
)
IMPURE_CALLS = frozenset("open input print hash id exec eval breakpoint __import__".split())
# What ledger may know of consensus: membership, messages and evidence are ledger matters.
CONSENSUS_VALUES = tuple(
    f"consensus.{name}"
    for name in "certificates committee events evidence messages settings".split()
)
# These drive real daemons: by the command, and by the RPC for load.
CLIENTS_OF_DAEMONS = tuple(
    f"simulations.{name}"
    for name in (
        "bench.client bench.growth bench.phases chaos_nodes demo floods load newcomer torture"
    ).split()
)
ONLY_IN = {
    "libp2p": "node/libp2p",  # libp2p.py, and the libp2p_*.py it is split into
    "trio": "node/libp2p",
    "aiosqlite": "storage/database.py",
    "sqlite3": "storage/",
    "uvloop": "node/daemon.py",
}
TOP = frozenset(
    (
        "consensus ledger node primitives simulations storage configs docs tests requirements "
        "cli.py setup.cfg pyproject.toml Makefile README.md LICENSE CHANGELOG.md"
    ).split()
)
# Shows what is forbidden.
SHOWCASE = "tests/test_tidy.py"
CODE_LINES_MAX = 450
TEST_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
CLOCK = re.compile(
    r"(^|\.)(time|monotonic|perf_counter|process_time)(_ns)?\(\)$|\.(now|utcnow)\([\w.]*\)$"
)
# Consumers that show the order of what they are given.
ORDERED = frozenset("list tuple enumerate iter map filter zip dict deque join extend".split())
UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:work|root|home|Users|tmp/(?:brief|venv))/\w*")
REGISTRY = re.compile(r"pypi[.]org|pythonhosted[.]|--(?:extra-)?index-url|--find[-]links")
URL = re.compile(r"\w+://\S+")
PAGE = re.compile(r"[\w./-]*\w\.md\b")
LOCKED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Tree:
    """Files by path from the root, and the modules among them."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.asts = {p: ast.parse(text, p) for p, text in files.items() if p.endswith(".py")}
        self.modules = {_module(path): path for path in self.asts}

    def code(self) -> Iterator[tuple[str, ast.Module]]:
        """Every module that is not a test."""
        return ((p, tree) for p, tree in self.asts.items() if _module(p).split(".")[0] in CODE)

    def tests(self) -> Iterator[tuple[str, ast.Module]]:
        """Every test module."""
        return ((p, tree) for p, tree in self.asts.items() if p.startswith("tests/"))

    def imports(self, path: str) -> Iterator[tuple[int, str]]:
        """Line and full name of each module that a module imports, wherever in it.

        A relative import keeps its leading dots.
        """
        for node in ast.walk(self.asts[path]):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if inner in self.modules else base

    def pure_node(self) -> list[str]:
        """The pure modules of node: the roots, and all of node that they import."""
        found: list[str] = []
        waiting = [name for name in ("node", *PURE_NODE_ROOTS) if name in self.modules]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.append(name)
                imported = (target for _, target in self.imports(self.modules[name]))
                waiting += (t for t in imported if t.startswith("node.") and t in self.modules)
        return found

    def pure(self) -> list[str]:
        """The paths of all pure modules."""
        node = self.pure_node()
        return [p for m, p in self.modules.items() if _package(m) in PURE_PACKAGES or m in node]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _package(module: str) -> str:
    return module.partition(".")[0]


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# ---- imports ------------------------------------------------------------------------------------


def directions(tree: Tree) -> Iterator[str]:
    """Imports go one way: cli -> node -> storage -> ledger -> consensus -> primitives."""
    pure_node = tree.pure_node()
    for path, _ in tree.code():
        for line, target in tree.imports(path):
            advice = _misdirected(_module(path), target, pure_node)
            if advice is not None:
                yield f"{path}:{line}: imports {target}: {advice}"


def _misdirected(importer: str, target: str, pure_node: list[str]) -> str | None:
    """What to do instead, or None if the import is allowed."""
    own, top = _package(importer), _package(target)
    if target.startswith("."):
        return "write the full name, relative imports hide the direction"
    if top == "tests":
        return "code never needs tests; move the helper into a package"
    if top not in CODE or own == "cli":
        return None
    if target.startswith("node.commands") and not importer.startswith("node.commands"):
        return "only cli.py does; move what is shared into a module of node"
    if own == "simulations":
        if top in ("simulations", *PURE_PACKAGES) or target in pure_node:
            return None
        if importer in CLIENTS_OF_DAEMONS and target == "node.client":
            return None
        return "a simulation sees only the pure modules (demo and bench: node.client too)"
    if top == "simulations":
        return "only cli.py does; ask for what is needed through an argument"
    if LAYERS.index(top) > LAYERS.index(own):
        return f"{own} is below {top}; declare a Protocol in {own} and let {top} fulfil it"
    if own == "ledger" and top == "consensus" and target not in CONSENSUS_VALUES:
        return "ledger uses consensus' value types only, never the replica"
    return None


def purity(tree: Tree) -> Iterator[str]:
    """Pure code imports nothing that reads a clock, a disk, a network or chance, nor calls it."""
    pure = tree.pure()
    for path in pure:
        for line, target in tree.imports(path):
            top = _package(target)
            if target in tree.modules:
                allowed = tree.modules[target] in pure
            else:
                allowed = top in (*PURE_LIBRARIES, *PURE_PACKAGES) or target.startswith(".")
            if not allowed or target == "nacl.utils":
                yield (
                    f"{path}:{line}: imports {target}: pure code may not; take the value as an "
                    "argument, return an effect, or move this to the shell"
                )
        for call, name in _calls(tree.asts[path]):
            if name in IMPURE_CALLS or name.endswith("SigningKey.generate"):
                yield (
                    f"{path}:{call.lineno}: calls {name}: pure code gives the same result in every "
                    "process; take the value as an argument"
                )


def exclusive_libraries(tree: Tree) -> Iterator[str]:
    """Some libraries are known to one file only, so that they can be replaced."""
    for path, module in tree.code():
        for line, target in tree.imports(path):
            place = ONLY_IN.get(_package(target))
            if place is not None and not path.startswith(place):
                yield f"{path}:{line}: imports {target}: only {place} may; use its interface"
        for call, name in _calls(module):
            if (
                name in ("importlib.import_module", "import_module", "__import__")
                and path != "cli.py"
            ):
                yield f"{path}:{call.lineno}: imports by a computed name: write an import statement"


# ---- sizes and places ---------------------------------------------------------------------------


def sizes(tree: Tree) -> Iterator[str]:
    """A file or function that is too long does two things."""
    for path, module in tree.asts.items():
        limit = TEST_LINES_MAX if path.startswith("tests/") else CODE_LINES_MAX
        lines = tree.files[path].count("\n")
        if lines > limit:
            yield f"{path}: {lines} lines, at most {limit}: split it where its subjects part"
        for f in _functions(module):
            lines = (f.end_lineno or f.lineno) - f.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield (
                    f"{path}:{f.lineno}: {f.name} has {lines} lines, at most {FUNCTION_LINES_MAX}: "
                    "take a part out"
                )


def places(tree: Tree) -> Iterator[str]:
    """The top level is given."""
    for top in {path.split("/")[0]: None for path in tree.files}:
        if top not in TOP and not top.startswith((".", "requirements")):
            yield f"{top}: does not belong at the top level; move it into a package or docs/"


# ---- sets ---------------------------------------------------------------------------------------


def set_order(tree: Tree) -> Iterator[str]:
    """The order of a set differs between processes; pure code never shows it."""
    for path in tree.pure():
        module = tree.asts[path]
        attributes = frozenset(_set_attributes(module))
        scopes: list[ast.AST] = [module, *_functions(module)]
        for scope in scopes:
            nodes = list(_own_nodes(scope))
            names = attributes | frozenset(_set_names(scope, nodes))
            for node in nodes:
                for shown in _ordered_uses(node):
                    if _is_set(shown, names):
                        yield (
                            f"{path}:{shown.lineno}: the order of the set {ast.unparse(shown)} "
                            "shows: use a dict or a tuple, or sorted(...)"
                        )


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module or function, without those of the functions in it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)


def _set_names(scope: ast.AST, nodes: list[ast.AST]) -> Iterator[str]:
    """Names that a scope annotates or assigns as sets."""
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
        yield from (a.arg for a in arguments if _is_set_type(a.annotation))
    for node in nodes:
        match node:
            case ast.AnnAssign(target=target) if _is_set_type(node.annotation):
                yield ast.unparse(target)
            case ast.Assign(targets=targets) if _is_set(node.value, frozenset()):
                yield from (ast.unparse(target) for target in targets)
            case _:
                pass


def _set_attributes(module: ast.Module) -> Iterator[str]:
    """`self.x` for every x that a class of the module declares or assigns as a set."""
    for node in ast.walk(module):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) if _is_set_type(node.annotation):
                yield f"self.{name}"
            case ast.AnnAssign(target=ast.Attribute() as target) if _is_set_type(node.annotation):
                yield ast.unparse(target)
            case ast.Assign(targets=[ast.Attribute() as target]) if _is_set(
                node.value, frozenset()
            ):
                yield ast.unparse(target)
            case _:
                pass


def _is_set_type(annotation: ast.expr | None) -> bool:
    text = "" if annotation is None else ast.unparse(annotation).strip("'\"")
    return re.match(r"(\w+\.)*(set|frozenset|AbstractSet|MutableSet|Set)\b", text) is not None


def _is_set(node: ast.expr, names: frozenset[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Attribute(value=owner, attr=attr)):
            algebra = ("union", "intersection", "difference", "symmetric_difference", "copy")
            return attr in algebra and _is_set(owner, names)
        case ast.BinOp(
            left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right
        ):
            return _is_set(left, names) or _is_set(right, names)
        case ast.Name() | ast.Attribute():
            return ast.unparse(node) in names
        case _:
            return False


def _ordered_uses(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions whose order of elements this node shows."""
    match node:
        case ast.For() | ast.AsyncFor():
            yield node.iter
        case ast.ListComp() | ast.DictComp() | ast.GeneratorExp() | ast.SetComp():
            yield from (generator.iter for generator in node.generators)
        case ast.Starred(value=value):
            yield value
        case ast.Call(func=ast.Attribute(value=owner, attr="pop"), args=[]):
            yield owner
        case ast.Call(func=func, args=arguments):
            if ast.unparse(func).rpartition(".")[2] in ORDERED:
                yield from arguments
        case _:
            pass


# ---- honesty ------------------------------------------------------------------------------------


def swallowed_errors(tree: Tree) -> Iterator[str]:
    """Nobody hides a fault that he does not know."""
    for path, module in tree.asts.items():
        for node in ast.walk(module):
            if (
                isinstance(node, ast.ExceptHandler)
                and (node.type is None or _names_all_errors(node.type))
                and all(isinstance(step, ast.Pass | ast.Continue | ast.Expr) for step in node.body)
                and not any(isinstance(inner, ast.Call | ast.Await) for inner in ast.walk(node))
            ):
                yield f"{path}:{node.lineno}: hides every error: name the expected one, or report"
        for call, name in _calls(module):
            if name.endswith("suppress") and any(_names_all_errors(a) for a in call.args):
                yield f"{path}:{call.lineno}: hides every error: name the expected one, or report"


def _names_all_errors(node: ast.expr) -> bool:
    return any(
        name in ("Exception", "BaseException") for name in re.findall(r"\w+", ast.unparse(node))
    )


def skipped_tests(tree: Tree) -> Iterator[str]:
    """A test runs or it is not there."""
    for path, module in tree.tests():
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and re.fullmatch(
                r"(pytest|unittest|self)(\.mark)?\.(skip|skipif|xfail|importorskip|skipTest|skipUnless|expectedFailure)",
                ast.unparse(node),
            ):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}: make it pass or remove it"


def sleeping_tests(tree: Tree) -> Iterator[str]:
    """Tests wait for events: a fixed time is too short on one machine and wasted on all others."""
    for path, module in tree.tests():
        for call, name in _calls(module):
            if name.rpartition(".")[2] == "sleep" and call.args:
                parts = list(ast.walk(call.args[0]))
                numbers = [p.value for p in parts if isinstance(p, ast.Constant)]
                fixed = not any(isinstance(p, ast.Name | ast.Attribute | ast.Call) for p in parts)
                if fixed and any(numbers):
                    yield f"{path}:{call.lineno}: sleeps a fixed time: wait for the event"


def timed_assertions(tree: Tree) -> Iterator[str]:
    """A verdict that rests on a clock depends on what else the machine does."""
    for path, module in tree.tests():
        for f in _functions(module):
            measured: list[str] = []
            for node in sorted(_own_nodes(f), key=lambda n: getattr(n, "lineno", 0)):
                if isinstance(node, ast.Assign) and _is_clock(node.value, measured):
                    measured += (ast.unparse(target) for target in node.targets)
                elif isinstance(node, ast.Assert):
                    compared = [c for c in ast.walk(node.test) if isinstance(c, ast.Compare)]
                    sides = [side for c in compared for side in (c.left, *c.comparators)]
                    if any(_is_clock(side, measured) for side in sides):
                        yield f"{path}:{node.lineno}: judges by a clock: count work, or drive time"


def _is_clock(node: ast.expr, measured: list[str]) -> bool:
    match node:
        case ast.BinOp(left=left, right=right):
            return _is_clock(left, measured) or _is_clock(right, measured)
        case ast.Call(func=ast.Name(id="int" | "round" | "float" | "abs"), args=arguments):
            return any(_is_clock(argument, measured) for argument in arguments)
        case ast.Name(id=name):
            return name in measured
        case ast.Call():
            return CLOCK.search(ast.unparse(node)) is not None
        case _:
            return False


def words(tree: Tree) -> Iterator[str]:
    """The repository is finished and speaks of itself alone."""
    pages = [path for path in tree.files if path.endswith(".md")]
    for path, text in tree.files.items():
        if path == SHOWCASE:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for pattern, advice in (
                (UNFINISHED, "do it now, or open an issue"),
                (MACHINE_PATH, "a path of one machine; use a relative path or an argument"),
                (REGISTRY, "where packages come from is the user's setting"),
            ):
                for found in dict.fromkeys(pattern.findall(line)):
                    yield f"{path}:{number}: {found}: {advice}"
            for page in dict.fromkeys(PAGE.findall(URL.sub("", line))):
                if not any(f"/{p}".endswith("/" + page.lstrip("./")) for p in pages):
                    yield f"{path}:{number}: {page}: there is no such page; write it"


# ---- settings -----------------------------------------------------------------------------------


def locks(tree: Tree) -> Iterator[str]:
    """Every package is locked once, by name and version alone, within setup.cfg's range."""
    versions: dict[str, str] = {}
    for path, text in tree.files.items():
        if not path.startswith("requirements"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if not line or line.startswith("#"):
                continue
            if LOCKED.fullmatch(line) is None:
                yield f"{path}:{number}: {line}: write name==version and nothing else"
                continue
            name, _, version = line.partition("==")
            if _canonical(name) in versions:
                yield f"{path}:{number}: {name} is locked twice; keep one line"
            versions[_canonical(name)] = version
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(tree.files.get("setup.cfg", ""))
    wanted = settings.get("options", "install_requires", fallback="")
    if settings.has_section("options.extras_require"):
        wanted += "\n".join(value for _, value in settings.items("options.extras_require"))
    for line in filter(None, wanted.splitlines()):
        requirement = Requirement(line)
        locked = versions.get(_canonical(requirement.name))
        if locked is None or not requirement.specifier.contains(locked):
            yield f"setup.cfg: {line}: requirements/ has {locked or 'none'}; lock one in range"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def measured_coverage(tree: Tree) -> Iterator[str]:
    """Coverage is demanded of exactly the pure modules."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(tree.files.get("setup.cfg", ""))
    included = settings.get("coverage:report", "include", fallback="").split()
    wanted = [f"{package}/*" for package in PURE_PACKAGES]
    wanted += [tree.modules[m] for m in tree.pure_node() if m != "node"]
    for path in [p for p in wanted if p not in included]:
        yield f"setup.cfg: {path} is pure but not measured; add it to [coverage:report]"
    for path in [p for p in included if p not in wanted]:
        yield f"setup.cfg: {path} is measured but not pure; take it off [coverage:report]"


Rule = Callable[[Tree], Iterator[str]]
RULES: list[Rule] = [
    directions,
    purity,
    exclusive_libraries,
    sizes,
    places,
    set_order,
    swallowed_errors,
    skipped_tests,
    sleeping_tests,
    timed_assertions,
    words,
    locks,
    measured_coverage,
]
