"""The alignment stage: towers that agree with text before any projector exists (LanguageBind, arXiv 2310.01852).

First the image tower (what OpenCLIP's pre-training is to the public model), then the video tower: the image tower's
weights, locked, plus temporal attention that learns. Both minimise CLIP's contrastive loss; because the world has 10^5
pairs where the public towers saw 10^10, a small caption decoder on the patch tokens adds its likelihood (CoCa,
arXiv 2205.01917) and is thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from diorama.systems.video_llava.config import LanguageConfig, VideoLlavaConfig
from diorama.systems.video_llava.data import Facts, Prepared
from diorama.systems.video_llava.model import (
    ImageTower,
    LanguageBindAligner,
    SharedProjector,
    VideoTower,
    contrastive_loss,
    llama_config,
)
from diorama.systems.video_llava.processing import encode_captions
from diorama.training import Run
from diorama.world.captions import Detail, caption

CAPTION_DECODER_LAYERS = 2


@dataclass(frozen=True)
class Pairs:
    """A batch of images (B, 3, S, S) or clips (B, 3, T, S, S) with captions as ids (B, L)."""

    pixels: Tensor
    captions: Tensor


class CaptionedAligner(nn.Module):
    """An aligner and the caption decoder that reads its tower's hidden_states[select_layer]."""

    def __init__(self, aligner: LanguageBindAligner, config: VideoLlavaConfig):
        super().__init__()
        self.aligner = aligner
        self.select_layer = config.select_layer
        width = config.text_tower.hidden_size
        decoder = LanguageConfig(
            vocab_size=config.text_tower.vocab_size, hidden_size=width, num_layers=CAPTION_DECODER_LAYERS,
            num_heads=config.text_tower.num_heads, intermediate_size=config.text_tower.intermediate_size,
            max_positions=config.language.max_positions, pad_token_id=config.language.pad_token_id,
        )
        self.bridge = SharedProjector(config.tower.hidden_size, width)
        self.decoder = LlamaForCausalLM(llama_config(decoder))
        self.pad = config.text_tower.pad_token_id

    def forward(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the batch of contrastive loss + caption loss a token, and both means."""
        tower = self.aligner.vision_model
        hidden = tower.hidden_state(pairs.pixels, self.select_layer)
        vision = F.normalize(self.aligner.visual_projection(tower.pool(hidden)), dim=-1)
        text = self.aligner.embed_text(pairs.captions)
        same = (pairs.captions[:, None] == pairs.captions[None]).all(dim=-1)
        scale = self.aligner.logit_scale.clamp(max=np.log(100)).exp()
        contrast = contrastive_loss(vision.float(), text.float(), scale, same)
        wording = self.caption_loss(hidden.flatten(1, -2), pairs.captions)
        right = (vision @ text.T).argmax(1)
        found = same[torch.arange(len(right)), right].float().mean()
        numbers = {"contrastive": contrast, "caption": wording, "retrieval": found}
        return (contrast + wording) * len(pairs.captions), numbers

    def caption_loss(self, tokens: Tensor, captions: Tensor) -> Tensor:
        """Mean negative log likelihood of a caption token (B, L) given the tower's tokens (B, N, D)."""
        seen = self.bridge(tokens)
        words = self.decoder.model.embed_tokens(captions[:, :-1]).to(seen.dtype)
        states = self.decoder.model(inputs_embeds=torch.cat([seen, words], dim=1), use_cache=False).last_hidden_state
        wanted = captions[:, 1:]
        kept = wanted != self.pad
        logits = self.decoder.lm_head(states[:, seen.shape[1]:][kept])
        return F.cross_entropy(logits.float(), wanted[kept])


@dataclass(frozen=True)
class Worded:
    """Rows of a pool with a caption each, as ids (B, L)."""

    rows: list[int]
    captions: Tensor


class CaptionWriter:
    """Batch i of captions: whole families of near-identical scenes, so that every batch holds its own hard negatives.

    Writing is Python's work and goes on in a process of its own; `pairs_of` adds the pixels where they are.
    """

    def __init__(self, facts: Facts, tokenizer: PreTrainedTokenizerFast, config: VideoLlavaConfig,
                 batch_size: int, seed: int):
        self.facts, self.tokenizer, self.config = facts, tokenizer, config
        self.batch_size, self.seed = batch_size, seed
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
        ids = encode_captions(words, self.tokenizer, self.config.text_tower.max_positions)
        return Worded(rows, ids)


def pairs_of(pool: Prepared, worded: Worded) -> Pairs:
    """Captions with the pixels they are about, on the captions' device."""
    return Pairs(pool.pixels(worded.rows).to(worded.captions.device), worded.captions)


def align_images(run: Run, pool: Prepared, writer: CaptionWriter) -> None:
    """Train image tower and text tower to agree; `run.model` is a CaptionedAligner around an ImageTower."""
    for worded in run.batches(writer, workers=1):
        loss, numbers = run.model(pairs_of(pool, worded))
        run.step(loss, len(worded.rows), numbers)


class VideoAligner(nn.Module):
    """The second half of the stage: clips with motion captions, while images keep the text tower in its place."""

    def __init__(self, video: CaptionedAligner, image: LanguageBindAligner):
        super().__init__()
        self.video = video
        self.image = image
        self.image.requires_grad_(False)

    def forward(self, clips: Pairs, images: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive and caption loss of the clips plus the contrastive loss of images seen by the locked tower."""
        loss, numbers = self.video(clips)
        with torch.no_grad():
            vision = self.image.embed_vision(images.pixels)
        text = self.video.aligner.embed_text(images.captions)
        same = (images.captions[:, None] == images.captions[None]).all(dim=-1)
        held = contrastive_loss(vision.float(), text.float(), self.image.logit_scale.exp(), same)
        return loss + held * len(clips.captions), {**numbers, "image_contrastive": held}


def video_aligner(config: VideoLlavaConfig, images: CaptionedAligner) -> VideoAligner:
    """The model of the video half, started from a trained image half: spatial weights locked, temporal ones free."""
    tower = VideoTower(config.tower, temporal_attention=config.temporal_attention)
    assert isinstance(images.aligner.vision_model, ImageTower)
    tower.copy_spatial(images.aligner.vision_model)
    tower.requires_grad_(False)
    for parameter in tower.temporal_parameters():
        parameter.requires_grad_(True)
    video = CaptionedAligner(LanguageBindAligner(tower, config.text_tower), config)
    for name in ("text_model", "visual_projection", "text_projection"):
        getattr(video.aligner, name).load_state_dict(getattr(images.aligner, name).state_dict())
    with torch.no_grad():
        video.aligner.logit_scale.copy_(images.aligner.logit_scale)
    video.bridge.load_state_dict(images.bridge.state_dict())
    video.decoder.load_state_dict(images.decoder.state_dict())
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
