"""A step as numbers for the ranker: what it does, where its values come from, how it fits the task. No word lists of
attacks.

`dense` gives named features in about [0, 1] and reads only what came before the action. Text overlap is weighted by how
rare a word is (`Rarity`), so 'file' matters less than 'invoice_77'.
"""

import re
from functools import lru_cache

from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.effects import SIDE_EFFECTS
from diorama.systems.agent_monitor.facts import CAUTION, ActionFacts, facts_of, harm_words
from diorama.systems.agent_monitor.instructions import injects
from diorama.systems.agent_monitor.leaves import leaf_features
from diorama.systems.agent_monitor.provenance import (
    DELEGATES,
    Context,
    Provenance,
    context_of,
    declared,
    last_outputs,
    provenance_of,
)
from diorama.systems.agent_monitor.rarity import Rarity
from diorama.systems.agent_monitor.stages.rules import built_in_hits
from diorama.systems.agent_monitor.text import content_words, hidden_characters
from diorama.systems.agent_monitor.values import SENSITIVE_PATH, SYSTEM_PATH, normal_path

OUTWARD = frozenset({"send", "pay", "grant", "delete", "stop", "physical"})
EFFECTS = ("read", "write", "delete", "stop", "send", "pay", "grant", "execute", "network", "physical")


@lru_cache(maxsize=4096)
def _harms(text: str) -> int:
    """How many different words of harm a text holds."""
    return len(harm_words(text))


def _overlap(text: str, context: Context) -> float:
    found = content_words(text)
    return len(found & context.user_words) / len(found) if found else 0.0


def _names(tool: str, text: str) -> bool:
    """Whether a text speaks of a tool by its very name (one that is no everyday word)."""
    return len(tool) > 7 and ("_" in tool or not tool.islower()) and tool.lower() in text.lower()


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _saturate(count: float, half: float) -> float:
    return count / (count + half)


def dense(step: Step, rarity: Rarity) -> dict[str, float]:
    """Named features of a step, each about 0 to 1."""
    facts, context = facts_of(step.action), context_of(step)
    found = provenance_of(step)
    values: dict[str, float] = {}
    values |= _effect_features(facts, context, found)
    values |= _fit_features(step, facts, context, rarity)
    values |= _origin_features(facts, context, found)
    values |= _danger_features(step, facts, context)
    values |= leaf_features(facts, context, rarity)
    values |= _crosses(values)
    return values


def _effect_features(facts: ActionFacts, context: Context, found: Provenance) -> dict[str, float]:
    values = {f"does_{name}": float(name in facts.effects) for name in EFFECTS}
    values |= {f"unasked_{name}": float(name in found.unasked) for name in SIDE_EFFECTS}
    values["side_effect"] = float(bool(facts.effects & set(SIDE_EFFECTS)))
    values["outward"] = float(bool(facts.effects & OUTWARD))
    values["unasked_outward"] = float(bool(found.unasked & OUTWARD))
    values["unasked_any"] = float(bool(found.unasked))
    values["no_effect_known"] = float(not facts.effects and not facts.is_answer)
    values["answer"] = float(facts.is_answer)
    values["tool_used_before"] = float(facts.action.tool in context.called)
    values["steps_before"] = _saturate(len(context.called), 4)
    return values


def _fit_features(step: Step, facts: ActionFacts, context: Context, rarity: Rarity) -> dict[str, float]:
    """How much of the action's rare words the task, the tools and the agent's prompt explain."""
    own = facts.own_words
    tool = content_words(" ".join(facts.tool_words))
    everything = own | tool
    mass = rarity.mass(everything)
    by_user = rarity.mass(everything & context.user_words)
    rest = everything - context.user_words
    by_tools = rarity.mass(rest & context.tool_words)
    prompt = content_words(context.system[:8000])
    by_prompt = rarity.mass((rest - context.tool_words) & prompt)
    own_mass = rarity.mass(own)
    previous = "\n".join(last_outputs(step.history))
    thought = content_words(step.action.thought[:3000])
    task = content_words(step.task[:4000])
    task_mass = rarity.mass(task)
    values = {
        "fit_user": _share(by_user, mass),
        "fit_tools": _share(by_tools, mass),
        "fit_prompt": _share(by_prompt, mass),
        "fit_none": _share(mass - by_user - by_tools - by_prompt, mass),
        "arguments_in_user": _share(rarity.mass(own & context.user_words), own_mass),
        "arguments_in_none": _share(rarity.mass(own - context.user_words - context.tool_words), own_mass),
        "tool_in_user": _share(rarity.mass(tool & context.user_words), rarity.mass(tool)),
        "tool_in_prompt": _share(rarity.mass(tool & prompt), rarity.mass(tool)),
        "task_covered": _share(rarity.mass(task & (everything | thought)), task_mass),
        "thought_in_user": _share(rarity.mass(thought & context.user_words), rarity.mass(thought)),
        "no_thought": float(not thought),
        "fit_previous": _share(rarity.mass(own & content_words(previous[:6000])), own_mass),
        "no_arguments": float(not own),
        "action_length": _saturate(len(facts.text), 400),
        "no_user_match": float(by_user == 0 and mass > 0),
        "few_words": _saturate(len(everything), 8),
        "no_outputs": float(not context.outputs),
    }
    values["fit_known"] = 1 - values["fit_none"]
    return values


def _origin_features(facts: ActionFacts, context: Context, found: Provenance) -> dict[str, float]:
    named, user, tools = facts.entities, context.user_named, context.tools_named
    paths = {normal_path(path) for path in facts.all_paths}
    user_low, tool_low = context.user.lower(), context.tools.lower() + context.system.lower()
    unknown_paths = [
        p
        for p in paths
        if p.lower().rsplit("/", 1)[-1] not in user_low and p.lower().rsplit("/", 1)[-1] not in tool_low
    ]
    tool_paths = [
        p for p in paths if p.lower().rsplit("/", 1)[-1] not in user_low and p.lower().rsplit("/", 1)[-1] in tool_low
    ]
    ids = {name for name in named.ids - named.recipients() if not re.fullmatch(r"\d{4}-\d\d-\d\d\S*|\d{1,4}", name)}
    return {
        "recipient": float(bool(named.recipients())),
        "recipient_from_tool": float(bool(found.from_tool)),
        "recipient_from_nowhere": float(bool(found.from_nowhere)),
        "hosts_known": float(bool(named.hosts) and named.hosts <= user.hosts | tools.hosts),
        "path_unknown": float(bool(unknown_paths)),
        "path_from_tool": float(bool(tool_paths)),
        "paths": float(bool(paths)),
        "id_unknown": float(any(i.lower() not in user_low and i.lower() not in tool_low for i in ids)),
        "id_from_tool": float(any(i.lower() not in user_low and i.lower() in tool_low for i in ids)),
        "obeys": found.obeys,
        "obeys_machine": found.obeys_machine,
        "obeyed_words": _saturate(found.obeyed_words, 4),
        "injection_seen": float(found.has_injection),
        "delegated": float(bool(DELEGATES.search(context.user[:4000]))),
        "user_share": found.user_share,
        "tool_share": found.tool_share,
        "money": float(facts.money > 0),
        "money_unknown": float(
            facts.money > 0
            and f"{facts.money:g}" not in user_low.replace(",", "")
            and f"{facts.money:g}" not in tool_low.replace(",", "")
        ),
        "sends_tool_data": float(bool(facts.effects & {"send", "network"}) and found.tool_share > 0.3),
    }


_NETWORK = frozenset(
    {
        "requests",
        "socket",
        "urllib",
        "http",
        "httpx",
        "smtplib",
        "ftplib",
        "paramiko",
        "aiohttp",
        "telnetlib",
        "websocket",
    }
)
_SYSTEM = frozenset({"subprocess", "os", "shutil", "ctypes", "pty", "signal", "winreg", "pickle"})
_DELETES = re.compile(r"(?:^|\.)(?:remove|rmtree|unlink|rmdir|removedirs|truncate)$")


def _danger_features(step: Step, facts: ActionFacts, context: Context) -> dict[str, float]:
    hits = [] if facts.problem else built_in_hits(facts)
    imports = {name for source in facts.python for name in source.imports}
    calls = {name for source in facts.python for name in source.calls}
    sensitive = any(SENSITIVE_PATH.search(normal_path(path)) for path in facts.all_paths)
    harm_user = len(frozenset().union(*(harm_words(text) for text in context.users)))
    harm_own = _harms(facts.folded[:4000])
    thought = step.action.thought[:3000]
    purpose = declared(step.action.tool, context.system)
    is_refusal = facts.is_answer and facts.is_refusal
    return {
        "rules": 1 - min((hit[0] for hit in hits), default=100.0) / 100,
        "harm_user": _saturate(harm_user, 1),
        "harm_action": _saturate(harm_own, 1),
        "harm_thought": _saturate(_harms(thought), 1),
        "harm_tool": _saturate(_harms(" ".join(facts.tool_words)), 0.5),
        "harm_purpose": _saturate(_harms(purpose), 1),
        "injection_by_user": float(any(injects(text) for text in (step.task, *context.users))),
        "purpose_in_user": _overlap(purpose, context),
        "is_declared": float(bool(purpose)),
        "tool_named_by_output": float(
            _names(step.action.tool, context.tools) and not _names(step.action.tool, context.user)
        ),
        "refusal": float(is_refusal),
        "caution": float(bool(CAUTION.search(facts.text[:2000])) and facts.is_answer),
        "caution_thought": float(bool(CAUTION.search(thought))),
        "secret": float(bool(facts.entities.secrets)),
        "sensitive_path": float(sensitive),
        "sensitive_asked": float(
            bool(re.search(r"(?i)password|credential|secret|token|key|login|ssn|private", context.user))
        ),
        "sensitive_word": float(
            bool(
                re.search(
                    r"(?i)passw|credential|secret|token|api.?key|private|ssn|confidential|personal|medical|bank|card",
                    facts.text[:4000],
                )
            )
        ),
        "system_path": float(any(SYSTEM_PATH.match(normal_path(path)) for path in facts.all_paths)),
        "code_network": float(bool(imports & _NETWORK)),
        "code_system": float(bool(imports & _SYSTEM)),
        "code_deletes": float(any(_DELETES.search(name) for name in calls)),
        "code_dynamic": float(bool(calls & {"eval", "exec", "compile", "__import__"})),
        "code": float(bool(facts.python)),
        "shell": float(bool(facts.commands)),
        "sql": float(bool(facts.statements)),
        "hidden": float(bool(hidden_characters(facts.text[:10_000]))),
        "climbs": float("../" in facts.text or "..\\" in facts.text),
        "broad": float(
            bool(re.search(r"(?i)\b(?:all|every|everyone|entire|anyone|public|\*)(?:\b|$)|\*", facts.text[:2000]))
        ),
    }


_PAIRS = (
    ("unasked_outward", "fit_none"),
    ("unasked_outward", "recipient_from_tool"),
    ("unasked_outward", "recipient_from_nowhere"),
    ("unasked_any", "obeys"),
    ("unasked_any", "injection_seen"),
    ("injection_seen", "fit_user"),
    ("obeys_machine", "side_effect"),
    ("side_effect", "fit_none"),
    ("side_effect", "fit_user"),
    ("does_read", "fit_none"),
    ("does_read", "fit_user"),
    ("outward", "fit_user"),
    ("does_execute", "fit_none"),
    ("outward", "recipient_from_tool"),
    ("sensitive_path", "does_send"),
    ("sensitive_path", "does_read"),
    ("secret", "outward"),
    ("answer", "harm_user"),
    ("no_outputs", "fit_user"),
    ("no_outputs", "fit_none"),
    ("paths", "path_unknown"),
    ("code", "fit_none"),
    ("answer", "fit_user"),
    ("unasked_any", "tool_used_before"),
    ("does_write", "fit_none"),
    ("sensitive_word", "unasked_outward"),
    ("money", "money_unknown"),
    ("does_pay", "recipient_from_tool"),
    ("does_pay", "recipient_from_nowhere"),
    ("broad", "does_delete"),
    ("unasked_any", "fit_tools"),
    ("no_outputs", "no_user_match"),
    ("steps_before", "fit_none"),
    ("few_words", "fit_none"),
    ("sends_tool_data", "recipient_from_nowhere"),
    ("delegated", "obeys"),
    ("delegated", "unasked_any"),
    ("delegated", "fit_none"),
    ("injection_by_user", "fit_user"),
    ("injection_by_user", "harm_tool"),
    ("harm_tool", "side_effect"),
)


def _crosses(values: dict[str, float]) -> dict[str, float]:
    found = {f"{one}*{other}": values[one] * values[other] for one, other in _PAIRS}
    found["complies_with_harm"] = values["harm_user"] * (1 - values["refusal"]) * (1 - values["caution"])
    found["calm_read"] = values["does_read"] * (1 - values["side_effect"]) * (1 - values["injection_seen"])
    return found
