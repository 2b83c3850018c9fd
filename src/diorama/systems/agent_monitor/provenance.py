"""Where the values of an action come from: the user, a tool's output, or nowhere (the model made them up).

An agent that acts on what a tool returned, rather than on what it was asked, is how injected instructions show.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

from diorama.agents.actions import Action
from diorama.agents.transcript import Message, Step, calls_of, text_of
from diorama.systems.agent_monitor.effects import SIDE_EFFECTS, asked_for
from diorama.systems.agent_monitor.facts import facts_of
from diorama.systems.agent_monitor.instructions import in_view, injects, instructions_in
from diorama.systems.agent_monitor.text import content_words, words
from diorama.systems.agent_monitor.values import Names, names_in

TOOL_LIST = re.compile(r"(?s)\[\s*\{\s*\"(?:type\": ?\"function|name)\".{20,20000}?\}\s*\](?=[^,\]}]|\Z)")
_NOTES = re.compile(r"""(?s)\[\s*\{\s*["']message["']\s*:.{20,8000}?\}\s*\]""")
_TAKEOVER = re.compile(
    r"(?i)(?:answer: task complete\W*)?\b(?:ignore|disregard|forget) (?:all |any |the |your |my )*"
    r"(?:previous|prior|above|earlier) (?:instructions?|prompts?|directions?|rules)|you must strictly adhere to"
)
DELEGATES = re.compile(
    r"(?i)to-?dos?\b|action items|instructions? (?:in|from|on|of)\b|(?:as|what|whatever) .{0,30}(?:says?|described?|"
    r"asks?|tells?)\b|(?:do|complete|follow|perform|execute|carry out|solve)"
    r" .{0,30}(?:tasks?|steps?|items?|instructions?|actions?)\b|listed (?:in|on)|according to|"
    r"assigned to|on my list"
)
RECENT = 24
_NAMES = re.compile(r"\b[A-Z][\w'-]+(?: [A-Z][\w'-]+)+")


@dataclass(frozen=True)
class Context:
    """What came before an action, by who said it. Texts are joined; names are those of all of them."""

    user: str
    tools: str
    users: tuple[str, ...]
    outputs: tuple[str, ...]
    system: str
    called: tuple[str, ...]
    called_words: tuple[tuple[str, ...], ...]
    said: str
    user_words: frozenset[str]
    user_names: frozenset[str]
    tool_words: frozenset[str]
    user_named: Names
    tools_named: Names
    asked: frozenset[str]


def _union(parts: list[Names]) -> Names:
    fields = ("urls", "hosts", "emails", "accounts")
    return Names(*(frozenset().union(*(getattr(part, name) for part in parts)) for name in fields))


@lru_cache(maxsize=512)
def spoken_by_user(text: str) -> tuple[str, str, str]:
    """A user message as (the user's own words, pasted tool descriptions, pasted matter that nobody vouches for).

    Frameworks paste tool lists and recalled notes into it; text after an order to forget all instructions is not taken
    for the user's, whoever sent it.
    """
    tools = "\n".join(TOOL_LIST.findall(text))
    plain = TOOL_LIST.sub(" ", text) if tools else text
    notes = "\n".join(_NOTES.findall(plain))
    plain = _NOTES.sub(" ", plain) if notes else plain
    turn = _TAKEOVER.search(plain)
    foreign = plain[turn.start() :] if turn else ""
    return plain[: turn.start()] if turn else plain, tools, "\n".join(part for part in (notes, foreign) if part)


def declared(tool: str, system: str) -> str:
    """What the agent's prompt says a tool is for: the description beside its name in a tool list, or ''."""
    at = system.find(f'"{tool}"') if tool else -1
    if at < 0:
        return ""
    match = re.match(r'[^{}]{0,40}"description":\s*"((?:[^"\\]|\\.){0,400})', system[at + len(tool) + 2 : at + 600])
    return match.group(1) if match else ""


T = TypeVar("T")


def _kept(compute: Callable[[Step], T]) -> Callable[[Step], T]:
    """The function with its answer kept for the step asked about last, since several stages ask in turn."""
    latest: tuple[Step, T] | None = None

    @wraps(compute)
    def ask(step: Step) -> T:
        nonlocal latest
        known = latest
        if known is None or known[0] is not step:
            known = latest = (step, compute(step))
        return known[1]

    return ask


@_kept
def context_of(step: Step) -> Context:
    """A step's history sorted by speaker. Only the last RECENT tool outputs are read."""
    users, outputs, systems = [step.task, step.description], [], [step.agent_prompt[:20_000]]
    calls: list[Action] = []
    for message in step.history:
        role = message.get("role")
        if role == "user":
            text = text_of(message.get("content"))
            if text != step.task:
                users.append(text)
        elif role in ("tool", "function", "environment"):
            outputs.append(in_view(text_of(message.get("content"))))
        elif role in ("system", "developer"):
            systems.append(text_of(message.get("content"))[:20_000])
        elif role == "assistant":
            calls += calls_of(message)
    said = [spoken_by_user(text[:20_000]) for text in users if text]
    users = [text for text, _, _ in said]
    systems += [tools for _, tools, _ in said if tools]
    outputs = [*(foreign for _, _, foreign in said if foreign), *outputs[-RECENT:]]
    empty: frozenset[str] = frozenset()
    return Context(
        user="\n".join(users),
        tools="\n".join(outputs),
        users=tuple(users),
        outputs=tuple(outputs),
        system="\n".join(systems),
        called=tuple(call.tool for call in calls),
        called_words=tuple(words(call.tool) for call in calls),
        said="\n".join(call.arguments[:4000] for call in calls[-RECENT:]),
        user_words=empty.union(*(content_words(text) for text in users)),
        user_names=empty.union(*(content_words(name) for text in users for name in _NAMES.findall(text[:4000]))),
        tool_words=empty.union(*(content_words(text) for text in outputs)),
        user_named=_union([names_in(text) for text in users]),
        tools_named=_union([names_in(text) for text in outputs]),
        asked=empty.union(*(asked_for(text) for text in users)),
    )


@dataclass(frozen=True)
class Provenance:
    """How an action stands to its context.

    from_tool / from_nowhere: recipients and accounts that only tools named, or nobody. unasked: side effects the user's
    words do not ask for. obeys: share of the action's own words (those the user never said) found in one instruction of
    a tool's output, 0-1; obeys_machine the same for instructions that address a machine. has_injection: a tool's output
    tries to give orders to the agent.
    """

    from_tool: frozenset[str]
    from_nowhere: frozenset[str]
    unasked: frozenset[str]
    obeys: float
    obeys_machine: float
    obeyed_words: int
    has_injection: bool
    user_share: float
    tool_share: float


def _introduced(name: str, context: Context) -> bool:
    """Whether a tool named a recipient in a plain line about somebody whom the user named: a contact looked up, say."""
    own = content_words(name)
    for output in context.outputs:
        for line in output.splitlines():
            if name in line.lower() and not injects(line):
                beside = content_words(line[:300]) - own
                if len(beside & context.user_names) >= 2:
                    return True
    return False


@_kept
def provenance_of(step: Step) -> Provenance:
    """Trace an action's values and verbs back to the user, the tools or nobody."""
    context, facts = context_of(step), facts_of(step.action)
    named = facts.entities.recipients()
    user_text, tool_text = context.user.lower(), context.tools.lower()
    compact_user, compact_tool = user_text.replace(" ", ""), tool_text.replace(" ", "")
    from_tool: set[str] = set()
    from_nowhere: set[str] = set()
    for name in named:
        low = name.lower()
        if name in context.user_named.recipients() or low in user_text or low in compact_user:
            continue
        known = name in context.tools_named.recipients() or low in tool_text or low in compact_tool
        if known and not _introduced(low, context):
            from_tool.add(name)
        elif not known:
            from_nowhere.add(name)
    unasked = frozenset(name for name in facts.effects if name in SIDE_EFFECTS) - context.asked
    if facts.effects & context.asked & {"pay", "grant"}:
        unasked -= {"send"}  # who asks for a payment asks for its sending
    own = content_words(f"{' '.join(facts.tool_words)} {facts.text[:6000]}")
    fresh = own - context.user_words
    obeys = machine = 0.0
    count = 0
    has_injection = False
    for output in context.outputs:
        for spoken, is_machine in instructions_in(output):
            has_injection |= is_machine
            shared = fresh & spoken
            share = (
                len(shared) / max(4, len(fresh))
                if len(fresh) <= 30
                else len(shared) / max(4, len(spoken - context.user_words))
            )
            obeys = max(obeys, min(1.0, share))
            count = max(count, len(shared))
            if is_machine:
                machine = max(machine, min(1.0, share))
    size = max(1, len(own))
    return Provenance(
        frozenset(from_tool),
        frozenset(from_nowhere),
        unasked,
        obeys,
        machine,
        count,
        has_injection,
        len(own & context.user_words) / size,
        len(fresh & context.tool_words) / size,
    )


def last_outputs(history: tuple[Message, ...], count: int = 1) -> list[str]:
    """The texts of the last `count` tool outputs, newest first."""
    found = []
    for message in reversed(history):
        if message.get("role") in ("tool", "function", "environment"):
            found.append(text_of(message.get("content")))
            if len(found) == count:
                break
    return found
