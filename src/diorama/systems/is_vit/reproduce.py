"""The headline claim in miniature: each quantiser and each stage added in turn, against rounding and reconstruction.

Every arm gets the same trained network, calibration images and seeds; every arm that tunes gets the same number of
steps (one_stage, brecq and qdrop take those of both stages at once). Nothing is chosen by the accuracy it gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diorama.checkpoints import replaced_folder, write_text
from diorama.console import note
from diorama.errors import MissingExtra
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.metrics.claims import Arm, Check, Claim, Published
from diorama.systems.is_vit.arms import QUICK, Sizes, arms_of, as_deployed, groups
from diorama.systems.is_vit.config import SMALL
from diorama.systems.is_vit.data import Labelled, labelled_folder, named_set
from diorama.systems.is_vit.evaluate import channel_spread, file_bytes, hits, milliseconds, spread_summary
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.recipe import train_small

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
NATURAL = "natural"
"""The image set of natural pictures; the arms that only some checks of the others need are left out on it."""


@dataclass
class Found:
    """What one arm gave: right or wrong for every image and seed, and its size and times."""

    right: list[np.ndarray] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


Table = dict[str, Found]
Row = dict[str, Any]
"""What one arm gave with one seed, as JSON: arm, right (0 and 1 for every image), megabytes, milliseconds, seconds."""


def reproduce(*, quick: bool = False, seeds: Sequence[int] = FULL_SEEDS, out: Path = Path("runs/is-vit-claim"),
              progress: Callable[[str], None] = note, natural: Path | None = None, sizes: Sizes | None = None) -> Claim:
    """Measure the claim on the world and, where scikit-learn is there, on its digits; `quick` takes under a minute.

    out: what is finished is kept there, so that a stopped run goes on, and runs with other seeds can share the work.
    natural: a folder with train/<class> and test/<class>, on which a ViT is trained first (in `out`) and then treated
    likewise; without it, the pictures of DIORAMA_DATA where that is set. The claim's seconds are those of all its arms,
    whenever they were run; times are of one CPU process as it runs, beside whatever else does.
    """
    began = time.monotonic()
    sizes = sizes or (QUICK if quick else Sizes())
    table: Table = defaultdict(Found)
    spreads = {}
    finished = None if quick else out / "finished"
    spent = 0.0
    for name, vit, train_part, test_part in subjects(sizes, out, natural, quick, progress):
        spreads[name] = spread_summary(channel_spread(vit.model, _pixels(vit, train_part, 64, seed=0)))
        own = replace(sizes, ablations=False) if name == NATURAL else sizes
        for seed in seeds:
            spent += _examine(table, name, vit, train_part, test_part, own, seed, finished, progress)
    arms = [Arm(name, _metrics(found), len(found.right)) for name, found in table.items()]
    arms += [Arm(f"{name}: LayerNorm channels, widest over median", {"ratio": spread}) for name, spread in
             spreads.items()]
    return Claim(system="is_vit", claim=CLAIM, published=PUBLISHED, arms=arms, checks=checks(table, sizes),
                 mode="quick" if quick else "full", seconds=max(spent, time.monotonic() - began))


def subjects(sizes: Sizes, out: Path, natural: Path | None, quick: bool, progress: Callable[[str], None],
             ) -> Iterator[tuple[str, VisionTransformer, Labelled, Labelled]]:
    """Every network with its training and test images."""
    for name in ("world",) if quick else ("world", "digits"):
        vit = VisionTransformer.from_pretrained(f"is-vit-{name}", device="cpu")
        try:
            yield (name, vit, named_set(name, "train", sizes.images, vit.preprocessing.size),
                   named_set(name, "test", sizes.examined, vit.preprocessing.size))
        except MissingExtra as error:
            progress(f"is-vit: without the digits: {error}")
    natural = natural if quick else natural or shared_pictures(out)
    if natural is not None:
        folder, _ = train_small(str(natural), SMALL["folder"], out / NATURAL, name=NATURAL, device="cpu")
        vit = VisionTransformer.from_pretrained(folder, device="cpu")
        size, most = vit.preprocessing.size, -(sizes.examined // -len(vit.labels))
        yield (NATURAL, vit, labelled_folder(natural / "train", size),
               labelled_folder(natural / "test", size, most=most))


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
             seed: int, finished: Path | None, progress: Callable[[str], None]) -> float:
    """Every arm of one network with one seed, and the seconds that took, now or when it was run.

    Groups of arms that lie in `finished` are read, not run again.
    """
    spent = 0.0
    pixels = _pixels(vit, train_part, sizes.images, seed=seed)
    mark = _mark(vit, pixels, test_part, sizes)
    for group in groups(sizes):
        path = finished / f"{name} {group} seed {seed}.json" if finished is not None else None
        known = _read_group(path, mark)
        if known is None:
            began, rows = time.monotonic(), []
            for arm, model, seconds in arms_of(group, vit.model, pixels, sizes, seed):
                rows.append(_measure(arm, model, vit, pixels, test_part, seconds))
                share = sum(rows[-1]["right"]) / len(test_part)
                progress(f"is-vit, seed {seed}: {name} {arm}: {share:.1%} ({seconds:.0f} s)")
            known = {"mark": mark, "seconds": time.monotonic() - began, "rows": rows}
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(known) + "\n")
        spent += known["seconds"]
        for row in known["rows"]:
            found = table[f"{name} {row['arm']}"]
            found.right.append(np.array(row["right"], dtype=bool))
            found.megabytes.append(row["megabytes"])
            found.seconds.append(row["seconds"])
            if row["milliseconds"] is not None:
                found.milliseconds.append(row["milliseconds"])
    return spent


def _measure(arm: str, model: Any, vit: VisionTransformer, pixels: Tensor, test_part: Labelled, seconds: float) -> Row:
    fast = as_deployed(model)
    return {"arm": arm, "right": hits(model, vit.preprocessing, test_part).astype(int).tolist(),
            "megabytes": file_bytes(model) / 1e6, "seconds": seconds,
            "milliseconds": milliseconds(fast, pixels[:64], repeats=3) if fast is not None else None}


def _mark(vit: VisionTransformer, pixels: Tensor, test_part: Labelled, sizes: Sizes) -> str:
    """Changes with the network, the images and the settings."""
    seen = hashlib.sha256(json.dumps(asdict(sizes)).encode())
    for tensor in (*vit.model.state_dict().values(), pixels, test_part.images, test_part.labels):
        seen.update(tensor.detach().contiguous().numpy().tobytes())
    return seen.hexdigest()


def _read_group(path: Path | None, mark: str) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content if content["mark"] == mark else None


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
        if sizes.ablations and name != NATURAL:
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
