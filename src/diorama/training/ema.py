"""A moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diorama.errors import CheckpointError


class MovingAverage:
    """Exponential moving average of the parameters that require gradients, in float32.

    The decay starts low, min(decay, (1 + n) / (10 + n)) at update n, so that the first weights are soon forgotten
    (the rule of TensorFlow's ExponentialMovingAverage). Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        present = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), present, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a stored average."""
        if set(tensors) != set(self.average):
            raise CheckpointError(
                "The stored average is of other parameters than this model trains. "
                "Freeze the same parameters as before, or start in another folder."
            )
        for name, tensor in tensors.items():
            self.average[name].copy_(tensor)
        self.updates = updates

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block and its own after it."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.copy_(own[name])
