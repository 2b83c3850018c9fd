"""A vision transformer cut into the units that are tuned one after another, each a function of what the last gave.

`units_of` cuts a model: patch embedding, every block, Swin's patch mergings, and the head. The activations of all
calibration images are carried from unit to unit, so no layer is run more often than it has to be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diorama.errors import InputError


@dataclass(frozen=True)
class Unit:
    """One step of the forward pass: `run` takes what the unit before gave, (B, ...), and returns the next.

    module: what is tuned in this unit. block: its name in the model's structure, or None for another unit.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    module: nn.Module
    block: str | None = None


def units_of(model: Any) -> list[Unit]:
    """The units of a classifier or a CLIP tower; running them in turn on pixels (B, 3, H, W) is the model's forward.

    For a classifier the last unit gives the logits (B, classes), of the two heads of a distilled DeiT side by side;
    for a tower it gives the last hidden state. Raises InputError for a model of another kind.
    """
    base = next((getattr(model, name) for name in ("vit", "deit", "swin") if hasattr(model, name)), None)
    if base is not None and hasattr(model, "swin"):
        return list(_swin(model, base))
    if base is not None:
        return list(_vit(model, base))
    if hasattr(model, "embeddings") and hasattr(model, "pre_layrnorm"):
        return list(_tower(model))
    raise InputError(f"{type(model).__name__} is not a model that can be cut into blocks here. "
                     "Pass a ViT, DeiT or Swin classifier of transformers, or a CLIP vision tower.")


def _vit(model: Any, base: Any) -> Iterator[Unit]:
    prefix = "vit" if hasattr(model, "vit") else "deit"
    yield Unit(f"{prefix}.embeddings", base.embeddings, base.embeddings)
    layers, path = (base.layers, "layers") if hasattr(base, "layers") else (base.encoder.layer, "encoder.layer")
    for index, layer in enumerate(layers):
        name = f"{prefix}.{path}.{index}"
        yield Unit(name, _first_of(layer), layer, name)
    heads = [getattr(model, name) for name in ("classifier", "cls_classifier", "distillation_classifier")
             if hasattr(model, name)]

    def head(hidden: Tensor) -> Tensor:
        tokens = base.layernorm(hidden)
        return torch.cat([layer(tokens[:, index]) for index, layer in enumerate(heads)], dim=1)

    yield Unit("head", head, nn.ModuleList(heads))


def _swin(model: Any, base: Any) -> Iterator[Unit]:
    yield Unit("swin.embeddings", lambda pixels: base.embeddings(pixels)[0], base.embeddings)
    height, width = base.embeddings.patch_grid
    for number, stage in enumerate(base.encoder.layers):
        grid = (height, width)
        for index, block in enumerate(stage.blocks):
            name = f"swin.encoder.layers.{number}.blocks.{index}"
            yield Unit(name, _first_of(block, grid), block, name)
        if stage.downsample is not None:
            name = f"swin.encoder.layers.{number}.downsample"
            yield Unit(name, _first_of(stage.downsample, grid), stage.downsample)
            height, width = (height + 1) // 2, (width + 1) // 2

    def head(hidden: Tensor) -> Tensor:
        return model.classifier(base.layernorm(hidden).mean(dim=1))

    yield Unit("head", head, nn.ModuleList([model.classifier]))


def _tower(model: Any) -> Iterator[Unit]:
    """Images (B, 3, H, W), or clips (B, 3, T, H, W) where blocks attend over time; then tokens are (B, T, N, D)."""

    def embed(pixels: Tensor) -> Tensor:
        if pixels.ndim == 4:
            return model.pre_layrnorm(model.embeddings(pixels))
        frames = pixels.transpose(1, 2)
        return model.pre_layrnorm(model.embeddings(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])

    yield Unit("embeddings", embed, model.embeddings)
    for index, layer in enumerate(model.encoder.layers):
        name = f"encoder.layers.{index}"
        yield Unit(name, _over_time(layer) if hasattr(layer, "temporal_attn") else _in_frames(layer), layer, name)


def _first_of(layer: nn.Module, *more: Any) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        out = layer(hidden, *more)
        return out[0] if isinstance(out, tuple) else out

    return run


def _over_time(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        return layer(hidden.flatten(0, 1), hidden.shape[1]).unflatten(0, hidden.shape[:2])

    return run


def _in_frames(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        if hidden.ndim == 3:
            return layer(hidden, None)
        return layer(hidden.flatten(0, 1), None).unflatten(0, hidden.shape[:2])

    return run


@torch.no_grad()
def in_batches(run: Callable[[Tensor], Tensor], rows: Tensor, batch: int, device: torch.device | None = None) -> Tensor:
    """`run` over all rows, `batch` at a time on `device`; the result lies where the rows do."""
    device = device or rows.device
    return torch.cat([run(rows[start : start + batch].to(device)).to(rows.device)
                      for start in range(0, len(rows), batch)])


def forward_through(units: Sequence[Unit], pixels: Tensor, batch: int) -> Tensor:
    """What the last unit gives for pixels, `batch` images at a time."""

    def run(rows: Tensor) -> Tensor:
        for unit in units:
            rows = unit.run(rows)
        return rows

    return in_batches(run, pixels, batch)
