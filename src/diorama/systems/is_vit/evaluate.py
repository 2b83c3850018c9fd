"""How good and how large a classifier is, and how far its LayerNorm outputs spread from channel to channel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diorama.metrics import Interval, bootstrap
from diorama.systems.is_vit.data import Labelled, Preprocessing
from diorama.systems.is_vit.integer import CodedLinear
from diorama.systems.is_vit.packed import packed_size
from diorama.systems.is_vit.quantised import weight_layers
from diorama.systems.is_vit.structure import find_structure
from diorama.systems.is_vit.units import forward_through, units_of


@torch.no_grad()
def hits(model: Any, preprocessing: Preprocessing, data: Labelled, batch: int = 128) -> np.ndarray:
    """Whether each image gets its label, bool (N,)."""
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(data), batch):
        pixels = preprocessing.normalise(data.images[start:start + batch]).to(device)
        found.append((model(pixels).logits.argmax(-1).cpu() == data.labels[start:start + batch]).numpy())
    return np.concatenate(found)


def accuracy(model: Any, preprocessing: Preprocessing, data: Labelled) -> Interval:
    """Share of right labels with a bootstrap interval."""
    return bootstrap(hits(model, preprocessing, data))


def file_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in a file: packed codes where weights are rounded, float32 else."""
    if any(isinstance(module, CodedLinear) for module in model.modules()):
        return packed_size(model)
    rounded = [getattr(layer.weight_quantiser, "enabled", False) for layer in weight_layers(model)]
    if rounded and all(rounded):
        return packed_size(model)
    return sum(tensor.numel() * 4 for tensor in model.state_dict().values())


@torch.no_grad()
def milliseconds(model: Any, pixels: Tensor, repeats: int = 5) -> float:
    """Median time of one image in a batch of pixels (N, 3, S, S), after one pass to warm up."""
    model(pixels)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        model(pixels)
        times.append(time.perf_counter() - began)
    return 1000 * median(times) / len(pixels)


# ---- LayerNorm outliers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How unlike the channels of one LayerNorm's output are: the largest range over the median one."""

    norm: str
    ratio: float


@torch.no_grad()
def channel_spread(model: nn.Module, pixels: Tensor) -> list[Spread]:
    """The spread at every LayerNorm inside a block of a float model, over pixels (N, 3, S, S)."""
    names = [name for name, _ in find_structure(model).norms()]
    ranges: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_hook(_noting(ranges, name)) for name in names]
    forward_through(units_of(model), pixels, len(pixels))
    for handle in handles:
        handle.remove()
    return [Spread(name, float(ranges[name].max() / ranges[name].median())) for name in names]


def _noting(ranges: dict[str, Tensor], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows = output.reshape(-1, output.shape[-1])
        ranges[name] = rows.max(0).values - rows.min(0).values

    return note


@torch.no_grad()
def inject_outliers(model: nn.Module, *, factor: float, channels: int, seed: int) -> None:
    """Widen some channels of every LayerNorm by up to `factor`, and undo it in the layers that read it; in place.

    The inverse of stage 2: gamma_c and beta_c grow by k_c, the readers' columns shrink by it, so the float network
    computes what it did. k_c is drawn between factor / 4 and factor, for `channels` channels of each norm.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, readers in find_structure(model).norms():
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.LayerNorm)
        width = norm.normalized_shape[0]
        chosen = torch.randperm(width, generator=generator)[:channels]
        gain = torch.ones(width)
        gain[chosen] = factor * 4 ** -torch.rand(channels, generator=generator)
        norm.weight.mul_(gain)
        norm.bias.mul_(gain)
        for reader in readers:
            layer = model.get_submodule(reader)
            assert isinstance(layer, nn.Linear)
            layer.weight.div_(gain)


def spread_summary(spreads: Sequence[Spread]) -> Interval:
    """Mean spread over the LayerNorms, with an interval over them."""
    return bootstrap([spread.ratio for spread in spreads])
