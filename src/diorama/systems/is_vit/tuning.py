"""Gradient steps on one unit: batches, the reconstruction loss, and Adam with a cosine."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from diorama.errors import InputError
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.units import Unit


def descend(unit: Unit, inputs: Tensor, target: Tensor, parameters: Sequence[nn.Parameter], config: QuantiseConfig,
            iterations: int, *, seed: int) -> list[float]:
    """Adam on the reconstruction loss, cosine to 0; the loss of every step. Raises InputError on NaN."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    losses = []
    for step, rows in enumerate(batches(len(inputs), config.batch, iterations, seed)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * cosine(step, iterations)
        loss = reconstruction_loss(unit.run(inputs[rows].to(parameters[0].device)),
                                   target[rows].to(parameters[0].device))
        check_loss(loss, unit)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    return losses


def reconstruction_loss(out: Tensor, target: Tensor) -> Tensor:
    """Squared error summed over tokens, meaned over images and channels; for logits summed over classes (code)."""
    squares = (out - target).square()
    return (squares.flatten(0, -3) if squares.ndim > 3 else squares).sum(dim=1).mean()


def batches(rows: int, batch: int, iterations: int, seed: int) -> Iterator[Tensor]:
    """Indices of random batches, each without repetition."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(iterations):
        yield torch.randperm(rows, generator=generator)[:batch]


def cosine(step: int, steps: int) -> float:
    """1 at the first step, towards 0 after the last."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def check_loss(loss: Tensor, unit: Unit) -> None:
    """Raises InputError, naming the unit, if a loss is no finite number."""
    if not torch.isfinite(loss):
        raise InputError(f"The loss of {unit.name} is {loss.item()}, so its weights cannot be tuned. "
                         "Lower the learning rate, and check that the float model gives finite outputs.")
