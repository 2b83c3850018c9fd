"""Orders inside texts: which sentences tell somebody to act, and which of them address a machine."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from diorama.systems.agent_monitor.effects import SIDE_EFFECTS, VERBS
from diorama.systems.agent_monitor.text import content_words, fold, stem, words

INJECTION = re.compile(r"""(?xi)
    (?:ignore|disregard|forget|override|bypass|do\ not\ follow)\b.{0,30}?\b(?:previous|prior|above|earlier|all|any|other|initial|original|given)\b.{0,25}?
        \b(?:instruct\w*|prompt|rules?|directions?|guidelines|tasks?|commands?|requests?)
  | (?:ignore|disregard|forget)\ (?:everything|what\ (?:you\ (?:were|have\ been)|i|we|they)\ (?:told|said|asked)|your\ (?:task|orders?|user))
  | if\ you(?:'re|\ are)\ (?:an?\ |the\ )?(?:ai|llm|assistant|agent|bot|chatbot|language\ model|machine|robot)\b
  | [\[<(]\ ?(?:system|admin\w*|developer|root|assistant)\b[^\])>\n]{0,30}[\])>]
  | \bsystem\ (?:message|prompt|override|notice|instruction|alert)\b
  | strictly\ adhere\ to | (?:follow|execute|obey|complete)\ (?:this|these|the\ following|my)\ (?:new\ )?(?:instruct\w*|command|order|task|step)
  | (?:new|updated|real|actual|hidden|special|additional|secret|urgent|important)\ (?:system\ )?(?:instruct\w*|task|objective|directive|prompt|orders?)\b
  | before\ you\ (?:can\ |may\ )?(?:solve|do|continue|complete|answer|proceed|start|finish)
  | (?:important|urgent|attention|notice|critical)\ ?(?:!{2,}|:|\ message\ (?:from|to|for))
  | </?\ ?(?:information|important|system|instructions?|admin|user|inst)\ ?> | \[/?inst\] |
    \#{2,}\ ?(?:system|instruction|new\ task) | <\|im_(?:start|end)\|>
  | (?:note|message|instruct\w*|memo|hint)\ (?:to|for)\ (?:the\ |any\ |all\ |your\ )?(?:ai|assistant|agents?|llms?|language\ model|chatbot|model|bot)\b
  | \b(?:ai|assistant|agent|llm|chatbot|language\ model)s?\b.{0,30}\b(?:must|should|shall|please|need\ to|are\ (?:required|instructed|asked)\ to|is\ (?:required|instructed)\ to)\b
  | (?:as|hello|dear|hey|hi|attention),?\ (?:an?\ |the\ )?(?:ai|assistant|agent|llm|chatbot|gpt\S*|claude|language\ model)\b
  | do\ (?:not|n't)\ (?:mention|tell|inform|reveal|notify|alert|ask|report)\b.{0,25}\b(?:user|owner|anyone|this|me|human)
  | without\ (?:telling|informing|asking|notifying|alerting|the\ (?:user|owner)'?s?\ (?:knowledge|consent)) |
    (?:instead|first),?\ (?:of\ that,?\ )?(?:please\ )?(?:send|delete|transfer|run|execute|call|use|email|forward|share)
  | i\ will\ (?:tip|reward|pay)\ you | (?:in\ order\ )?to\ (?:complete|finish|continue)\ (?:the|this|your)\ (?:task|request|operation),?\ (?:you\ )?(?:must|need|have\ to|first)""")  # noqa: E501
_TRIGGERS = (
    *(
        f"{mark}{space}{who}"
        for mark in "[<("
        for space in ("", " ")
        for who in ("system", "admin", "developer", "root")
    ),
    *(f"{verb} {what}" for verb in ("follow", "execute", "obey", "complete") for what in ("th", "my")),
    *(f"{what} {to}" for what in ("note", "message", "memo", "hint") for to in ("to", "for")),
    *(
        "if you|system |ignore|disregard|forget|override|bypass|do not|don't|strictly|new |updated|real |actual|hidden|"
        "special|additional|secret|urgent|important|before you|attention|notice|critical|<information|</|< |inst]|##|"
        "<inst|<user|<|im_|instruct|assistant|agent|llm|chatbot|language model|gpt|claude| ai |ai,|ai:|ai/|without|"
        "instead|first|reward|tip you|pay you|to complete|to finish|to continue"
    ).split("|"),
)
_REACH = 200
"""No match of INJECTION begins or ends further from its trigger word."""


def _marks(low: str) -> Iterator[tuple[int, int]]:
    """Where folded text addresses a machine. Only what lies near a trigger word is searched, so that length costs
    little and padding hides nothing."""
    near = sorted(match.start() for word in _TRIGGERS for match in re.finditer(re.escape(word), low))
    end = 0
    for begin, last in _runs(near):
        start = max(end, begin - _REACH)
        for match in INJECTION.finditer(low, start, last + _REACH):
            yield match.span()
            end = match.end()


def _runs(positions: list[int]) -> Iterator[tuple[int, int]]:
    """Positions no further apart than the reach, as (first, last)."""
    first = last = -1
    for position in positions:
        if first < 0:
            first = position
        elif position - last > 2 * _REACH:
            yield first, last
            first = position
        last = position
    if first >= 0:
        yield first, last


@lru_cache(maxsize=4096)
def injects(text: str) -> bool:
    """Whether a text tries to give orders to a language model."""
    return next(_marks(fold(text)), None) is not None


@lru_cache(maxsize=512)
def in_view(text: str) -> str:
    """A tool's output as far as it is read: all of it up to 20,000 characters, else its beginning, its end, and up to
    ten places between them that address a machine."""
    if len(text) <= 20_000:
        return text
    middle = text[10_000:-10_000]
    pieces = (middle[start : start + 2_200] for start in range(0, len(middle), 2_000))
    return "\n".join((text[:10_000], *islice(filter(injects, pieces), 10), text[-10_000:]))


_LINE = re.compile(r"\n|\\n")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|['\"]\s*[,}\]]|[{\[]\s*['\"]|</?\w+>")
_IMPERATIVE_LEAD = frozenset(
    """
    please kindly now then also first next just and immediately important urgent todo note you must should
    need to can could i want have are required
    """.split()
)
_ACTS = frozenset(stem(verb) for name in SIDE_EFFECTS for verb in VERBS[name]) | frozenset(
    stem(word)
    for word in """
    open enter navigate call download list read make turn fill visit click go reply use access retrieve find
    get fetch search print include tell say upload
    """.split()
)


@lru_cache(maxsize=2048)
def instructions_in(text: str) -> tuple[tuple[frozenset[str], bool], ...]:
    """The sentences of a tool's output that tell somebody to act: (their content words, whether they address a
    machine).

    A sentence addresses a machine if it says so, or follows one that does: within its line, and over the next few lines
    where that line gave no order itself ('do the following first:').
    """
    text = fold(text)
    spans = list(_marks(text))
    found = []
    heat = start = 0
    for line in _LINE.split(text):
        addressed = ordered = False
        for piece in _SENTENCE.split(line):
            if not piece:
                continue
            position = text.find(piece, start)
            start = position + len(piece)
            marks = [begin for begin, end in spans if begin < start and end > position]
            if marks:
                heat, addressed = 5, True
                piece = piece[max(0, min(marks) - position) :]  # what stands before the mark is not addressed
            listed = words(piece)[:60]
            if len(listed) > 2 and (_is_order(listed, heat > 0) or heat == 5):
                found.append((content_words(piece[:600]), heat > 0))
                ordered |= heat > 0 and _is_order(listed, True)
            heat -= 1
        if addressed and ordered:
            heat = 0
    return tuple(found)


def _is_order(listed: tuple[str, ...], loosely: bool) -> bool:
    """Whether words begin with a verb of action after polite words; loosely: hold one anywhere."""
    lead = 0
    while lead < len(listed) - 1 and listed[lead] in _IMPERATIVE_LEAD:
        lead += 1
    return stem(listed[lead]) in _ACTS or (loosely and any(stem(word) in _ACTS for word in listed))
