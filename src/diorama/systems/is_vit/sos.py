"""Quantise a network: SOS, the paper's schedule of three stages (section 3.3), and the frame that baselines share.

Legend: a unit's `exact` input is what it gets in the float network, `given` what it gets in the quantised one whose
earlier units are finished; `target` is what the float unit makes of `exact`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diorama.checkpoints import load_into, read_tensors, write_tensors
from diorama.errors import InputError
from diorama.systems.is_vit import baselines
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import (
    activation_quantisers,
    calibrating,
    insert,
    norm_readers,
    round_weights,
    weight_layers,
)
from diorama.systems.is_vit.reparameterise import reparameterise
from diorama.systems.is_vit.structure import Structure
from diorama.systems.is_vit.tuning import descend
from diorama.systems.is_vit.units import Unit, forward_through, in_batches, units_of

Progress = Callable[[str, int, int], None]
"""progress(what, done, all) is told of every finished unit."""


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Work:
    """One unit to tune: the unit of the quantised model, and what it gets and should give, for all images."""

    model: nn.Module
    structure: Structure
    unit: Unit
    exact: Tensor
    given: Tensor
    target: Tensor
    config: QuantiseConfig
    seed: int


@dataclass(frozen=True)
class Tuned:
    """How the loss of a unit changed in one stage: its mean over the first and over the last quarter of the steps."""

    unit: str
    stage: str
    first: float
    last: float


def quantise(model: nn.Module, pixels: Tensor, config: QuantiseConfig, *, keep: Path | None = None,
             progress: Progress = silent) -> tuple[nn.Module, list[Tuned]]:
    """A quantised copy of `model`, calibrated on pixels (images, 3, H, W), and how each unit's loss went.

    keep: a folder for finished units, from which a second call with the same settings goes on. Raises InputError if
    the model is quantised already or not supported, for NaN in it (naming the layer), and for settings that no method
    allows.
    """
    if not len(pixels):
        raise InputError("No calibration image arrived, so no range can be chosen. Pass at least one, better 1024.")
    student = copy.deepcopy(model).eval()
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    structure = insert(student, config)
    units = units_of(student)
    if config.method == "none":
        round_weights(student)
    fit_activations(student, units, pixels, config)
    if config.method in ("none", "one_stage", "brecq", "qdrop") and config.norm == "reparameterised":
        for norm, readers in norm_readers(student, structure):
            reparameterise(norm, readers, compatibility=config.compatibility)
    if config.method == "none":
        round_weights(student)
        progress("rounded to nearest", 1, 1)
        return student, []
    return student, _walk(model.eval(), student, structure, pixels, config, keep, progress)


def fit_activations(student: nn.Module, units: Sequence[Unit], pixels: Tensor, config: QuantiseConfig) -> None:
    """All activation ranges from one pass over the first `range_images` images (section 2.2)."""
    device = next(student.parameters()).device
    with torch.no_grad(), calibrating(student):
        forward_through(units, pixels[: config.range_images].to(device), config.range_images)


def _walk(teacher: nn.Module, student: nn.Module, structure: Structure, pixels: Tensor, config: QuantiseConfig,
          keep: Path | None, progress: Progress) -> list[Tuned]:
    """Tune unit after unit, carrying the activations of all images along in both networks."""
    device = next(student.parameters()).device
    exact, given = pixels, pixels
    tuned: list[Tuned] = []
    pairs = list(zip(units_of(teacher), units_of(student), strict=True))
    for number, (float_unit, unit) in enumerate(pairs):
        target = in_batches(float_unit.run, exact, config.batch, device)
        work = Work(student, structure, unit, exact, given, target, config, seed=1000 * config.seed + number)
        finished = keep / f"unit_{number:03}.safetensors" if keep is not None else None
        if finished is not None and finished.is_file():
            _restore(work, finished)
        else:
            tuned += list(tune(work))
            if finished is not None:
                write_tensors(finished, unit.module.state_dict())
        given = in_batches(unit.run, given, config.batch, device)
        exact = target
        progress(unit.name, number + 1, len(pairs))
    return tuned


def tune(work: Work) -> Iterator[Tuned]:
    """Tune one unit as the settings say; how its loss went in each stage."""
    config = work.config
    if config.method == "sos":
        yield from three_stages(work)
    elif config.method == "one_stage":
        round_weights(work.unit.module)
        yield from _stage("one", work, work.given, 2 * config.iterations)
    else:
        losses = baselines.tune_rounding(
            work.unit, work.exact, work.given, work.target, config, seed=work.seed,
            keep_share=1.0 if config.method == "brecq" else 0.5)
        yield _summary(work.unit.name, config.method, losses)


def three_stages(work: Work) -> Iterator[Tuned]:
    """Stage 1, 2 and 3 of one unit; fewer if the settings say so, then the weights are rounded as they are."""
    config = work.config
    if any(quantiser.enabled for quantiser in activation_quantisers(work.unit.module)):
        yield from _stage("1", work, work.exact, config.iterations)
    if config.stages >= 2:
        fold(work)
    round_weights(work.unit.module)
    if config.stages >= 3:
        yield from _stage("3", work, work.given, config.iterations)


def fold(work: Work) -> None:
    """Stage 2 of one unit, if it is a block and the settings say so."""
    if work.unit.block is None or work.config.norm != "reparameterised":
        return
    for norm, readers in norm_readers(work.model, work.structure, work.unit.block):
        reparameterise(norm, readers, compatibility=work.config.compatibility)


def _stage(name: str, work: Work, inputs: Tensor, iterations: int) -> Iterator[Tuned]:
    parameters = trained_parameters(work.unit.module)
    losses = descend(work.unit, inputs, work.target, parameters, work.config, iterations, seed=work.seed)
    yield _summary(work.unit.name, f"stage {name}", losses)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of the quantised layers, and Swin's tables of relative positions; LayerNorms stay."""
    found = [p for layer in weight_layers(module) for p in layer.parameters()]
    return found + [p for name, p in module.named_parameters() if name.endswith("relative_position_bias_table")]


def _summary(unit: str, stage: str, losses: Sequence[float]) -> Tuned:
    quarter = max(len(losses) // 4, 1)
    return Tuned(unit, stage, sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter)


def _restore(work: Work, path: Path) -> None:
    """Give the unit the form it has when it is finished, and its tensors."""
    if work.config.method == "sos" and work.config.stages >= 2:
        fold(work)
    load_into(work.unit.module, read_tensors(path))


def as_rows(tuned: Sequence[Tuned]) -> list[dict[str, Any]]:
    """Plain values, ready for JSON."""
    return [asdict(one) for one in tuned]
