"""Stage 2: fold the channel-wise scales of a LayerNorm's output into the norm and into the layers that read it.

With r1 = s / s~ and r2 = z - z~ (section 2.5): gamma' = gamma / r1, beta' = (beta + s r2) / r1 for the norm, and
W'[:, c] = r1_c W[:, c], bias' = bias - W (s r2) for every reader. Then x' / s~ + z~ = x / s + z channel by channel, so
with a whole z~ the codes, and the outputs, are those of the channel-wise quantiser.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diorama.errors import InputError
from diorama.nn.quantisers import Quantiser, UniformQuantiser
from diorama.systems.is_vit.config import Compatibility
from diorama.systems.is_vit.quantised import QuantisedLinear, QuantisedNorm


class FractionalQuantiser(Quantiser):
    """The released code's quantiser after stage 2, whose zero point is a fraction: 2^bits + 1 values, off the lattice.

    x^ = s (clamp(round(x / s) + z, 0, 2^bits - 1) - z). Codes count the values from below: code q stands for the
    place q - 1 + (z - floor z), clamped.
    """

    zero_point: Tensor

    def __init__(self, bits: int):
        super().__init__(bits)
        self.register_buffer("zero_point", torch.zeros(()))

    @property
    def code_count(self) -> int:
        """One more than 2^bits."""
        return self.levels + 1

    def fit(self, x: Tensor) -> None:
        """Not fitted: it comes from `reparameterise`."""
        raise InputError("A fractional zero point comes from folding channel-wise scales, not from values. "
                         "Fit the channel-wise quantiser first.")

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take over a scale and a zero point, and switch the quantiser on."""
        self.scale, self.zero_point = scale.detach().clone(), zero_point.detach().to(scale.dtype).clone()
        self.enabled = True

    def place(self, x: Tensor) -> Tensor:
        """round(x / s) + floor(z) + 1."""
        return (x / self.scale).round_() + self.zero_point.floor() + 1

    def dequantise(self, codes: Tensor) -> Tensor:
        """The value of every code."""
        part = self.zero_point - self.zero_point.floor()
        return self.scale * ((codes - 1 + part).clamp(0, self.levels - 1) - self.zero_point)

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """1 inside the clamp range, 0 outside."""
        place = (x / self.scale).round() + self.zero_point
        return (place >= 0) & (place <= self.levels - 1)


@torch.no_grad()
def reparameterise(norm: QuantisedNorm, readers: Sequence[QuantisedLinear], *, compatibility: Compatibility = "paper",
                   scale: Tensor | None = None, zero_point: int | None = None) -> None:
    """Give the norm's output one scale, s~ = mean(s) and z~ = round(mean(z)) unless given, and change nothing else.

    readers: every layer that reads the norm, and nothing else may; one without a bias gets one. Their weight
    quantisers are left unfitted, since the weights changed. compatibility "official" keeps z~ = mean(z), a fraction.
    Raises InputError if the norm's output is not quantised channel by channel.
    """
    channelwise = norm.output_quantiser
    if not isinstance(channelwise, UniformQuantiser) or not channelwise.is_channelwise or not channelwise.enabled:
        raise InputError("This LayerNorm's output has no channel-wise scales, so there is nothing to fold. "
                         "Calibrate it channel by channel first.")
    s, z = channelwise.scale, channelwise.zero_point.to(channelwise.scale.dtype)
    common = s.mean() if scale is None else scale.to(s)
    middle = z.mean() if zero_point is None else torch.as_tensor(float(zero_point)).to(z)
    quantiser: UniformQuantiser | FractionalQuantiser
    if compatibility == "official":
        quantiser = FractionalQuantiser(int(channelwise.bits))
    else:
        middle = middle.round()
        quantiser = UniformQuantiser(int(channelwise.bits), percentiles=channelwise.percentiles,
                                     include_zero=channelwise.include_zero)
    ratio, shift = s / common, s * (z - middle)
    _fold_norm(norm, ratio, shift)
    for reader in readers:
        _fold_reader(reader, ratio, shift)
    quantiser.site = channelwise.site
    quantiser.to(device=s.device, dtype=s.dtype).set(common, middle)
    norm.output_quantiser = quantiser


def _fold_norm(norm: QuantisedNorm, ratio: Tensor, shift: Tensor) -> None:
    bias = torch.zeros_like(shift) if norm.bias is None else norm.bias
    weight = torch.ones_like(ratio) if norm.weight is None else norm.weight
    norm.weight = nn.Parameter((weight / ratio).to(weight.dtype), requires_grad=False)
    norm.bias = nn.Parameter(((bias + shift) / ratio).to(bias.dtype), requires_grad=False)


def _fold_reader(reader: QuantisedLinear, ratio: Tensor, shift: Tensor) -> None:
    weight = reader.weight
    moved = weight @ shift.to(weight.dtype)  # of the original weight
    bias = torch.zeros_like(moved) if reader.bias is None else reader.bias
    reader.bias = nn.Parameter(bias - moved)
    reader.weight = nn.Parameter(weight * ratio.to(weight.dtype))
    assert isinstance(reader.weight_quantiser, UniformQuantiser)
    reader.weight_quantiser.enabled = False
