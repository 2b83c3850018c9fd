"""The settings of a training run, as plain values: importing this file loads no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from diorama.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every training loop shares. Batch size belongs to the data, so it is not here."""

    steps: int = 1000
    """Optimizer steps in the whole run."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    """Applied to parameters with two or more axes; norms and biases are left alone unless groups say otherwise."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    warmup: float = 0.03
    """Below 1 a share of `steps`, from 1 on a number of steps, over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    final_rate: float = 0.0
    """Where cosine and linear end, as a share of `learning_rate`."""
    clip: float | None = 1.0
    """Largest norm of the gradient over all parameters; None leaves it alone."""
    accumulation: int = 1
    """Into how many parts each process cuts its rows of a step's batch; changes memory, not the result."""
    precision: Literal["no", "bf16"] = "no"
    ema: float | None = None
    """Decay of the moving average of the trained weights, e.g. 0.999; None keeps no average."""
    save_every: int = 500
    log_every: int = 10
    seed: int = 0
    keep: int = 2
    """How many of the newest checkpoints stay on disk."""
    trainable_only: bool = False
    """Leave frozen parameters out of the checkpoints of the run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        rules = {
            "steps": (self.steps >= 1, "at least 1"),
            "learning_rate": (math.isfinite(self.learning_rate) and self.learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "betas": (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            "eps": (self.eps > 0, "above 0"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "schedule": (self.schedule in ("constant", "cosine", "linear"), "constant, cosine or linear"),
            "final_rate": (0 <= self.final_rate <= 1, "between 0 and 1"),
            "clip": (self.clip is None or self.clip > 0, "above 0, or None"),
            "accumulation": (self.accumulation >= 1, "at least 1"),
            "precision": (self.precision in ("no", "bf16"), "no or bf16"),
            "ema": (self.ema is None or 0 < self.ema < 1, "between 0 and 1, or None"),
            "save_every": (self.save_every >= 1, "at least 1"),
            "log_every": (self.log_every >= 1, "at least 1"),
            "keep": (self.keep >= 1, "at least 1"),
        }
        for name, (is_right, wanted) in rules.items():
            if not is_right:
                raise InputError(f"{name} is {getattr(self, name)!r}, which no run can use. Pass {wanted}.")

    @property
    def warmup_steps(self) -> int:
        """`warmup` as a number of optimizer steps."""
        return int(self.warmup) if self.warmup >= 1 else round(self.warmup * self.steps)


def learning_rate_factor(config: RunConfig, step: int) -> float:
    """The share of the learning rate that update number `step` (from 0) uses: a pure function of the step.

    Linear warm-up whose first update is not zero, then constant, cosine (Loshchilov & Hutter 2017, without
    restarts) or linear decay that would reach `final_rate` one update after the last, as transformers' schedules do.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    shape = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_rate + (1 - config.final_rate) * shape
