"""Quantise the world oracle's network, a convolutional one that says where objects are, of which shape and color.

Of the method what a network without attention and LayerNorms has room for: weights of one scale an output channel,
activations of one scale a tensor, the image as it is, and the tuning of the whole network as one unit. The result is
the oracle's own checkpoint, its weights on the lattice of their codes; activations are computed in float there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diorama.checkpoints import read_config, resolve, write_checkpoint, write_text
from diorama.errors import InputError
from diorama.media.images import load_image
from diorama.media.resizing import center_crop, resize_shortest
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.data import calibration_files
from diorama.systems.is_vit.packed import packed_size
from diorama.systems.is_vit.quantised import (
    QuantisedConv,
    activation_quantiser,
    calibrating,
    round_weights,
    weight_quantiser,
)
from diorama.systems.is_vit.structure import Structure, replace_part
from diorama.systems.is_vit.towers import WORLD_SEED, write_back
from diorama.systems.is_vit.units import Unit, in_batches
from diorama.world.detector import SIDE, Detector, fit, load_detector
from diorama.world.pool import PoolConfig, draw_pool

RECORD = "quantised_detector.json"
FIRST = "fine.0.0"
"""The convolution that sees the image."""


def holds_detector(name_or_path: str | Path) -> bool:
    """Whether a checkpoint is the oracle's network."""
    return not Path(name_or_path).is_file() and set(read_config(resolve(name_or_path))) == {"channels"}


def quantise_detector(name_or_path: str | Path, out: Path, config: QuantiseConfig, *, source: str, few: bool = False,
                      told: Callable[[str], None], progress: sos.Progress = sos.silent, device: str = "auto",
                      ) -> dict[str, Any]:
    """Write `out`: the same checkpoint with quantised weights; what was done.

    source: "world" or a folder of images, cut to squares. Raises InputError for a network that is quantised already and
    for too few images.
    """
    folder = resolve(name_or_path)
    if (folder / RECORD).is_file():
        raise InputError(f"The network of {name_or_path} is quantised already; quantising codes again would only lose "
                         "more. Pass the checkpoint it was made from.")
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = copy.deepcopy(load_detector(folder, where))
    pixels = _pictures(source, config, few=few, told=told)
    small, tuned = quantise(model, pixels, config, progress=progress)
    row = {"images": len(pixels), "bytes": packed_size(small), "units": sos.as_rows(tuned),
           "float_bytes": sum(tensor.numel() * 4 for tensor in model.state_dict().values())}
    write_back(small, model)
    card = (f"# {Path(name_or_path).name} at {config.weight_bits} bits\n\nThe weights of {Path(name_or_path).name} on "
            f"the lattice of {config.weight_bits}-bit codes (I&S-ViT's frame, calibrated with {config.activation_bits}-"
            f"bit activations on {Path(source).name}); activations are computed in float.\n")
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(out, model.config, tensors, card)
    write_text(out / RECORD, json.dumps({"settings": config.to_dict(), "from": str(name_or_path), "network": row},
                                        indent=1) + "\n")
    return row


def quantise(model: Detector, pixels: Tensor, config: QuantiseConfig, *, progress: sos.Progress = sos.silent,
             ) -> tuple[nn.Module, list[sos.Tuned]]:
    """A quantised copy of the network, calibrated on pictures (images, 3, 64, 64) in 0..1, and how its loss went."""
    small = copy.deepcopy(model).eval().requires_grad_(False)
    for name, layer in list(small.named_modules()):
        if isinstance(layer, nn.Conv2d):
            inputs = None if name == FIRST else activation_quantiser(config, f"the input of {name}", layer)
            replace_part(small, name, QuantisedConv(layer, weight_quantiser(config, name, layer), inputs))
    device = next(small.parameters()).device
    if config.method == "none":
        round_weights(small)
    with torch.no_grad(), calibrating(small):
        small(pixels[: config.range_images].to(device))
    tuned: list[sos.Tuned] = []
    if config.method != "none":
        unit = Unit("detector", small, small)
        target = in_batches(model.eval(), pixels, config.batch, device)
        work = sos.Work(small, Structure((), (), (), ()), unit, pixels, pixels, target, config, seed=config.seed)
        tuned = list(sos.tune(work))
    progress("detector", 1, 1)
    return small, tuned


def _pictures(source: str, config: QuantiseConfig, *, few: bool, told: Callable[[str], None]) -> Tensor:
    """Pictures as the network sees them: (images, 3, 64, 64) in 0..1."""
    if source == "world":
        pool = draw_pool(PoolConfig(families=config.images, frames=1, seed=WORLD_SEED + 1_000_000 * config.seed))
        found = torch.from_numpy(pool.pixels[:, 0])
    else:
        files = calibration_files(source, config.images, batch=config.batch, seed=config.seed, few=few, told=told)
        squares = [center_crop(resize_shortest(load_image(path), SIDE), SIDE) for path in files]
        found = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2)
    return fit(found)
