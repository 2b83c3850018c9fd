"""The headline claims in miniature: each arm is trained from the same start on the same scenes, then examined.

Full: for every seed one small language model reads the world told in words; each arm continues from a copy of it, with
its own towers or mixture, for the same number of steps and the same number of samples of each kind it gets.
Quick: only what the shipped miniature can show without training.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diorama.console import note
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.metrics.claims import Arm, Check, Claim, Published
from diorama.systems.video_llava.config import LanguageConfig
from diorama.systems.video_llava.data import Interviewer, Mixture, Prepared, Seen, prepare, see
from diorama.systems.video_llava.evaluate import Reply, examine
from diorama.systems.video_llava.model import ImageTower, SharedProjector, VideoLlavaModel, VideoTower
from diorama.systems.video_llava.pipeline import DEFAULT, VideoLlava
from diorama.systems.video_llava.recipe import BLOCKS, standardise
from diorama.systems.video_llava.splice import Kind
from diorama.systems.video_llava.told import Teller, tell
from diorama.systems.video_llava.train import Answering, Features, Learner, Reader, learn
from diorama.training import Run, RunConfig
from diorama.training.optimizers import modules_of, parameter_groups
from diorama.world.pool import PoolConfig, draw_pool
from diorama.world.questions import ClipKind
from diorama.world.questions import Kind as QuestionKind

CLAIM = ("training on images and clips together, over towers aligned with text and one shared projector, beats "
         "training on either alone; temporal attention is what sees direction and order")
PUBLISHED = (
    Published("MSVD accuracy, joint against video-only training", "70.7 against 64.8", "repo; Video-Panda table 1"),
    Published("ActivityNet accuracy, the same", "45.3 against 40.7", "Video-Panda table 1"),
    Published("aligned against separate (MAE) image encoder", "better on every set", "ablation, second-hand"),
)
TEMPORAL_KINDS: frozenset[ClipKind] = frozenset({"direction", "order"})
LANGUAGE = LanguageConfig(hidden_size=128, num_layers=3, num_heads=4, intermediate_size=384, max_positions=2048,
                          pad_token_id=0)
FULL_SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much an arm gets."""

    image_families: int = 1200
    clip_families: int = 600
    members: int = 3
    read_steps: int = 250
    steps: int = 200
    images: int = 8
    clips: int = 6
    examined: int = 120
    """Unseen stills, and as many unseen clips."""


@dataclass(frozen=True)
class ArmPlan:
    """What one arm does differently from `joint`."""

    name: str
    images: bool = True
    clips: bool = True
    towers: str = "aligned"
    separate_projectors: bool = False


ARMS = (
    ArmPlan("joint"),
    ArmPlan("video only", images=False),
    ArmPlan("image only", clips=False),
    ArmPlan("unaligned towers", towers="random"),
    ArmPlan("separate projectors", separate_projectors=True),
    ArmPlan("no temporal attention", towers="no temporal attention"),
)


@dataclass(frozen=True)
class Seeing:
    """Training and examination scenes through one pair of towers."""

    train: Mapping[Kind, Seen]
    test: Mapping[Kind, Seen]


def reproduce(*, quick: bool = False, seeds: Sequence[int] = FULL_SEEDS, out: Path = Path("runs/video-llava-claim"),
              progress: Callable[[str], None] = note, weights: str = DEFAULT, sizes: Sizes | None = None) -> Claim:
    """Measure the claim; `quick` takes under a minute and trains nothing, else every arm is trained with each seed."""
    began = time.monotonic()
    llava = VideoLlava.from_pretrained(weights, device="cpu")
    arms, checks = shown_without_training(llava, examined=100 if quick else 200)
    if not quick:
        more_arms, more_checks = trained_arms(llava, sizes or Sizes(), seeds, out, progress)
        arms, checks = [*arms, *more_arms], [*checks, *more_checks]
    return Claim(system="video_llava", claim=CLAIM, published=PUBLISHED, arms=arms, checks=checks,
                 mode="quick" if quick else "full", seconds=time.monotonic() - began)


# ---- what the shipped miniature shows ---------------------------------------------------------------------------


def shown_without_training(llava: VideoLlava, examined: int) -> tuple[list[Arm], list[Check]]:
    """Frames in order, in random order, and temporal attention silenced; and the probe of alignment."""
    frames = llava.config.tower.frames
    clips = prepare(draw_pool(PoolConfig(families=examined, frames=frames, split="test", seed=7_000_000)), llava.config)
    silent = copy.deepcopy(llava.model)
    silent.video_tower.silence_temporal()
    ways = {
        "miniature": see(llava.model, clips),
        "frames shuffled": see(llava.model, shuffled(clips)),
        "temporal attention silenced": see(silent, clips),
    }
    asked: list[QuestionKind] = [*sorted(TEMPORAL_KINDS), "color"]
    replies = {name: examine(llava, seen, questions_each=6, kinds=asked) for name, seen in ways.items()}
    arms = [Arm(name, {"direction and order": accuracy(found, TEMPORAL_KINDS), "color": accuracy(found, {"color"})})
            for name, found in replies.items()]
    whole = replies["miniature"]
    checks = [
        Check("shuffled frames cost direction and order",
              difference(whole, replies["frames shuffled"], TEMPORAL_KINDS)),
        Check("shuffled frames do not cost color (within 10 points)",
              difference(whole, replies["frames shuffled"], {"color"}), bound=0.10, relation="within"),
        Check("silenced temporal attention costs direction and order",
              difference(whole, replies["temporal attention silenced"], TEMPORAL_KINDS)),
    ]
    probe_arms, probe_check = alignment_probe(llava, examined)
    return [*arms, *probe_arms], [*checks, probe_check]


def shuffled(clips: Prepared) -> Prepared:
    """The same clips with the frames of each in a random order."""
    rng = np.random.default_rng(0)
    mixed = np.stack([frames[rng.permutation(len(frames))] for frames in clips.small])
    return replace(clips, small=mixed)


@torch.no_grad()
def alignment_probe(llava: VideoLlava, examined: int) -> tuple[list[Arm], Check]:
    """Cosine between the pooled feature of an image and of the one-frame clip of the same scene, against another's."""
    stills = prepare(draw_pool(PoolConfig(families=examined, split="test", seed=7_500_000)), llava.config)
    pixels = stills.pixels(range(len(stills)))
    random_video, random_image = VideoTower(llava.config.tower).eval(), ImageTower(llava.config.tower).eval()
    pairs = {"aligned": (llava.model.image_tower, llava.model.video_tower), "random": (random_image, random_video)}
    arms, gaps = [], {}
    for name, (image_tower, video_tower) in pairs.items():
        image = F.normalize(image_tower.pooled(pixels), dim=-1)
        clip = F.normalize(video_tower.pooled(pixels.unsqueeze(2)), dim=-1)
        own = (image * clip).sum(-1)
        other = (image * clip.roll(1, 0)).sum(-1)
        gaps[name] = (own - other).numpy()
        arms.append(Arm(f"probe, {name} towers", {"same scene": bootstrap(own.numpy()),
                                                  "another scene": bootstrap(other.numpy())}))
    check = Check("aligned towers tell the same scene in an image and in a one-frame clip from another scene more "
                  "clearly than random ones", paired_difference(gaps["aligned"], gaps["random"]))
    return arms, check


# ---- what takes training ----------------------------------------------------------------------------------------


def trained_arms(llava: VideoLlava, sizes: Sizes, seeds: Sequence[int], out: Path,
                 progress: Callable[[str], None]) -> tuple[list[Arm], list[Check]]:
    """Train every arm with every seed and examine it on the same unseen scenes."""
    views = {name: _seeing(llava, name, sizes) for name in sorted({plan.towers for plan in ARMS})}
    replies: dict[str, list[Reply]] = defaultdict(list)
    for seed in seeds:
        start = _reader(llava, views["aligned"], sizes, seed, out / f"seed{seed}")
        for plan in ARMS:
            began = time.monotonic()
            learner = _train_arm(llava, start, plan, views[plan.towers], sizes, seed, out / f"seed{seed}")
            for seen in views[plan.towers].test.values():
                found = examine(learner, seen, questions_each=8)
                replies[plan.name] += [replace(reply, row=reply.row + 100_000 * seed) for reply in found]
            progress(f"seed {seed}, {plan.name}: {time.monotonic() - began:.0f} s")
    arms = [Arm(plan.name, _metrics(replies[plan.name]), len(seeds)) for plan in ARMS]
    return arms, _training_checks(replies)


def _metrics(replies: Sequence[Reply]) -> dict[str, Interval]:
    clips, stills = [r for r in replies if r.is_clip], [r for r in replies if not r.is_clip]
    return {
        "clips: color, shape, count": accuracy(clips, {"color", "shape", "count"}),
        "clips: direction and order": accuracy(clips, TEMPORAL_KINDS),
        "clips: all": accuracy(clips, None),
        "images: all": accuracy(stills, None),
    }


def _training_checks(replies: Mapping[str, Sequence[Reply]]) -> list[Check]:
    clips = {name: [r for r in found if r.is_clip] for name, found in replies.items()}
    stills = {name: [r for r in found if not r.is_clip] for name, found in replies.items()}
    seen = {"color", "shape", "count"}
    return [
        Check("joint beats video-only on color, shape and count in clips",
              difference(clips["joint"], clips["video only"], seen)),
        Check("joint is no worse than image-only on images (margin 3 points)",
              difference(stills["joint"], stills["image only"], None), bound=-0.03),
        Check("aligned towers beat random ones on clips",
              difference(clips["joint"], clips["unaligned towers"], None)),
        Check("one shared projector is no worse than two (margin 3 points)",
              difference([*clips["joint"], *stills["joint"]],
                         [*clips["separate projectors"], *stills["separate projectors"]], None), bound=-0.03),
        Check("temporal attention gains direction and order",
              difference(clips["joint"], clips["no temporal attention"], TEMPORAL_KINDS)),
        Check("temporal attention does not matter for color (within 10 points)",
              difference(clips["joint"], clips["no temporal attention"], {"color"}), bound=0.10, relation="within"),
    ]


def _seeing(llava: VideoLlava, towers: str, sizes: Sizes) -> Seeing:
    model = copy.deepcopy(llava.model)
    if towers == "random":
        torch.manual_seed(0)
        model.image_tower = ImageTower(llava.config.tower)
        model.video_tower = VideoTower(llava.config.tower)
    elif towers == "no temporal attention":
        model.video_tower.silence_temporal()
    model.eval()
    frames = llava.config.tower.frames
    pools = {
        "train": (PoolConfig(families=sizes.image_families, members=sizes.members, seed=20_000_000),
                  PoolConfig(families=sizes.clip_families, members=sizes.members, frames=frames, seed=21_000_000)),
        "test": (PoolConfig(families=sizes.examined, split="test", seed=22_000_000),
                 PoolConfig(families=sizes.examined, frames=frames, split="test", seed=23_000_000)),
    }
    seen: dict[str, dict[Kind, Seen]] = {}
    for part, (images, clips) in pools.items():
        seen[part] = {"image": see(model, prepare(draw_pool(images), llava.config)),
                      "video": see(model, prepare(draw_pool(clips), llava.config))}
    return Seeing(seen["train"], seen["test"])


def _fresh(llava: VideoLlava, seed: int, *, separate: bool = False) -> VideoLlavaModel:
    """A model of the arms' size around the miniature's towers, which only the cached features stand for."""
    torch.manual_seed(seed)
    language = replace(LANGUAGE, vocab_size=len(llava.tokenizer), bos_token_id=llava.tokenizer.bos_token_id,
                       eos_token_id=llava.tokenizer.eos_token_id)
    return VideoLlavaModel.from_config(replace(llava.config, language=language, separate_projectors=separate))


def _reader(llava: VideoLlava, seeing: Seeing, sizes: Sizes, seed: int, out: Path) -> VideoLlavaModel:
    """The common start of a seed's arms: a language model that has read the world in words."""
    model = _fresh(llava, seed)
    told = {kind: tell(seen.pool, llava.tokenizer) for kind, seen in seeing.train.items()}
    mixture = Mixture(images=sizes.images, clips=sizes.clips, describe=0.0)
    _learn(Reader(model, Teller(model.config)), llava, seeing, told, mixture, sizes.read_steps, seed, out / "read")
    return model


def _train_arm(llava: VideoLlava, start: VideoLlavaModel, plan: ArmPlan, seeing: Seeing, sizes: Sizes, seed: int,
               out: Path) -> VideoLlava:
    model = _fresh(llava, seed, separate=plan.separate_projectors)
    model.language_model.load_state_dict(start.language_model.state_dict())
    if model.video_projector is not None:
        model.video_projector = SharedProjector(llava.config.tower.hidden_size, LANGUAGE.hidden_size)
    for projector in (model.projector, model.video_projector):
        if projector is not None:
            standardise(projector, seeing.train.values())
    mixture = Mixture(images=sizes.images if plan.images else 0, clips=sizes.clips if plan.clips else 0, describe=0.0)
    learner = Learner(model, "instruct")
    _learn(learner, llava, seeing, seeing.train, mixture, sizes.steps, seed, out / plan.name.replace(" ", "-"))
    return VideoLlava(model, llava.tokenizer, name=plan.name, device="cpu")


def _learn(learner: Answering, llava: VideoLlava, seeing: Seeing, media: Mapping[Kind, Features], mixture: Mixture,
           steps: int, seed: int, out: Path) -> None:
    config = RunConfig(steps=steps, learning_rate=4e-3, weight_decay=0.05, precision="bf16", seed=seed,
                       save_every=steps, log_every=25, trainable_only=True)
    groups = parameter_groups(learner, config, muon=modules_of(learner, BLOCKS))
    run = Run(out, learner, config, parameters=groups, device="cpu", progress="silent")
    interviewer = Interviewer(llava.tokenizer, learner.model.config, mixture, seed=seed,
                              images=seeing.train["image"].pool.facts, clips=seeing.train["video"].pool.facts)
    learn(run, interviewer, media)
    learner.model.eval()


# ---- numbers ----------------------------------------------------------------------------------------------------


def accuracy(replies: Iterable[Reply], kinds: Iterable[str] | None) -> Interval:
    """Share of right answers among some kinds (None: all), with an interval over scenes."""
    chosen = _of_kinds(replies, kinds)
    return bootstrap([r.is_right for r in chosen], groups=[r.row for r in chosen])


def difference(first: Iterable[Reply], second: Iterable[Reply], kinds: Iterable[str] | None) -> Interval:
    """Accuracy of the first minus the second on the same questions, with an interval over scenes."""
    a, b = _of_kinds(first, kinds), _of_kinds(second, kinds)
    assert [(r.row, r.question.question) for r in a] == [(r.row, r.question.question) for r in b]
    return paired_difference([r.is_right for r in a], [r.is_right for r in b], groups=[r.row for r in a])


def _of_kinds(replies: Iterable[Reply], kinds: Iterable[str] | None) -> list[Reply]:
    wanted = None if kinds is None else set(kinds)
    return [r for r in replies if wanted is None or r.question.kind in wanted]
