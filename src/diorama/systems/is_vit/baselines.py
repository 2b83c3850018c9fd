"""Block reconstruction as BRECQ (2102.05426) and QDrop (2203.05740) do it, in the frame of this system.

Weights learn whether to round up or down (AdaRound, 2004.10568), activation scales learn (LSQ), and QDrop leaves half
of the activations in floating point while it tunes. Fisher weighting is left out, as QDrop's code does by default.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diorama.nn.quantisers import UniformQuantiser
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import WeightLayer, round_weights, weight_layers
from diorama.systems.is_vit.tuning import batches, check_loss, cosine, reconstruction_loss
from diorama.systems.is_vit.units import Unit

ZETA, GAMMA = 1.1, -0.1
"""Stretch of the sigmoid (AdaRound)."""
REGULARISER = 0.01
SHARPNESS = (20.0, 2.0)
WARM_UP = 0.2
"""Share of the steps before the regulariser sets in; its exponent then falls from the first to the second."""
ROUNDING_TRAVEL = 1e-3 * 20_000
SCALE_TRAVEL = 4e-5 * 20_000
"""Published learning rate times published steps; a run with fewer steps takes a rate of the same product."""


class LearnedRounding(nn.Module):
    """A weight whose rounding is learned: s (clamp(floor(w / s) + h + z, 0, L - 1) - z), h = a stretched sigmoid."""

    def __init__(self, weight: Tensor, quantiser: UniformQuantiser):
        super().__init__()
        shape = [-1] + [1] * (weight.ndim - 1)
        self.scale, self.zero = quantiser.scale.view(shape), quantiser.zero_point.view(shape)
        self.top = quantiser.levels - 1
        self.floor = (weight / self.scale).floor()
        rest = (weight / self.scale - self.floor).clamp(1e-4, 1 - 1e-4)
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (rest - GAMMA) - 1))

    def share(self) -> Tensor:
        """h in [0, 1]: how far each weight is rounded up."""
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, weight: Tensor) -> Tensor:
        return self._value(self.share())

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weight with every decision taken."""
        return self._value((self.alpha >= 0).to(self.alpha.dtype))

    def penalty(self, sharpness: float) -> Tensor:
        """0 when every h is 0 or 1."""
        return (1 - (2 * self.share() - 1).abs().pow(sharpness)).sum()

    def _value(self, share: Tensor) -> Tensor:
        return self.scale * ((self.floor + share + self.zero).clamp(0, self.top) - self.zero)


class LearnedScale(nn.Module):
    """An activation quantiser whose scale learns (LSQ), and which leaves each value alone with some chance (QDrop)."""

    def __init__(self, quantiser: UniformQuantiser, keep_share: float, generator: torch.Generator):
        super().__init__()
        self.quantiser, self.keep_share, self.generator = quantiser, keep_share, generator
        self.scale = nn.Parameter(quantiser.scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self._along(self.scale, x), self._along(self.quantiser.zero_point, x)
        steps = x / scale
        code = steps + (steps.round() - steps).detach() + zero
        value = scale * (code.clamp(0, self.quantiser.levels - 1) - zero)
        if self.keep_share >= 1:
            return value
        chosen = torch.rand(x.shape, generator=self.generator).to(x.device) < self.keep_share
        return torch.where(chosen, value, x)

    def _along(self, setting: Tensor, x: Tensor) -> Tensor:
        return setting if setting.ndim == 0 else setting.view([1] * (x.ndim - 1) + [-1])

    def settle(self) -> None:
        """Write the learned scale back into the quantiser."""
        self.quantiser.set(self.scale.detach().abs().clamp(min=1e-8), self.quantiser.zero_point)


def tune_rounding(unit: Unit, exact: Tensor, given: Tensor, target: Tensor, config: QuantiseConfig, *, seed: int,
                  keep_share: float) -> list[float]:
    """Learn the rounding of a unit's weights and the scales of its activations; the loss of every step.

    keep_share: the share of activations that is quantised in a step; 1 is BRECQ, 0.5 QDrop, which also mixes the
    unit's input from the float and the quantised network in that share.
    """
    iterations = config.iterations * 2  # SOS tunes every unit twice
    generator = torch.Generator().manual_seed(seed)
    layers = list(weight_layers(unit.module))
    round_weights(unit.module)
    rounding = [LearnedRounding(layer.weight.detach(), _uniform(layer)) for layer in layers]
    before = [layer.weight_quantiser for layer in layers]
    for layer, learned in zip(layers, rounding, strict=True):
        layer.weight_quantiser = learned
    places = list(_learnable(unit.module))
    scales = [LearnedScale(quantiser, keep_share, generator) for _, _, quantiser in places]
    for (parent, name, _), scale in zip(places, scales, strict=True):
        setattr(parent, name, scale)
    groups = [([one.alpha for one in rounding], ROUNDING_TRAVEL / iterations)]
    if scales:
        groups.append(([one.scale for one in scales], SCALE_TRAVEL / iterations))
    optimizer = torch.optim.Adam([{"params": params, "lr": rate} for params, rate in groups])
    losses = []
    device = rounding[0].alpha.device
    for step, rows in enumerate(batches(len(given), config.batch, iterations, seed)):
        if scales:
            optimizer.param_groups[1]["lr"] = groups[1][1] * cosine(step, iterations)
        inputs = given[rows]
        if keep_share < 1:
            inputs = torch.where(torch.rand(inputs.shape, generator=generator) < keep_share, inputs, exact[rows])
        loss = reconstruction_loss(unit.run(inputs.to(device)), target[rows].to(device))
        check_loss(loss, unit)
        losses.append(loss.item())
        if step >= WARM_UP * iterations:
            done = (step - WARM_UP * iterations) / ((1 - WARM_UP) * iterations)
            sharpness = SHARPNESS[1] + (SHARPNESS[0] - SHARPNESS[1]) * (1 - done)
            loss = loss + REGULARISER * sum(one.penalty(sharpness) for one in rounding)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for layer, learned, quantiser in zip(layers, rounding, before, strict=True):
            layer.weight_quantiser = quantiser
            layer.weight.copy_(learned.rounded())
    for (parent, name, quantiser), scale in zip(places, scales, strict=True):
        scale.settle()
        setattr(parent, name, quantiser)
    return losses


def _uniform(layer: WeightLayer) -> UniformQuantiser:
    assert isinstance(layer.weight_quantiser, UniformQuantiser)
    return layer.weight_quantiser


def _learnable(module: nn.Module) -> Iterator[tuple[nn.Module, str, UniformQuantiser]]:
    """The uniform activation quantisers inside a module, each with its parent and its name there."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, UniformQuantiser) and child.enabled and name != "weight_quantiser":
                yield parent, name, child
