"""The alignment stage: towers that agree with text before any projector exists (LanguageBind, arXiv 2310.01852).

First the image tower (what OpenCLIP's pre-training is to the public model), then the video tower: the image tower's
weights, locked, plus temporal attention that learns. Both minimise CLIP's contrastive loss between media and captions.
The world has 10^5 pairs where the public towers saw 10^10, so the same loss is also taken region by region: each patch
token against the names of all objects there could be, and in clips against all that an object could do there
(RegionCLIP, arXiv 2112.09106). Language model and projector see none of this.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.data import Facts, Prepared
from diorama.systems.video_llava.model import ImageTower, LanguageBindAligner, VideoTower, contrastive_loss
from diorama.systems.video_llava.processing import encode_captions
from diorama.training import Run
from diorama.world.captions import Detail, caption
from diorama.world.scene import COLORS, MOTIONS, SHAPES, SIZES, Scene
from diorama.world.vocabulary import VERBS

NAMES = (*(" ".join(parts) for parts in itertools.product(SIZES, COLORS, SHAPES)), "nothing")
"""What a patch can show; the last is the ground."""
DOINGS = (*(VERBS[kind] for kind in MOTIONS), "stays still")
"""What the object in a patch can be doing."""
GROUND_WEIGHT = 0.3
"""Weight of the ground's patches, of which there are several times as many as of all objects'."""


def name_index(scene: Scene, index: int) -> int:
    """Where an object's name stands in NAMES."""
    thing = scene.objects[index]
    place = SIZES.index(thing.size) * len(COLORS) + COLORS.index(thing.color)
    return place * len(SHAPES) + SHAPES.index(thing.shape)


def doing_index(scene: Scene, index: int, time: float, spacing: float) -> int:
    """What an object does around a moment, as its place in DOINGS: the first motion within half a spacing of it."""
    for motion in scene.objects[index].motions:
        if motion.start - spacing / 2 <= time <= motion.end + spacing / 2:
            return MOTIONS.index(motion.kind)
    return len(DOINGS) - 1


@dataclass(frozen=True)
class Worded:
    """Rows of a pool put into words.

    captions: ids (B, L). names: (B, 5) place in NAMES of each object. doings: (B, T, 5) place in DOINGS of what each
    object does at each frame.
    """

    rows: list[int]
    captions: Tensor
    names: Tensor
    doings: Tensor


@dataclass(frozen=True)
class Pairs:
    """Images (B, 3, S, S) or clips (B, 3, T, S, S) with their words; owners (B, T, P) is the object in each patch."""

    pixels: Tensor
    owners: Tensor
    worded: Worded


class CaptionWriter:
    """Batch i of captions: whole families of near-identical scenes, so that every batch holds its own hard negatives.

    Writing is Python's work and goes on in a process of its own; `pairs_of` adds the pixels where they are.
    """

    def __init__(self, facts: Facts, tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig,
                 batch_size: int, seed: int):
        self.facts, self.tokenizer, self.config = facts, tokenizer, config
        self.batch_size, self.seed = batch_size, seed
        self.frames = config.tower.frames if facts.kind == "video" else 1
        order = np.argsort(facts.family, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(facts.family[order])) + 1)

    def __call__(self, step: int) -> Worded:
        rng = Random(f"caption pairs {self.seed} {step}")
        rows: list[int] = []
        for number in rng.sample(range(len(self.members)), len(self.members)):
            rows += self.members[number].tolist()
            if len(rows) >= self.batch_size:
                break
        rows = rows[: self.batch_size]
        details: list[Detail] = ["full", "full", "full", "relations"]
        words = [
            caption(scene, rng, detail=rng.choice(details), visible=visible)
            for scene, visible in map(self.facts.of, rows)
        ]
        captions = encode_captions(words, self.tokenizer, self.config.text_tower.max_positions)
        names = torch.zeros(len(rows), 5, dtype=torch.long)
        doings = torch.full((len(rows), self.frames, 5), len(DOINGS) - 1)
        for b, row in enumerate(rows):
            scene = self.facts.scenes[row]
            spacing = scene.duration / max(self.frames - 1, 1)
            for k in range(len(scene.objects)):
                names[b, k] = name_index(scene, k)
                for t in range(self.frames if scene.duration else 0):
                    doings[b, t, k] = doing_index(scene, k, t * spacing, spacing)
        return Worded(rows, captions, names, doings)


def pairs_of(pool: Prepared, worded: Worded) -> Pairs:
    """Words with the pixels they are about, on the words' device."""
    device = worded.captions.device
    owners = torch.from_numpy(pool.owners[worded.rows]).long()
    return Pairs(pool.pixels(worded.rows).to(device), owners.to(device), worded)


class RegionAligner(nn.Module):
    """An aligner whose patch tokens are aligned with text too.

    phrases: ids (N, L) of NAMES, then of DOINGS.
    """

    def __init__(self, aligner: LanguageBindAligner, config: VideoLlavaConfig, phrases: Tensor):
        super().__init__()
        self.aligner = aligner
        self.select_layer = config.select_layer
        width, space = config.tower.hidden_size, config.text_tower.projection_dim
        self.name_projection = nn.Linear(width, space, bias=False)
        self.doing_projection = nn.Linear(width, space, bias=False)
        self.region_scale = nn.Parameter(torch.tensor(math.log(1 / config.text_tower.temperature)))
        self.phrases: Tensor
        self.register_buffer("phrases", phrases)

    def forward(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the batch of all losses, and their means."""
        tower = self.aligner.vision_model
        hidden = tower.hidden_state(pairs.pixels, self.select_layer)
        vision = F.normalize(self.aligner.visual_projection(tower.pool(hidden)), dim=-1)
        captions = pairs.worded.captions
        text = self.aligner.embed_text(captions)
        same = (captions[:, None] == captions[None]).all(dim=-1)
        scale = self.aligner.logit_scale.clamp(max=math.log(100)).exp()
        contrast = contrastive_loss(vision.float(), text.float(), scale, same)
        tokens = hidden.unsqueeze(1) if hidden.ndim == 3 else hidden  # (B, T, 1 + P, D)
        naming, doing, named = self.region_losses(tokens[:, :, 1:], pairs)
        numbers = {"contrastive": contrast, "naming": naming, "doing": doing, "named": named}
        return (contrast + naming + doing) * len(captions), numbers

    def region_losses(self, tokens: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of naming and of telling what is done in patches (B, T, P, D), and the share of objects named right.

        Patches on an outline are ignored, and so is doing in images.
        """
        phrases = self.aligner.embed_text(self.phrases)
        scale = self.region_scale.clamp(max=math.log(100)).exp()
        owners, worded = pairs.owners, pairs.worded
        shown = owners >= 0
        ground = owners == -1
        seat = owners.clamp(min=0)
        wanted = worded.names[:, None].expand(-1, owners.shape[1], -1).gather(2, seat)

        def logits(projection: nn.Linear, patches: Tensor, among: Tensor) -> Tensor:
            return scale * (F.normalize(projection(patches), dim=-1) @ among.T).float()

        names, doings = phrases[: len(NAMES)], phrases[len(NAMES) :]
        found = logits(self.name_projection, tokens[shown], names)
        empty = logits(self.name_projection, tokens[ground], names)
        naming = F.cross_entropy(found, wanted[shown])
        naming = naming + GROUND_WEIGHT * F.cross_entropy(empty, torch.full_like(owners[ground], len(NAMES) - 1))
        named = (found.argmax(-1) == wanted[shown]).float().mean()
        if owners.shape[1] == 1:
            return naming, naming.new_zeros(()), named
        done = worded.doings.gather(2, seat)[shown]
        doing = F.cross_entropy(logits(self.doing_projection, tokens[shown], doings), done)
        return naming, doing, named


def phrase_ids(tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig) -> Tensor:
    """NAMES and DOINGS as ids (N, L)."""
    return encode_captions([*NAMES, *DOINGS], tokenizer, config.text_tower.max_positions)


def align_images(run: Run, pool: Prepared, writer: CaptionWriter) -> None:
    """Train image tower and text tower to agree; `run.model` is a RegionAligner around an ImageTower."""
    for worded in run.batches(writer, workers=1):
        loss, numbers = run.model(pairs_of(pool, worded))
        run.step(loss, len(worded.rows), numbers)


class VideoAligner(nn.Module):
    """The second half of the stage: clips with motion captions, while images keep the text tower in its place."""

    def __init__(self, video: RegionAligner, image: LanguageBindAligner):
        super().__init__()
        self.video = video
        self.image = image
        self.image.requires_grad_(False)

    def forward(self, clips: Pairs, images: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """All losses of the clips plus the contrastive loss of images seen by the locked tower."""
        loss, numbers = self.video(clips)
        captions = images.worded.captions
        with torch.no_grad():
            vision = self.image.embed_vision(images.pixels)
        text = self.video.aligner.embed_text(captions)
        same = (captions[:, None] == captions[None]).all(dim=-1)
        held = contrastive_loss(vision.float(), text.float(), self.image.logit_scale.exp(), same)
        return loss + held * len(clips.owners), {**numbers, "image_contrastive": held}


def video_aligner(config: VideoLlavaConfig, images: RegionAligner) -> VideoAligner:
    """The model of the video half, started from a trained image half: spatial weights locked, temporal ones free."""
    tower = VideoTower(config.tower, temporal_attention=config.temporal_attention)
    assert isinstance(images.aligner.vision_model, ImageTower)
    tower.copy_spatial(images.aligner.vision_model)
    tower.requires_grad_(False)
    if config.temporal_attention:
        for parameter in tower.temporal_parameters():
            parameter.requires_grad_(True)
    video = RegionAligner(LanguageBindAligner(tower, config.text_tower), config, images.phrases)
    learned = {k: v for k, v in images.state_dict().items() if not k.startswith("aligner.vision_model.")}
    video.load_state_dict(learned, strict=False)
    return VideoAligner(video, images.aligner)


@dataclass(frozen=True)
class BothWriters:
    """Captions of clips and of images for the same step."""

    clips: CaptionWriter
    images: CaptionWriter

    def __call__(self, step: int) -> tuple[Worded, Worded]:
        return self.clips(step), self.images(step)


def align_videos(run: Run, clips: Prepared, images: Prepared, writers: BothWriters) -> None:
    """Train the temporal part; `run.model` is what `video_aligner` returns."""
    for moving, still in run.batches(writers, workers=1):
        loss, numbers = run.model(pairs_of(clips, moving), pairs_of(images, still))
        run.step(loss, len(moving.rows), numbers)
