"""Public benchmark files as questions, and predictions as files; everything is joined on question ids.

Readers: `read_video_qa` (MSVD, MSRVTT, TGIF, ActivityNet-QA), `read_nextqa`, `read_pope`, `read_gqa`,
`read_scienceqa`, `read_llava_questions` (LLaVA-1.5), `questions_from` (one's own LLaVA-style data). Media that are
missing stay in the list, marked, and count as wrong.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diorama.errors import InputError
from diorama.media.content import existing_file
from diorama.systems.video_llava.files import Conversation, MediaFile, find_media, media_folder
from diorama.systems.video_llava.json_files import Record, describe, read_each, read_object, read_records, write_records
from diorama.systems.video_llava.processing import MARKER_PATTERN
from diorama.systems.video_llava.scoring import LETTERS, BenchmarkQuestion, check_replies

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."


def read_video_qa(questions: Path | str, answers: Path | str, videos: Path | str, *,
                  partial: bool = False) -> list[BenchmarkQuestion]:
    """Zero-shot video QA: test_q.json [{video_name, question_id, question}] and test_a.json [{answer, question_id,
    type}], joined on question_id, with the folder of clips.

    A clip is looked for as <video_name> and, as ActivityNet's are called, v_<video_name> (see `files.find_video`).
    kind is "type <type>"; for ActivityNet-QA 0 motion, 1 spatial relation, 2 temporal relation, 3 yes or no, 4 color,
    5 object, 6 location, 7 number, 8 other. partial: the question file is a part of the benchmark, so answers to
    other questions are left out. Multiple choice where the questions hold a list "choices".

    Raises InputError for a question id that comes twice, a question without answer, or an answer without question.
    """
    folder = media_folder(videos)
    asked, answered = read_records(questions), _by_id(read_records(answers))
    unanswered = [key for key in _by_id(asked) if key not in answered]
    if unanswered:
        raise InputError(f"{len(unanswered):,} of {len(asked):,} questions of {Path(questions).name} have no answer in "
                         f"{Path(answers).name}, such as {unanswered[0]}. Pass the two files of one benchmark.")
    if not partial and len(answered) > len(asked):
        unasked = next(key for key in answered if key not in _by_id(asked))
        raise InputError(f"{len(answered) - len(asked):,} of {len(answered):,} answers of {Path(answers).name} have no "
                         f"question in {Path(questions).name}, such as {unasked}. Pass the whole question file, or "
                         "partial=True to score a part of the benchmark.")

    def read(record: Record) -> BenchmarkQuestion:
        name = record.key("video_name")
        answer = answered[record.key("question_id")]
        found = answer.values.get("type")
        choices, right = _choices(record, answer)
        return BenchmarkQuestion(
            id=record.key("question_id"), question=_with_choices(record.text("question"), choices), answer=right,
            media=(find_media(record, "video", folder, name, f"v_{name}"),), choices=choices,
            kind="" if found is None else f"type {found}", rule="choice" if choices else "exact")

    return read_each(asked, read)


def read_nextqa(path: Path | str, videos: Path | str) -> list[BenchmarkQuestion]:
    """NExT-QA's multiple choice: CSV with video, question, answer (0-4), qid, type, a0 ... a4; one clip <video>.mp4.

    The id is <video>_<qid>, the kind NExT-QA's type (CW CH TN TC TP DC DL DO). Raises InputError for absent columns,
    an answer that is no number of a choice, and ids that come twice.
    """
    path, folder = Path(path), media_folder(videos)
    try:
        text = existing_file(path, "a CSV table").read_bytes().decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name} cannot be read as a CSV table in UTF-8 ({error}). "
                         "Pass the file as it was published.") from error
    if not rows:
        raise InputError(f"{path.name} has no rows, so there is nothing to ask. Pass the whole file.")
    records = [Record(path.name, number, {str(k): v for k, v in row.items() if v is not None})
               for number, row in enumerate(rows, 2)]

    def read(record: Record) -> BenchmarkQuestion:
        choices = tuple(record.text(f"a{i}").strip() for i in range(5))
        right = record.text("answer")
        if right not in ("0", "1", "2", "3", "4"):
            raise record.problem("answer", f"it holds {describe(right)}", "It is the number of a choice, 0 to 4.")
        return BenchmarkQuestion(
            id=f"{record.text('video')}_{record.text('qid')}", answer=choices[int(right)], choices=choices,
            question=_with_choices(record.text("question"), choices), kind=record.text("type"), rule="choice",
            media=(find_media(record, "video", folder, record.text("video")),))

    return _once(read_each(records, read), path)


def read_pope(path: Path | str, images: Path | str) -> list[BenchmarkQuestion]:
    """POPE: JSON lines {question_id, image, text, label yes or no}; a line without question_id takes its number.

    kind: the field category or setting, else the end of names such as coco_pope_adversarial.json.
    """
    path, folder = Path(path), media_folder(images)
    sort = path.stem.rpartition("_")[2] if "pope_" in path.stem else ""
    sort = sort if sort in ("random", "popular", "adversarial") else ""

    def read(record: Record) -> BenchmarkQuestion:
        label = record.text("label").strip().lower()
        if label not in ("yes", "no"):
            raise record.problem("label", f"it holds {describe(label)}", "A label is yes or no.")
        kind = record.values.get("category", record.values.get("setting", sort))
        return BenchmarkQuestion(
            id=record.id, question=record.text("text"), answer=label, kind=str(kind), rule="yes or no",
            media=(find_media(record, "image", folder, record.text("image")),))

    return _once(read_each(read_records(path), read), path)


def read_gqa(path: Path | str, images: Path | str, *, suffix: str = "") -> list[BenchmarkQuestion]:
    """GQA: one JSON object, question id to {imageId, question, answer, types: {structural}}; images <imageId>.jpg.

    suffix: written on a line of its own after the question; public checkpoints were trained with `SHORT_ANSWER`.
    kind: the structural type (verify, query, choose, logical, compare).
    """
    path, folder = Path(path), media_folder(images)
    records = _entries(path.name, read_object(path).items())

    def read(record: Record) -> BenchmarkQuestion:
        types = record.values.get("types")
        question = record.text("question")
        return BenchmarkQuestion(
            id=record.id, question=f"{question}\n{suffix}" if suffix else question, answer=record.text("answer"),
            media=(find_media(record, "image", folder, f"{record.key('imageId')}.jpg"),), rule="gqa",
            kind=str(types.get("structural", "")) if isinstance(types, dict) else "")

    return read_each(records, read)


def read_scienceqa(folder: Path | str, *, split: str = "test") -> list[BenchmarkQuestion]:
    """ScienceQA: problems.json, pid_splits.json and images/<split>/<id>/<image> in one folder.

    The question is written as in LLaVA-1.5 (question, context, lettered options, `LETTER_ANSWER`). kind: "image", the
    published ScienceQA-IMG, or "text" for questions without one. Raises InputError for an unknown split or id.
    """
    folder = media_folder(folder)
    splits, problems = read_object(folder / "pid_splits.json"), read_object(folder / "problems.json")
    wanted = splits.get(split)
    if not isinstance(wanted, list) or not wanted:
        raise InputError(f"pid_splits.json has no questions for the split {split!r}. "
                         f"Pass one of {', '.join(splits)}.")
    absent = [pid for pid in wanted if str(pid) not in problems]
    if absent:
        raise InputError(f"{len(absent):,} ids of the split {split} are not in problems.json, such as {absent[0]}. "
                         "Pass the two files of one release.")
    records = _entries("problems.json", [(str(pid), problems[str(pid)]) for pid in wanted])

    def read(record: Record) -> BenchmarkQuestion:
        record.value("choices")
        choices, right = _choices(record, record)
        hint = record.values.get("hint")
        question = record.text("question") + (f"\nContext: {hint}" if hint else "")
        image = record.values.get("image")
        media: tuple[MediaFile, ...] = ()
        if image is not None:
            name = f"images/{split}/{record.id}/{record.checked_text(image, 'image')}"
            media = (find_media(record, "image", folder, name),)
        return BenchmarkQuestion(id=record.id, question=_with_choices(question, choices), answer=right, media=media,
                                 choices=choices, kind="image" if media else "text", rule="choice")

    return _once(read_each(records, read), folder / "pid_splits.json")


def read_llava_questions(path: Path | str, images: Path | str) -> list[BenchmarkQuestion]:
    """LLaVA-1.5's question files: JSON lines {question_id, image, text, category?}, without answers.

    A line may have no image. kind is the category. `score` refuses these; write the predictions and have them judged.
    """
    path, folder = Path(path), media_folder(images)

    def read(record: Record) -> BenchmarkQuestion:
        image = record.values.get("image")
        media = () if image is None else (
            find_media(record, "image", folder, record.checked_text(image, "image")),)
        return BenchmarkQuestion(id=record.key("question_id"), question=record.text("text"), answer=None, media=media,
                                 kind=str(record.values.get("category", "")))

    return _once(read_each(read_records(path), read), path)


def questions_from(conversations: Iterable[Conversation]) -> list[BenchmarkQuestion]:
    """One's own LLaVA-style data as exact-match questions, one a turn, each asked alone and with all the media.

    Markers are taken out, since the prompt puts them first. The id is the conversation's, with #2, #3 ... for later
    turns. Raises InputError where ids repeat.
    """
    questions = [
        BenchmarkQuestion(id=item.id if number == 1 else f"{item.id}#{number}", media=item.media,
                          question=MARKER_PATTERN.sub("", turn.question).strip(), answer=turn.answer)
        for item in conversations for number, turn in enumerate(item.turns, 1)]
    return _once(questions, Path("the conversations"))


def write_predictions(path: Path | str, questions: Sequence[BenchmarkQuestion],
                      replies: Mapping[str, str | None]) -> None:
    """JSON lines {id, question, answer, pred}, one a question; pred is null where media are missing.

    The file is whole or as it was before. Raises InputError as `score` does.
    """
    check_replies(questions, replies)
    path = Path(path)
    if path.suffix != ".jsonl":
        raise InputError(f"Predictions are JSON lines, and {path.name} does not say so. Name the file *.jsonl.")
    write_records(path, ({"id": question.id, "question": question.question, "answer": question.answer,
                          "pred": None if question.is_missing_media else replies[question.id]}
                         for question in questions))


def read_predictions(path: Path | str) -> dict[str, str | None]:
    """Question id to reply, from {id, pred} or from LLaVA's answer files {question_id, text}; never evaluated.

    Raises InputError for ids that come twice and replies that are no text (null: the media were missing).
    """

    def read(record: Record) -> tuple[str, str | None]:
        field = "pred" if "pred" in record.values else "text"
        reply = record.value(field)
        if reply is not None and not isinstance(reply, str):
            raise record.problem(field, f"it holds {describe(reply)}, not text", "A reply is a JSON string or null.")
        return record.key("id" if "id" in record.values else "question_id"), reply

    pairs = read_each(read_records(path), read)
    replies = dict(pairs)
    if len(replies) < len(pairs):
        ids = [key for key, _ in pairs]
        raise InputError(_twice(next(key for key in replies if ids.count(key) > 1), Path(path).name))
    return replies


def _by_id(records: Sequence[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        key = record.key("question_id")
        if key in found:
            raise InputError(_twice(key, record.file, f" (items {found[key].number} and {record.number})"))
        found[key] = record
    return found


def _once(questions: list[BenchmarkQuestion], path: Path) -> list[BenchmarkQuestion]:
    seen = set()
    for question in questions:
        if question.id in seen:
            raise InputError(_twice(question.id, path.name))
        seen.add(question.id)
    return questions


def _twice(key: str, file: str, where: str = "") -> str:
    return (f"The question id {key} comes twice in {file}{where}, so replies cannot be joined to questions. "
            "Give each question an id of its own.")


def _entries(file: str, values: Iterable[tuple[str, object]]) -> list[Record]:
    records = []
    for number, (key, value) in enumerate(values, 1):
        if not isinstance(value, dict):
            raise InputError(f"{file}, entry {key} is {describe(value)}, not an object with fields. "
                             "Pass the file as it was published.")
        records.append(Record(file, number, {**value, "id": key}))
    return records


def _choices(record: Record, answer: Record) -> tuple[tuple[str, ...], str]:
    """The choices (none: open answer) and the right one, which may be given as a number from 0, a letter or text."""
    listed = record.values.get("choices")
    if listed is None:
        return (), answer.key("answer")
    if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
        raise record.problem("choices", f"it holds {describe(listed)}", f"List 2 to {len(LETTERS)} texts.")
    choices = tuple(record.checked_text(text, f"choices[{i}]") for i, text in enumerate(listed))
    right = answer.value("answer")
    if isinstance(right, str) and right in choices:
        return choices, right
    if isinstance(right, str) and len(right) == 1 and right.upper() in LETTERS:
        right = LETTERS.index(right.upper())
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices):
        return choices, choices[right]
    raise answer.problem("answer", f"it holds {describe(right)}, which is none of the {len(choices)} choices",
                         "Give the choice's number from 0, its letter or its text.")


def _with_choices(question: str, choices: Sequence[str]) -> str:
    if not choices:
        return question
    options = "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))
    return f"{question}\n{options}\n{LETTER_ANSWER}"
