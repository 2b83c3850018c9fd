"""Code, shell lines and SQL by their parsed form: which calls, programs, files and statements they hold.

Python is read by `ast`, shell by `shlex` after splitting at control operators, SQL by its statements. What does not
parse
is reported as such, never taken as harmless.
"""

import ast
import re
import shlex
from dataclasses import dataclass, field
from functools import lru_cache

FENCE = re.compile(r"```[ \t]*(\w*)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh", "fish", "pwsh", "powershell", "cmd"})
PREFIXES = frozenset(
    {
        "sudo",
        "doas",
        "nohup",
        "env",
        "time",
        "nice",
        "exec",
        "command",
        "xargs",
        "timeout",
        "stdbuf",
        "setsid",
        "busybox",
        "watch",
        "then",
        "do",
        "else",
        "if",
        "while",
        "!",
    }
)


@dataclass
class CodeFacts:
    """imports: top-level module names; calls: dotted names; strings: literals; is_parsed: False if the text is no
    Python."""

    imports: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    strings: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    is_parsed: bool = True


@lru_cache(maxsize=512)
def python_facts(source: str) -> CodeFacts:
    """What a Python source imports and calls, aliases resolved. Dynamic imports count under their literal name or
    '*'."""
    facts = CodeFacts()
    try:
        tree = ast.parse(source[:200_000])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        facts.is_parsed = False
        return facts
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                facts.imports.add(name.name.split(".")[0])
                aliases[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or "."
            facts.imports.add(module.split(".")[0] if not node.level else ".")
            for name in node.names:
                aliases[name.asname or name.name] = f"{module}.{name.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            facts.strings.append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _dotted(node.func, aliases)
            facts.calls.add(called)
            if called in ("__import__", "importlib.import_module", "builtins.__import__"):
                facts.imports.add(_literal(node.args[0]).split(".")[0] if node.args else "*")
            if called in ("open", "io.open", "builtins.open"):
                _note_open(node, facts)
    return facts


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "*"


def _note_open(node: ast.Call, facts: CodeFacts) -> None:
    mode = node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
    target = node.args[0] if node.args else None
    if isinstance(mode, ast.Constant) and any(char in str(mode.value) for char in "wax+"):
        facts.writes.append(str(target.value) if isinstance(target, ast.Constant) else "?")


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    if isinstance(node, ast.Call):
        return _dotted(node.func, aliases)
    return "?"


@dataclass(frozen=True)
class Command:
    """One simple shell command: the program's base name, its words, files it redirects into, and whether it reads a
    pipe."""

    program: str
    arguments: tuple[str, ...]
    redirects: tuple[str, ...] = ()
    reads_pipe: bool = False


@dataclass(frozen=True)
class ShellFacts:
    commands: tuple[Command, ...]
    is_parsed: bool = True


@lru_cache(maxsize=1024)
def shell_facts(line: str, depth: int = 0) -> ShellFacts:
    """Every simple command of a shell text, those inside $(...), backquotes and `sh -c '...'` included."""
    text = line[:50_000].replace("\\\n", " ")
    nested: list[Command] = []
    is_parsed = True
    if depth < 4:
        for match in re.finditer(r"\$\(([^()]*(?:\([^()]*\)[^()]*)*)\)|`([^`]*)`|<\(([^()]*)\)", text):
            inner = shell_facts(next(group for group in match.groups() if group is not None), depth + 1)
            nested += inner.commands
            is_parsed &= inner.is_parsed
    commands: list[Command] = []
    for row in text.splitlines():
        try:
            lexer = shlex.shlex(row, posix=True, punctuation_chars=";&|()<>")
            lexer.whitespace_split = True
            lexer.commenters = "#"
            tokens = list(lexer)
        except ValueError:
            is_parsed = False
            tokens = re.findall(r"[;&|()<>]+|[^\s;&|()<>\"']+", row)
        commands += _simple_commands(tokens)
    found = commands + nested
    if depth < 4:
        for command in list(found):
            if command.program in SHELLS | {"eval"}:
                script = _script_of(command)
                if script:
                    inner = shell_facts(script, depth + 1)
                    found += inner.commands
                    is_parsed &= inner.is_parsed
    return ShellFacts(tuple(found), is_parsed)


def _script_of(command: Command) -> str:
    if command.program == "eval":
        return " ".join(command.arguments)
    for index, word in enumerate(command.arguments[:-1]):
        if re.fullmatch(r"-[a-z]*c|/c|-[Cc]ommand", word):
            return command.arguments[index + 1]
    return ""


def _simple_commands(tokens: list[str]) -> list[Command]:
    found: list[Command] = []
    current: list[str] = []
    redirects: list[str] = []
    reads_pipe = False
    into = False

    def close() -> None:
        nonlocal current, redirects
        plain = list(current)
        while plain and (
            plain[0] in PREFIXES
            or re.fullmatch(r"[A-Za-z_]\w*=.*", plain[0])
            or (plain[0].startswith("-") and len(plain) > 1 and current[0] in PREFIXES)
        ):
            plain = plain[1:]
        if plain or redirects:
            name = plain[0].rsplit("/", 1)[-1].lower().removesuffix(".exe") if plain else ""
            found.append(Command(name, tuple(plain[1:]), tuple(redirects), reads_pipe))
        current, redirects = [], []

    for token in tokens:
        if token and set(token) <= set(";&|()"):
            close()
            reads_pipe, into = token in ("|", "|&"), False
        elif token and set(token) <= set("<>&"):
            into = ">" in token
        elif into:
            redirects.append(token)
            into = False
        else:
            current.append(token)
    close()
    return found


SQL = re.compile(
    r"(?is)\b(drop\s+(?:table|database|schema|user)|truncate\s+(?:table\s+)?\w|delete\s+from|update\s+[\w.\"`]+\s+set|"
    r"insert\s+into|alter\s+(?:table|user|role)|grant\s+\w|revoke\s+\w|create\s+(?:user|role|table)|"
    r"select\b.{1,400}?\bfrom)\b"
)


def sql_statements(text: str) -> list[str]:
    """The kinds of SQL statements in a text, e.g. 'drop table', 'delete from all' (no WHERE), 'select from'."""
    kinds = []
    for statement in re.split(r";", text[:20_000]):
        match = SQL.search(statement)
        if not match:
            continue
        kind = " ".join(match.group(1).lower().split()[:2])
        if kind.startswith(("delete", "update")) and not re.search(
            r"(?i)\bwhere\b(?!\s+(?:1\s*=\s*1|true)\b)", statement
        ):
            kind = f"{kind.split()[0]} all"
        kinds.append("select from" if kind.startswith("select") else kind)
    return kinds


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced code block of a text."""
    return [(language.lower(), body) for language, body in FENCE.findall(text)] if "```" in text else []
