"""What the stages learn from the world: pools made ready for the towers, captions and questions as conversations.

Conversations of users' own files are read by `files.py`; both end as `Sample`s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diorama.checkpoints import read_tensors, write_tensors
from diorama.media.resizing import resize_shortest
from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.processing import Turn, encode_conversation, preprocess_rendered
from diorama.systems.video_llava.splice import Kind, Media, Sample, pack_questions
from diorama.world.captions import caption
from diorama.world.patches import patch_owners
from diorama.world.pool import Pool
from diorama.world.questions import CLIP_KINDS, IMAGE_KINDS, questions
from diorama.world.questions import Kind as QuestionKind
from diorama.world.sampling import split_of
from diorama.world.scene import Scene
from diorama.world.variation import mirrored

DESCRIBE: dict[Kind, tuple[str, ...]] = {
    "image": ("what is in the image?", "what is in the picture?", "tell me what is in the image"),
    "video": ("what is in the clip?", "what is in the video?", "tell me what is in the clip"),
}


PRACTISED: dict[Kind, tuple[QuestionKind, ...]] = {
    "image": ("count", "shape", "relation"),
    "video": ("order", "count", "moved", "direction", "motion"),
}
"""Kinds that a small language model learns late: what they need is not a name in one patch."""


@dataclass(frozen=True)
class Facts:
    """What is known of a pool's scenes, without a pixel: light enough to send to another process."""

    kind: Kind
    scenes: list[Scene]
    visible: np.ndarray
    family: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)

    def of(self, row: int) -> tuple[Scene, list[bool]]:
        """The scene of a row and which of its objects can be seen."""
        scene = self.scenes[row]
        return scene, self.visible[row, : len(scene.objects)].tolist()


@dataclass(frozen=True)
class Prepared:
    """A pool at the tower's size, resized once exactly as `preprocess_image` resizes.

    small: uint8 (N, T, 3, S, S). owners: int8 (N, T, P), the object that a patch shows, GROUND or OUTLINE.
    """

    facts: Facts
    small: np.ndarray
    owners: np.ndarray
    config: VideoLlavaConfig

    def __len__(self) -> int:
        return len(self.small)

    def with_mirrored(self) -> Prepared:
        """These scenes and then their mirror images, as far as those belong to the same split."""
        known = self.facts
        mirrors = [mirrored(scene) for scene in known.scenes]
        kept = [row for row, (scene, mirror) in enumerate(zip(known.scenes, mirrors, strict=True))
                if split_of(mirror) == split_of(scene)]
        side = self.config.tower.image_size // self.config.tower.patch_size
        owners = self.owners[kept].reshape(len(kept), -1, side, side)[..., ::-1].reshape(len(kept), -1, side * side)
        facts = Facts(known.kind, [*known.scenes, *(mirrors[row] for row in kept)],
                      np.concatenate([known.visible, known.visible[kept]]),
                      np.concatenate([known.family, known.family[kept] + known.family.max() + 1]))
        return Prepared(facts, np.concatenate([self.small, self.small[kept][..., ::-1]]),
                        np.concatenate([self.owners, owners]), self.config)

    def first(self, count: int) -> Prepared:
        """The first `count` scenes."""
        known = self.facts
        facts = Facts(known.kind, known.scenes[:count], known.visible[:count], known.family[:count])
        return Prepared(facts, self.small[:count], self.owners[:count], self.config)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Normalised pixels of some rows: (B, 3, S, S) for images, (B, 3, T, S, S) for clips."""
        ready = preprocess_rendered(torch.from_numpy(self.small[list(rows)]), self.config)
        return ready.transpose(1, 2) if self.facts.kind == "video" else ready[:, 0]


def prepare(pool: Pool, config: VideoLlavaConfig) -> Prepared:
    """Bring a pool to the tower's size."""
    size = config.tower.image_size
    count, frames = pool.pixels.shape[:2]
    small = np.empty((count, frames, 3, size, size), np.uint8)
    for i in range(count):
        for t in range(frames):
            frame = np.ascontiguousarray(pool.pixels[i, t].transpose(1, 2, 0))
            if size != frame.shape[0]:
                frame = np.asarray(resize_shortest(Image.fromarray(frame), size, interpolation="bicubic"))
            small[i, t] = frame.transpose(2, 0, 1)
    facts = Facts("video" if frames > 1 else "image", pool.scenes, pool.visible, pool.family)
    return Prepared(facts, small, owners_of(pool.mask, config), config)


def owners_of(mask: np.ndarray, config: VideoLlavaConfig) -> np.ndarray:
    """The object in each patch, int8 (N, T, P), from masks (N, T, H, W)."""
    size, side = config.tower.image_size, config.tower.image_size // config.tower.patch_size
    picks = ((np.arange(size) + 0.5) * mask.shape[-1] / size).astype(int)
    parts = [patch_owners(mask[start : start + 2048][:, :, picks][..., picks], side)
             for start in range(0, len(mask), 2048)]                 # at once the tiles of a pool take gigabytes
    return np.concatenate(parts).reshape(*mask.shape[:2], side * side)


@dataclass(frozen=True)
class Seen:
    """A prepared pool with its tower features, computed once because the towers are frozen in every later stage.

    features: (N, n, D_tower) for images, (N, T, n, D_tower) for clips, bfloat16.
    """

    pool: Prepared
    features: Tensor

    def of(self, row: int) -> Tensor:
        """The features of a scene."""
        return self.features[row]


@torch.no_grad()
def see(model: VideoLlavaModel, pool: Prepared, batch_size: int = 64) -> Seen:
    """Run a pool through the model's tower for its kind."""
    encode = model.video_features if pool.facts.kind == "video" else model.image_features
    device = next(model.projector.parameters()).device
    step = max(1, batch_size // pool.small.shape[1])
    parts = []
    for start in range(0, len(pool), step):
        pixels = pool.pixels(range(start, min(start + step, len(pool)))).to(device)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            parts.append(encode(pixels).to(torch.bfloat16).cpu())
    return Seen(pool, torch.cat(parts))


def seen_once(model: VideoLlavaModel, pool: Prepared, folder: Path) -> Seen:
    """`see`, kept in `folder` under a digest of the tower and the pixels: two stages share one pass."""
    tower = model.video_tower if pool.facts.kind == "video" else model.image_tower
    digest = hashlib.sha256(np.ascontiguousarray(pool.small[:: max(len(pool) // 64, 1)]).tobytes())
    digest.update(str(pool.small.shape).encode())
    for tensor in tower.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    path = folder / f"{pool.facts.kind}-{digest.hexdigest()[:16]}.safetensors"
    if path.is_file():
        return Seen(pool, read_tensors(path)["features"])
    seen = see(model, pool)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"features": seen.features})
    return seen


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How a training step is made up. The paper mixes images and clips at random in every batch (sec. 3.2)."""

    images: int = 6
    clips: int = 3
    questions: int = 12
    """Questions packed behind each medium, each as if it were asked alone."""
    practised: int = 0
    """Questions more behind each medium, of the kinds in PRACTISED alone."""
    describe: float = 0.05
    """Share of media with a request for a description among their questions."""


@dataclass(frozen=True)
class Draft:
    """A sample whose medium is still only named: row `row` of the images or the clips."""

    kind: Kind
    row: int
    sample: Sample

    def with_features(self, features: Tensor) -> Sample:
        """The sample with what stands for its medium."""
        return replace(self.sample, media=(Media(self.kind, features=features.to(self.sample.input_ids.device)),))


class Interviewer:
    """Step i's samples: scenes drawn from the pools, with fresh questions or captions each time.

    `task` "instruct" asks questions, "project" asks only for descriptions (the first stage's captions).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig, mixture: Mixture, *, seed: int,
                 images: Facts | None = None, clips: Facts | None = None,
                 task: Literal["instruct", "project"] = "instruct"):
        self.tokenizer, self.config, self.mixture, self.seed, self.task = tokenizer, config, mixture, seed, task
        self.images, self.clips = images, clips

    def __call__(self, step: int) -> list[Draft]:
        rng = Random(f"conversations {self.task} {self.seed} {step}")
        drafts: list[Draft] = []
        for facts, count in ((self.images, self.mixture.images), (self.clips, self.mixture.clips)):
            if facts is not None:
                drafts += [self._about(facts, rng.randrange(len(facts)), rng) for _ in range(count)]
        return [*drafts[::2], *drafts[1::2]]  # two processes take a half each, and clips take longer than images

    def _about(self, facts: Facts, row: int, rng: Random) -> Draft:
        scene, visible = facts.of(row)
        medium = Media(facts.kind, features=torch.empty((0, 0) if facts.kind == "image" else (0, 0, 0)))
        return Draft(facts.kind, row, pack_questions([
            encode_conversation([turn], [medium], self.tokenizer, self.config)
            for turn in self._turns(scene, visible, facts.kind, rng)
        ]))

    def _turns(self, scene: Scene, visible: list[bool], kind: Kind, rng: Random) -> list[Turn]:
        # what a still shows is learned from images, so clips are mostly asked what only they show
        kinds: list[QuestionKind] = list(IMAGE_KINDS) if kind == "image" else [*CLIP_KINDS, *rng.sample(IMAGE_KINDS, 3)]
        asked: list[Turn] = []
        if self.task != "project":
            drawn = questions(scene, rng, n=self.mixture.questions, kinds=kinds, visible=visible)
            if self.mixture.practised:
                drawn += questions(scene, rng, n=self.mixture.practised, kinds=PRACTISED[kind], visible=visible)
            asked = [Turn(question, answer) for question, answer in {q.question: q.answer for q in drawn}.items()]
        if not asked or rng.random() < self.mixture.describe:
            words = caption(scene, rng, detail="full", visible=visible)
            asked.append(Turn(rng.choice(DESCRIBE[kind]), words))
        return asked
