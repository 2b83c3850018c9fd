"""diffusers' networks and schedulers behind one call: latents, times and a condition in, a prediction out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from diorama.diffusion import schedules
from diorama.diffusion.parametrisations import Denoised, Target, check_target, denoised, without_variance
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition
from diorama.errors import CheckpointError, InputError

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""x (B, ...), the network's times (B,), a condition of B rows -> the network's answer, (B, ...)."""
TARGETS: dict[str, Target] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
Network = Any
"""A diffusers UNet2DConditionModel, PixArtTransformer2DModel, Transformer2DModel or SD3Transformer2DModel; they share
no typed base."""


def predict(network: Network, x: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The answer of a `UNet2DConditionModel`, a PixArt-class transformer or Stable Diffusion 3's, in float32, its
    learned variance cut off.

    x: (B, C, H, W). times: (B,). The network is called in its own dtype. Raises InputError for a network that needs
    more than text and time.
    """
    if getattr(network.config, "addition_embed_type", None) not in (None, "text"):
        raise InputError(f"This {type(network).__name__} also wants {network.config.addition_embed_type!r} "
                         "(pooled text, sizes), which a caption does not give. Pass a network conditioned on text.")
    dtype = next(network.parameters()).dtype
    extra: dict[str, Any] = {}
    if "PixArt" in type(network).__name__ or type(network).__name__ == "Transformer2DModel":
        extra["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if isinstance(network, SD3Transformer2DModel):
        assert condition.pooled is not None, "an SD3 network comes with an encoder that pools"
        extra["pooled_projections"] = condition.pooled.to(dtype)
    else:
        extra["encoder_attention_mask"] = condition.mask
    with condition.shown():
        answer = network(x.to(dtype), timestep=times.to(x.device), encoder_hidden_states=condition.tokens.to(dtype),
                         return_dict=False, **extra)[0]
    return without_variance(answer.float(), x.shape[1])[0]


class Denoiser:
    """A network with the schedule and the target it was trained with: x, index and condition in, `Denoised` out.

    Any callable `Predict` can take the network's place, for instance one over clips (B, T, C, H, W).
    Raises InputError for a target that the schedule cannot have.
    """

    def __init__(self, predict: Predict, schedule: Schedule, target: Target):
        check_target(schedule, target)
        self.predict = predict
        self.schedule = schedule
        self.target: Target = target

    def __call__(self, x: Tensor, index: Tensor, condition: Condition) -> Denoised:
        times = self.schedule.times[index.cpu()].to(x.device, torch.float32)
        signal, noise = self.schedule.at(index, x)
        return denoised(self.predict(x, times, condition), x, signal, noise, self.target)


def read_scheduler(config: Mapping[str, Any]) -> tuple[Schedule, Target]:
    """The schedule and the target that a diffusers scheduler config means, whichever sampler's class wrote it.

    Tables are computed in float64 from the betas, not read from the sampler. Raises CheckpointError for what
    is not known here.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    if "FlowMatch" in str(config.get("_class_name", "")):
        if config.get("use_dynamic_shifting"):
            raise CheckpointError("The scheduler shifts its times by the picture's size (use_dynamic_shifting), and "
                                  "the schedule of a likelihood is fixed. Pass a config with a fixed `shift`.")
        return schedules.flow(steps, float(config.get("shift", 1.0))), "flow"
    name = str(config.get("prediction_type", "epsilon"))
    if name not in TARGETS:
        raise CheckpointError(f"The scheduler's prediction_type {name!r} is none of {', '.join(TARGETS)}. "
                              "Check scheduler_config.json.")
    schedule = _discrete(config, steps)
    if config.get("rescale_betas_zero_snr"):
        schedule = schedules.zero_terminal_snr(schedule)
    return schedule, TARGETS[name]


def _discrete(config: Mapping[str, Any], steps: int) -> Schedule:
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        return schedules.from_alphas_cumprod((1 - betas).cumprod(0))
    kind = str(config.get("beta_schedule", "linear"))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return schedules.linear(steps, first, last)
    if kind == "scaled_linear":
        return schedules.scaled_linear(steps, first, last)
    if kind == "squaredcos_cap_v2":
        return schedules.cosine(steps)
    raise CheckpointError(f"The scheduler's beta_schedule {kind!r} is none of linear, scaled_linear and "
                          "squaredcos_cap_v2. Check scheduler_config.json.")
