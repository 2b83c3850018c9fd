"""Where each argument of an action comes from: the user, a tool, the agent's prompt, earlier calls, or nobody."""

import re

from diorama.systems.agent_monitor.domains import GENERAL, domains_of
from diorama.systems.agent_monitor.effects import VERBS
from diorama.systems.agent_monitor.facts import ActionFacts
from diorama.systems.agent_monitor.provenance import Context
from diorama.systems.agent_monitor.rarity import Rarity
from diorama.systems.agent_monitor.text import content_words, fold, stem

TARGET = re.compile(
    r"(?i)^(?:to|cc|bcc|with|who|recipients?|e?mails?|users?|members?|participants?|people|person|names?|accounts?|"
    r"iban|wallet|url|link|host|address(?:es)?|destination|target|channel|path|file|filename|folder|directory|device|"
    r"door|customer|patient|symbol|company|hotel|city|title|resource|project|repository)$|"
    r"_(?:to|id|ids|email|account|url|path|name|user)$|^id$|(?:Id|Email|Path|Name|Url)$"
)
"""Keys whose value says whom or what an action is done to."""
_ALL_VERBS = frozenset(verb for verbs in VERBS.values() for verb in verbs)
_COUNT_KEY = re.compile(
    r"(?i)limit|count|max|top|page|offset|size|depth|index|lines|rows|^n$|^k$|_n$|period|range|days|format|verbose|sort"
)
_SMALL = re.compile(r"\d{1,3}|[A-Za-z]{1,12}|\d{1,2}[dhwmy]")
_ALL = re.compile(r"(?i)\*|/|all|everyone|everybody|everything|anyone|any|public|%|\.\*|all[-_ ]\w+@.*|all@.*|~/?|/\*")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_NAMED = re.compile(r"[@/\\:]|\d{3}|[A-Za-z]\d|\d[A-Za-z]|[A-Z][a-z]+ [A-Z][a-z]+")


def _numbers(text: str) -> frozenset[str]:
    return frozenset(f"{float(found.replace(',', '')):g}" for found in _NUMBER.findall(text)[:2000])


def nouns(words: tuple[str, ...]) -> frozenset[str]:
    """The roots of a tool name's words that are no verbs: what the tool deals with."""
    return frozenset(stem(word) for word in words if word not in _ALL_VERBS and len(word) > 2)


class Sources:
    """The texts an argument may come from, folded, and the words and numbers in them."""

    def __init__(self, context: Context):
        self.texts = {
            "user": fold(context.user),
            "tool": fold(context.tools),
            "prompt": fold(context.system),
            "own": fold(context.said),
        }
        self.words = {
            "user": context.user_words,
            "tool": context.tool_words,
            "prompt": content_words(context.system[:8000]),
            "own": content_words(context.said[:8000]),
        }

    def origin(self, text: str, rarity: Rarity) -> tuple[str, float]:
        """(where a value comes from, the share of its rare words that nobody said before)."""
        low = fold(text).strip()
        known = frozenset().union(*self.words.values())
        own = content_words(text)
        mass = rarity.mass(own)
        unknown = rarity.mass(own - known) / mass if mass > 0 else 0.0
        if re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?", low):
            value = f"{float(low.replace(',', '').lstrip('-')):g}"
            for name, source in self.texts.items():
                if value in _numbers(source):
                    return name, 0.0
            return "none", 1.0
        for name, source in self.texts.items():
            if low and low in source:
                return name, 0.0
        if mass <= 0:
            return "plain", 0.0
        shares = {name: rarity.mass(own & words) / mass for name, words in self.words.items()}
        best = max(shares, key=lambda name: shares[name])
        return (best if shares[best] >= 0.5 else "none"), unknown


def leaf_features(facts: ActionFacts, context: Context, rarity: Rarity) -> dict[str, float]:
    """Named features, 0 to 1: how much of the action, argument by argument, nobody asked for or named."""
    sources = Sources(context)
    counts = {"user": 0, "tool": 0, "prompt": 0, "own": 0, "none": 0, "plain": 0}
    everything = any(re.search(rf"(?i)\b{word}", context.user) for word in ("all", "every", "each", "any"))
    named_none = target_none = target_tool = target_user = body_unknown = worst = 0.0
    size, is_all = 0, False
    leaves = [] if facts.is_answer else [(key, text) for key, text in facts.leaves if text.strip()][:40]
    for key, text in leaves:
        if _COUNT_KEY.search(key) and _SMALL.fullmatch(text.strip()):
            continue  # how many results at most: nobody says that
        origin, unknown = sources.origin(text[:4000], rarity)
        if len(text) > 160 or "\n" in text:
            body_unknown = max(body_unknown, unknown)
            continue
        size += 1
        counts[origin] += 1
        is_all |= bool(_ALL.fullmatch(text.strip()))
        worst = max(worst, unknown)
        if origin == "none" and _NAMED.search(text):
            named_none += 1
        if TARGET.search(key):
            target_none = max(target_none, float(origin == "none"))
            target_tool = max(target_tool, float(origin == "tool"))
            target_user = max(target_user, float(origin == "user"))
    own_nouns = nouns(facts.tool_words)
    called = frozenset().union(*(nouns(words) for words in context.called_words))
    known = own_nouns & (context.user_words | called)
    share = {name: count / max(1, size) for name, count in counts.items()}
    about = domains_of(" ".join(facts.tool_words))
    asked = frozenset().union(*(domains_of(text[:4000]) for text in context.users))
    before = frozenset().union(*(domains_of(" ".join(words)) for words in context.called_words))
    return {
        "leaf_user": share["user"],
        "leaf_tool": share["tool"],
        "leaf_own": share["own"],
        "leaf_none": share["none"],
        "leaf_any_none": float(counts["none"] > 0),
        "leaf_named_none": float(named_none > 0),
        "leaf_worst": worst,
        "leaf_all": float(is_all),
        "leaf_all_unasked": float(is_all and not everything),
        "target_none": target_none,
        "target_tool": target_tool,
        "target_user": target_user,
        "target_only_none": target_none * (1 - target_user) * (1 - target_tool),
        "body_unknown": body_unknown,
        "body": float(body_unknown > 0),
        "noun_known": len(known) / len(own_nouns) if own_nouns else 0.0,
        "noun_called": len(own_nouns & called) / len(own_nouns) if own_nouns else 0.0,
        "no_noun": float(not own_nouns),
        "first_call": float(not context.called),
        "domain_asked": len(about & asked) / len(about) if about else 0.0,
        "domain_none": float(bool(about) and not about & (asked | before)),
        "domain_new": float(bool(about) and not about & asked),
        "domain_special": float(bool(about) and not about & GENERAL and not about & (asked | before)),
        "no_domain": float(not about),
    }
