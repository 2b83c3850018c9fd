"""Checkpoints of a run: everything that exact resume needs, written as one folder or not at all.

checkpoints/step-00001000/ holds model.safetensors, ema.safetensors (if there is an average), optimizer.pt, and
state.pt with the step, the seconds, and the random states of every process. The .pt files hold only tensors and
plain values and are read with `weights_only=True`.
"""

import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diorama.checkpoints import read_tensors, replaced_folder, write_tensors
from diorama.errors import CheckpointError

STEP_FOLDER = re.compile(r"step-(\d{8,})")


def checkpoint_folders(out: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [folder for folder in (out / "checkpoints").glob("step-*") if STEP_FOLDER.fullmatch(folder.name)]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def write_state(
    out: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    optimizer: dict[str, Any],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step and delete all but the newest `keep`."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    with replaced_folder(folder) as fresh:
        write_tensors(fresh / "model.safetensors", model)
        if ema is not None:
            write_tensors(fresh / "ema.safetensors", ema)
        torch.save(optimizer, fresh / "optimizer.pt")
        torch.save({"step": step, **state}, fresh / "state.pt")
    for old in checkpoint_folders(out)[:-keep]:
        shutil.rmtree(old)
    return folder


def remove_leftovers(out: Path) -> None:
    """Delete what a killed run had not finished writing."""
    for partial in (out / "checkpoints").glob(".step-*"):
        shutil.rmtree(partial, ignore_errors=True)


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any], dict[str, Any]]:
    """The model's tensors, the average's, the optimizer's state and the rest of a checkpoint."""
    try:
        optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{folder} cannot be resumed from ({type(error).__name__}: {error}). "
            "Delete that folder to resume from the one before."
        ) from error
    ema = read_tensors(folder / "ema.safetensors") if (folder / "ema.safetensors").exists() else None
    return read_tensors(folder / "model.safetensors"), ema, optimizer, state


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module without its frozen parameters; buffers are kept."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's random generators, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put back what `random_states` returned."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
