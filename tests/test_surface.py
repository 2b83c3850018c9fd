"""What users see: public names, the command line as tests/surface.txt lists it, and the pages that name both.

After a deliberate change of the command line: .venv/bin/python tests/test_surface.py > tests/surface.txt
"""

import ast
import importlib
import importlib.util
import pkgutil
import re
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diorama
from diorama.cli import SYSTEMS, build

ROOT = Path(__file__).resolve().parents[1]
SURFACE = ROOT / "tests" / "surface.txt"
PAGES = sorted([
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "src" / "diorama" / "systems").glob("*/README.md"),
])
FENCE = re.compile(r"^(?P<marks>```+|~~~+) *(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=marks) *$", re.M | re.S)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
HELP_SECONDS = 1.0


def test_public_names_are_importable_and_declared_once() -> None:
    tree = ast.parse(Path(diorama.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diorama")
        for alias in node.names
    }
    assert declared == diorama._HOME, "the imports for type checkers and the lazy ones name the same places"
    assert sorted(declared) == list(diorama.__all__)
    for name in diorama.__all__:
        assert getattr(diorama, name).__module__.startswith("diorama")
    assert set(diorama.__all__) <= set(dir(diorama))
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        diorama.rendr  # noqa: B018


def test_import_diorama_loads_no_torch() -> None:
    code = "import sys, diorama; diorama.Scene; sys.exit(int('torch' in sys.modules or 'numpy' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def modules_with_all() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(diorama.__path__, "diorama.", onerror=lambda _: None)]
    paths = [(name, ROOT / "src" / Path(*name.split("."))) for name in names]
    return [
        name
        for name, path in paths
        for file in (path.with_suffix(".py"), path / "__init__.py")
        if file.is_file() and re.search(r"^__all__ *[:=]", file.read_text(encoding="utf-8"), re.M)
    ]


@pytest.mark.parametrize("name", modules_with_all())
def test_all_names_what_a_module_has(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert not missing, f"{name}.__all__ promises {missing}"


# ---- the command line ----------------------------------------------------------------------------------------


def walk(app: App, path: tuple[str, ...] = ("diorama",)) -> Iterator[tuple[tuple[str, ...], App]]:
    yield path, app
    for name, command in sorted(app.resolved_commands().items()):
        if not name.startswith("-"):
            yield from walk(command, (*path, name))


def surface() -> list[str]:
    """One line a command, one a flag or positional argument of it."""
    lines = []
    for path, app in walk(build()):
        command = " ".join(path)
        lines.append(command)
        if app.default_command is None:
            continue
        for argument in app.assemble_argument_collection():
            if not argument.show or argument.children:
                continue
            negatives = set(argument.negatives)
            flags = [name for name in argument.names if name.startswith("-") and name not in negatives]
            if argument.index is not None:
                lines.append(f"{command} {argument.names[0].lstrip('-').upper()}")
            else:
                lines.extend(f"{command} {flag}" for flag in flags)
    return lines


def test_the_command_line_is_the_one_on_file() -> None:
    """A new or a lost flag is a deliberate act: this file changes with it."""
    on_file = SURFACE.read_text(encoding="utf-8").splitlines()
    now = surface()
    assert now == on_file, (
        f"new: {sorted(set(now) - set(on_file))}; gone: {sorted(set(on_file) - set(now))}. "
        "If this is meant, type: .venv/bin/python tests/test_surface.py > tests/surface.txt"
    )


def test_every_command_says_what_it_does() -> None:
    silent = [" ".join(path) for path, app in walk(build()) if not str(app.help).strip()]
    assert not silent, f"{silent} have no help text"


def test_help_of_the_installed_command_takes_under_a_second() -> None:
    """Processor time, so that a busy machine does not matter; the best of three."""
    command = Path(sys.executable).with_name("diorama")
    if not command.is_file():
        pytest.skip("diorama is not installed beside this Python; type: make test")
    seconds = []
    for arguments in (["--help"], ["world", "--help"], ["--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < HELP_SECONDS, f"{seconds} s of processor time"


# ---- the pages -----------------------------------------------------------------------------------------------


@cache
def page(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands_of(path: Path, program: str) -> list[list[str]]:
    """The argument lists of a program's lines in a page's shell fences; pipes and redirections end a line."""
    found = []
    for fence in FENCE.finditer(page(path)):
        if fence["language"] not in ("bash", "sh", "console", ""):
            continue
        for line in fence["body"].replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if not re.match(rf"(\w+=\S* )*\S*\b{program} ", f"{line} "):
                continue
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, "#"
            words: list[str] = []
            for token in [*lexer, ";"]:
                if token[0] not in "|&;<>()":
                    words.append(token)
                    continue
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words.pop(0)
                if words and Path(words[0]).name == program:
                    found.append(words[1:])
                words = []
    return found


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_commands_on_pages_parse(path: Path) -> None:
    """Read as the command line would read them, and not run."""
    app = build()
    for arguments in commands_of(path, "diorama"):
        waiting = arguments[:1] and arguments[0] in {system.name for system in SYSTEMS if system.commands is None}
        assert not waiting, f"{place(path)} shows {arguments}, which is not built yet"
        try:
            app.parse_args(arguments, exit_on_error=False, print_error=False)
        except Exception as error:
            pytest.fail(f"{place(path)}: diorama {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_make_targets_on_pages_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {word for words in commands_of(path, "make") for word in words if "=" not in word}
    named |= set(re.findall(r"`make ([\w-]+)`", page(path)))
    assert named <= targets, f"{place(path)} names {sorted(named - targets)}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page(path)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_links_on_pages_resolve(path: Path) -> None:
    broken = []
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page(path)))
    for match in LINK.finditer(text):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{place(path)}: {broken}"


def test_the_readme_tells_the_state_of_every_system() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]+) \|$", page(ROOT / "README.md"), re.M))
    assert list(rows) == [system.name for system in SYSTEMS]
    waiting = ("not yet", "being built")
    wrong = [s.name for s in SYSTEMS if (rows[s.name] == "not yet" and s.commands) or
             (not rows[s.name].startswith(waiting) and not s.commands)]
    assert not wrong, f"the README's table and the command line differ about {wrong}"


def test_the_figure_of_the_loop_is_current() -> None:
    """Drawn again, it is the committed one; a new system makes a dashed box solid."""
    specification = importlib.util.spec_from_file_location("loop", ROOT / "docs" / "figures" / "loop.py")
    assert specification and specification.loader
    loop = importlib.util.module_from_spec(specification)
    sys.modules["loop"] = loop
    try:
        specification.loader.exec_module(loop)
        drawn = loop.draw()
    finally:
        del sys.modules["loop"]
    assert drawn == page(ROOT / "docs" / "figures" / "loop.svg"), "type: .venv/bin/python docs/figures/loop.py"


# ---- the installation ----------------------------------------------------------------------------------------


def test_constraints_pin_what_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["agents"], *extras["mcp"]]
    asked += [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} but constraints.txt has {version}"
    assert not [version for version in pins.values() if "+" in version], "no local builds"
    assert not [name for name in pins if name.startswith(("nvidia", "triton", "torchvision"))], "runs on a processor"


if __name__ == "__main__":
    print("\n".join(surface()))
