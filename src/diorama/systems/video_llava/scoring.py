"""How free replies are compared with the right answers, and what is counted; every rule is a plain function.

Exact match: `normalize_answer`. GQA: `normalize_gqa`. POPE: `says_yes`. Multiple choice: `chosen`.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diorama.errors import InputError
from diorama.metrics import Interval, bootstrap_statistic, proportion
from diorama.systems.video_llava.files import MediaFile

Rule = Literal["exact", "gqa", "yes or no", "choice"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {word: str(number) for number, word in enumerate(
    "zero one two three four five six seven eight nine ten".split())}
WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W_]+(?:['\u2019-][^\W_]+)*")
LEADING_LETTER = re.compile(r"\(?([A-Za-z])(?:[).:,]|$)")
STATED_LETTER = re.compile(r"(?i:answer|option|choice)(?: is)?:? *\(?([A-Z])\b")


@dataclass(frozen=True, kw_only=True)
class BenchmarkQuestion:
    """One question of a benchmark. answer: the letter's text for multiple choice; None where it is not published."""

    id: str
    question: str
    answer: str | None
    media: tuple[MediaFile, ...] = ()
    kind: str = ""
    """The benchmark's own division, such as a category; blank where it has none."""
    choices: tuple[str, ...] = ()
    rule: Rule = "exact"

    @property
    def is_missing_media(self) -> bool:
        """True if a file that the question is about is not there."""
        return any(not item.exists for item in self.media)


@dataclass(frozen=True)
class YesNoScore:
    """POPE's five numbers; None where nothing was counted (no question answered or labelled "yes")."""

    accuracy: Interval
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    yes_share: Interval | None
    """Share of "yes" among the replies, whatever is right."""


def normalize_answer(text: str) -> str:
    """The form in which answers are compared for exact match.

    Unicode NFKC, lower case; words and numbers are kept with the hyphens, apostrophes and decimal points inside them,
    all other punctuation goes; "zero" to "ten" become digits; a, an, the go unless nothing else is left.
    """
    words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def normalize_gqa(text: str) -> str:
    """GQA's form: lower case, punctuation at both ends of each word stripped, single spaces; articles stay."""
    words = (word.strip(".,:;?!'\"()[]") for word in text.lower().split())
    return " ".join(word for word in words if word)


def says_yes(reply: str) -> bool:
    """POPE's rule (the authors' script, also LLaVA's): yes unless the first sentence holds "No", "no" or "not".

    The first sentence ends at the first full stop; commas are dropped and words are split at spaces, so "No," is a
    no and "NO" or "cannot" is not. A blank reply counts as yes in that script; here `is_right` calls it wrong.
    """
    words = reply.split(".")[0].replace(",", "").split()
    return not {"No", "no", "not"} & set(words)


def chosen(reply: str, choices: Sequence[str]) -> int | None:
    """The choice that a reply names, or None where it names none or several.

    Tried in turn: the reply is a letter or begins with one set off by a mark ("B", "b.", "(B) blue"); it states one
    letter ("The answer is B."); it equals the text of one choice after `normalize_answer`. Nothing is guessed.
    """
    reply = reply.strip()
    if match := LEADING_LETTER.match(reply):
        return _index(match[1], choices)
    stated = set(STATED_LETTER.findall(reply))
    if len(stated) == 1:
        return _index(stated.pop(), choices)
    same = [i for i, choice in enumerate(choices) if normalize_answer(choice) == normalize_answer(reply)]
    return same[0] if len(same) == 1 else None


def is_right(question: BenchmarkQuestion, reply: str | None) -> bool:
    """Whether a reply is right by the question's own rule. No reply, a blank one, or missing media is wrong.

    Raises InputError for a question whose answer is not published.
    """
    if question.answer is None:
        raise InputError(f"Question {question.id} comes without an answer, so no reply to it can be scored. "
                         "Send the predictions to the benchmark's server, or pass a file with answers.")
    if reply is None or not reply.strip() or question.is_missing_media:
        return False
    if question.rule == "choice":
        index = chosen(reply, question.choices)
        return index is not None and question.choices[index] == question.answer
    if question.rule == "yes or no":
        return says_yes(reply) == _labelled_yes(question)
    normalize = normalize_gqa if question.rule == "gqa" else normalize_answer
    return normalize(reply) == normalize(question.answer)


def score(questions: Sequence[BenchmarkQuestion], replies: Mapping[str, str | None]) -> dict[str, Interval]:
    """Accuracy with Wilson intervals: "all", then each kind in order of first appearance.

    replies: question id to reply. Every question counts, those with missing media as wrong (`missing_media` lists
    them). Raises InputError when a question whose media are there has no reply, or a reply has no question: the two
    were then made from different files.
    """
    check_replies(questions, replies)
    right: dict[str, list[bool]] = {"all": []}
    for question in questions:
        correct = is_right(question, replies.get(question.id))
        right["all"].append(correct)
        if question.kind and question.kind != "all":
            right.setdefault(question.kind, []).append(correct)
    return {kind: proportion(sum(found), len(found)) for kind, found in right.items()}


def score_yes_no(questions: Sequence[BenchmarkQuestion], replies: Mapping[str, str | None]) -> YesNoScore:
    """POPE: accuracy, and precision, recall, F1 of "yes" (Li et al. 2023, section 3), and the share of "yes".

    A question with missing media or a blank reply counts as answered wrongly: a "yes" becomes a miss, a "no" a false
    alarm; the share of "yes" leaves it out. F1's interval is a bootstrap over questions, the others are Wilson's.
    """
    check_replies(questions, replies)
    truth = np.array([_labelled_yes(question) for question in questions])
    correct = np.array([is_right(question, replies.get(question.id)) for question in questions])
    said = truth == correct
    answered = [bool(replies.get(q.id)) and not q.is_missing_media for q in questions]
    hits, yes = int((said & truth).sum()), int(said.sum())
    f1 = bootstrap_statistic(_f1, truth, said) if truth.any() or yes else None
    return YesNoScore(
        accuracy=proportion(int(correct.sum()), len(questions)),
        precision=proportion(hits, yes) if yes else None,
        recall=proportion(hits, int(truth.sum())) if truth.any() else None,
        f1=f1,
        yes_share=proportion(int(said[answered].sum()), sum(answered)) if any(answered) else None,
    )


def missing_media(questions: Iterable[BenchmarkQuestion]) -> list[BenchmarkQuestion]:
    """The questions that no model can answer because a file is missing; the scores count them as wrong."""
    return [question for question in questions if question.is_missing_media]


def check_replies(questions: Sequence[BenchmarkQuestion], replies: Mapping[str, str | None]) -> None:
    """Raise InputError unless questions and replies belong to each other (see `score`)."""
    if not questions:
        raise InputError("There are no questions, so there is nothing to score. Pass at least one.")
    ids = {question.id for question in questions}
    unknown = [key for key in replies if key not in ids]
    if unknown:
        raise InputError(f"{len(unknown):,} of {len(replies):,} replies belong to no question, such as that to "
                         f"{unknown[0]}. Score predictions with the question file they were made from.")
    open_ones = [q.id for q in questions if replies.get(q.id) is None and not q.is_missing_media]
    if open_ones:
        raise InputError(f"{len(open_ones):,} of {len(questions):,} questions have no reply though their media are "
                         f"there, such as {open_ones[0]}. Finish the predictions, or score the part that was asked.")


def _index(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.index(letter.upper())
    return index if index < len(choices) else None


def _labelled_yes(question: BenchmarkQuestion) -> bool:
    label = (question.answer or "").strip().lower()
    if label not in ("yes", "no"):
        raise InputError(f"The answer to question {question.id} is {question.answer!r}, but this benchmark's answers "
                         "are yes or no. Pass a file in POPE's format.")
    return label == "yes"


def _f1(truth: np.ndarray, said: np.ndarray) -> float:
    both = float((truth * said).sum())
    total = float(truth.sum() + said.sum())
    return 2 * both / total if total else 0.0
