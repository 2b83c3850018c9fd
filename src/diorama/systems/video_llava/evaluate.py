"""How often the answers are right, by kind of question, on scenes that training never saw; exact match only.

Published numbers of video question answering are judged by a hosted model whose version moves them by eight points
(papers' issue #37), so nothing here asks one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.metrics import Interval, proportion
from diorama.systems.video_llava.data import Prepared, Seen, prepare, see
from diorama.systems.video_llava.familiarity import error_rates
from diorama.systems.video_llava.generation import Decoding, Prefix
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.processing import Turn, decode_answer, encode_conversation
from diorama.systems.video_llava.splice import Media
from diorama.world.pool import Pool, PoolConfig, draw_pool
from diorama.world.questions import Kind, Question, questions
from diorama.world.sampling import Split

SHORT = Decoding(max_tokens=8)


@dataclass(frozen=True)
class Reply:
    """One question of the examination with what was said."""

    row: int
    question: Question
    said: str
    is_clip: bool

    @property
    def is_right(self) -> bool:
        return self.said == self.question.answer


def examination(split: Split, *, scenes: int, moving: bool, frames: int, seed: int = 9_000_000) -> Pool:
    """Freshly rendered scenes of a split, never on disk: stills, or clips of `frames` frames."""
    return draw_pool(PoolConfig(families=scenes, frames=frames if moving else 1, split=split, seed=seed))


@torch.no_grad()
def examine(llava: VideoLlava, seen: Seen, *, questions_each: int = 6, kinds: Iterable[Kind] | None = None,
            seed: int = 0, progress: Callable[[int], None] | None = None) -> list[Reply]:
    """Ask up to `questions_each` questions about every scene, each with the answer generated token by token.

    kinds: the kinds of question that are asked; all where None.
    """
    replies: list[Reply] = []
    facts = seen.pool.facts
    for row in range(len(facts)):
        scene, visible = facts.of(row)
        asked = questions(scene, Random(f"examination {seed} {row}"), n=questions_each, kinds=kinds, visible=visible)
        media = [Media(facts.kind, features=seen.features[row].to(llava.device))]
        samples = [encode_conversation([Turn(q.question)], media, llava.tokenizer, llava.config) for q in asked]
        if not samples:
            continue
        answers = Prefix.encode(llava.model, samples[0]).answer(samples, SHORT)
        replies += [
            Reply(row, q, decode_answer(llava.tokenizer, ids), facts.kind == "video")
            for q, ids in zip(asked, answers, strict=True)
        ]
        if progress:
            progress(row + 1)
    return replies


def by_kind(replies: Sequence[Reply]) -> dict[str, Interval]:
    """Share of right answers for every kind of question and over all, with Wilson intervals."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for reply in replies:
        groups[reply.question.kind].append(reply.is_right)
        groups["all"].append(reply.is_right)
    return {kind: proportion(sum(rights), len(rights)) for kind, rights in sorted(groups.items())}


def examine_world(llava: VideoLlava, split: Split, *, moving: bool, scenes: int, seed: int = 9_000_000,
                  questions_each: int = 6, progress: Callable[[int], None] | None = None) -> dict[str, Interval]:
    """Accuracy by kind on `scenes` fresh scenes of a split."""
    pool = examination(split, scenes=scenes, moving=moving, frames=llava.config.tower.frames, seed=seed)
    ready: Prepared = prepare(pool, llava.config)
    return by_kind(examine(llava, see(llava.model, ready), questions_each=questions_each, progress=progress))


def accuracy_table(found: Mapping[str, Mapping[str, Interval]]) -> str:
    """Accuracy by kind as plain lines, images first."""
    lines = [f"{'':8}{'kind':12}{'right':>8}{'low':>8}{'high':>8}{'n':>7}"]
    for medium, rows in found.items():
        lines += [f"{medium:8}{kind:12}{i.mean:8.1%}{i.low:8.1%}{i.high:8.1%}{i.n:7d}" for kind, i in rows.items()]
    return "\n".join(lines)


def examine_familiarity(llava: VideoLlava, folder: Path, *, scenes: int) -> dict[str, float | int]:
    """How well the checkpoint tells photographs in a folder from fresh renders of its world.

    Raises InputError when the checkpoint has no measure of familiarity or the folder no pictures.
    """
    paths = photographs(folder)
    if llava.familiarity is None:
        raise InputError(f"{llava.name} carries no measure of what it is familiar with. Use the shipped miniature.")
    if not paths:
        raise InputError(f"{folder} holds no picture. Pass a folder of photographs.")
    strange, unreadable = strangeness_of(llava, paths)
    familiar = renders_shown(llava, scenes=scenes, seed=9_600_000)
    false_alarms, misses = error_rates(familiar, strange)
    return {"renders": len(familiar), "photographs": len(strange), "unreadable": unreadable,
            "renders called strange": false_alarms, "photographs called familiar": misses,
            "median strangeness of renders": float(np.median(familiar)),
            "median strangeness of photographs": float(np.median(strange))}


def renders_shown(llava: VideoLlava, *, scenes: int, seed: int) -> list[float]:
    """The strangeness of fresh renders of unseen scenes."""
    stills = draw_pool(PoolConfig(families=scenes, split="test", seed=seed))
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in stills.pixels[:, 0]]
    return [llava.show([picture]).looked[0].strangeness or 0.0 for picture in pictures]


def strangeness_of(llava: VideoLlava, paths: Sequence[Path]) -> tuple[list[float], int]:
    """The strangeness of every picture that can be read, and how many cannot."""
    found, unreadable = [], 0
    for path in paths:
        try:
            found.append(llava.show([path]).looked[0].strangeness or 0.0)
        except MediaError:
            unreadable += 1
    return found, unreadable


def photographs(folder: Path) -> list[Path]:
    """Every picture file below a folder, sorted."""
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
