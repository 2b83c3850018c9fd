"""The headline claim in miniature: each quantiser and each stage added in turn, against rounding and reconstruction.

Every arm gets the same trained network, calibration images and seeds; every arm that tunes gets the same number of
steps (one_stage, brecq and qdrop take those of both stages at once). Nothing is chosen by the accuracy it gives.
"""

from __future__ import annotations

import copy
import os
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diorama.checkpoints import replaced_folder
from diorama.console import note
from diorama.errors import InputError, MissingExtra
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.metrics.claims import Arm, Check, Claim, Published
from diorama.nn.quantisers import Quantiser
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.config import PRESETS, SMALL, QuantiseConfig, parse_bits
from diorama.systems.is_vit.data import Labelled, labelled_folder, named_set
from diorama.systems.is_vit.evaluate import (
    channel_spread,
    file_bytes,
    hits,
    inject_outliers,
    milliseconds,
    spread_summary,
)
from diorama.systems.is_vit.fast import use_int8
from diorama.systems.is_vit.integer import hold_codes
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.quantised import is_quantised, norm_readers, round_weights, weight_layers
from diorama.systems.is_vit.recipe import train_small
from diorama.systems.is_vit.reparameterise import reparameterise
from diorama.systems.is_vit.structure import Structure, find_structure

CLAIM = ("at 3 bits a vision transformer keeps most of its accuracy only if the quantiser of its attention "
         "probabilities fits them (SULQ) and its weights are tuned in three stages around a lossless fold of the "
         "LayerNorms (SOS); at 6 bits little is lost")
PUBLISHED = (
    Published("DeiT-S W3A3 top-1: neither, SULQ, SOS with log2, both", "3.36, 20.70, 45.19, 55.78", "table 4"),
    Published("DeiT-S W3A3 under SOS: uniform, log2, SULQ softmax", "52.60, 44.79, 55.78", "table 5, by its text"),
    Published("ViT-B W3A3: RepQ-ViT, PD-Quant, I&S-ViT; float", "0.14, 13.09, 63.77; 84.54", "table 1"),
    Published("ViT-B W6A6: I&S-ViT; float", "83.82; 84.54", "table 1"),
    Published("QDrop with 20 times the steps against I&S-ViT, W3A3", "better on 4 of 7 networks", "APHQ-ViT, CVPR 25"),
)
FULL_SEEDS = (0, 1, 2)
OUTLIERS = 16.0
"""Factor by which the injected channels are wider, at most; 3 channels of every LayerNorm."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is calibrated and examined."""

    bits: tuple[str, ...] = ("w2a2", "w3a3", "w4a4", "w6a6")
    """The paper's three, and before them 2: networks of this size do not collapse at 3, and at 2 they do."""
    images: int = 512
    range_images: int = 64
    batch: int = 32
    iterations: int = 60
    examined: int = 1000
    ablations: bool = True
    """Also the arms that are run at the fewest bits alone, and the injected outliers."""

    @property
    def low(self) -> tuple[str, ...]:
        """Those of at most 3 bits, about which the claim is."""
        return tuple(bits for bits in self.bits if parse_bits(bits)[1] <= 3)


QUICK = Sizes(bits=("w2a2", "w3a3"), images=256, iterations=30, examined=500, ablations=False)


@dataclass
class Found:
    """What one arm gave: right or wrong for every image and seed, and its size and times."""

    right: list[np.ndarray] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


Table = dict[str, Found]


def reproduce(*, quick: bool = False, seeds: Sequence[int] = FULL_SEEDS, out: Path = Path("runs/is-vit-claim"),
              progress: Callable[[str], None] = note, natural: Path | None = None, sizes: Sizes | None = None) -> Claim:
    """Measure the claim on the world and, where scikit-learn is there, on its digits; `quick` takes under a minute.

    natural: a folder with train/<class> and test/<class>, on which a ViT is trained first (in `out`) and then treated
    likewise; without it, the pictures of DIORAMA_DATA where that is set. Times are of one CPU process as it runs,
    beside whatever else does.
    """
    began = time.monotonic()
    sizes = sizes or (QUICK if quick else Sizes())
    table: Table = defaultdict(Found)
    spreads = {}
    for name, vit, train_part, test_part in subjects(sizes, out, natural, quick, progress):
        spreads[name] = spread_summary(channel_spread(vit.model, _pixels(vit, train_part, 64, seed=0)))
        for seed in seeds:
            _examine(table, name, vit, train_part, test_part, sizes, seed, progress)
    arms = [Arm(name, _metrics(found), len(found.right)) for name, found in table.items()]
    arms += [Arm(f"{name}: LayerNorm channels, widest over median", {"ratio": spread}) for name, spread in
             spreads.items()]
    return Claim(system="is_vit", claim=CLAIM, published=PUBLISHED, arms=arms, checks=checks(table, sizes),
                 mode="quick" if quick else "full", seconds=time.monotonic() - began)


def subjects(sizes: Sizes, out: Path, natural: Path | None, quick: bool, progress: Callable[[str], None],
             ) -> Iterator[tuple[str, VisionTransformer, Labelled, Labelled]]:
    """Every network with its training and test images."""
    for name in ("world", "digits"):
        if name == "digits" and quick:
            continue
        vit = VisionTransformer.from_pretrained(f"is-vit-{name}", device="cpu")
        try:
            yield (name, vit, named_set(name, "train", sizes.images, vit.preprocessing.size),
                   named_set(name, "test", sizes.examined, vit.preprocessing.size))
        except MissingExtra as error:
            progress(f"is-vit: without the digits: {error}")
    natural = natural if quick else natural or shared_pictures(out)
    if natural is not None:
        folder, _ = train_small(str(natural), SMALL["folder"], out / "natural", name="natural", device="cpu")
        vit = VisionTransformer.from_pretrained(folder, device="cpu")
        train_part, test_part = (labelled_folder(natural / part, vit.preprocessing.size) for part in ("train", "test"))
        yield "natural", vit, train_part, test_part


def shared_pictures(out: Path) -> Path | None:
    """The natural pictures of the folder that DIORAMA_DATA names (a sample of CIFAR-10), unpacked into `out`."""
    archive = Path(os.environ.get("DIORAMA_DATA", "")) / "images/cifar10_jpeg/cifar10.zip"
    if "DIORAMA_DATA" not in os.environ or not archive.is_file():
        return None
    folder = out / "pictures"
    if not folder.is_dir():
        with replaced_folder(folder) as fresh, zipfile.ZipFile(archive) as content:
            content.extractall(fresh)
    return folder


def _pixels(vit: VisionTransformer, data: Labelled, count: int, *, seed: int) -> Tensor:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return vit.preprocessing.normalise(data.images[order])


def _examine(table: Table, name: str, vit: VisionTransformer, train_part: Labelled, test_part: Labelled, sizes: Sizes,
             seed: int, progress: Callable[[str], None]) -> None:
    """Every arm of one network with one seed."""
    pixels = _pixels(vit, train_part, sizes.images, seed=seed)

    def note_down(arm: str, model: Any, seconds: float) -> None:
        found = table[f"{name} {arm}"]
        found.right.append(hits(model, vit.preprocessing, test_part))
        found.megabytes.append(file_bytes(model) / 1e6)
        if (fast := as_deployed(model)) is not None:
            found.milliseconds.append(milliseconds(fast, pixels[:64], repeats=3))
        found.seconds.append(seconds)
        progress(f"is-vit, seed {seed}: {name} {arm}: {found.right[-1].mean():.1%} ({seconds:.0f} s)")

    note_down("fp32", vit.model, 0.0)
    for bits in sizes.bits:
        for arm, model, seconds in _arms(vit.model, pixels, bits, sizes, seed):
            note_down(f"{bits} {arm}", model, seconds)
    if not sizes.ablations:
        return
    changed = copy.deepcopy(vit.model)
    inject_outliers(changed, factor=OUTLIERS, channels=3, seed=seed)
    note_down("injected fp32", changed, 0.0)
    for bits in sizes.low:
        for arm in ("uniform", "sulq", "reparameterisation only", "SOS 1+2+3"):
            model, seconds = _timed(changed, pixels, _settings(arm, bits, sizes, seed))
            note_down(f"injected {bits} {arm}", model, seconds)


CALIBRATED = {"uniform": "uniform", "log2 clamped": "log2", "log2 masked": "log2-masked", "sulq": "sulq",
              "reparameterisation only": "repq"}
TUNED: Mapping[str, QuantiseConfig] = {
    "SOS 1": replace(PRESETS["is-vit"], stages=1),
    "SOS 1+2+3": PRESETS["is-vit"],
    "one stage": replace(PRESETS["is-vit"], method="one_stage"),
    "QDrop": PRESETS["qdrop"],
}
ABLATIONS: Mapping[str, QuantiseConfig] = {
    "BRECQ": PRESETS["brecq"],
    "SOS with log2": replace(PRESETS["is-vit"], softmax="log2"),
    "SOS with log2 masked": replace(PRESETS["is-vit"], softmax="log2_masked"),
    "SOS with uniform": replace(PRESETS["is-vit"], softmax="uniform"),
    "SOS, eta a power of two": replace(PRESETS["is-vit"], eta="powers"),
}


def _settings(arm: str, bits: str, sizes: Sizes, seed: int) -> QuantiseConfig:
    """An arm's settings: fewer steps than the paper at a rate that keeps the published product of rate and steps."""
    base = PRESETS[CALIBRATED[arm]] if arm in CALIBRATED else {**TUNED, **ABLATIONS}[arm]
    rate = base.learning_rate * base.iterations / sizes.iterations
    return replace(base.with_bits(bits), images=sizes.images, range_images=sizes.range_images, batch=sizes.batch,
                   iterations=sizes.iterations, learning_rate=rate, seed=seed)


def _arms(model: nn.Module, pixels: Tensor, bits: str, sizes: Sizes, seed: int,
          ) -> Iterator[tuple[str, nn.Module, float]]:
    """Every arm at some bits: its name, the quantised network, and the seconds it took."""
    for arm in CALIBRATED:
        yield arm, *_timed(model, pixels, _settings(arm, bits, sizes, seed))
    for arm in ("SOS 1", "SOS 1+2+3") if sizes is QUICK else TUNED:
        small, seconds = _timed(model, pixels, _settings(arm, bits, sizes, seed))
        yield arm, small, seconds
        if arm == "SOS 1":
            both = folded(small, find_structure(model))
            yield "SOS 1+2", both, seconds
            for name, one in (("SOS 1", small), ("SOS 1+2", both)):
                yield f"{name}, weights float", with_float_weights(one), seconds
    if sizes.ablations and bits == sizes.bits[0]:
        for arm in ABLATIONS:
            yield arm, *_timed(model, pixels, _settings(arm, bits, sizes, seed))


def _timed(model: nn.Module, pixels: Tensor, config: QuantiseConfig) -> tuple[nn.Module, float]:
    began = time.perf_counter()
    small, _ = sos.quantise(model, pixels, config)
    return small, time.perf_counter() - began


def folded(small: nn.Module, structure: Structure) -> nn.Module:
    """A network after stage 1 taken through stage 2: scales folded, weights rounded again, nothing tuned."""
    after = copy.deepcopy(small)
    for norm, readers in norm_readers(after, structure):
        reparameterise(norm, readers)
    round_weights(after)
    return after


def as_deployed(model: Any) -> Any:
    """What would be run: the float network itself, a quantised one on bytes; None where the processor or the arm (a
    channel-wise scale) does not allow that."""
    if not is_quantised(model):
        return model
    if not all(getattr(layer.weight_quantiser, "enabled", False) for layer in weight_layers(model)):
        return None
    fast = copy.deepcopy(model)
    try:
        hold_codes(fast)
        use_int8(fast)
    except InputError:
        return None
    return fast


def with_float_weights(model: nn.Module) -> nn.Module:
    """A copy whose weights are not rounded."""
    plain = copy.deepcopy(model)
    for layer in weight_layers(plain):
        assert isinstance(layer.weight_quantiser, Quantiser)
        layer.weight_quantiser.enabled = False
    return plain


# ---- numbers --------------------------------------------------------------------------------------------------------


def _metrics(found: Found) -> dict[str, Interval]:
    metrics = {"accuracy": accuracy(found), "MB": bootstrap(found.megabytes)}
    if found.milliseconds:
        metrics["ms an image"] = bootstrap(found.milliseconds)
    return {**metrics, "seconds to make": bootstrap(found.seconds)}


def accuracy(found: Found) -> Interval:
    """Share of right labels over all seeds, with an interval over images."""
    images = np.concatenate([np.arange(len(right)) for right in found.right])
    return bootstrap(np.concatenate(found.right), groups=images.tolist())


def difference(first: Found, second: Found) -> Interval:
    """Accuracy of the first minus the second on the same images and seeds, with an interval over images."""
    images = np.concatenate([np.arange(len(right)) for right in first.right])
    return paired_difference(np.concatenate(first.right), np.concatenate(second.right), groups=images.tolist())


def checks(table: Mapping[str, Found], sizes: Sizes) -> list[Check]:
    """What the claim says, on every image set, at 3 bits and at 2."""
    found = []
    for name in dict.fromkeys(arm.split()[0] for arm in table):
        arm = {key.removeprefix(f"{name} "): value for key, value in table.items() if key.startswith(f"{name} ")}
        for low in sizes.low:
            found += _checks_at(low, name, arm)
        if sizes.ablations:
            found += _full_checks(name, arm, sizes)
    return found


def _checks_at(low: str, name: str, arm: Mapping[str, Found]) -> list[Check]:
    best = arm[f"{low} SOS 1+2+3"]
    return [
        Check(f"{name}, {low}: rounding uniformly costs 20 points or more",
              difference(arm["fp32"], arm[f"{low} uniform"]), bound=0.20),
        Check(f"{name}, {low}: the three stages with SULQ beat uniform rounding",
              difference(best, arm[f"{low} uniform"])),
        Check(f"{name}, {low}: they beat reparameterisation only (RepQ-ViT's way)",
              difference(best, arm[f"{low} reparameterisation only"])),
        Check(f"{name}, {low}: without tuning SULQ beats log2 clamped",
              difference(arm[f"{low} sulq"], arm[f"{low} log2 clamped"])),
        Check(f"{name}, {low}: stage 3 gains over stages 1+2", difference(best, arm[f"{low} SOS 1+2"])),
        Check(f"{name}, {low}: before weights are rounded, folding the scales changes nothing (within half a point)",
              difference(arm[f"{low} SOS 1+2, weights float"], arm[f"{low} SOS 1, weights float"]), bound=0.005,
              relation="within"),
    ]


def _full_checks(name: str, arm: Mapping[str, Found], sizes: Sizes) -> list[Check]:
    first, high = sizes.bits[0], sizes.bits[-1]
    best = arm[f"{first} SOS 1+2+3"]
    found = []
    for low in sizes.low:
        here = arm[f"{low} SOS 1+2+3"]
        found += [
            Check(f"{name}, {low}: three stages beat one with the same steps",
                  difference(here, arm[f"{low} one stage"])),
            Check(f"{name}, {low}: they beat QDrop with the same steps", difference(here, arm[f"{low} QDrop"])),
            Check(f"{name}, {low}: injected outliers cost uniform rounding accuracy",
                  difference(arm[f"{low} uniform"], arm[f"injected {low} uniform"])),
            Check(f"{name}, {low}: injected outliers cost SOS nothing (within 3 points)",
                  difference(arm[f"injected {low} SOS 1+2+3"], here), bound=-0.03),
        ]
    return [
        *found,
        Check(f"{name}, {first}: under SOS, SULQ beats log2", difference(best, arm[f"{first} SOS with log2"])),
        Check(f"{name}, {first}: under SOS, SULQ beats the uniform quantiser",
              difference(best, arm[f"{first} SOS with uniform"])),
        Check(f"{name}, {high}: SOS stays within 1.5 points of float",
              difference(arm[f"{high} SOS 1+2+3"], arm["fp32"]), bound=-0.015),
    ]
