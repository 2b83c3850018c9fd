"""The sizes and choices of Emu Video (arXiv 2311.10709), each with where it comes from.

"(unconfirmed)" marks what the paper does not say and this project chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from diorama.errors import CheckpointError, InputError

Target = Literal["eps", "v", "x0", "flow"]
SYSTEM = "emu_video"


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """The layers over time that go behind the spatial ones (section 3.1)."""

    frames: int = 8
    """T of a trained clip (table 3); zero padding over T makes it part of the weights."""
    kernel: int = 3
    """Of the temporal convolution (unconfirmed)."""
    head_dim: int = 64
    """Of temporal attention (table 1: num_head_channels); narrower widths take one head."""
    mlp_ratio: int = 4
    """Width of the MLP that ends temporal attention, as a multiple (unconfirmed)."""
    text_width: int = 0
    """Width of the text tower whose captions the layers over time read themselves; 0 is the paper, where only the
    frozen spatial layers read."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.mlp_ratio < 1:
            raise InputError(f"Temporal layers of {self.frames} frames and an MLP ratio of {self.mlp_ratio} cannot be "
                             "built. Pass at least 1 of each.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"A temporal kernel of {self.kernel} has no middle, so the layer could not start as the "
                             "identity. Pass an odd number, such as 3.")


@dataclass(frozen=True, kw_only=True)
class ModeConfig:
    """How one pass of the network diffuses. Each pass - image or video - has its own, and there is no global one.

    Refuses zero terminal SNR with the target eps: at pure noise a predicted eps says nothing of the clean value.
    """

    target: Target = "v"
    zero_snr: bool = True
    """Rescale the schedule so that its last time is pure noise (2305.08891, algorithm 1)."""
    schedule: Literal["scaled_linear", "linear", "flow"] = "scaled_linear"
    """The paper's "quad" is scaled_linear (section 2.4 of the appendix's settings)."""
    times: int = 1000
    first: float = 8.5e-4
    last: float = 1.2e-2
    """Betas of the discrete schedules; a flow ignores both."""
    shift: float = 1.0
    """Of a flow's times towards noise; discrete schedules ignore it."""

    def __post_init__(self) -> None:
        if self.zero_snr and self.target == "eps":
            raise InputError("Zero terminal SNR was asked for with the target eps, and at pure noise eps says nothing "
                             "of the clean value (a division by zero). Use v, x0, or zero_snr=False.")
        if (self.schedule == "flow") != (self.target == "flow"):
            raise InputError(f"The schedule {self.schedule} was paired with the target {self.target}. "
                             "A flow goes with the target flow, and only with it.")


IMAGE_MODE = ModeConfig(target="eps", zero_snr=False)
"""The paper's text-to-image pass: the base model's own target and schedule (section 3.1, inference)."""
VIDEO_MODE = ModeConfig()
"""The paper's video pass at 512 pixels: v and zero terminal SNR (section 3.1, table 3)."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a clip is drawn."""

    steps: int = 25
    """The paper takes 250 DDIM steps; 25 dense near pure noise keep more contrast than 50 even ones."""
    guidance_image: float = 2.0
    """w_i of equation 1 (section 4, implementation details)."""
    guidance_text: float = 7.5
    """w_p of equation 1 (the same place)."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} sampling steps draw nothing. Pass at least 1, such as 25.")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One row of the paper's table 3: what is trained on, how long, and towards which target.

    Cells that the table merges are split in the only way that agrees with its batch and data rows.
    """

    pixels: int
    fps: float
    frames: int
    iterations: int | None
    """None where the paper does not say."""
    batch: int
    learning_rate: float
    warmup: int
    weight_decay: float
    mode: ModeConfig


PAPER_STAGES = {
    "low": StageConfig(pixels=256, fps=8, frames=8, iterations=70_000, batch=512, learning_rate=1e-4, warmup=1000,
                       weight_decay=0.0, mode=ModeConfig(target="eps", zero_snr=False)),
    "high": StageConfig(pixels=512, fps=4, frames=8, iterations=15_000, batch=512, learning_rate=1e-4, warmup=1000,
                        weight_decay=0.0, mode=VIDEO_MODE),
    "long": StageConfig(pixels=512, fps=4, frames=16, iterations=25_000, batch=512, learning_rate=1e-4, warmup=1000,
                        weight_decay=0.0, mode=VIDEO_MODE),
    "hq": StageConfig(pixels=512, fps=4, frames=8, iterations=None, batch=64, learning_rate=2.5e-5, warmup=10_000,
                      weight_decay=1e-4, mode=VIDEO_MODE),
    "interpolate": StageConfig(pixels=512, fps=16, frames=37, iterations=None, batch=384, learning_rate=1.5e-4,
                               warmup=1500, weight_decay=0.0, mode=VIDEO_MODE),
}


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """Shares of training clips whose conditions are hidden, so that X(0), X(I) and X(I, p) are all learned.

    The paper gives no numbers (unconfirmed).
    """

    text: float = 0.1
    image: float = 0.1
    both: float = 0.1


@dataclass(frozen=True, kw_only=True)
class InterpolationConfig:
    """The noise on the keyframes that the interpolator is shown (section 3.1, appendix)."""

    most_noise: int = 250
    """Training draws a time from 0 up to this one, of 1000."""
    noise: int = 100
    """The time used when interpolating."""


@dataclass(frozen=True, kw_only=True)
class EmuVideoConfig:
    """What a saved video model says of itself, beside the weights."""

    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    mode: ModeConfig = VIDEO_MODE
    """Of the video pass; the image pass has that of the image base."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    interpolation: InterpolationConfig = field(default_factory=InterpolationConfig)
    fps: float = 4.0
    """Frames a second of a trained clip."""
    pixels: int = 32
    role: Literal["video", "interpolator"] = "video"
    image_base: str | None = None
    """The image model's name or folder where its weights are not in this checkpoint."""
    layout: Literal["emu", "motion-adapter", "unet3d"] = "emu"
    """Which layers over time: the paper's, AnimateDiff's, or ModelScope's."""
    layout_config: dict[str, Any] | None = None
    """diffusers' config of a public layout's layers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"system": SYSTEM, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmuVideoConfig:
        """The inverse of `to_dict`. Raises CheckpointError for another system's config or an unknown field."""
        plain = dict(values)
        if plain.pop("system", SYSTEM) != SYSTEM:
            raise CheckpointError(f"This config.json is of the system {values['system']!r}. "
                                  "Pass a folder that `diorama emu-video train` wrote.")
        parts: dict[str, Any] = {"temporal": TemporalConfig, "mode": ModeConfig, "sampling": SamplingConfig,
                                 "interpolation": InterpolationConfig}
        for name, part in parts.items():
            if name in plain:
                plain[name] = part(**_known(part, plain[name], name))
        return cls(**_known(cls, plain, "config"))


def _known(part: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(values) - {f.name for f in fields(part)})
    if unknown:
        raise CheckpointError(f"{where} has the unknown field{'s' * (len(unknown) > 1)} {', '.join(unknown)}; it was "
                              "written by another version. Load it with that one.")
    return dict(values)
