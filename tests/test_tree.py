"""The house's own rules: who imports whom, how long things get, what never appears in the repository."""

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "diorama"
MINIATURES = PACKAGE / "miniatures"
SHARED = ("world", "media", "nn", "diffusion", "language", "training", "metrics", "agents", "miniatures")
LIGHT = ("diorama", "diorama.cli", "diorama.console", "diorama.errors", "diorama.loading", "diorama.world.scene",
         "diorama.world.sampling", "diorama.training", "diorama.metrics")
HEAVY = ("torch", "transformers", "diffusers", "accelerate", "huggingface_hub", "tokenizers", "av", "trimesh")
FORBIDDEN_STEMS = {"utils", "util", "helpers", "helper", "misc", "common", "base", "core", "lib"}
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MEGABYTE = 1_000_000
MEBIBYTE = 2**20
CARD_FACTS = {
    "seed": r"\bseeds?\b\W{0,12}\d",
    "steps": r"\bsteps?\b\W{0,12}\d|\d\W{0,6}steps\b",
    "seconds": r"\bseconds\b\W{0,12}\d|\d\W{0,6}(s|seconds)\b",
    "device": r"\bdevice\b\W{0,12}\w|\bon (the )?(cpu|cuda)\b",
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
PLACES = re.compile(
    r"/wo" r"rk/|/ro" r"ot/\w|/ho" r"me/[a-z]\w*/|/Us" r"ers/\w|[A-Z]:\\Us" r"ers\\"
    r"|(?<![\w.-])(?!metadata\.google\.|example\.)[\w-]+(?:\.[\w-]+)*\.(?:int" r"ernal|corp|lan)(?:[:/]|\b(?!\.))"
    r"|\bhttps?://(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d"
    r"|--(?:extra-)?index-" r"url|--find-" r"links|(?:extra-)?index-" r"url *=|find-" r"links *="
)


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tracked() -> list[Path]:
    """The files git would carry to another machine."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("this is no git checkout, so which files are tracked is unknown")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and full name of every module (and name in it) that a file imports, at any depth."""
    package = ["diorama", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def place(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}{'' if line is None else f':{line}'}"


def test_shared_folders_import_no_system() -> None:
    found = [
        f"{place(path, line)} imports {module}"
        for folder in SHARED
        for path in python_files(f"src/diorama/{folder}")
        for line, module in imports(path)
        if module.split(".")[:2] == ["diorama", "systems"]
    ]
    assert not found, "\n".join(found)


def test_systems_import_no_other_system() -> None:
    found = []
    for path in python_files("src/diorama/systems"):
        own = path.relative_to(PACKAGE / "systems").parts[0]
        for line, module in imports(path):
            parts = module.split(".")
            if parts[:2] == ["diorama", "systems"] and parts[2:3] != [own]:
                found.append(f"{place(path, line)} imports {module}")
    assert not found, "\n".join(found)


def test_only_the_studio_and_the_command_line_stand_above_systems() -> None:
    """Systems and shared folders never reach up to what wires them together."""
    found = [
        f"{place(path, line)} imports {module}"
        for folder in (*SHARED, "systems")
        for path in python_files(f"src/diorama/{folder}")
        for line, module in imports(path)
        if module.split(".")[:2] in (["diorama", "studio"], ["diorama", "cli"])
    ]
    assert not found, "\n".join(found)


def test_files_are_named_for_what_they_do() -> None:
    vague = [place(p) for p in python_files("src", "tests", "benchmarks", "examples") if p.stem in FORBIDDEN_STEMS]
    assert not vague, f"{vague}: name a file for what it does"


def test_light_modules_load_nothing_heavy() -> None:
    """The command line answers quickly because these modules import no tensor library, at any remove."""
    chosen = [p for p in python_files("src/diorama") if p.name in ("commands.py", "config.py")]
    modules = [*LIGHT, *(".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in chosen)]
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    if heavy: sys.exit(f'{module} loads {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples", "docs"])
def test_files_and_functions_stay_short(folder: str) -> None:
    long = []
    for path in python_files(folder):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_FILE_LINES:
            long.append(f"{place(path)} has {lines} lines, over {MAX_FILE_LINES}")
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{place(path, node.lineno)} {node.name} has {lines}, over {MAX_FUNCTION_LINES}")
    assert not long, "\n".join(long)


def test_nothing_is_left_unfinished() -> None:
    found = []
    for path in python_files("src", "tests", "benchmarks", "examples", "docs"):
        with path.open("rb") as source:
            found += [
                f"{place(path, token.start[0])} {token.string[:80]}"
                for token in tokenize.tokenize(source.readline)
                if token.type == tokenize.COMMENT and UNFINISHED.search(token.string)
            ]
        found += [
            f"{place(path, node.lineno)} raises NotImplementedError"
            for node in ast.walk(syntax(path))
            if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.unparse(node.exc)
        ]
    assert not found, "\n".join(found)


def safe_loaders(tree: ast.AST) -> set[str]:
    """The names of YAML loaders that build plain values: SafeLoader, and what the file derives from it."""
    derived = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("SafeLoader") for base in node.bases)
    }
    return {"yaml.SafeLoader", "yaml.CSafeLoader", *derived}


def unsafe(call: ast.Call, loaders: set[str]) -> str | None:
    """What is wrong with a call that could run code from a file or from a model's text."""
    name = ast.unparse(call.func)
    if name in ("eval", "exec", "os.system", "os.popen"):
        return f"calls {name}"
    if name.startswith(("pickle.load", "pickle.Unpickler", "dill.load", "joblib.load", "yaml.unsafe_load")):
        return f"calls {name}"
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "yaml.load" and (given.get("Loader") or ast.unparse(call.args[-1])) not in loaders:
        return "calls yaml.load with a loader that can build objects"
    if name == "torch.load" and given.get("weights_only") != "True":
        return "calls torch.load without weights_only=True"
    if name.endswith("np.load") and given.get("allow_pickle") == "True":
        return "calls np.load with allow_pickle=True"
    if given.get("shell") == "True" or given.get("trust_remote_code") == "True":
        return "passes shell=True or trust_remote_code=True"
    return None


def test_no_code_is_run_from_files_or_text() -> None:
    found = [
        f"{place(path, node.lineno)} {wrong}"
        for path in python_files("src", "benchmarks", "examples", "docs")
        for loaders in [safe_loaders(syntax(path))]
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Call) and (wrong := unsafe(node, loaders))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("source, is_unsafe", [
    ("torch.load(f)", True), ("torch.load(f, weights_only=True)", False), ("eval(reply)", True),
    ("model.eval()", False), ("pickle.loads(b)", True), ("yaml.safe_load(t)", False),
    ("yaml.load(t, Loader=yaml.Loader)", True), ("yaml.load(t, yaml.SafeLoader)", False),
    ("subprocess.run(line, shell=True)", True), ("np.load(f)", False),
])
def test_unsafe_calls_are_told_from_safe_ones(source: str, is_unsafe: bool) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert (unsafe(call, safe_loaders(call)) is not None) == is_unsafe


def test_no_trace_of_the_machines_it_was_made_on() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := PLACES.search(line):
                found.append(f"{place(path, number)} {match.group()!r}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line, is_trace", [
    ("/wo" "rk/data", True), ("see /ho" "me/ann/x", True), ("http://pypi.mirror.int" "ernal/simple", True),
    ("--extra-index-" "url x", True), ("metadata.google.int" "ernal", False), ("^/home/?|/home/\\*", False),
    ("(\".local\", \".internal\")", False), ("the network/work split", False),
])
def test_traces_are_told_from_ordinary_text(line: str, is_trace: bool) -> None:
    assert bool(PLACES.search(line)) == is_trace


def test_tracked_files_are_small() -> None:
    big = [f"{place(p)} {p.stat().st_size / MEBIBYTE:.1f} MiB" for p in tracked() if p.stat().st_size > 12 * MEBIBYTE]
    assert not big, f"{big}: the bound is 12 MiB"


def miniatures() -> list[Path]:
    return sorted(path for path in MINIATURES.iterdir() if path.is_dir() and path.name != "__pycache__")


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_miniatures_fit() -> None:
    sizes = {folder.name: size(folder) for folder in miniatures()}
    assert all(each <= 12 * MEGABYTE for each in sizes.values()), f"{sizes}: at most 12 MB each"
    assert sum(sizes.values()) <= 80 * MEGABYTE, f"{sizes}: at most 80 MB in all"


@pytest.mark.parametrize("folder", miniatures(), ids=lambda folder: folder.name)
def test_every_miniature_says_how_it_was_made(folder: Path) -> None:
    assert (folder / "config.json").is_file(), "a miniature is a checkpoint folder"
    assert list(folder.glob("*.safetensors")), "weights are safetensors"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\bdiorama [\w-]+ \w+", card), "the card names the command that made it"
    missing = [fact for fact, form in CARD_FACTS.items() if not re.search(form, card, re.IGNORECASE)]
    assert not missing, f"the card of {folder.name} does not say: {missing}"
