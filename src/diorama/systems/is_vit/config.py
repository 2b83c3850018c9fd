"""How a vision transformer is quantised: bits, quantisers, and the schedule, each value with its source.

"Code" is the released repository of arXiv 2311.10126; `preset` gives the arms of the comparison.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from diorama.errors import CheckpointError, InputError

Softmax = Literal["sulq", "uniform", "log2", "log2_masked", "log_sqrt2", "adalog", "twin"]
Norm = Literal["tensor", "channel", "reparameterised"]
Method = Literal["none", "sos", "one_stage", "brecq", "qdrop"]
Compatibility = Literal["paper", "official"]


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig:
    """Everything that decides the quantised network; what it was calibrated on is recorded beside it."""

    weight_bits: int = 3
    activation_bits: int = 3
    softmax: Softmax = "sulq"
    """The quantiser of the attention probabilities; all other activations are uniform (section 2.1)."""
    norm: Norm = "reparameterised"
    """Outputs of LayerNorms: one scale for the tensor, one a channel, or one a channel folded away (section 3.3)."""
    method: Method = "sos"
    """How weights are tuned block by block: not at all, in the paper's three stages, or as a baseline does."""
    stages: int = 3
    """Of "sos": 1 trains float weights against channel-wise activations, 2 folds the scales, 3 tunes rounded weights.
    After stage 1 or 2 the weights are rounded as they are."""
    compatibility: Compatibility = "paper"
    """"official" keeps the fractional zero point of stage 2 and the 2^bits + 1 levels of SULQ; not for export."""
    eta: Literal["grid", "powers"] = "grid"
    """Shifts SULQ tries: the released code's, or ours, 2^-k, which hold 0 exactly."""
    eta_error: Literal["probabilities", "attention"] = "probabilities"
    """What the chosen shift makes smallest: the error of A (code), or ours, of A V."""
    whole_exponents: bool = True
    """False drops SULQ's inner round (ours): more distinct levels, no bit shift."""
    activation_percentiles: tuple[float, ...] = (0.999, 0.9999, 0.99999)
    weight_percentiles: tuple[float, ...] = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999)
    """Candidates of the range search (code; the paper writes the least and largest value, which is (1.0,))."""
    images: int = 1024
    """Calibration images (section 4.1)."""
    range_images: int = 64
    """The first images, in order, from which all activation ranges are taken in one pass (code)."""
    batch: int = 64
    """Images in a step of tuning (section 4.1)."""
    iterations: int = 1000
    """Steps a unit and stage: 1000 at 3 and 4 bits, 200 at 6 (section 4.1)."""
    learning_rate: float = 4e-5
    """Adam, cosine to 0, no weight decay (section 4.1)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in range(2, 9):
                raise InputError(f"{name} is {getattr(self, name)}; 2 to 8 bits can be packed and calibrated. "
                                 "Pass, for instance, w3a3, w4a4 or w8a8.")
        if self.stages not in (1, 2, 3):
            raise InputError(f"{self.stages} stages were asked for; the schedule has three. Pass 1, 2 or 3.")
        for name in ("images", "range_images", "batch", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, and nothing can be calibrated with less than one. "
                                 "Pass a positive number.")

    @property
    def bits(self) -> str:
        """As on the command line: w3a3."""
        return f"w{self.weight_bits}a{self.activation_bits}"

    @property
    def deployed_norm(self) -> Norm:
        """How LayerNorm outputs are quantised in the finished network."""
        return "channel" if self.method == "sos" and self.stages == 1 else self.norm

    def with_bits(self, bits: str) -> "QuantiseConfig":
        """The same with the bits of a text like w3a3. Raises InputError."""
        weights, activations = parse_bits(bits)
        return replace(self, weight_bits=weights, activation_bits=activations)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QuantiseConfig":
        """The inverse of `to_dict`. Raises CheckpointError for an unknown field."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(f"The quantisation settings have the unknown fields {', '.join(unknown)}; they were "
                                  f"written by another version. Known fields: {', '.join(sorted(known))}.")
        plain = dict(values)
        for name in ("activation_percentiles", "weight_percentiles"):
            if name in plain:
                plain[name] = tuple(plain[name])
        return cls(**plain)


def parse_bits(text: str) -> tuple[int, int]:
    """(weight bits, activation bits) of a text like w3a3. Raises InputError, also for bits outside 2-8."""
    found = re.fullmatch(r"w(\d+)a(\d+)", text.strip().lower())
    if not found:
        raise InputError(f"--bits {text!r} is not of the form w3a3, so the bits of weights and activations cannot be "
                         "read from it. Pass, for instance, w4a4.")
    weights, activations = int(found[1]), int(found[2])
    if weights not in range(2, 9) or activations not in range(2, 9):
        raise InputError(f"--bits {text} asks for bits outside 2-8, which cannot be packed and calibrated. "
                         "Pass, for instance, w3a3, w4a4 or w8a8.")
    return weights, activations


PRESETS: Mapping[str, QuantiseConfig] = {
    "is-vit": QuantiseConfig(),
    "uniform": QuantiseConfig(softmax="uniform", norm="tensor", method="none"),
    "log2": QuantiseConfig(softmax="log2", norm="tensor", method="none"),
    "log2-masked": QuantiseConfig(softmax="log2_masked", norm="tensor", method="none"),
    "sulq": QuantiseConfig(norm="tensor", method="none"),
    "repq": QuantiseConfig(softmax="log_sqrt2", method="none"),
    "brecq": QuantiseConfig(softmax="uniform", norm="tensor", method="brecq"),
    "qdrop": QuantiseConfig(softmax="uniform", norm="tensor", method="qdrop"),
}
"""The paper's method and what it is compared with: rounding to nearest with four softmax quantisers, RepQ-ViT's
reparameterisation without tuning, and tuning as BRECQ and QDrop do."""


def preset(name: str, bits: str) -> QuantiseConfig:
    """A preset at some bits, with the iterations the paper uses there. Raises InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"There is no recipe {name!r} for quantising. Pass one of {', '.join(PRESETS)}.")
    config = PRESETS[name].with_bits(bits)
    return replace(config, iterations=1000 if config.activation_bits < 6 else 200)


@dataclass(frozen=True, kw_only=True)
class SmallVitConfig:
    """The vision transformers that `diorama is-vit train` makes; transformers' ViTForImageClassification."""

    image_size: int = 32
    patch_size: int = 8
    hidden_size: int = 64
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 128
    dropout: float = 0.0
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    images: int = 0
    """Training images that are rendered, for the world."""
    flip: bool = False
    """Mirror half of the images."""


SMALL: Mapping[str, SmallVitConfig] = {
    "digits": SmallVitConfig(),
    "world": SmallVitConfig(steps=4000, images=12_000, flip=True),
    "folder": SmallVitConfig(dropout=0.1, steps=2000, flip=True),
}
"""scikit-learn's digits at 32 x 32; color and shape of one rendered object; one's own folder of classes."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError if it is absent or none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}). Pass a folder with a whole checkpoint."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object. Pass a whole checkpoint.")
    return values
