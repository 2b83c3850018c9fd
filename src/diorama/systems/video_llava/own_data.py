"""Training and examination on files of one's own: LLaVA-style conversations and the public benchmarks' layouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from diorama.console import counting, note
from diorama.errors import InputError
from diorama.metrics import Interval
from diorama.systems.video_llava.benchmark_formats import (
    questions_from,
    read_gqa,
    read_llava_questions,
    read_pope,
    read_scienceqa,
    read_video_qa,
    write_predictions,
)
from diorama.systems.video_llava.files import Conversation, read_conversations
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.processing import (
    MARKER_PATTERN,
    encode_conversation,
    extended_tokenizer,
    unknown_words,
)
from diorama.systems.video_llava.scoring import BenchmarkQuestion, missing_media, score, score_yes_no
from diorama.systems.video_llava.splice import Media, Sample
from diorama.systems.video_llava.train import Learner
from diorama.training import Run, RunConfig

Layout = Literal["conversations", "video-qa", "pope", "gqa", "scienceqa", "llava"]


@dataclass(frozen=True)
class Conversations:
    """A map-style dataset of samples whose media were run through the towers once."""

    items: Sequence[Conversation]
    features: dict[Path, Media]
    llava: VideoLlava

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        media = [self.features[file.path] for file in item.media]
        return encode_conversation(item.turns, media, self.llava.tokenizer, self.llava.config)


def train_on_file(data: Path, media: Path, init: str | Path, stage: Literal["project", "instruct"], out: Path, *,
                  batch_size: int = 16, steps: int = 500, learning_rate: float = 3e-4, seed: int = 0,
                  device: str = "auto") -> Path:
    """Go on training a model on a LLaVA-style JSON file; returns the folder of the new model.

    Words that a word-level tokenizer lacks are added to it, with embeddings that start at the mean of the others.
    Raises InputError when no item of the file can be used.
    """
    torch.manual_seed(seed)
    llava = VideoLlava.from_pretrained(init, device=device)
    file = read_conversations(data, media)
    note(file.summary())
    if not file.usable:
        raise InputError(f"{data} has no item whose media are all in {media}, so there is nothing to train on. "
                         "Check --media.")
    learn_words(llava, (text for item in file.usable for turn in item.turns
                        for text in (turn.question, turn.answer or "")))
    dataset = Conversations(file.usable, look_at(llava, file.usable), llava)
    config = RunConfig(steps=steps, learning_rate=learning_rate, weight_decay=0.05, precision="bf16", seed=seed,
                       log_every=20, save_every=max(steps // 4, 1), trainable_only=True)
    run = Run(out, Learner(llava.model, stage), config, device=device)
    for samples in run.batches(dataset, batch_size=batch_size, collate=list):
        loss, tokens = run.model(samples)
        run.step(loss, tokens)
    card = (f"# {Path(init).name} after `{stage}` on {data.name}\n\n{steps} steps of {batch_size} conversations from "
            f"{len(file.usable)} items, learning rate {learning_rate:g}, seed {seed}, {run.seconds:.0f} s on "
            f"{run.device}.\n")
    return llava.save_pretrained(out / "model", card=card)


def learn_words(llava: VideoLlava, texts: Iterable[str]) -> list[str]:
    """Add the words that a word-level tokenizer lacks; returns them, nothing for other tokenizers."""
    fresh: dict[str, None] = {}
    for text in texts:
        fresh |= dict.fromkeys(unknown_words(llava.tokenizer, text))
    if not fresh:
        return []
    llava.tokenizer = extended_tokenizer(llava.tokenizer, fresh)
    size = len(llava.tokenizer)
    llava.model.language_model.resize_token_embeddings(size)
    llava.model.config = replace(llava.config, language=replace(llava.config.language, vocab_size=size))
    note(f"{len(fresh)} new words: {', '.join(list(fresh)[:12])}{' ...' if len(fresh) > 12 else ''}")
    return list(fresh)


def look_at(llava: VideoLlava, items: Sequence[Conversation]) -> dict[Path, Media]:
    """Tower features of every file, computed once: the towers are frozen."""
    paths = list(dict.fromkeys(file.path for item in items for file in item.media))
    found: dict[Path, Media] = {}
    with counting("media", len(paths)) as advance:
        for number, path in enumerate(paths, 1):
            found[path] = llava.show([path]).media[0]
            advance(number)
    return found


def examine_file(llava: VideoLlava, data: Path, media: Path | None, layout: Layout, answers: Path | None, *,
                 out: Path) -> dict[str, Any]:
    """Answer a benchmark's questions, write predictions.jsonl into `out`, and score what has published answers.

    Questions whose media are missing count as wrong and are counted in the result.
    """
    questions = read_layout(data, media, layout, answers)
    replies: dict[str, str | None] = {}
    with counting("questions", len(questions)) as advance:
        for number, question in enumerate(questions, 1):
            if not question.is_missing_media:
                shown = llava.show([file.path for file in question.media])
                text = MARKER_PATTERN.sub("", question.question).strip()
                replies[question.id] = shown.ask(text)[0].text
            advance(number)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.jsonl", questions, replies)
    result: dict[str, Any] = {"questions": len(questions), "missing media": len(missing_media(questions)),
                              "predictions": str(out / "predictions.jsonl")}
    if all(question.answer is not None for question in questions):
        result |= {f"accuracy, {kind}": str(value) for kind, value in score(questions, replies).items()}
        if layout == "pope":
            result |= {name: str(value) for name, value in vars(score_yes_no(questions, replies)).items()
                       if isinstance(value, Interval)}
    return result


def read_layout(data: Path, media: Path | None, layout: Layout, answers: Path | None) -> list[BenchmarkQuestion]:
    """The questions of a benchmark's files; InputError when a layout needs a folder or file that was not given."""
    if layout == "scienceqa":
        return read_scienceqa(data)
    if media is None:
        raise InputError(f"The layout {layout} keeps its media apart, and no folder was given. Pass --media.")
    if layout == "video-qa":
        if answers is None:
            raise InputError("The layout video-qa keeps its answers apart, and none were given. Pass --answers.")
        return read_video_qa(data, answers, media)
    if layout == "conversations":
        file = read_conversations(data, media)
        return questions_from([*file.usable, *file.incomplete])
    return {"pope": read_pope, "gqa": read_gqa, "llava": read_llava_questions}[layout](data, media)
