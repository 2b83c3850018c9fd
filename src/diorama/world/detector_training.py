"""How the oracle's network is made: frames of sampled scenes, what is true in them, the losses, and the recipe."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from diorama.checkpoints import write_checkpoint
from diorama.training.config import RunConfig
from diorama.training.run import Run
from diorama.world.detector import GRID, SIDE, Detector, DetectorConfig, split
from diorama.world.rendering import render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import COLORS, PROPORTIONS, RADIUS, SHAPES, Scene, state_at, view_position

MOST = 5
FIRST_SEED = 50_000_000
"""Training scenes are sampled from here on; the splits keep test scenes out whatever the seed."""
NEIGHBORS = torch.tensor([(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, 1), (1, -1)])
"""A second cell of each object learns the same, so that a peak that is off by one still tells the truth."""
SMALL = 0.25
"""Share of the training pictures that are made of 32 x 32 pixels, each the mean of four or one of four."""
TURNING = [SHAPES.index("cube"), SHAPES.index("pyramid")]


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What the detector learns from: pictures of the train and novel splits, and moments of clips.

    The oracle judges others on the novel pairs, so it must know them; it never sees a test scene.
    """

    stills: int = 20_000
    novel: int = 5_000
    clips: int = 4_000
    novel_clips: int = 1_000
    moments: int = 3
    stacking: float = 0.3
    """Chance that a still scene has one object on another; twice that of the splits, as it is hard to see."""
    smooth: float = 0.2
    """Share of the scenes that is rendered with four rays a pixel."""
    batch_size: int = 64
    steps: int = 6000
    learning_rate: float = 3e-3
    seed: int = 0
    detector: DetectorConfig = field(default_factory=DetectorConfig)

    @property
    def frames(self) -> int:
        return self.stills + self.novel + (self.clips + self.novel_clips) * self.moments


def truth_of(scene: Scene, time: float) -> Tensor:
    """What is true of each object at one moment, float (5, 12): there, u, v, shape, color, log radius, right, away,
    up, cosine and sine of four times the yaw, and a place for the visible share."""
    rows = torch.zeros(MOST, 12)
    camera = scene.camera
    tilt = math.radians(camera.elevation)
    zoom = 1 / math.tan(math.radians(camera.field_of_view / 2))
    for k, thing in enumerate(scene.objects):
        state = state_at(scene, k, time)
        if not state.present:
            continue
        radius = RADIUS[thing.size] * state.scale
        right, away, up = view_position(scene, state.position)
        height = up + PROPORTIONS[thing.shape].height * radius / 2 - 0.4
        depth = camera.distance + away * math.cos(tilt) - height * math.sin(tilt)
        u, v = right / depth * zoom, -(away * math.sin(tilt) + height * math.cos(tilt)) / depth * zoom
        turn = 4 * math.radians(state.yaw - camera.azimuth)
        rows[k] = torch.tensor([
            1.0, u, v, SHAPES.index(thing.shape), COLORS.index(thing.color), math.log(radius), right, away, up,
            math.cos(turn), math.sin(turn), 0.0,
        ])
    return rows


def render_frames(
    jobs: list[tuple[Scene, list[float]]], *, samples: int, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (N, 3, 64, 64) and truth float (N, 5, 12) of scenes at an equal number of moments each."""
    pixels, truths = [], []
    steps = len(jobs[0][1])
    for start in range(0, len(jobs), 64):
        some = jobs[start : start + 64]
        if steps == 1:
            shown = [render([scene for scene, _ in some], size=SIDE, samples=samples)]
        else:
            shown = [render([scene], size=SIDE, times=times, samples=samples) for scene, times in some]
        truth = torch.stack([truth_of(scene, time) for scene, times in some for time in times])
        visible = [nn.functional.pad(r.visible.flatten(0, 1), (0, MOST - r.visible.shape[-1])) for r in shown]
        truth[:, :, 11] = torch.cat(visible)
        pixels.append(torch.cat([r.rgb.flatten(0, 1) for r in shown]))
        truths.append(truth)
        if progress:
            progress(len(truth))
    return torch.cat(pixels), torch.cat(truths)


def training_frames(config: RecipeConfig, progress: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
    """All pixels and truths that the recipe learns from."""
    pixels, truths = [], []
    seed = FIRST_SEED + 10_000_000 * config.seed
    groups: list[tuple[Split, bool, int]] = [("train", False, config.stills), ("novel", False, config.novel),
                                             ("train", True, config.clips), ("novel", True, config.novel_clips)]
    for which, moving, count in groups:
        jobs = []
        for i in range(count):
            scene = sample_scene(seed + i, split=which, moving=moving, objects=(1, 5) if i % 2 else (3, 5),
                                 movers=(2, 2), stacking=config.stacking)
            generator = torch.Generator().manual_seed(seed + i)
            times = (torch.rand(config.moments, generator=generator) * scene.duration).tolist() if moving else [0.0]
            jobs.append((scene, times))
        smooth = round(count * config.smooth)
        for samples, some in ((2, jobs[:smooth]), (1, jobs[smooth:])):
            if some:
                rgb, truth = render_frames(some, samples=samples, progress=progress)
                pixels.append(rgb)
                truths.append(truth)
    return torch.cat(pixels), torch.cat(truths)


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures float (B, 3, 64, 64) as cameras, codecs and generators would have left them."""
    count = len(images)
    draw = torch.rand(count, 6, generator=generator)
    small = nn.functional.interpolate(images, (32, 32), mode="area")
    nearest = images[:, :, 1::2, 1::2]
    small = torch.where((draw[:, 1] < 0.5).view(-1, 1, 1, 1), small, nearest)
    coarse = nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear", antialias=True)
    images = torch.where((draw[:, 0] < SMALL).view(-1, 1, 1, 1), coarse, images)
    soft = nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = (draw[:, 2] - 0.6).clamp(min=0).view(-1, 1, 1, 1) * 2
    images = images + blur * (soft - images)
    luma = images.mean(1, keepdim=True)
    chroma = images - luma
    halved = nn.functional.interpolate(nn.functional.avg_pool2d(chroma, 2), (SIDE, SIDE), mode="bilinear")
    images = luma + torch.where((draw[:, 3] < 0.3).view(-1, 1, 1, 1), halved, chroma)
    gain = 1 + 0.06 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
    noise = 0.06 * (draw[:, 4] - 0.5).clamp(min=0).view(-1, 1, 1, 1)
    return (images * gain + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mirrored(images: Tensor, truth: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures marked in `which` (B,) seen in a mirror, and what is true of them."""
    images = torch.where(which.view(-1, 1, 1, 1), images.flip(-1), images)
    sign = torch.where(which, -1.0, 1.0).view(-1, 1)
    truth = truth.clone()
    for column in (1, 6, 10):
        truth[:, :, column] *= sign
    return images, truth


def detection_loss(answers: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss summed over pictures, from answers (B, 24, 32, 32) and truth (B, 5, 12), and its parts for the log."""
    said = split(answers.float())
    there = (truth[..., 0] > 0) & (truth[..., 11] > 0.02)
    # in cells, 0 in the middle of the first
    x, y = (truth[..., 1] + 1) * GRID / 2 - 0.5, (truth[..., 2] + 1) * GRID / 2 - 0.5
    x, y = x.clamp(0, GRID - 1), y.clamp(0, GRID - 1)
    column, row = x.round(), y.round()
    cells = torch.arange(GRID, dtype=torch.float32, device=truth.device)
    bumps = torch.exp(-(((cells - column.unsqueeze(-1)) ** 2).unsqueeze(-2) +
                        ((cells - row.unsqueeze(-1)) ** 2).unsqueeze(-1)) / (2 * 0.8**2))  # (B, K, G, G)
    clear = there & (truth[..., 11] >= 0.2)
    goal = torch.where(clear[..., None, None], bumps, 0.0).amax(1)
    doubtful = ((there & ~clear)[..., None, None] & (bumps > 0.3)).any(1) & (goal < 0.99)
    heat = said["heat"][:, 0]
    chance = heat.sigmoid()
    hit = -((1 - chance) ** 2) * nn.functional.logsigmoid(heat)
    miss = -((1 - goal) ** 4) * chance**2 * nn.functional.logsigmoid(-heat)
    heat_loss = torch.where(goal > 0.99, hit, miss.masked_fill(doubtful, 0.0)).sum()

    batch, k = there.nonzero(as_tuple=True)
    true = truth[batch, k]
    total = torch.zeros((), device=truth.device)
    numbers: dict[str, Tensor] = {}
    beside = NEIGHBORS.to(truth.device)[torch.arange(len(batch), device=truth.device) % len(NEIGHBORS)]
    for dy, dx, weight in ((0, 0, 1.0), (beside[:, 0], beside[:, 1], 0.5)):
        r = (row[batch, k] + dy).clamp(0, GRID - 1).long()
        c = (column[batch, k] + dx).clamp(0, GRID - 1).long()
        here = {name: part[batch, :, r, c] for name, part in said.items()}
        offset = torch.stack([x[batch, k] - c, y[batch, k] - r], dim=-1)
        turning = (true[:, 3:4] == true.new_tensor(TURNING)).any(-1, keepdim=True).float()
        seen = true[:, 11]
        each = (
            nn.functional.cross_entropy(here["shape"], true[:, 3].long(), reduction="none")
            + nn.functional.cross_entropy(here["color"], true[:, 4].long(), reduction="none")
            + 3 * nn.functional.smooth_l1_loss(here["size"][:, 0], true[:, 5], reduction="none", beta=0.1)
            + 2 * nn.functional.smooth_l1_loss(here["place"], true[:, 6:9], reduction="none", beta=0.1).sum(-1)
            + nn.functional.smooth_l1_loss(here["offset"], offset, reduction="none", beta=0.2).sum(-1)
            + (turning * (here["yaw"] - true[:, 9:11]) ** 2).sum(-1)
            + 0.5 * nn.functional.binary_cross_entropy_with_logits(here["visible"][:, 0], seen, reduction="none")
        )
        total = total + weight * (each * seen.clamp(min=0.05)).sum()
        if weight == 1 and len(seen):
            clearly = seen >= 0.35
            numbers["shape"] = (here["shape"].argmax(-1) == true[:, 3])[clearly].float().mean()
            numbers["color"] = (here["color"].argmax(-1) == true[:, 4])[clearly].float().mean()
            numbers["place"] = (here["place"] - true[:, 6:9]).abs()[clearly].mean()
    return heat_loss + total, numbers


def train_detector(out: Path, config: RecipeConfig, *, device: str = "auto",
                   progress: Callable[[int], None] | None = None) -> Path:
    """Render, train and write the detector to `out`/checkpoint; the run's log and states lie in `out`/run."""
    pixels, truth = training_frames(config, progress)
    torch.manual_seed(config.seed)
    model = Detector(config.detector)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(out / "run", model, RunConfig(steps=config.steps, learning_rate=config.learning_rate, precision="bf16",
                                            ema=0.998, log_every=50, seed=config.seed), device=device, settings=config)

    def batch_at(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 * config.seed + step)
        rows = torch.randint(len(pixels), (config.batch_size,), generator=generator)
        flips = torch.rand(len(rows), generator=generator) < 0.5
        images, true = mirrored(pixels[rows].float() / 255, truth[rows], flips)
        return {"images": worn(images, generator), "truth": true}

    for batch in run.batches(batch_at):
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        loss, numbers = detection_loss(run.model(images), batch["truth"])
        run.step(loss, len(images), numbers)
    with run.ema_weights():
        return write_checkpoint(out / "checkpoint", config.detector, model.state_dict(),
                                _card(config, len(pixels), run), torch.float16)


def _card(config: RecipeConfig, frames: int, run: Run) -> str:
    machine = torch.cuda.get_device_name() if run.device.type == "cuda" else f"cpu, one core, {platform.machine()}"
    return f"""# world-oracle

Reads objects out of pictures of diorama's world (`diorama.world.oracle`); judges what other systems make of it.

- Made by: `diorama world train-oracle --out OUT --seed {config.seed} --steps {config.steps}`
- Learned from {frames} rendered frames of the train and novel splits, {config.steps} steps of {config.batch_size},
  {run.seconds:.0f} seconds, device {machine}.
- Measured by: `diorama world oracle` (test split, per attribute, with intervals).
"""
