"""The oracle's eye: a small convolutional network from pixels to objects, one candidate a peak.

Every cell of a 32 x 32 grid says whether the middle of an object is there and which object it is (after "Objects as
Points", Zhou et al. 2019, sections 3-4). It sees one picture at a time and is told nothing of camera or light.

Shapes: B pictures, K objects, G = 32 cells a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from diorama.checkpoints import load_into, read_config, read_tensors, resolve
from diorama.errors import InputError
from diorama.world.scene import COLORS, SHAPES

SIDE = 64
"""Pictures are scaled to this many pixels before they are read."""
GRID = 32
PARTS = {"heat": 1, "offset": 2, "shape": len(SHAPES), "color": len(COLORS), "size": 1, "visible": 1, "place": 3,
         "yaw": 2}
"""Channels of the network's answer: logit of a middle; its offset in cells; logits of shape and color; log of the
radius in metres; logit of the visible share; metres to the right, away and up; cosine and sine of four times the yaw
seen by the viewer (four, since a cube looks the same after a quarter turn)."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Channels at 1/2, 1/4 and 1/8 of the picture's side."""

    channels: tuple[int, int, int] = (32, 64, 96)


class Detector(nn.Module):
    """Pictures float (B, 3, 64, 64) in 0..1 -> answers (B, 24, 32, 32); `split` names the channels."""

    def __init__(self, config: DetectorConfig | None = None):
        super().__init__()
        self.config = config or DetectorConfig()
        fine, middle, coarse = self.config.channels
        self.fine = nn.Sequential(_block(3, fine, stride=2), _block(fine, fine))
        self.middle = nn.Sequential(_block(fine, middle, stride=2), _block(middle, middle), _block(middle, middle))
        self.coarse = nn.Sequential(_block(middle, coarse, stride=2), _block(coarse, coarse), _block(coarse, coarse))
        self.to_middle = nn.Conv2d(coarse, middle, 1)
        self.to_fine = nn.Conv2d(middle, fine, 1)
        self.mix_middle = _block(middle, middle)
        self.mix_fine = _block(fine, fine)
        channels = sum(PARTS.values())
        self.answer = nn.Sequential(nn.Conv2d(fine, 2 * fine, 1), nn.ReLU(), nn.Conv2d(2 * fine, channels, 1))
        last = self.answer[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias[0], -4.0)  # hardly any cell holds a middle

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images * 2 - 1)  # (B, C, 32, 32)
        middle = self.middle(fine)  # (B, C, 16, 16)
        coarse = self.coarse(middle)  # (B, C, 8, 8)
        middle = self.mix_middle(middle + _doubled(self.to_middle(coarse)))
        fine = self.mix_fine(fine + _doubled(self.to_fine(middle)))
        return self.answer(fine)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _doubled(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps, scale_factor=2, mode="nearest")


def split(answers: Tensor) -> dict[str, Tensor]:
    """The network's answer by name, each (B, C, 32, 32)."""
    return dict(zip(PARTS, answers.split(list(PARTS.values()), dim=1), strict=True))


@dataclass(frozen=True)
class Candidate:
    """One object that the network sees in one picture.

    `score` is the chance that there is an object, `shapes` and `colors` are the chances of each, `u` and `v` the
    middle of its outline from -1 to 1 (right, down), `place` its foot in metres to the right of the middle of the
    ground, away from the viewer and up, `radius` metres, `quarter_turn` its yaw in degrees within 0..90 as the
    viewer sees it, `visible` the share of its outline that is not hidden.
    """

    score: float
    shapes: tuple[float, ...]
    colors: tuple[float, ...]
    u: float
    v: float
    place: tuple[float, float, float]
    radius: float
    quarter_turn: float
    visible: float


@lru_cache(maxsize=4)
def load_detector(checkpoint: str | Path = "world-oracle", device: str = "cpu") -> Detector:
    """The shipped detector, or one trained by `diorama world train-oracle`. Raises CheckpointError."""
    folder = resolve(checkpoint)
    config = read_config(folder)
    model = Detector(DetectorConfig(channels=tuple(config["channels"])))
    load_into(model, {name: t.float() for name, t in read_tensors(folder).items()})
    return model.to(device).eval()


def fit(pixels: Tensor) -> Tensor:
    """Pictures uint8 (B, 3, S, S) of any size as float (B, 3, 64, 64) in 0..1."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8:
        raise InputError(f"the oracle was given pixels of shape {tuple(pixels.shape)} and type {pixels.dtype}; "
                         "it reads uint8 (frames, 3, height, width).")
    if pixels.shape[2] != pixels.shape[3] or not 16 <= pixels.shape[2] <= 4096:
        raise InputError(f"the oracle was given pictures of {pixels.shape[3]} x {pixels.shape[2]} pixels; "
                         "it reads square ones of 16 to 4096 pixels a side. Crop or pad them to a square first.")
    images = pixels.float() / 255
    if pixels.shape[-1] == SIDE:
        return images
    return nn.functional.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)


@torch.no_grad()
def detect(pixels: Tensor, model: Detector, *, least: float = 0.1, batch: int = 64) -> list[list[Candidate]]:
    """The candidates in each picture uint8 (B, 3, S, S), the surest first; those under `least` are dropped."""
    device = next(model.parameters()).device
    images = fit(pixels)
    found: list[list[Candidate]] = []
    for start in range(0, len(images), batch):
        answers = model(images[start : start + batch].to(device)).float().cpu()
        found += [_peaks(answers[i], least) for i in range(len(answers))]
    return found


def _peaks(answer: Tensor, least: float) -> list[Candidate]:
    """The local maxima of the heat of one picture (24, 32, 32), each with what the network says there."""
    heat = answer[0].sigmoid()
    highest = nn.functional.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]
    rows, columns = ((heat == highest) & (heat >= least)).nonzero(as_tuple=True)
    found = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        parts = split(answer[None, :, row : row + 1, column : column + 1])
        said = {name: part[0, :, 0, 0] for name, part in parts.items()}
        dx, dy = said["offset"].tolist()
        cosine, sine = said["yaw"].tolist()
        right, away, up = said["place"].tolist()
        found.append(Candidate(
            score=heat[row, column].item(),
            shapes=tuple(said["shape"].softmax(0).tolist()),
            colors=tuple(said["color"].softmax(0).tolist()),
            u=(column + 0.5 + dx) * 2 / GRID - 1,
            v=(row + 0.5 + dy) * 2 / GRID - 1,
            place=(right, away, up),
            radius=math.exp(said["size"].item()),
            quarter_turn=math.degrees(math.atan2(sine, cosine)) / 4 % 90,
            visible=said["visible"].sigmoid().item(),
        ))
    return sorted(found, key=lambda c: -c.score)
