"""Load a vision transformer, quantise it, classify with it.

    vit = VisionTransformer.from_pretrained("is-vit-digits")
    small = vit.quantise(vit.calibration("digits"), preset("is-vit", "w4a4"))
    small.save_pretrained("digits-w4a4")
    VisionTransformer.from_pretrained("digits-w4a4").classify(["seven.png"])
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diorama.checkpoints import resolve, write_checkpoint, write_text
from diorama.console import note
from diorama.errors import InputError
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.data import Preprocessing, calibration_pixels, read_images
from diorama.systems.is_vit.fast import use_int8
from diorama.systems.is_vit.packed import FIELD, METHOD, is_packed, load_packed, read_packed_config, save_packed
from diorama.systems.is_vit.weights import (
    PREPROCESSOR,
    architecture_of,
    empty_model,
    read_model,
    read_preprocessing,
    read_timm_file,
)

DEFAULT = "is-vit-world"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of an image, and the classes with their probabilities, the likeliest first."""

    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...]


class VisionTransformer:
    """A ViT, DeiT or Swin classifier of transformers, float or quantised, with what an image needs before it.

    settings: how it was quantised; None for a float model. record: what it was calibrated on.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, labels: Sequence[str], *, name: str,
                 settings: QuantiseConfig | None = None, record: Mapping[str, Any] | None = None,
                 device: str = "auto"):
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(kind)
        self.model: Any = model.to(self.device).eval()
        self.preprocessing, self.labels, self.name = preprocessing, tuple(labels), name
        self.settings, self.record = settings, dict(record or {})
        if self.labels:
            self.model.config.id2label = dict(enumerate(self.labels))
            self.model.config.label2id = {label: index for index, label in enumerate(self.labels)}

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, device: str = "auto", dtype: str | None = None,
        strict: bool = True, revision: str | None = None, token: str | None = None,
        local_files_only: bool | None = None, cache_dir: str | Path | None = None, int8: bool = False,
    ) -> VisionTransformer:
        """A shipped miniature, a folder or a hub id: transformers' or timm's layout, or a packed quantised checkpoint;
        or a weights file alone, with timm's names of tensors.

        dtype: float32 is what quantisers are computed in, so only None and "float32" are taken; strict=False changes
        nothing, a classifier with absent tensors is never loaded. int8: a packed checkpoint on the CPU multiplies bytes
        (fast, a code may differ by one) instead of exactly. Raises CheckpointError.
        """
        if dtype not in (None, "float32"):
            raise InputError(f"dtype {dtype!r} was asked for; codes and scales are computed in float32. Leave it out.")
        if Path(name_or_path).suffix in WEIGHT_SUFFIXES and Path(name_or_path).is_file():
            source = read_timm_file(Path(name_or_path))
            return cls(source.model, source.preprocessing, source.labels, name=Path(name_or_path).stem, device=device)
        folder = resolve(name_or_path, revision=revision, token=token, local_files_only=local_files_only,
                         cache_dir=cache_dir)
        if is_packed(folder):
            content = read_packed_config(folder)
            settings = QuantiseConfig.from_dict(content[FIELD]["settings"])
            model = load_packed(folder, empty_model, sums="float")
            if int8:
                use_int8(model)
            preprocessing = read_preprocessing(folder, int(content["image_size"]))
            labels = tuple(content["id2label"].values()) if architecture_of(content) != "CLIPVisionModel" else ()
            return cls(model, preprocessing, labels, name=str(name_or_path), settings=settings,
                       record=content[FIELD]["record"], device=device)
        if int8:
            raise InputError(f"{name_or_path} is no quantised checkpoint, so it has no bytes to multiply. "
                             "Quantise it first, or leave int8 out.")
        source = read_model(folder)
        return cls(source.model, source.preprocessing, source.labels, name=str(name_or_path), device=device)

    # ---- looking ----

    @torch.no_grad()
    def logits(self, pixels: Tensor, batch: int = 64) -> Tensor:
        """Logits (N, classes) of normalised pixels (N, 3, S, S). Raises InputError for another size or a tower."""
        size = self.preprocessing.size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise InputError(f"Pixels of shape {tuple(pixels.shape)} arrived, and {self.name} reads "
                             f"(images, 3, {size}, {size}). Pass images through `preprocessing` first.")
        if not self.labels:
            raise InputError(f"{self.name} is a tower without a classifier, so it names no class. "
                             "Use it inside the model it belongs to.")
        parts = [self.model(pixels[start:start + batch].to(self.device)).logits
                 for start in range(0, len(pixels), batch)]
        return torch.cat(parts).cpu()

    def classify(self, images: Sequence[str | Path | Image.Image], top: int = 5) -> list[Prediction]:
        """The likeliest classes of image files or Pillow images. Raises MediaError for a file that is no image."""
        opened = [read_images([Path(one)])[0] if not isinstance(one, Image.Image) else one for one in images]
        if not opened:
            raise InputError("No image was named, so there is nothing to run on. Pass one or more image files.")
        probabilities = self.logits(self.preprocessing(opened)).softmax(-1)
        return [self._prediction(row, top) for row in probabilities]

    def _prediction(self, row: Tensor, top: int) -> Prediction:
        values, places = row.topk(min(top, len(row)))
        ranking = tuple((self.labels[place], value) for value, place in
                        zip(values.tolist(), places.tolist(), strict=True))
        return Prediction(*ranking[0], ranking)

    # ---- quantising ----

    def require_float(self) -> None:
        """Raises InputError for a model that is quantised already."""
        if self.settings is not None:
            raise InputError(f"{self.name} is quantised already ({self.settings.bits}); quantising codes again would "
                             "only lose more. Pass the checkpoint it was made from.")

    def calibration(self, source: str, config: QuantiseConfig | None = None, *, few: bool = False,
                    told: Callable[[str], None] = note) -> Tensor:
        """Calibration pixels from "digits", "world" or a folder of images, as `config` says how many."""
        config = config or QuantiseConfig()
        return calibration_pixels(source, self.preprocessing, config.images, batch=config.batch, seed=config.seed,
                                  few=few, told=told)

    def quantise(self, pixels: Tensor, config: QuantiseConfig, *, source: str = "", keep: Path | None = None,
                 progress: sos.Progress = sos.silent) -> VisionTransformer:
        """A quantised copy, calibrated on pixels (N, 3, S, S).

        source: where the pixels are from, for the record. keep: a folder for finished units; a second call with the
        same settings, pixels and weights goes on from there, another one raises InputError.
        """
        self.require_float()
        if keep is not None:
            _claim(keep, config, pixels, self.model)
        model, tuned = sos.quantise(self.model, pixels, config, keep=keep, progress=progress)
        record = {"calibration": {"source": source, "images": len(pixels)}, "from": self.name,
                  "units": sos.as_rows(tuned)}
        return VisionTransformer(model, self.preprocessing, self.labels, name=f"{self.name} {config.bits}",
                                 settings=config, record=record, device=str(self.device))

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> Path:
        """Write a folder that `from_pretrained` reads; a quantised model is packed. Raises CheckpointError."""
        if self.settings is not None:
            written = save_packed(folder, self.model, self.settings, card or self.card(), record=self.record)
        else:
            content = {**self.model.config.to_dict(), "architectures": [type(self.model).__name__], "system": METHOD}
            content = json.loads(json.dumps(content, default=str))
            written = write_checkpoint(folder, content, self.model.state_dict(), card or self.card(), torch.float16)
        write_text(written / PREPROCESSOR, json.dumps(self.preprocessing.to_dict(), indent=2) + "\n")
        return written

    def card(self) -> str:
        """What this checkpoint is, in a few lines of markdown."""
        if self.settings is None:
            return f"# {self.name}\n\nA {type(self.model).__name__} with {len(self.labels)} classes.\n"
        calibration = self.record.get("calibration", {})
        return (f"# {self.name}\n\n{type(self.model).__name__} quantised to {self.settings.bits} with I&S-ViT "
                f"(arXiv 2311.10126), method `{self.settings.method}`, softmax `{self.settings.softmax}`.\n\n"
                f"- from: {self.record.get('from', 'a model in memory')}\n"
                f"- calibrated on: {calibration.get('images')} images of "
                f"{calibration.get('source') or 'unnamed pixels'}, seed {self.settings.seed}, "
                f"{self.settings.iterations} steps a unit and stage\n")


def _claim(keep: Path, config: QuantiseConfig, pixels: Tensor, model: nn.Module) -> None:
    """Mark the folder of finished units as belonging to this run, or refuse one that belongs to another."""
    seen = hashlib.sha256(pixels.contiguous().numpy().tobytes())
    for name, tensor in model.state_dict().items():
        seen.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    mark = {"settings": json.loads(json.dumps(config.to_dict())), "inputs": seen.hexdigest()}
    path = keep / "run.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != mark:
            raise InputError(f"{keep} holds a run with other settings, images or weights, so it cannot go on from "
                             "there. Remove that folder, or name another place.")
        return
    keep.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(mark, indent=1) + "\n")


def unfinished(out: Path) -> Path:
    """Where the finished units of a run into `out` are kept until it is whole."""
    return out.with_name(f"{out.name}.unfinished")


def quantise_to(out: Path, vit: VisionTransformer, pixels: Tensor, config: QuantiseConfig, *, source: str,
                progress: sos.Progress = sos.silent) -> VisionTransformer:
    """Quantise and write to `out`; stopped and called again, it goes on after the last finished unit."""
    keep = unfinished(out)
    small = vit.quantise(pixels, config, source=source, keep=keep if config.method != "none" else None,
                         progress=progress)
    small.save_pretrained(out)
    shutil.rmtree(keep, ignore_errors=True)
    return small

