"""The trained arms of the claims: one image base a seed, the layers over time of each arm, and what the judge reads.

    1  factorised against direct (no image given), clips of 6 of the 18 looks that the pictures have
    2  zero terminal SNR against the stock schedule, both ways of drawing
    4  frozen image layers against training all
    5  fine-tuning on the clips that move most
    6  the two guidance scales
    7  identity at the start against the layers' usual initialisation
    8  interpolation against a linear blend
"""

from __future__ import annotations

import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diorama.diffusion.image_training import Recipe, train_text_to_image
from diorama.diffusion.text_to_image import MiniatureConfig, TextToImage, build_miniature
from diorama.metrics import Interval, bootstrap, bootstrap_statistic, paired_difference
from diorama.metrics.claims import Arm, Check
from diorama.systems.emu_video import arms as world
from diorama.systems.emu_video.arms import Judge, Reading, Subject
from diorama.systems.emu_video.config import DropConfig, EmuVideoConfig, ModeConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.data import Clips
from diorama.systems.emu_video.evaluate import as_frames
from diorama.systems.emu_video.finish import psnr
from diorama.systems.emu_video.interpolation import keyframe_places, linear_blend
from diorama.systems.emu_video.model import TemporalAttention, TemporalConv, VideoModel
from diorama.systems.emu_video.motion import motion_score
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling
from diorama.systems.emu_video.recipe import fastest
from diorama.systems.emu_video.train import Lessons, VideoRecipe, encode_clips, learn
from diorama.training import RunConfig

Say = Callable[[str], None]
BASE = MiniatureConfig(image_size=world.SIZE, latent=False, tokens=4, width=96, layers=4, head_width=32, text="bag",
                       text_width=64, words=16)
CLIP_LOOKS = tuple(look for n, look in enumerate(world.LOOKS) if n % 3 == n // 3 % 3)
"""The looks that clips are made of, every color on one ground and every ground under two; pictures have all 18."""
UNSEEN_LOOKS = tuple(look for look in world.LOOKS if look not in CLIP_LOOKS)
STOCK = ModeConfig(target="v", zero_snr=False)
SCALES = ((1.0, 2.0), (1.0, 8.0), (2.0, 2.0), (2.0, 8.0), (3.0, 2.0), (3.0, 8.0))
FIRM = Sampling(guidance_image=2.0, guidance_text=4.0)
"""Scales for all arms but those of claim 6; the paper's text scale of 7.5 is for captions of the real world."""
SMOOTHED = 20
"""Steps over which a loss is averaged before two are compared."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much an arm gets."""

    pictures: int = 3000
    clips: int = 1200
    image_steps: int = 1000
    video_steps: int = 400
    short_steps: int = 120
    between_steps: int = 400
    batch: int = 8
    examined: int = 48
    """Subjects judged a seed."""


def config_of(mode: ModeConfig | None = None, frames: int = 8) -> EmuVideoConfig:
    """The config of an arm's video model."""
    return EmuVideoConfig(temporal=TemporalConfig(frames=frames, head_dim=32), mode=mode or ModeConfig(),
                          sampling=SamplingConfig(steps=25), fps=world.FPS, pixels=world.SIZE)


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """What one arm does differently from `factorised`."""

    name: str
    given: bool = True
    mode: ModeConfig = field(default_factory=ModeConfig)
    frozen: bool = True
    identity: bool = True


FACTORISED = ArmPlan(name="factorised")
DIRECT = ArmPlan(name="direct", given=False)
FACTORISED_STOCK = ArmPlan(name="factorised, stock schedule", mode=STOCK)
DIRECT_ZERO = ArmPlan(name="direct, zero terminal SNR", given=False)
DIRECT_STOCK = ArmPlan(name="direct, stock schedule", given=False, mode=STOCK)
"""Trained on clips of all looks, so that a caption without the ground leaves the brightness open."""
UNFROZEN = ArmPlan(name="all layers trained", frozen=False)
USUAL = ArmPlan(name="usual initialisation", identity=False)


@dataclass
class Trial:
    """One seed: its base, its clips, and what has been measured of it."""

    seed: int
    sizes: Sizes
    out: Path
    base: TextToImage
    clips: Clips
    judge: Judge
    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """One number a subject (or a step), by arm and metric."""

    def folder(self, name: str) -> Path:
        """Where an arm is trained."""
        return self.out / name.replace(",", "").replace(" ", "-")

    def note(self, arm: str, metric: str, values: Sequence[float] | np.ndarray) -> None:
        self.measured[f"{arm}: {metric}"] += [float(value) for value in values]


def trained_arms(sizes: Sizes, seeds: Sequence[int], out: Path, say: Say) -> tuple[list[Arm], list[Check]]:
    """Train every arm with every seed, and judge them on the same subjects."""
    measured: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        began = time.monotonic()
        trial = started(sizes, seed, out / f"seed{seed}", say)
        factorised = train_arm(trial, FACTORISED, sizes.video_steps)
        for part in (factorisation, terminal_snr, frozen_images, high_quality, guidance_scales, identity, between):
            part(trial, factorised)
            say(f"seed {seed}: {part.__name__.replace('_', ' ')}, {time.monotonic() - began:.0f} s")
        for name, values in trial.measured.items():
            measured[name] += values
    return arms_of(measured, len(seeds)), checks_of(measured)


def started(sizes: Sizes, seed: int, out: Path, say: Say) -> Trial:
    """The image base of a seed, trained on pictures of all looks, and the clips of some looks."""
    pictures = world.pictures(world.draw(world.subjects(sizes.pictures, 1000 + seed), 1))
    run = RunConfig(steps=sizes.image_steps, learning_rate=2e-3, weight_decay=0.01, betas=(0.9, 0.99), warmup=50,
                    schedule="constant", precision="bf16", ema=0.995, save_every=250, log_every=50)
    torch.manual_seed(seed)
    recipe = Recipe(miniature=BASE, network=run, batch=64, uniform_times=0.5)
    base = train_text_to_image(pictures, recipe, out / "image", init=fresh_base(), seed=seed, device="cpu")
    say(f"seed {seed}: image base")
    clips = world.draw(world.subjects(sizes.clips, 2000 + seed, CLIP_LOOKS))
    return Trial(seed, sizes, out, base, clips, Judge.calibrated())


def fresh_base() -> TextToImage:
    """A new image base whose path from words to pixels has unit gain, so that a short training learns the words, and
    whose first answer is zero."""
    base = build_miniature(BASE, words=world.WORDS, device="cpu")
    readers = [base.text.tower, base.network.caption_projection,
               *(part for name, part in base.network.named_modules() if name.endswith("attn2"))]
    for layer in (layer for reader in readers for layer in reader.modules() if isinstance(layer, nn.Linear)):
        nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.zeros_(base.network.proj_out.weight)
    nn.init.zeros_(base.network.proj_out.bias)
    return base


def train_arm(trial: Trial, plan: ArmPlan, steps: int, *, start: VideoModel | None = None, clips: Clips | None = None,
              config: EmuVideoConfig | None = None, rate: float = 1e-3) -> EmuVideo:
    """The video model of an arm, around its own copy of the base; goes on from `start` if that is given."""
    base = TextToImage(copy.deepcopy(trial.base.network), trial.base.text, None, trial.base.scheduler,
                       trial.base.image_size, name="trial", device="cpu")
    torch.manual_seed(trial.seed)
    emu = EmuVideo.new(base, config or config_of(plan.mode))
    if start is not None:
        emu.video.load_state_dict(start.state_dict())
    if not plan.identity:
        usual_initialisation(emu.video)
    run = RunConfig(steps=steps, learning_rate=rate, weight_decay=0.0, betas=(0.9, 0.99), warmup=20,
                    schedule="constant", precision="bf16", ema=0.98, save_every=50, log_every=1,
                    trainable_only=plan.frozen)
    recipe = VideoRecipe(run=run, batch=trial.sizes.batch, frozen=plan.frozen,
                         drop=DropConfig() if plan.given else DropConfig(text=0.0, image=0.9, both=0.1))
    lessons = Lessons(base, encode_clips(base, clips or trial.clips), emu.config, recipe, trial.seed)
    finished = learn(emu.video, lessons, trial.folder(plan.name), device="cpu", progress="silent")
    with finished.ema_weights():
        averaged = copy.deepcopy(emu.video.state_dict())
    emu.video.load_state_dict(averaged)
    return emu


def usual_initialisation(video: VideoModel) -> None:
    """Give the layers over time the random weights that such layers usually start with."""
    for layer in video.temporal.modules():
        if isinstance(layer, TemporalConv):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
        elif isinstance(layer, TemporalAttention):
            nn.init.kaiming_uniform_(layer.narrow.weight, a=5**0.5)


# ---- the claims, one seed ----------------------------------------------------------------------------------------


def factorisation(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 1: looks that no training clip had."""
    direct = train_arm(trial, DIRECT, trial.sizes.video_steps)
    some = world.subjects(trial.sizes.examined, 3000 + trial.seed, UNSEEN_LOOKS)
    captions = [subject.caption() for subject in some]
    _judged(trial, "factorised", factorised.generate(captions, FIRM), some)
    _judged(trial, "direct", direct.animate(None, captions, FIRM), some)


def terminal_snr(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 2: brightness where the caption does not tell it, and its drift where an image does."""
    clips = world.draw(world.subjects(trial.sizes.clips, 2500 + trial.seed))
    open_ground = world.subjects(2 * trial.sizes.examined, 3500 + trial.seed)
    trial.note("true clips", "brightness", [trial.judge.shades[subject.ground] for subject in open_ground])
    for plan in (DIRECT_ZERO, DIRECT_STOCK):
        direct = train_arm(trial, plan, trial.sizes.video_steps, clips=clips)
        made = direct.animate(None, [subject.caption(ground=False) for subject in open_ground], FIRM)
        trial.note(plan.name, "brightness", [float(np.mean(trial.judge.read(clip).brightness)) for clip in made])
    stock = train_arm(trial, FACTORISED_STOCK, trial.sizes.video_steps)
    some = world.subjects(trial.sizes.examined, 4000 + trial.seed)
    captions = [subject.caption() for subject in some]
    images = factorised.draw(captions, guidance=FIRM.guidance_text)
    levels = np.asarray([trial.judge.read(image[None]).brightness[0] for image in images])
    for name, emu in (("factorised", factorised), (FACTORISED_STOCK.name, stock)):
        made = emu.animate(images, captions, FIRM)
        shown = np.asarray([np.mean(trial.judge.read(clip).brightness) for clip in made])
        trial.note(name, "drift of brightness", np.abs(shown - levels))


def frozen_images(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 4: pictures of looks that the clips lack, before and after."""
    everything = train_arm(trial, UNFROZEN, trial.sizes.video_steps)
    some = world.subjects(trial.sizes.examined, 5000 + trial.seed, UNSEEN_LOOKS)
    captions = [subject.caption() for subject in some]
    before = EmuVideo.new(trial.base, config_of()).draw(captions, guidance=4.0)
    after = factorised.draw(captions, guidance=4.0)
    trial.note("factorised", "change of pictures", (after.int() - before.int()).abs().flatten(1).amax(1).numpy())
    for name, images in (("image base", before), (UNFROZEN.name, everything.draw(captions, guidance=4.0))):
        right = [trial.judge.read(image[None]).shows(subject) for image, subject in zip(images, some, strict=True)]
        trial.note(name, "pictures of unseen looks", right)


def high_quality(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 5: a short fine-tuning on the clips that move most."""
    lively = fastest(trial.clips, 0.05)
    tuned = train_arm(trial, replace(FACTORISED, name="high quality"), trial.sizes.short_steps, start=factorised.video,
                      clips=lively, rate=2.5e-4)
    some = [subject for subject in world.subjects(2 * trial.sizes.examined, 6000 + trial.seed) if subject.motion]
    some = some[: trial.sizes.examined]
    captions = [subject.caption() for subject in some]
    images = torch.from_numpy(world.draw(some, 2).pixels[:, 0].copy())
    for name, emu in (("factorised", factorised), ("high quality", tuned)):
        clips = emu.animate(images, captions, FIRM)
        trial.note(name, "motion score", [motion_score(as_frames(clip)) for clip in clips])
        trial.note(name, "motion of lively captions", [
            trial.judge.read(clip).motion == subject.motion for clip, subject in zip(clips, some, strict=True)])


def guidance_scales(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 6: motion over both scales, from true pictures."""
    some = [subject for subject in world.subjects(2 * trial.sizes.examined, 7000 + trial.seed) if subject.motion]
    some = some[: trial.sizes.examined // 2]
    images = torch.from_numpy(world.draw(some, 2).pixels[:, 0].copy())
    for image, text in SCALES:
        clips = factorised.animate(images, [subject.caption() for subject in some],
                                   Sampling(guidance_image=image, guidance_text=text))
        trial.note(_scales(image, text), "motion score", [motion_score(as_frames(clip)) for clip in clips])


def identity(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 7: the loss over the same lessons from either start."""
    train_arm(trial, USUAL, trial.sizes.short_steps)
    losses = {plan.name: _losses(trial.folder(plan.name))[: trial.sizes.short_steps] for plan in (FACTORISED, USUAL)}
    for name, found in losses.items():
        trial.note(name, "loss of early steps", found)
    goal = losses[USUAL.name][-SMOOTHED:].mean()
    smooth = np.convolve(losses[FACTORISED.name], np.ones(SMOOTHED) / SMOOTHED, mode="valid")
    reached = np.flatnonzero(smooth <= goal)
    steps = (reached[0] + SMOOTHED) if len(reached) else np.inf
    trial.note("factorised", "steps to the other's last loss, as a share", [
        min(steps / len(losses[USUAL.name]), 10.0)])


def between(trial: Trial, factorised: EmuVideo) -> None:
    """Claim 8: frames between four keyframes, against fading one into the next."""
    config = replace(config_of(frames=4), role="interpolator")
    clips = world.draw(world.subjects(trial.sizes.clips // 2, 8000 + trial.seed), 4, between=True)
    small = replace(trial, sizes=replace(trial.sizes, batch=max(1, trial.sizes.batch // 2)))
    between = train_arm(small, replace(FACTORISED, name="interpolator"), trial.sizes.between_steps,
                        start=factorised.video, clips=clips, config=config)
    some = [subject for subject in world.subjects(2 * trial.sizes.examined, 9000 + trial.seed) if subject.motion]
    true = world.draw(some[: trial.sizes.examined // 2], 4, between=True)
    pixels = torch.from_numpy(true.pixels.copy())
    places = keyframe_places(4)
    made = EmuVideo(between.base, between.video, config_of(frames=4), interpolator=between).interpolate(
        pixels[:, places], [told[0] for told in true.captions], Sampling(guidance_image=1.0, guidance_text=1.0))
    inside = [k for k in range(places[0], places[-1]) if k not in places]
    blend = linear_blend(pixels[:, places].float())
    for name, frames in (("interpolator", made.float()), ("linear blend", blend)):
        trial.note(name, "PSNR between keyframes", psnr(frames[:, inside], pixels[:, inside].float()))
        trial.note(name, "PSNR at keyframes", psnr(frames[:, places], pixels[:, places].float()))


def _judged(trial: Trial, name: str, clips: Tensor, some: Sequence[Subject]) -> None:
    readings: list[Reading] = [trial.judge.read(clip) for clip in clips]
    trial.note(name, "unseen looks", [r.shows(subject) for r, subject in zip(readings, some, strict=True)])
    trial.note(name, "color flips", [r.flips for r in readings])
    trial.note(name, "motion", [r.motion == subject.motion for r, subject in zip(readings, some, strict=True)])


def _losses(folder: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.asarray([row["loss"] for row in rows])


def _scales(image: float, text: float) -> str:
    return f"w_i {image:g}, w_p {text:g}"


# ---- over the seeds ----------------------------------------------------------------------------------------------


def arms_of(measured: dict[str, list[float]], seeds: int) -> list[Arm]:
    """Every arm with its metrics and their intervals."""
    arms: dict[str, dict[str, Interval]] = defaultdict(dict)
    for name, values in measured.items():
        arm, _, metric = name.partition(": ")
        arms[arm][metric] = bootstrap(values)
    return [Arm(name, metrics, seeds) for name, metrics in arms.items()]


def checks_of(measured: dict[str, list[float]]) -> list[Check]:
    """The claims as checks on what was measured."""
    def difference(metric: str, more: str, less: str) -> Interval:
        return paired_difference(measured[f"{more}: {metric}"], measured[f"{less}: {metric}"])

    def deviations(zero: np.ndarray, stock: np.ndarray, true: np.ndarray) -> float:
        return float((zero.std() - stock.std()) / max(true.std(), 1e-9))

    brightness = [measured[f"{name}: brightness"] for name in (DIRECT_ZERO.name, DIRECT_STOCK.name, "true clips")]
    change = measured["factorised: change of pictures"]
    return [
        Check("1: unseen looks are drawn more often when an image is drawn first",
              difference("unseen looks", "factorised", "direct")),
        Check("1: and the motion is no worse (margin 10 points)", difference("motion", "factorised", "direct"),
              bound=-0.10),
        Check("2: brightness varies more as it should with zero terminal SNR (share of the true deviation)",
              bootstrap_statistic(deviations, *brightness)),
        Check("2: brightness drifts less from the given image with zero terminal SNR",
              difference("drift of brightness", FACTORISED_STOCK.name, "factorised")),
        Check("4: with frozen image layers no pixel of any picture changes",
              Interval(max(change), min(change), max(change), len(change)), bound=0.0, relation="within"),
        Check("4: with all layers trained, pictures of looks that the clips lack get worse",
              difference("pictures of unseen looks", "image base", UNFROZEN.name)),
        Check("5: fine-tuning on lively clips raises motion", difference("motion score", "high quality", "factorised")),
        Check("5: and the motion word is no worse (margin 10 points)",
              difference("motion of lively captions", "high quality", "factorised"), bound=-0.10),
        Check("6: motion falls as the image scale rises from 1 to 3",
              difference("motion score", _scales(1, 8), _scales(3, 8))),
        Check("6: motion rises as the text scale rises from 2 to 8",
              difference("motion score", _scales(2, 8), _scales(2, 2))),
        Check("7: the loss is lower from the identity", difference("loss of early steps", USUAL.name, "factorised")),
        Check("7: and its last one is reached in half the steps",
              bootstrap(measured["factorised: steps to the other's last loss, as a share"]), bound=0.5,
              relation="below"),
        Check("8: frames between keyframes are nearer to the true ones than a blend's",
              difference("PSNR between keyframes", "interpolator", "linear blend")),
    ]
