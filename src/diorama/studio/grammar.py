"""The planner without a language model: a request becomes a plan by ordinary rules, or one sentence says why not.

A request is split into clauses; each clause is tried against the rules from the most particular (compare) to the
least (a plain question, which goes to the model as it stands). Start at `plan_request`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from diorama.errors import InputError
from diorama.studio.plan import Answer, Basis, Compare, Count, GivenFile, Locate, Part, Plan, Step, how_many
from diorama.studio.references import MARKER, in_words, listing, mark, marked

ASKING = (r"(?:what|which|who|whose|where|when|why|how|is|are|was|were|does|do|did|has|have|can|could|will|from when|"
          r"at (?:which|what)|in which)")
ORDERS = (r"(?:count|describe|caption|summari[sz]e|find|locate|compare|tell|name|list|say|identify|read|explain|"
          r"give|spot)")
OPENING = rf"(?:{ASKING}|{ORDERS})\b"
POLITE = re.compile(
    r"^(?:please|kindly|hey|hello|hi|so|now|then|also|and|but|ok|okay)\b[,:]?\s+|[,]?\s+please$|"
    r"^(?:(?:can|could|would|will) you|i(?:'d| would)? (?:like|want|need) (?:you )?to|help me)\s+(?=(?:please\s+)?"
    r"(?:tell|count|describe|find|locate|compare|say|know|name|list|explain|give|spot|see)\b)|^know\s+|^see\s+(?=wh)|"
    r"^(?:tell|show|give) me:?\s+|^(?:say|answer)(?::\s*|\s+(?=wh))|^question:\s*", re.IGNORECASE)
PREAMBLE = re.compile(rf"^(?:look at|watch|see|consider|take|open|here (?:is|are)|this is|these are|given)\s+{MARKER}$",
                      re.IGNORECASE)
AGAIN = re.compile(rf"^(?:(?:in|for|about|what about|how about)\s+)?{MARKER}$", re.IGNORECASE)
LEADING = re.compile(rf"^(?:in|on|for|about|regarding|looking at)\s+({MARKER})\s*[,:]?\s+", re.IGNORECASE)
MAKING = re.compile(r"^(?:make|draw|paint|generate|create|edit|remove|replace|add|animate|render|turn|convert|crop|cut|"
                    r"blur|delete|translate|write)\b", re.IGNORECASE)
PLACED = re.compile(rf"\s+(?:(?:shown|seen|visible|present|that (?:is|are))\s+)?(?:in|on|from|within|inside|"
                    rf"throughout|during|(?<=middle )of|(?<=center )of|(?<=left )of|(?<=right )of|(?<=top )of|"
                    rf"(?<=bottom )of|(?<=side )of|(?<=corner )of|(?<=front )of|(?<=back )of)\s+{MARKER}",
                    re.IGNORECASE)
BARE = re.compile(r"(?:what|who|which|where)(?: (?:is|are|can be seen|do you see|can you see|happens?|is happening|"
                  r"is going on|is shown|is visible|does|there is))*", re.IGNORECASE)
OPTIONS = re.compile(r"[:,]\s*(?:the |is it the )?first\b[^?]*?\b(?:both|second|neither|same)\b[^?.]*"
                     r"|,?\s+or do (?:both|they)[^?.]*", re.IGNORECASE)

WHICH = (rf"(?:in )?which(?: one)?(?: (?:file|image|picture|photo|clip|video|movie|gif)s?)?"
         rf"(?: (?:of|out of|among|between) (?:{MARKER}))?(?: {MARKER},?)?")
SHOWS = r"(?:shows?|has|have|contains?|holds?|includes?)"
MORE = r"(?:the )?(?P<more>more|most|fewer|fewest|less|least)"
THING = r"(?P<what>(?!of\b)[\w' -]+?)"
IN_FILES = rf"(?: (?:in|on|between|of|across|from) {MARKER})?"
SUBJECT = r"(?P<subject>(?:(?!\bwhen\b).)+?)"


def _rule(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


COUNT_RULES = tuple(map(_rule, (
    rf"how many {THING} (?:are|is) there{IN_FILES}",
    rf"how many {THING} (?:are|is) (?:in|on|shown in|visible in|visible on) {MARKER}",
    rf"how many {THING} (?:do|can|could) (?:you|we|i) (?:see|count|find){IN_FILES}",
    rf"how many {THING} (?:are|is) (?:visible|shown|present)(?: there)?{IN_FILES}",
    rf"how many {THING} (?:does|do) {MARKER} {SHOWS}",
    rf"how many {THING} there are{IN_FILES}",
    rf"how many (?P<what>(?:[\w'-]+ ){{0,3}}(?:\w+s|people|men|women|children|tori)){IN_FILES}",
    rf"how many {THING} (?:there )?(?:are|is)(?: there)?{IN_FILES}",
    rf"count (?:all )?(?:of )?(?:the )?{THING}(?: that are| there are)?(?: visible| there)?{IN_FILES}",
    rf"(?:what is |find |give )?the number of {THING}{IN_FILES}",
)))
WHEN = (r"(?:find (?:out )?|locate |say |determine )?(?:from when (?:to|until|till) when|when exactly|when|"
        r"(?:at|in) (?:which|what) (?:time|times|second|seconds|moment|point)|"
        r"the (?:moment|time|interval) (?:when|in which)|how long after the start)")
LOCATE_RULES: tuple[tuple[re.Pattern[str], Part], ...] = (
    (_rule(rf"{WHEN} (?P<aux>does|do|did|will) {SUBJECT} (?:start|begin) (?:to )?(?P<verb>.+)"), "start"),
    (_rule(rf"{WHEN} (?P<aux>does|do|did|will) {SUBJECT} (?:stop|finish|end|quit) (?P<verb>\w+ing\b.*)"), "end"),
    (_rule(rf"{WHEN} {SUBJECT} (?:starts|begins) (?:to )?(?P<verb>.+)"), "start"),
    (_rule(rf"{WHEN} {SUBJECT} (?:stops|finishes|ends) (?P<verb>\w+ing\b.*)"), "end"),
    (_rule(rf"{WHEN} (?P<be>is|are|was|were) (?P<rest>.+)"), "span"),
)

VERBS = (r"(?:(?:first|finally|suddenly|slowly|quickly) )?(?:move|go|come|slide|rise|sink|fall|drop|spin|turn|rotate|"
         r"grow|shrink|appear|vanish|disappear|show|get|become|change|start|stop|begin|end|stay|do|happen|jump|run|walk|enter|"
         r"leave|open|close|hit|touch|pick|put|stand|sit|look|wave|smile|speak|talk|eat|drink|cross|pass|reach|arrive|"
         r"fly|swim|drive|cut|pour|throw|catch|kick|play|dance|lift|push|pull|bend|break|explode|burn|melt|flash|blink)")
FINITE = (r"(?:(?!torus\b|glass\b|bus\b|this\b|is\b|was\b|has\b)\w+s|went|came|rose|sank|fell|"
          r"grew|shrank|spun|moved|appeared|vanished|disappeared|turned|rotated)")
LOCATE_SPAN_INVERTED = _rule(rf"{WHEN} (?P<aux>does|do|did|will) {SUBJECT} (?P<verb>{VERBS}\b.*)")
LOCATE_SPAN_ANY = _rule(rf"{WHEN} (?P<aux>does|do|did|will) "
                        rf"(?P<subject>(?:the|a|an|any|some|his|her|its|their) (?:\w+ )*?\w+|\w+) "
                        rf"(?P<verb>\w+(?: (?:to|into|out|up|down|left|right|away|towards|through|on|off|at|in)\b.*)?)")
LOCATE_SPAN_FINITE = _rule(rf"{WHEN} (?P<subject>(?:the|a|an|any|some|his|her|its|their) (?:\w+ )*?\w+?|\w+) "
                           rf"(?P<verb>{FINITE}\b.*)")
DESCRIBE_RULES = tuple(map(_rule, (
    rf"(?:describe|caption|summari[sz]e|explain)(?: {MARKER}| it| them| this| everything)?"
    rf"(?: briefly| in (?:detail|a sentence))?",
    rf"(?:give )?(?:a |the )?(?:short |brief )?(?:description|caption|summary) (?:of|for) {MARKER}",
    rf"what (?:do|can) you see{IN_FILES}",
    rf"what does {MARKER} show",
    rf"what is (?:shown |there |visible )?(?:in|on) {MARKER}",
)))


def plan_request(request: str, files: Sequence[GivenFile]) -> Plan:
    """The plan for a request about the given files.

    Raises InputError, one sentence, where nothing is asked, no file was given, or it is unclear which file is meant.
    """
    words = " ".join(request.replace("\u2019", "'").split())
    if not words:
        raise InputError("The request is empty. Ask something about the files, such as \"what color is the cube?\".")
    if not files:
        raise InputError("The request names no file to look at. Add the path of at least one image or clip.")
    text = mark(OPTIONS.sub("", words), files)
    steps: list[Step] = []
    context = tuple(range(len(files))) if len(files) == 1 else ()
    clauses = list(split(text))
    everywhere = {marked(clause) for clause in clauses if marked(clause)}
    if not context and len(everywhere) == 1:
        context = next(iter(everywhere))
    for clause in clauses:
        if PREAMBLE.match(clause):
            context = marked(clause)
            continue
        if AGAIN.match(clause) and steps:
            steps += _again(steps[-1], marked(clause), files)
            continue
        steps += plan_clause(clause, context, files)
        if mentioned := marked(clause):
            context = mentioned
    if not steps:
        raise InputError(f"The request {request!r} shows files but asks nothing about them. "
                         "Add a question, such as \"what is in the image?\".")
    return Plan(request, tuple(files), tuple(steps))


def _again(step: Step, about: tuple[int, ...], files: Sequence[GivenFile]) -> list[Step]:
    """The same step about other files: "what color is the cube in a.png? And in b.png?"."""
    if isinstance(step, Compare):
        raise InputError("The request compares files and then names another, which does not say what to do with it. "
                         "Write the second question in full.")
    if isinstance(step, Locate) and any(files[index].kind == "image" for index in about):
        raise InputError("An image has no times, so nothing can be located in it. Ask when of a clip.")
    return [replace(step, file=index) for index in about]


def split(text: str) -> list[str]:
    """The clauses of a marked text, in order, without their end marks and politeness."""
    sentences = re.split(r"(?<=[?!;])\s+|(?<=[.])\s+(?=\w)", text)
    clauses = []
    for sentence in sentences:
        bare = sentence.strip().rstrip("?!.;: ")
        if lead := LEADING.match(bare):
            clauses.append(f"given {lead[1]}")
            bare = bare[lead.end():]
        parts = re.split(rf",?\s+(?:and|and then|then)\s+(?:also\s+)?(?={OPENING})", bare, flags=re.IGNORECASE)
        for part in _whole(parts):
            while (plain := POLITE.sub("", part).strip()) != part:
                part = plain
            if part:
                clauses.append(part)
    return clauses


def _whole(parts: Sequence[str]) -> list[str]:
    """Parts that each ask on their own: one that asks nothing belongs to what stands before it."""
    found: list[str] = []
    for part in parts:
        if found and re.match(r"(?:is|are|do|does|has|have|can|will)\b", part, re.IGNORECASE) and not re.match(
                r"(?:is|are|do|does|has|have|can|will) \w+ \w+|is it\b", part, re.IGNORECASE):
            found[-1] += f" and {part}"
        else:
            found.append(part)
    return found


def plan_clause(clause: str, context: tuple[int, ...], files: Sequence[GivenFile]) -> list[Step]:
    """The steps of one clause; `context` are the files it is about where it names none itself."""
    if MAKING.match(clause):
        raise InputError(f"The request asks to {clause.split()[0].lower()} something, and `diorama do` answers "
                         "questions about files and makes none yet. Ask what you want to know about them.")
    compared = _compare(clause, files)
    if compared is not None:
        return [compared]
    about = marked(clause) or context
    if not about and re.match(rf"{OPENING}", clause, re.IGNORECASE):
        raise InputError(f"{len(files)} files were given ({listing(files)}) and {clause!r} does not say which is "
                         "meant. Write a file's name, 'the first file', or 'in both'.")
    located = _locate(clause)
    if located is not None:
        for index in about:
            if files[index].kind == "image":
                raise InputError(f"{files[index].name} is an image, so nothing happens in it at any time. "
                                 "Ask when of a clip.")
        return [Locate(located[0], index, located[1]) for index in about]
    counted = _count(clause, files)
    if counted is not None:
        return [Count(counted[0], index, counted[1]) for index in about]
    question = _question(clause, files)
    return [Answer(question.format(medium=_medium(files[index])), index) for index in about]


def _medium(file: GivenFile) -> str:
    return "image" if file.kind == "image" else "clip"


# ---- compare -------------------------------------------------------------------------------------------------

BASES: dict[str, Basis] = {"more": "most", "most": "most", "fewer": "fewest", "fewest": "fewest", "less": "fewest",
                           "least": "fewest"}
MORE_RULES = tuple(map(_rule, (
    rf"{WHICH} {SHOWS} {MORE} {THING}(?: in (?:it|them))?",
    rf"{WHICH} (?:are|is) there {MORE} {THING}",
    rf"where are there {MORE} {THING}{IN_FILES}",
    rf"(?:are|is) there {MORE} {THING} in {MARKER} than (?:in )?{MARKER}",
    rf"(?:does|do|has|have) {MARKER} (?:{SHOWS} )?{MORE} {THING} than (?:in )?{MARKER}",
)))
SAME_COUNT_RULES = tuple(map(_rule, (
    rf"(?:do|does|are|is|have|has)(?: there)?(?: {MARKER})?(?: {SHOWS})? "
    rf"(?:the same number of|equally many|as many) {THING}{IN_FILES}",
    rf"is the number of {THING} the same{IN_FILES}",
)))
EXISTS_RULES = tuple(map(_rule, (
    rf"{WHICH} {SHOWS} (?P<a>an?|the|any) {THING}",
    rf"{WHICH} (?:is|are) there (?P<a>an?|any) (?P<what>.+)",
)))
DOES_RULE = _rule(rf"{WHICH} (?P<aux>does|do) {SUBJECT} (?P<verb>{VERBS}\b.*)")
IS_RULE = _rule(r"in which(?: (?:file|image|picture|photo|clip|video|one))? (?P<aux>is|are) (?P<subject>the [\w -]+)")
SAME_ANSWER_RULE = _rule(rf"(?P<aux>is|are|does|do) {SUBJECT} (?:have )?the same (?P<attribute>\w+)"
                         rf"(?: in| on| between) {MARKER}")
CHANGE_RULES = tuple(map(_rule, (
    rf"(?:does|did|do|has|have|is|are) (?:there )?(?:anything|something|any|any difference|a difference|"
    rf"any changes?)\b.*(?:chang|differ|between).*{MARKER}",
    rf"(?:is|are) there (?:a |any )?(?:differences?|changes?) .*{MARKER}",
    rf"(?:what|how) (?:has |have |is |are |does |do |did )?(?:the )?(?:.* )?"
    rf"(?:change[sd]?|differences?|different|differs?)\b.*{MARKER}.*",
    r"what (?:changes|changed|differs|has changed)",
    rf"(?:how )?(?:is|are|do|does) {MARKER} (?:differ|different|the same|alike|identical|equal).*",
    rf"compare {MARKER}",
    rf"(?:find|spot|list|name|tell) (?:all |me )?(?:the )?differences?(?: (?:between|of|in) {MARKER})?",
)))


def _compare(clause: str, files: Sequence[GivenFile]) -> Compare | None:
    """The comparison that the clause asks for; None where it asks for none."""
    mentioned = marked(clause)
    found = _compared(clause)
    if found is None:
        if re.match(r"(?:in )?which (?:file|of ⟦|image\b|picture\b|photo\b|clip\b|video\b)", clause, re.IGNORECASE):
            raise InputError(f"{in_words(clause, files)!r} is a comparison that is not understood: files are compared "
                             "by how many of something they show, whether they show it, one attribute, or what "
                             "changes. Ask one of these, or the same question of each file.")
        return None
    basis, question, what = found
    among = mentioned if len(mentioned) > 1 else tuple(range(len(files)))
    if basis in ("same answer", "changes") and len(mentioned) < 2 and len(files) == 1:
        return None
    if len(among) < 2:
        raise InputError(f"The request compares files, and one was given ({listing(files)}). Add the other.")
    if basis == "changes" and len(among) != 2:
        raise InputError(f"Changes are looked for between two files, and {len(among)} are meant ({listing(files)}). "
                         "Name two of them.")
    return Compare(basis, question, among, what)


def _compared(clause: str) -> tuple[Basis, str, str] | None:
    """Basis, question and what is counted."""
    if match := _first(MORE_RULES, clause):
        return BASES[match["more"].lower()], how_many(match["what"]), match["what"]
    if match := _first(SAME_COUNT_RULES, clause):
        return "same count", how_many(match["what"]), match["what"]
    if match := _first(EXISTS_RULES, clause):
        article = match["a"] if match["a"].lower() in ("a", "an") else "a"
        return "exists", f"is there {article} {match['what']}?", match["what"]
    if (match := SAME_ANSWER_RULE.fullmatch(clause)) and len(marked(clause)) > 1:
        attribute, subject = match["attribute"], match["subject"]
        is_place = attribute in ("place", "position", "spot")
        asked = f"where is {subject}?" if is_place else f"what {attribute} is {subject}?"
        return "same answer", asked, subject
    if re.match(r"(?:in )?which (?:⟦|file|of|clip|video|image|picture|photo)", clause, re.IGNORECASE):
        if match := DOES_RULE.fullmatch(clause):
            return "exists", f"{match['aux'].lower()} {match['subject']} {match['verb']}?", match["subject"]
        if match := IS_RULE.fullmatch(clause):
            return "exists", f"{match['aux'].lower()} {match['subject']}?", match["subject"]
    if _first(CHANGE_RULES, clause):
        return "changes", "", ""
    return None


# ---- locate and count ----------------------------------------------------------------------------------------


def _locate(clause: str) -> tuple[str, Part] | None:
    """The yes-or-no question of an event and the part of its span that is asked for."""
    bare = PLACED.sub("", clause)
    for rule, part in LOCATE_RULES:
        if match := rule.fullmatch(bare):
            found = match.groupdict()
            if found.get("rest"):
                return f"{found['be']} {found['rest']}?", part
            return _does(found.get("aux"), found["subject"], _base(found["verb"])), part
    for rule in (LOCATE_SPAN_INVERTED, LOCATE_SPAN_ANY, LOCATE_SPAN_FINITE):
        if match := rule.fullmatch(bare):
            verb = match["verb"] if rule is not LOCATE_SPAN_FINITE else _base(match["verb"])
            return _does(match.groupdict().get("aux"), match["subject"], verb), "span"
    return None


def _does(auxiliary: str | None, subject: str, verb: str) -> str:
    """The yes-or-no question, in the present tense, in the number in which the request speaks."""
    is_plural = auxiliary == "do" or re.match(r"(?:they|we|you|both|all|two|three|people)\b", subject, re.IGNORECASE)
    return f"{'do' if is_plural else 'does'} {subject} {verb}?"


def _base(verb: str) -> str:
    """The verb phrase with its first word in base form: "moves left" and "moving left" become "move left"."""
    word, _, rest = verb.partition(" ")
    past = {"went": "go", "came": "come", "rose": "rise", "sank": "sink", "fell": "fall", "grew": "grow",
            "shrank": "shrink", "spun": "spin"}
    doubled = {"spinning": "spin", "sitting": "sit", "running": "run", "stopping": "stop", "getting": "get",
               "cutting": "cut", "putting": "put", "hitting": "hit", "swimming": "swim", "dropping": "drop"}
    lower = word.lower()
    if lower in past or lower in doubled:
        word = past.get(lower) or doubled[lower]
    elif lower.endswith("ing") and len(lower) > 4:
        stem = word[:-3]
        needs_e = re.search(r"(?:[aeiou][vszcg]|dg|rg|anc|ang)$", stem) or stem in (
            "slid", "ris", "rotat", "smil", "clos", "driv", "explod")
        word = stem + "e" if needs_e else stem
    elif lower.endswith("ed") and len(lower) > 4:
        word = word[:-1] if re.search(r"(?:[aeiou][vszc]|at)ed$", lower) else word[:-2]
    elif re.search(r"(?:sh|ch|x|ss|o)es$", lower):
        word = word[:-2]
    elif lower.endswith("ies"):
        word = word[:-3] + "y"
    elif lower.endswith("s") and not lower.endswith("ss"):
        word = word[:-1]
    return f"{word} {rest}".strip()


def _count(clause: str, files: Sequence[GivenFile]) -> tuple[str, str] | None:
    """What is counted, and the question that counts it."""
    if match := _first(COUNT_RULES, clause):
        what = match["what"].strip()
        if not re.search(r"\b(?:are|is|do|does|can|have|has|move|moves|there)\b", what):
            return what, how_many(what)
    if re.match(r"how many\b", clause, re.IGNORECASE):
        what = re.match(r"how many ((?:(?!\b(?:are|is|do|does|can|have|has|move|stay)\b)[\w' -])+)", clause,
                        re.IGNORECASE)
        return (what[1].strip() if what else "objects"), _stripped(clause, files)
    return None


# ---- plain questions -----------------------------------------------------------------------------------------


def _question(clause: str, files: Sequence[GivenFile]) -> str:
    """A plain question as the model hears it; `{medium}` stands for "image" or "clip"."""
    if _first(DESCRIBE_RULES, clause):
        return "what is in the {medium}?"
    if match := re.fullmatch(r"what (color|shape|size) (the .+?) (?:is|has)", clause, re.IGNORECASE):
        clause = f"what {match[1]} is {match[2]}"
    elif match := re.fullmatch(r"(?:if|whether) there (is|are) (.+)", clause, re.IGNORECASE):
        clause = f"{match[1]} there {match[2]}"
    elif not re.match(rf"{OPENING}", clause, re.IGNORECASE):
        raise InputError(f"{in_words(clause, files)!r} asks nothing that is understood. Begin with a question word "
                         "(what, which, how many, when, is there ...) or with count, describe, find or compare.")
    return _stripped(clause, files).replace("{", "(").replace("}", ")")


def _stripped(clause: str, files: Sequence[GivenFile]) -> str:
    """The question without "in ⟦0⟧", unless nothing would be left of it; other markers become words."""
    bare = PLACED.sub("", clause).strip()
    kept = clause if BARE.fullmatch(bare) or not bare else bare
    return f"{in_words(kept, files)}{'?' if re.match(ASKING, kept, re.IGNORECASE) else ''}"


def _first(rules: Sequence[re.Pattern[str]], clause: str) -> re.Match[str] | None:
    return next((match for rule in rules if (match := rule.fullmatch(clause))), None)
