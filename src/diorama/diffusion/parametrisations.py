"""What a network predicts - noise, velocity, clean value or flow - and how each becomes the other.

All functions take `signal` and `noise` from `Schedule.at`, shaped to multiply x (B, ...).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diorama.diffusion.schedules import Schedule
from diorama.errors import InputError

Target = Literal["eps", "v", "x0", "flow"]
"""eps: the noise (Ho et al. 2020). v: signal * eps - noise * x0 (Salimans & Ho 2022). x0: the clean value. flow:
eps - x0 (Liu et al. 2022)."""


class Denoised(NamedTuple):
    """What a network's answer says of x: the clean value and the noise in it, x = signal * clean + noise * eps."""

    clean: Tensor
    eps: Tensor


def add_noise(clean: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """x_t = signal * clean + noise * eps."""
    return signal * clean + noise * eps


def training_target(clean: Tensor, eps: Tensor, signal: Tensor, noise: Tensor, target: Target) -> Tensor:
    """What the network should answer for x = signal * clean + noise * eps."""
    if target == "eps":
        return eps
    if target == "x0":
        return clean
    return signal * eps - noise * clean if target == "v" else eps - clean


def denoised(answer: Tensor, x: Tensor, signal: Tensor, noise: Tensor, target: Target) -> Denoised:
    """The clean value and the noise that a network's answer stands for.

    At pure noise (signal 0) the clean value cannot be had from eps; `check_target` refuses that pair beforehand.
    """
    if target == "eps":
        return Denoised((x - noise * answer) / signal, answer)
    if target == "x0":
        return Denoised(answer, (x - signal * answer) / noise)
    if target == "v":
        length = signal**2 + noise**2
        return Denoised((signal * x - noise * answer) / length, (noise * x + signal * answer) / length)
    return Denoised(x - noise * answer, x + signal * answer)


def check_target(schedule: Schedule, target: Target) -> None:
    """InputError where a network of this target cannot be used on the schedule: zero SNR with eps, bent flows."""
    if target not in get_args(Target):
        raise InputError(f"The target {target!r} is unknown. Pass one of {', '.join(get_args(Target))}.")
    if target == "eps" and schedule.has_zero_snr:
        raise InputError("The last time of the schedule is pure noise, where a predicted eps says nothing of the clean "
                         "value (a division by zero). Train with v, x0 or flow, or leave the schedule as it was.")
    if target == "flow" and not schedule.is_flow:
        raise InputError("The target flow goes with a straight schedule, signal + noise = 1, and this one is bent. "
                         "Pass schedules.flow(), or the target v.")


def without_variance(answer: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """The prediction and, if the network has 2 * channels outputs, its learned variance logits; axis 1 is cut.

    Nichol & Dhariwal 2021, section 3.1; DiT, PixArt and IF answer so. Raises InputError for any other width.
    """
    if answer.shape[1] == channels:
        return answer, None
    if answer.shape[1] == 2 * channels:
        prediction, variance = answer.split(channels, dim=1)
        return prediction, variance
    raise InputError(f"The network answered with {answer.shape[1]} channels for an input of {channels}. "
                     "It must answer with as many, or twice as many where it learns its variance.")


def refuse_nan(values: Tensor, where: str) -> Tensor:
    """`values` unchanged; InputError naming `where` if any is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise InputError(f"{where} has values that are NaN or infinite, so nothing after it means anything. "
                         "Check the checkpoint and the picture, and use float32 instead of half precision.")
    return values
