"""How the shipped small ViTs are made: train, put into half precision, measure, write the card."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diorama.checkpoints import write_text
from diorama.console import note
from diorama.systems.is_vit.config import SmallVitConfig
from diorama.systems.is_vit.data import Labelled, Preprocessing, named_set
from diorama.systems.is_vit.evaluate import accuracy, channel_spread
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.train import train

MEASURED = "measured.json"
EXAMINED = 1000


def train_small(data: str, config: SmallVitConfig, out: Path, *, name: str, seed: int = 0, device: str = "auto",
                ) -> tuple[Path, dict[str, Any]]:
    """Train on a named set or a folder, and write out/model with its card; (that folder, what was measured)."""
    source = str(Path(data) / "train") if data not in ("digits", "world") else data
    note(f"gathering the images of {data}")
    training = named_set(source, "train", config.images, config.image_size)
    model, preprocessing, run = train(out / "run", training, config, seed=seed, device=device)
    model.half().float()  # what is stored is measured
    report: dict[str, Any] = {
        "data": data, "images": len(training), "config": asdict(config), "seed": seed, "steps": run.step_number,
        "seconds": round(run.seconds, 1), "device": f"{run.device.type} ({platform.machine()})",
        "weights": sum(p.numel() for p in model.parameters()),
        "spread": {one.norm: round(one.ratio, 3) for one in
                   channel_spread(model, preprocessing.normalise(training.images[:64]))},
    }
    if (test := test_part(data, config.image_size, training.classes)) is not None:
        report["accuracy"] = asdict(accuracy(model, preprocessing, test))
    command = f"diorama is-vit train {Path(data).name} --steps {config.steps} --seed {seed}"
    vit = VisionTransformer(model, preprocessing, training.classes, name=name, device="cpu")
    written = vit.save_pretrained(out / "model", card(name, command, report, preprocessing))
    write_text(written / MEASURED, json.dumps(report, indent=1) + "\n")
    return written, report


def test_part(data: str, size: int, classes: tuple[str, ...]) -> Labelled | None:
    """The images a model trained on `data` is examined on; None for a folder without test/."""
    if data in ("digits", "world"):
        return named_set(data, "test", EXAMINED, size)
    folder = Path(data) / "test"
    return named_set(str(folder), "test", EXAMINED, size, classes) if folder.is_dir() else None


def card(name: str, command: str, report: dict[str, Any], preprocessing: Preprocessing) -> str:
    """The model card, from what was measured alone."""
    config, spread = report["config"], report["spread"]
    lines = [
        f"# {name}", "",
        f"transformers' ViTForImageClassification with {report['weights'] / 1e6:.2f} million weights: depth "
        f"{config['num_layers']}, width {config['hidden_size']}, {config['num_heads']} heads, patches of "
        f"{config['patch_size']} in {config['image_size']} x {config['image_size']} pixels. Made to be quantised "
        "(`diorama is-vit quantize`), not to be used.", "",
        f"- command: `{command}`",
        f"- trained on {report['images']} images of {report['data']}; seed {report['seed']}, {report['steps']} steps, "
        f"{report['seconds']} seconds, device {report['device']}",
        f"- pixels: mean {preprocessing.mean}, std {preprocessing.std}; weights are stored in half precision",
    ]
    if "accuracy" in report:
        found = report["accuracy"]
        lines.append(f"- unseen images: {found['mean']:.1%} right ({found['low']:.1%} - {found['high']:.1%}, "
                     f"n {found['n']})")
    lines.append(f"- LayerNorm outputs: the widest channel's range over the median one's is {min(spread.values()):.1f} "
                 f"to {max(spread.values()):.1f}, as trained")
    return "\n".join(lines) + "\n"
