"""The alignment stage: towers that agree with text before any projector exists (LanguageBind, arXiv 2310.01852).

First the image tower (what OpenCLIP's pre-training is to the public model), then the video tower: the image tower's
weights, locked, plus temporal attention that learns. Both minimise CLIP's contrastive loss between media and captions.
The world has 10^5 pairs where the public towers saw 10^10, so the same loss is also taken region by region: each patch
token against all words for an attribute of what it shows, from its size to where it is, and in clips what it does and
when (`naming.py`; RegionCLIP, arXiv 2112.09106). Most rows of a batch have regions alone and are seen with few of their
empty patches (LanguageBind drops patches too, at random). Language model and projector see none of this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from diorama.systems.video_llava.naming import NOTHING, UNSAID, WORDS_OF, words_of
from diorama.systems.video_llava.processing import encode_captions
from diorama.training import Run
from diorama.world.captions import Detail, caption
from diorama.world.patches import GROUND

KEPT_SHARE = 0.55
"""Share of the patches that is looked at where only regions are named: objects, outlines and a little ground."""
GROUND_WEIGHT = 0.3
"""Weight of the ground's patches, of which there are several times as many as of all objects'."""


@dataclass(frozen=True)
class Worded:
    """Rows of a pool put into words.

    captions: ids (C, L) of the first C rows; the other rows have none. names: (B, T, 5, A) what is to be said of each
    object in each frame, as `naming.words_of` gives it.
    """

    rows: list[int]
    captions: Tensor
    names: Tensor


@dataclass(frozen=True)
class Pairs:
    """Images (B, 3, S, S) or clips (B, 3, T, S, S) with their words; owners (B, T, P) is the object in each patch."""

    pixels: Tensor
    owners: Tensor
    worded: Worded


class CaptionWriter:
    """Batch i: whole families of near-identical scenes with captions, so that every batch holds its own hard negatives,
    then as many scenes without captions, of which only the regions are named.

    Writing is Python's work and goes on in a process of its own; `pairs_of` adds the pixels where they are.
    """

    def __init__(self, facts: Facts, tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig,
                 captioned: int, seed: int, *, named: int = 0):
        self.facts, self.tokenizer, self.config = facts, tokenizer, config
        self.captioned, self.named, self.seed = captioned, named, seed
        self.frames = config.tower.frames if facts.kind == "video" else 1
        order = np.argsort(facts.family, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(facts.family[order])) + 1)

    def __call__(self, step: int) -> Worded:
        rng = Random(f"caption pairs {self.seed} {step}")
        rows: list[int] = []
        for number in rng.sample(range(len(self.members)), len(self.members)):
            rows += self.members[number].tolist()
            if len(rows) >= self.captioned:
                break
        rows = rows[: self.captioned]
        details: list[Detail] = ["full", "full", "full", "relations"]
        words = [
            caption(scene, rng, detail=rng.choice(details), visible=visible)
            for scene, visible in map(self.facts.of, rows)
        ]
        captions = encode_captions(words, self.tokenizer, self.config.text_tower.max_positions)
        rows += rng.sample(range(len(self.facts)), self.named)
        names = np.stack([words_of(self.facts.scenes[row], self.frames) for row in rows])
        return Worded(rows, captions, torch.from_numpy(names))


def pairs_of(pool: Prepared, worded: Worded) -> Pairs:
    """Words with the pixels they are about, on the words' device."""
    device = worded.captions.device
    owners = torch.from_numpy(pool.owners[worded.rows]).long()
    return Pairs(pool.pixels(worded.rows).to(device), owners.to(device), worded)


@dataclass(frozen=True)
class Regions:
    """Patch tokens with what they show: objects (n, D) with their names (n, A), and ground (m, D). Patches on an
    outline are in neither."""

    objects: Tensor
    ground: Tensor
    names: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Regions]) -> Regions:
        """The regions of several calls of the tower."""
        return cls(torch.cat([part.objects for part in parts]), torch.cat([part.ground for part in parts]),
                   torch.cat([part.names for part in parts]))


def regions_of(hidden: Tensor, pairs: Pairs, rows: slice, kept: Tensor | None = None) -> Regions:
    """The regions of some rows from their hidden states (B, N, D) or (B, T, N, D); kept: (B, K) patches seen."""
    tokens = (hidden.unsqueeze(1) if hidden.ndim == 3 else hidden)[:, :, 1:]
    owners = pairs.owners[rows]
    if kept is not None:
        owners = owners.take_along_dim(kept[:, None], dim=2)
    shown = owners >= 0
    row, frame, _ = shown.nonzero(as_tuple=True)
    return Regions(tokens[shown], tokens[owners == GROUND], pairs.worded.names[rows][row, frame, owners[shown]])


def busy_patches(owners: Tensor, share: float) -> Tensor:
    """A share of the patches of owners (B, T, P) as numbers (B, K): those that show objects in most frames first, then
    ground drawn at random."""
    busy = (owners != GROUND).float().mean(dim=1)
    order = (busy + 0.1 * torch.rand_like(busy)).argsort(dim=1, descending=True)
    return order[:, : max(1, round(share * owners.shape[2]))]


class RegionAligner(nn.Module):
    """An aligner whose patch tokens are aligned with text too, an attribute at a time.

    phrases: ids (N, L) of all words of WORDS_OF.
    """

    def __init__(self, aligner: LanguageBindAligner, config: VideoLlavaConfig, phrases: Tensor):
        super().__init__()
        self.aligner = aligner
        self.select_layer = config.select_layer
        width, space = config.tower.hidden_size, config.text_tower.projection_dim
        self.projections = nn.ModuleDict({name: nn.Linear(width, space, bias=False) for name in WORDS_OF})
        self.region_scale = nn.Parameter(torch.tensor(math.log(1 / config.text_tower.temperature)))
        self.phrases: Tensor
        self.register_buffer("phrases", phrases)

    def forward(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the batch of all losses, and their means."""
        tower = self.aligner.vision_model
        captions = pairs.worded.captions
        count = len(captions)
        hidden = tower.hidden_state(pairs.pixels[:count], self.select_layer)
        vision = F.normalize(self.aligner.visual_projection(tower.pool(hidden)), dim=-1)
        text = self.aligner.embed_text(captions)
        same = (captions[:, None] == captions[None]).all(dim=-1)
        scale = self.aligner.logit_scale.clamp(max=math.log(100)).exp()
        contrast = contrastive_loss(vision.float(), text.float(), scale, same)
        regions = [regions_of(hidden, pairs, slice(0, count))]
        if len(pairs.owners) > count:
            rest = slice(count, None)
            kept = busy_patches(pairs.owners[rest], KEPT_SHARE)
            few = tower.hidden_state(pairs.pixels[rest], self.select_layer, patches=kept)
            regions.append(regions_of(few, pairs, rest, kept))
        naming, right = self.region_loss(Regions.joined(regions))
        return (contrast + naming) * len(pairs.owners), {"contrastive": contrast, "naming": naming, **right}

    def region_loss(self, regions: Regions) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of naming objects and ground, summed over attributes; and the shares of objects named right."""
        scale = self.region_scale.clamp(max=math.log(100)).exp()
        texts = self.aligner.embed_text(self.phrases).split([*map(len, WORDS_OF.values())])

        def logits(name: str, tokens: Tensor, among: Tensor) -> Tensor:
            # an untrained text tower gives all words nearly the same vector; what tells them apart is what is left
            apart = F.normalize(among - among.mean(dim=0), dim=-1)
            return scale * (F.normalize(self.projections[name](tokens), dim=-1) @ apart.T).float()

        loss = scale.new_zeros(())
        right: dict[str, Tensor] = {}
        for place, ((name, words), among) in enumerate(zip(WORDS_OF.items(), texts, strict=True)):
            wanted = regions.names[:, place]
            said = wanted != UNSAID
            if said.any():
                found = logits(name, regions.objects[said], among)
                loss = loss + F.cross_entropy(found, wanted[said])
                right[name] = (found.argmax(-1) == wanted[said]).float().mean()
            if NOTHING in words:
                empty = logits(name, regions.ground, among)
                nothing = torch.full((len(empty),), words.index(NOTHING), device=empty.device)
                loss = loss + GROUND_WEIGHT * F.cross_entropy(empty, nothing)
        return loss, right


def phrase_ids(tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig) -> Tensor:
    """The words of WORDS_OF as ids (N, L)."""
    said = [word for words in WORDS_OF.values() for word in words]
    return encode_captions(said, tokenizer, config.text_tower.max_positions)


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
            vision = self.image.embed_vision(images.pixels[: len(captions)])
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
        tower.quiet_temporal()
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
