"""`diorama is-vit ...`: a function a verb. Torch is imported when a verb runs, not before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from diorama.console import Common, emit, note
from diorama.errors import InputError
from diorama.systems.is_vit.config import SMALL, QuantiseConfig, Softmax, preset

app = App(name="is-vit", help="Quantises vision transformers to 3-8 bits after training (I&S-ViT, arXiv 2311.10126).")

COMMON = Common()
DEFAULT = "is-vit-world"
Recipe = Literal["is-vit", "uniform", "log2", "log2-masked", "sulq", "repq", "brecq", "qdrop"]
Out = Annotated[Path | None, Parameter(name=("--output", "-o"), help="Folder of the quantised model.")]


@app.command
def quantize(
    model: str,
    *,
    bits: str = "w3a3",
    calibration: str = "world",
    output: Out = None,
    recipe: Recipe = "is-vit",
    softmax: Softmax | None = None,
    eta: Literal["grid", "powers"] = "grid",
    eta_error: Literal["probabilities", "attention"] = "probabilities",
    stages: int = 3,
    images: int = 1024,
    batch: int = 64,
    iterations: int | None = None,
    learning_rate: float | None = None,
    few: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> int:
    """Quantise a vision transformer and write it packed; a stopped run goes on after its last finished block.

    Parameters
    ----------
    model
        A shipped miniature, a folder (transformers' or timm's layout), or a hub id. Of a Video-LLaVA checkpoint the
        towers are quantised, of the world's oracle its network, and the result is a checkpoint of the same kind
        (weights alone; its activations stay float).
    bits
        Bits of weights and activations, 2 to 8 each: w3a3, w4a4, w8a8.
    calibration
        A folder of images, "world" or "digits".
    recipe
        is-vit, or a method it is compared with.
    softmax
        Quantiser of the attention probabilities, if not the recipe's.
    eta
        Shifts that SULQ tries: the released code's grid, or powers of two (ours), which hold 0 exactly.
    eta_error
        Choose the shift by the error of the probabilities, or (ours) of their product with the values.
    stages
        Of is-vit's three, how many.
    images
        Calibration images.
    batch
        Images in a step of tuning.
    iterations
        Steps a unit and stage; by default the paper's, 1000 at 3 to 5 bits, 200 above.
    learning_rate
        Of the tuning; by default the paper's, scaled so that rate times steps stays what it is there.
    few
        Calibrate even with fewer images than a batch.
    """
    config = settings_of(recipe, bits, softmax=softmax, eta=eta, eta_error=eta_error, stages=stages, images=images,
                         batch=batch, iterations=iterations, learning_rate=learning_rate, seed=common.seed)
    out = output or common.folder(f"{Path(model).name.partition('@')[0]}-{config.bits}")
    if common.dry_run:
        emit({"model": model, "out": str(out), "settings": config.to_dict()},
             f"would quantise {model} to {config.bits} into {out}", common)
        return 0
    from diorama.systems.is_vit.detectors import holds_detector
    from diorama.systems.is_vit.towers import holds_towers

    if holds_towers(model):
        return _quantize_towers(model, out, config, calibration, few, common)
    if holds_detector(model):
        return _quantize_detector(model, out, config, calibration, few, common)
    return _quantize_classifier(model, out, config, calibration, few, common)


def _quantize_classifier(model: str, out: Path, config: QuantiseConfig, calibration: str, few: bool,
                         common: Common) -> int:
    from diorama.systems.is_vit.evaluate import file_bytes
    from diorama.systems.is_vit.pipeline import VisionTransformer, quantise_to

    began = time.perf_counter()
    vit = VisionTransformer.from_pretrained(model, device=common.device)
    vit.require_float()
    before = file_bytes(vit.model)
    pixels = vit.calibration(calibration, config, few=few)
    note(f"calibrating {model} to {config.bits} on {len(pixels)} images")
    small = quantise_to(out, vit, pixels, config, source=calibration, progress=_teller(began))
    after, seconds = file_bytes(small.model), time.perf_counter() - began
    emit({"out": str(out), "bits": config.bits, "images": len(pixels), "bytes": after, "float_bytes": before,
          "seconds": round(seconds, 1)},
         f"{out}: {config.bits}, {after / 1e6:.2f} MB (float32 {before / 1e6:.2f} MB), {seconds:.1f} s", common)
    return 0


def _quantize_towers(model: str, out: Path, config: QuantiseConfig, calibration: str, few: bool, common: Common) -> int:
    from diorama.systems.is_vit.towers import quantise_towers

    towers = quantise_towers(model, out, config, source=calibration, few=few, told=note,
                             progress=_teller(time.perf_counter()), device=common.device)
    lines = [f"{out}: a checkpoint of the same system, weights of its towers at {config.weight_bits} bits"]
    lines += [f"  {name}: {row['bytes'] / 1e6:.2f} MB of codes (float32 {row['float_bytes'] / 1e6:.2f} MB), "
              f"{row['images']} images" for name, row in towers.items()]
    emit({"out": str(out), "bits": config.bits, "towers": towers}, "\n".join(lines), common)
    return 0


def _quantize_detector(model: str, out: Path, config: QuantiseConfig, calibration: str, few: bool,
                       common: Common) -> int:
    from diorama.systems.is_vit.detectors import quantise_detector

    row = quantise_detector(model, out, config, source=calibration, few=few, told=note,
                            progress=_teller(time.perf_counter()), device=common.device)
    emit({"out": str(out), "bits": config.bits, "network": row},
         f"{out}: the oracle's network, weights at {config.weight_bits} bits: {row['bytes'] / 1e6:.2f} MB of codes "
         f"(float32 {row['float_bytes'] / 1e6:.2f} MB), {row['images']} images", common)
    return 0


def _teller(began: float) -> Callable[[str, int, int], None]:
    return lambda what, done, total: note(f"{done}/{total} {what} ({time.perf_counter() - began:.0f} s)")


def settings_of(recipe: str, bits: str, *, softmax: Softmax | None, eta: Literal["grid", "powers"],
                eta_error: Literal["probabilities", "attention"], stages: int, images: int, batch: int,
                iterations: int | None, learning_rate: float | None, seed: int) -> QuantiseConfig:
    """A recipe with flags; the learning rate keeps the published product with the steps unless one is given."""
    base = preset(recipe, bits)
    steps = base.iterations if iterations is None else iterations
    rate = base.learning_rate * base.iterations / max(steps, 1) if learning_rate is None else learning_rate
    return replace(base, softmax=softmax or base.softmax, eta=eta, eta_error=eta_error, stages=stages, images=images,
                   range_images=min(base.range_images, images), batch=batch, iterations=steps, learning_rate=rate,
                   seed=seed)


@app.command
def run(
    weights: str,
    *images: Path,
    top: int = 3,
    int8: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> int:
    """Classify image files with a quantised or a float model.

    Parameters
    ----------
    weights
        A folder that `quantize` wrote, or any model it takes.
    images
        Image files.
    top
        Classes to name for each.
    int8
        Multiply bytes on the CPU, fast, instead of the exact reference.
    """
    if common.dry_run:
        emit({"weights": weights, "images": [str(i) for i in images]}, f"would classify {len(images)} images", common)
        return 0
    if top < 1:
        raise InputError(f"--top is {top}, and at least one class has to be named. Pass 1 or more.")
    from diorama.systems.is_vit.pipeline import VisionTransformer

    found = VisionTransformer.from_pretrained(weights, device=common.device, int8=int8).classify(list(images), top)
    emit({"weights": weights, "images": [{"file": str(path), **asdict(one)}
                                         for path, one in zip(images, found, strict=True)]},
         "\n".join(f"{path}: " + ", ".join(f"{label} {share:.0%}" for label, share in one.ranking)
                   for path, one in zip(images, found, strict=True)), common)
    return 0


@app.command
def evaluate(
    weights: str = DEFAULT,
    *,
    data: str = "world",
    images: int = 1000,
    int8: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> int:
    """Share of right labels with its interval, bytes, and milliseconds an image.

    Parameters
    ----------
    weights
        A quantised folder, or any model that `quantize` takes.
    data
        "world" or "digits" (their unseen part), or a folder with one folder a class.
    images
        Of the world, how many; of a folder, at most how many a class.
    int8
        Multiply bytes on the CPU, fast, instead of the exact reference.
    """
    if common.dry_run:
        emit({"weights": weights, "data": data}, f"would examine {weights} on {data}", common)
        return 0
    from diorama.systems.is_vit.data import named_set
    from diorama.systems.is_vit.evaluate import accuracy, file_bytes, milliseconds
    from diorama.systems.is_vit.pipeline import VisionTransformer

    vit = VisionTransformer.from_pretrained(weights, device=common.device, int8=int8)
    examined = named_set(data, "test", images, vit.preprocessing.size, vit.labels)
    right = accuracy(vit.model, vit.preprocessing, examined)
    pixels = vit.preprocessing.normalise(examined.images[:64]).to(vit.device)
    stored = VisionTransformer.from_pretrained(weights, device=common.device) if int8 else vit
    size, taken = file_bytes(stored.model), milliseconds(vit.model, pixels)
    emit({"weights": weights, "data": data, "accuracy": asdict(right), "bytes": size, "milliseconds": taken},
         f"{weights} on {data}: {right.mean:.1%} ({right.low:.1%} - {right.high:.1%}, n {right.n}), "
         f"{size / 1e6:.2f} MB, {taken:.2f} ms an image", common)
    return 0


@app.command
def export(
    weights: Path,
    *,
    format: Literal["safetensors", "onnx"] = "safetensors",
    common: Common = COMMON,
) -> int:
    """Write a quantised model for other programs.

    Parameters
    ----------
    weights
        A folder that `quantize` wrote.
    format
        safetensors: the rounded weights as floats under transformers' names, activations not quantised. onnx: 4- or
        8-bit weights and QuantizeLinear/DequantizeLinear, a table for SULQ (runtimes compute it in float).
    """
    out = common.folder(f"{weights.name}-{format}")
    if common.dry_run:
        emit({"weights": str(weights), "format": format, "out": str(out)}, f"would export {weights} to {out}", common)
        return 0
    from diorama.systems.is_vit.export import export as write

    written = write(weights, out, format)
    emit({"out": str(written)}, f"wrote {written}", common)
    return 0


@app.command
def train(
    data: str = "world",
    *,
    steps: int | None = None,
    name: str | None = None,
    common: Common = COMMON,
) -> int:
    """Train a small ViT to quantise: on the world, on scikit-learn's digits, or on a folder with one folder a class.

    Parameters
    ----------
    data
        "world", "digits", or a folder with train/<class>/*.jpg and, to be examined on, test/<class>/*.jpg.
    steps
        Optimizer steps; by default the recipe's.
    name
        What the model's card calls it.
    """
    config = SMALL.get(data, SMALL["folder"])
    config = config if steps is None else replace(config, steps=steps)
    out = common.folder(f"runs/is-vit-{Path(data).name}")
    if common.dry_run:
        emit({"data": data, "out": str(out), "config": asdict(config)}, f"would train on {data} into {out}", common)
        return 0
    from diorama.systems.is_vit.recipe import train_small

    written, report = train_small(data, config, out, name=name or f"is-vit-{Path(data).name}", seed=common.seed,
                                  device=common.device)
    emit({"model": str(written), **report}, (written / "README.md").read_text(encoding="utf-8"), common)
    return 0


@app.command
def reproduce(
    *,
    quick: Annotated[bool, Parameter(negative="")] = False,
    seeds: int = 3,
    natural: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Re-run the headline claim in miniature: bits, quantisers and stages against their baselines.

    Parameters
    ----------
    quick
        2 and 3 bits and few steps on the world, in a minute.
    seeds
        Calibrations of every arm.
    natural
        A folder with train/<class> and test/<class> of natural pictures, for a third image set.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, seeds)
    out = common.folder("runs/is-vit-claim")
    if common.dry_run:
        emit({"quick": quick, "seeds": seeds, "out": str(out)}, f"would re-run the claim into {out}", common)
        return 0
    from diorama.systems.is_vit.reproduce import reproduce as run_claim

    return report(run_claim(quick=quick, seeds=drawn, out=out, natural=natural), common)
