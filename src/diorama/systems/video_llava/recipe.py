"""The shipped miniature, stage by stage: `train_stage` maps a model folder to the next model folder.

    read      language model on the world told in words, patch by patch
    align     image tower with captions, then temporal attention with motion captions
    project   shared projector on descriptions and on each patch's words
    instruct  projector and language model on questions

Every stage resumes from its own checkpoints and is a pure function of its settings and seed. `read` and `align` need
nothing of each other, so they can be trained at the same time; all but `align` run on several processes (`torchrun`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from diorama.checkpoints import load_into, read_tensors, resolve, write_tensors
from diorama.errors import InputError
from diorama.nn.attention import use_eager_attention
from diorama.systems.video_llava.align import (
    BothWriters,
    CaptionWriter,
    RegionAligner,
    VideoAligner,
    align_images,
    align_videos,
    phrase_ids,
    video_aligner,
)
from diorama.systems.video_llava.config import MINIATURE, VideoLlavaConfig
from diorama.systems.video_llava.data import Interviewer, Mixture, Prepared, Seen, prepare, seen_once
from diorama.systems.video_llava.familiarity import Familiarity, token_statistics
from diorama.systems.video_llava.model import ImageTower, LanguageBindAligner, SharedProjector, VideoLlavaModel
from diorama.systems.video_llava.naming import NOTHING
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.processing import build_word_tokenizer
from diorama.systems.video_llava.splice import Kind
from diorama.systems.video_llava.told import Teller, tell
from diorama.systems.video_llava.train import Answering, Features, Learner, Projecting, Reader, learn, project
from diorama.training import Run, RunConfig
from diorama.training.optimizers import modules_of, parameter_groups
from diorama.world.pool import PoolConfig, open_pool
from diorama.world.vocabulary import WORDS

Stage = Literal["read", "align", "project", "instruct"]
STAGES: tuple[Stage, ...] = ("read", "align", "project", "instruct")
ALIGNER = "aligner.safetensors"
"""What the alignment stage leaves beside the model: text tower, projections and temperature of both halves."""
TELLER = "teller.safetensors"
"""What reading leaves beside the model: the places of the teller, which the stage `project` aims at."""
FAMILIAR_IMAGES = 4000
STANDARDISED_ON = 200
"""Media of each kind that set the scale of the projector's inputs."""
BLOCKS = (CLIPEncoderLayer, LlamaDecoderLayer, SharedProjector)
"""The transformer blocks of towers and language model, and the projector, whose matrices Muon trains."""

IMAGES = PoolConfig(families=8_000, members=4)
CLIPS = PoolConfig(families=2_400, members=3, frames=8, seed=1_000_000)
DESCRIBED = Mixture(images=8, clips=4)
ASKED = Mixture(images=9, clips=5, questions=6, practised=6)
_ALIGNED = RunConfig(learning_rate=5e-3, weight_decay=0.05, betas=(0.9, 0.98), precision="bf16", log_every=20)
_SPOKEN = RunConfig(weight_decay=0.05, precision="bf16", log_every=20, save_every=100, trainable_only=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Data, batches and steps of every stage; the defaults are what `video-llava-mini` was trained with."""

    config: VideoLlavaConfig = MINIATURE
    seed: int = 0
    images: PoolConfig = IMAGES
    clips: PoolConfig = CLIPS
    captioned_images: int = 32
    named_images: int = 96
    """Images a step with a caption, and images of which only the regions are named."""
    captioned_clips: int = 8
    named_clips: int = 24
    kept_images: int = 32
    """Images a step that hold the text tower in place while temporal attention learns."""
    align_images: RunConfig = field(default_factory=lambda: replace(_ALIGNED, steps=3600, save_every=200))
    align_clips: RunConfig = field(default_factory=lambda: replace(_ALIGNED, steps=4000, save_every=100))
    shown_images: int = 32_000
    shown_clips: int = 10_000
    """How many images and clips the stages see that need the towers' features, mirror images last."""
    read: RunConfig = field(default_factory=lambda: replace(_SPOKEN, steps=4000, learning_rate=4e-3))
    project: RunConfig = field(default_factory=lambda: replace(_SPOKEN, steps=800, learning_rate=4e-3))
    instruct: RunConfig = field(default_factory=lambda: replace(_SPOKEN, steps=3000, learning_rate=4e-3))
    described: Mixture = DESCRIBED
    mixture: Mixture = ASKED


@dataclass(frozen=True)
class World:
    """The recipe's pools at the tower's size; rendered at the first use, read from disk afterwards."""

    images: Prepared
    clips: Prepared

    @classmethod
    def open(cls, folder: Path, recipe: Recipe, progress: Callable[[str, int, int], None]) -> World:
        """The pools in `folder`/images and `folder`/clips, and their mirror images."""
        images = open_pool(folder / "images", recipe.images, progress=lambda done, of: progress("images", done, of))
        clips = open_pool(folder / "clips", recipe.clips, progress=lambda done, of: progress("clips", done, of))
        return cls(*(prepare(pool, recipe.config).with_mirrored() for pool in (images, clips)))


def train_stage(stage: Stage, recipe: Recipe, world: World, out: Path, *, init: str | Path | None = None,
                device: str = "auto") -> Path:
    """Run one stage into `out` and return the folder of the model it leaves, `out`/model.

    init: the model that the stage before left, a folder or a name. "read" and "align" start from nothing; with `init`
    "read" goes on from what an earlier reading left, and "align" takes over its language model. The later stages raise
    InputError without it.
    """
    torch.manual_seed(recipe.seed)
    if stage == "read":
        return _read(recipe, world, out, init, device)
    if stage == "align":
        return _align(recipe, world, out, init, device)
    if init is None:
        raise InputError(f"The stage {stage!r} goes on from a model, and none was given. "
                         f"Pass --init with the folder that {STAGES[STAGES.index(stage) - 1]!r} left.")
    llava = VideoLlava.from_pretrained(init, device=device)
    images, clips = world.images.first(recipe.shown_images), world.clips.first(recipe.shown_clips)
    cache = out.parent / "features"
    seen: dict[Kind, Seen] = {"image": seen_once(llava.model, images, cache),
                              "video": seen_once(llava.model, clips, cache)}
    if stage == "project":
        teller = Teller(llava.config)
        load_into(teller, read_tensors(resolve(init) / TELLER))
        for layer in llava.model.projector:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        standardise(llava.model.projector, seen.values())
        run, interviewer = _speaking(Projecting(llava.model, teller), llava, stage, recipe, images, clips, out, device)
        told: dict[Kind, Features] = {"image": tell(images, llava.tokenizer), "video": tell(clips, llava.tokenizer)}
        project(run, interviewer, seen, told)
    else:
        run, interviewer = _speaking(Learner(llava.model, stage), llava, stage, recipe, images, clips, out, device)
        learn(run, interviewer, seen)
    if run.is_main:
        llava.save_pretrained(out / "model", card=stage_card(stage, run))
    return out / "model"


def _read(recipe: Recipe, world: World, out: Path, init: str | Path | None, device: str) -> Path:
    tokenizer = world_tokenizer()
    llava = VideoLlava(VideoLlavaModel.from_config(configured(recipe.config, tokenizer)), tokenizer, name=str(out),
                       device=device)
    teller = Teller(llava.config)
    if init is not None:
        load_into(llava.model, read_tensors(resolve(init)))
        load_into(teller, read_tensors(resolve(init) / TELLER))
    told: dict[Kind, Features] = {"image": tell(world.images, tokenizer), "video": tell(world.clips, tokenizer)}
    reader = Reader(llava.model, teller)
    run, interviewer = _speaking(reader, llava, "read", recipe, world.images, world.clips, out, device)
    learn(run, interviewer, told)
    if run.is_main:
        folder = llava.save_pretrained(out / "model", card=stage_card("read", run))
        write_tensors(folder / TELLER, reader.teller.state_dict())
    return out / "model"


def _speaking(learner: Answering, llava: VideoLlava, stage: Stage, recipe: Recipe, images: Prepared, clips: Prepared,
              out: Path, device: str) -> tuple[Run, Interviewer]:
    """The run of a stage in which the language model answers, and what it is asked."""
    config = {"read": recipe.read, "project": recipe.project, "instruct": recipe.instruct}[stage]
    config = replace(config, seed=recipe.seed)
    run = Run(out, learner, config, parameters=parameter_groups(learner, config, muon=modules_of(learner, BLOCKS)),
              device=device, settings=recipe)
    mixture = recipe.described if stage == "project" else recipe.mixture
    return run, Interviewer(llava.tokenizer, llava.config, mixture, seed=recipe.seed, images=images.facts,
                            clips=clips.facts, task="project" if stage == "project" else "instruct")


def world_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the world's words and those of the conversation template."""
    return build_word_tokenizer((*WORDS, "image", "video", NOTHING))


def _align(recipe: Recipe, world: World, out: Path, init: str | Path | None, device: str) -> Path:
    tokenizer = world_tokenizer()
    config = configured(recipe.config, tokenizer)
    images = RegionAligner(LanguageBindAligner(ImageTower(config.tower), config.text_tower), config,
                           phrase_ids(tokenizer, config))
    use_eager_attention(images)
    settings = replace(recipe.align_images, seed=recipe.seed)
    groups = parameter_groups(images, settings, muon=modules_of(images, BLOCKS))
    run = Run(out / "images", images, settings, parameters=groups, device=device, settings=recipe)
    align_images(run, world.images, CaptionWriter(world.images.facts, tokenizer, config, recipe.captioned_images,
                                                  recipe.seed, named=recipe.named_images))
    torch.manual_seed(recipe.seed)
    videos = video_aligner(config, images)
    use_eager_attention(videos)
    settings = replace(recipe.align_clips, seed=recipe.seed)
    groups = parameter_groups(videos, settings, muon=modules_of(videos, BLOCKS))
    run = Run(out / "clips", videos, settings, parameters=groups, device=device, settings=recipe)
    writers = BothWriters(
        CaptionWriter(world.clips.facts, tokenizer, config, recipe.captioned_clips, recipe.seed,
                      named=recipe.named_clips),
        CaptionWriter(world.images.facts, tokenizer, config, recipe.kept_images, recipe.seed + 1),
    )
    align_videos(run, world.clips, world.images, writers)
    return save_aligned(videos, config, tokenizer, world, out / "model", stage_card("align", run), init)


@torch.no_grad()
def standardise(projector: SharedProjector, seen: Iterable[Seen]) -> None:
    """Fold mean and deviation of the towers' features into the projector's first layer, so that a fresh projector sees
    each channel around 0 with deviation 1.

    Feature layer -2 has no norm behind it: channels lie up to 30 from 0 and a few deviate three times as far as others,
    and a projector that starts there learns hardly more than the mean token.
    """
    first = projector[0]
    assert isinstance(first, nn.Linear)
    tokens = torch.cat([some.of(row).flatten(0, -2).float() for some in seen
                        for row in range(min(STANDARDISED_ON, len(some.pool)))]).to(first.weight.device)
    first.weight.div_(tokens.std(dim=0).clamp(min=1e-3))
    first.bias.sub_(first.weight @ tokens.mean(dim=0))


def configured(config: VideoLlavaConfig, tokenizer: PreTrainedTokenizerFast) -> VideoLlavaConfig:
    """The config for a tokenizer's vocabulary."""
    return config.with_vocabulary(len(tokenizer), bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id,
                                  pad=tokenizer.pad_token_id)


def save_aligned(aligned: VideoAligner, config: VideoLlavaConfig, tokenizer: PreTrainedTokenizerFast, world: World,
                 folder: Path, card: str, init: str | Path | None) -> Path:
    """Both towers in a model whose language model is that of `init` (random without it), and the rest of the
    aligner."""
    model = VideoLlavaModel.from_config(config) if init is None else VideoLlava.from_pretrained(
        init, device="cpu").model
    video = aligned.video.aligner
    model.image_tower.load_state_dict(aligned.image.vision_model.state_dict())
    model.video_tower.load_state_dict(video.vision_model.state_dict())
    llava = VideoLlava(model, tokenizer, name=str(folder), familiarity=familiar_with(model, world.images))
    llava.save_pretrained(folder, card=card)
    kept = {f"image.{k}": v for k, v in aligned.image.state_dict().items() if not k.startswith("vision_model.")}
    kept |= {f"video.{k}": v for k, v in video.state_dict().items() if not k.startswith("vision_model.")}
    write_tensors(folder / ALIGNER, kept)
    if init is not None:
        write_tensors(folder / TELLER, read_tensors(resolve(init) / TELLER))
    return folder


def load_aligners(folder: Path, llava: VideoLlava) -> tuple[LanguageBindAligner, LanguageBindAligner]:
    """The image and the video aligner around a model's towers, from what the alignment stage left in `folder`."""
    model, config = llava.model, llava.config
    image = LanguageBindAligner(model.image_tower, config.text_tower)
    video = LanguageBindAligner(model.video_tower, config.text_tower)
    for aligner, prefix in ((image, "image."), (video, "video.")):
        load_into(aligner, {**aligner.state_dict(), **read_tensors(folder / ALIGNER, prefix)})
    return image.eval(), video.eval()


def familiar_with(model: VideoLlavaModel, images: Prepared) -> Familiarity:
    """The model's sense of the familiar, from its own training images; the threshold is still 1."""
    step = max(1, len(images) // FAMILIAR_IMAGES)
    rows = list(range(0, len(images), step))
    parts = [token_statistics(model.image_tower, images.pixels(rows[i : i + 64])) for i in range(0, len(rows), 64)]
    return Familiarity.fit(torch.cat(parts))


def adjusted(recipe: Recipe, stage: Stage | Literal["all"], steps: int | None, rate: float | None) -> Recipe:
    """The recipe with other steps or another learning rate for one stage; InputError if that is asked of all."""
    if steps is None and rate is None:
        return recipe
    if stage == "all":
        raise InputError("--steps and --learning-rate belong to one stage, and all were asked for. Name a --stage.")

    def changed(run: RunConfig) -> RunConfig:
        return replace(run, steps=run.steps if steps is None else steps,
                       learning_rate=run.learning_rate if rate is None else rate)

    if stage == "align":
        return replace(recipe, align_images=changed(recipe.align_images), align_clips=changed(recipe.align_clips))
    if stage == "read":
        return replace(recipe, read=changed(recipe.read))
    if stage == "project":
        return replace(recipe, project=changed(recipe.project))
    return replace(recipe, instruct=changed(recipe.instruct))


def stage_card(stage: Stage, run: Run) -> str:
    """What a folder between two stages says of itself."""
    goes_on = ("`diorama video-llava finish` measures it and writes the card of what is shipped."
               if stage == STAGES[-1] else f"The next stage is `{STAGES[STAGES.index(stage) + 1]}`.")
    return (f"# Video-LLaVA miniature after the stage `{stage}`\n\n{run.step_number} steps in {run.seconds:.0f} s on "
            f"{run.device}. {goes_on}\n")
