"""Quantise the vision towers inside another system's checkpoint, such as Video-LLaVA's.

The other system is loaded by `diorama.loading` and never imported; its towers are recognised by their parts (CLIP's
embeddings, pre-norm and layers, with or without attention over time), and what they see is taken from their own
`show`. The result is the other system's own checkpoint, with tower weights on the lattice of their codes and
LayerNorms folded; activations are computed in float there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diorama import loading
from diorama.checkpoints import read_config, resolve, write_text
from diorama.errors import InputError
from diorama.media.images import load_image
from diorama.media.videos import FrameSampler, SampledVideo, read_video
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.data import check_count, image_files
from diorama.systems.is_vit.packed import METHOD, packed_size
from diorama.systems.is_vit.quantised import QuantisedConv, QuantisedLinear, QuantisedNorm
from diorama.systems.is_vit.weights import architecture_of
from diorama.world.pool import PoolConfig, draw_pool

RECORD = "quantised_towers.json"
CLIP_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi")
WORLD_SEED = 30_000_000
FRAMES_PER_SECOND = 4.0


def holds_towers(name_or_path: str | Path) -> bool:
    """Whether a checkpoint belongs to another system of this package."""
    if Path(name_or_path).is_file():
        return False
    config = read_config(resolve(name_or_path))
    kind = config.get("system", config.get("model_type"))
    return kind in loading.SYSTEMS and kind != METHOD and architecture_of(config) is None


def quantise_towers(name_or_path: str | Path, out: Path, config: QuantiseConfig, *, source: str, few: bool = False,
                    told: Callable[[str], None], progress: sos.Progress = sos.silent, device: str = "auto",
                    ) -> dict[str, Any]:
    """Write `out`: the same checkpoint whose towers hold quantised weights; what was done, by tower.

    source: "world" (stills and clips) or a folder of images and clips. Raises InputError if there is no tower, if the
    towers are quantised already, and for too few images.
    """
    folder = resolve(name_or_path)
    if (folder / RECORD).is_file():
        raise InputError(f"The towers of {name_or_path} are quantised already; quantising codes again would only lose "
                         "more. Pass the checkpoint it was made from.")
    owner = loading.load(name_or_path, device=device)
    towers = dict(find_towers(owner.model))
    if not towers:
        raise InputError(f"{name_or_path} has no CLIP vision tower, so nothing here can be quantised. "
                         "Pass a checkpoint with one, or a ViT, DeiT or Swin classifier.")
    record: dict[str, Any] = {}
    for name, tower in towers.items():
        pixels = seen_by(owner, tower, source, config, few=few, told=told)
        small, tuned = sos.quantise(tower, pixels, config, progress=_named(name, progress))
        bytes_before = sum(tensor.numel() * 4 for tensor in tower.state_dict().values())
        write_back(small, tower)
        record[name] = {"images": len(pixels), "bytes": packed_size(small), "float_bytes": bytes_before,
                        "units": sos.as_rows(tuned)}
    card = (f"# {Path(name_or_path).name}, towers at {config.weight_bits} bits\n\n"
            f"The towers {', '.join(towers)} of {Path(name_or_path).name} hold weights of {config.weight_bits} bits "
            f"(I&S-ViT, calibrated with {config.activation_bits}-bit activations on {Path(source).name}); activations "
            "are computed in float.\n")
    owner.save_pretrained(out, card=card)
    content = {"settings": config.to_dict(), "from": str(name_or_path), "towers": record}
    write_text(out / RECORD, json.dumps(content, indent=1, default=str) + "\n")
    return record


def find_towers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that are built like a CLIP vision tower."""
    for name, module in model.named_modules():
        if all(hasattr(module, part) for part in ("embeddings", "pre_layrnorm", "encoder")):
            yield name, module


@torch.no_grad()
def write_back(small: nn.Module, tower: nn.Module) -> None:
    """Give a tower the quantised weights, biases and folded LayerNorms of its quantised copy, in place."""
    for name, module in small.named_modules():
        if not isinstance(module, QuantisedLinear | QuantisedConv | QuantisedNorm):
            continue
        place: Any = tower.get_submodule(name)
        weight = module.weight if isinstance(module, QuantisedNorm) else module.weight_quantiser(module.weight)
        place.weight.copy_(weight)
        if module.bias is not None:
            if place.bias is None:
                raise InputError(f"{name} has no bias, and folding a LayerNorm gives it one that its system cannot "
                                 "hold. Quantise with a recipe that does not fold, such as uniform.")
            place.bias.copy_(module.bias)


# ---- what a tower sees ----------------------------------------------------------------------------------------------


def seen_by(owner: Any, tower: nn.Module, source: str, config: QuantiseConfig, *, few: bool,
            told: Callable[[str], None]) -> Tensor:
    """Pixels as the owner's own preprocessing gives them: (N, 3, S, S), or clips (N, 3, T, S, S) for attention over
    time."""
    frames = frames_of(tower)
    media = _world(config, frames) if source == "world" else _folder(Path(source), config, frames, told)
    found: list[Tensor] = []
    for one in media:
        with _watching(tower) as seen:
            owner.show([one])
        if not seen:
            raise InputError(f"What {source} holds is not shown to this tower by its own system. "
                             "Calibrate on a folder of images and clips, or on the world.")
        found.append(seen[0].transpose(0, 1) if frames > 1 else seen[0][0])
    check_count(len(found), config.images, config.batch, source, few, told)
    length = max(one.shape[1] for one in found) if frames > 1 else 0
    same = [one for one in found if not length or one.shape[1] == length]
    return torch.stack(same)


def frames_of(tower: Any) -> int:
    """Frames a tower attends over; 1 for one without attention over time."""
    block = tower.encoder.layers[0]
    return int(block.temporal_embedding.shape[1]) if hasattr(block, "temporal_embedding") else 1


@contextmanager
def _watching(tower: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = tower.embeddings.register_forward_pre_hook(lambda module, given: seen.append(given[0].cpu()))
    try:
        yield seen
    finally:
        handle.remove()


def _world(config: QuantiseConfig, frames: int) -> Iterator[Image.Image | SampledVideo]:
    pool = draw_pool(PoolConfig(families=config.images, frames=frames, seed=WORLD_SEED + 1_000_000 * config.seed))
    for clip in pool.pixels:
        pictures = np.ascontiguousarray(clip.transpose(0, 2, 3, 1))
        yield _clip(pictures) if frames > 1 else Image.fromarray(pictures[0])


def _clip(frames: np.ndarray) -> SampledVideo:
    count = len(frames)
    return SampledVideo(frames=frames, indices=list(range(count)),
                        timestamps=[index / FRAMES_PER_SECOND for index in range(count)], fps=FRAMES_PER_SECOND,
                        total_frames=count, duration=count / FRAMES_PER_SECOND)


def _folder(folder: Path, config: QuantiseConfig, frames: int, told: Callable[[str], None],
            ) -> Iterator[Image.Image | SampledVideo]:
    images = image_files(folder)
    clips = sorted(path for path in folder.rglob("*") if path.suffix.lower() in CLIP_SUFFIXES)
    order = torch.Generator().manual_seed(config.seed)

    def some(paths: Sequence[Path]) -> list[Path]:
        return [paths[row] for row in torch.randperm(len(paths), generator=order)[:config.images].tolist()]

    if frames > 1 and clips:
        yield from (read_video(path, FrameSampler(frames=frames)) for path in some(clips))
        return
    if frames > 1:
        told(f"{folder} holds no clip, so the tower that attends over time is calibrated on still ones.")
    for path in some(images):
        image = load_image(path)
        yield _clip(np.repeat(np.asarray(image)[None], frames, axis=0)) if frames > 1 else image


def _named(tower: str, progress: sos.Progress) -> sos.Progress:
    return lambda what, done, total: progress(f"{tower} {what}", done, total)
