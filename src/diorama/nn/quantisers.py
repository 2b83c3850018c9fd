"""Quantisers as modules: a tensor to integer codes, codes back to values, and both at once with a gradient.

Every quantiser holds its settings in buffers (`bits`, `scale`, `zero_point`, ...), so a state dict is the whole of it.
`codes(x)` is int32 in [0, code_count); `dequantise(codes)` are the values they stand for; `forward(x)` is exactly
`dequantise(codes(x))`, its gradient passes straight through the rounding and is 0 where a code was clamped. Before
`fit` (or `load_state_dict`) `forward` returns x as it is; while `observing` it fits itself to what it is given first.
Sources: I&S-ViT arXiv 2311.10126 (its released code: "official"), RepQ-ViT 2212.08254, AdaLog 2407.12951,
PTQ4ViT 2111.12293.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diorama.errors import InputError

ACTIVATION_PERCENTILES = (0.999, 0.9999, 0.99999)
"""Range candidates for activations (released code)."""
WEIGHT_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999)
"""Range candidates for weights (released code)."""
MIN_MAX = (1.0,)
"""The range the paper writes: from the least to the largest value."""
ETA_GRID = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shifts that SULQ tries (released code; the paper lists none)."""
ETA_POWERS = tuple(2.0**-k for k in range(13))
"""Ours: shifts for which 0 is an exact level of SULQ."""

Levels = Literal["paper", "official"]

MAX_ZERO_POINT = 2**15
SEARCH_SAMPLE = 2**20
"""At most this many values, evenly spaced, are compared in the searches of the logarithmic quantisers."""


class _StraightThrough(torch.autograd.Function):
    """Forward `value`; backward `slope` times the gradient, to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


class Quantiser(nn.Module, ABC):
    """What all quantisers share. `site` names the tensor it sits on, for messages."""

    bits: Tensor
    scale: Tensor

    def __init__(self, bits: int, scale_shape: tuple[int, ...] = ()):
        super().__init__()
        check_bits(bits)
        self.register_buffer("bits", torch.tensor(bits, dtype=torch.int32))
        self.register_buffer("scale", torch.ones(scale_shape))
        self.levels = 2**bits
        self.enabled = False
        self.observing = False
        self.site = ""
        self.register_load_state_dict_post_hook(_after_load)

    def forward(self, x: Tensor) -> Tensor:
        """`dequantise(codes(x))`, of x's shape; x itself while the quantiser is not fitted or not `enabled`."""
        if self.observing:
            self.fit(x.detach())
        if not self.enabled:
            return x
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        with torch.no_grad():
            place = self.place(_wide(x))
            code = place.clamp(0, self.code_count - 1)
            value = self.dequantise(code).to(x.dtype)
            if not wants_gradient:
                return value
            slope = self.slope(x, value, place == code)
        return _StraightThrough.apply(x, value, slope)

    def codes(self, x: Tensor) -> Tensor:
        """int32 codes of x's shape, each in [0, code_count)."""
        return self.place(_wide(x)).clamp(0, self.code_count - 1).to(torch.int32)

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Choose the settings for values like x, and switch the quantiser on. Raises InputError on NaN or infinity."""

    @abstractmethod
    def place(self, x: Tensor) -> Tensor:
        """The code of x before it is clamped, whole numbers as floats; round is half to even."""

    @abstractmethod
    def dequantise(self, codes: Tensor) -> Tensor:
        """The values of codes (whole numbers of any type), of the same shape."""

    @abstractmethod
    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """Derivative of `forward` at x with every rounding taken as the identity; 0 where the code was clamped.

        value: `forward(x)`; inside: where the code was not clamped.
        """

    @property
    def code_count(self) -> int:
        """Number of codes: 2^bits, one more under `levels="official"`."""
        return self.levels


class UniformQuantiser(Quantiser):
    """q = clamp(round(x / scale) + zero_point, 0, 2^bits - 1), x^ = scale (q - zero_point) (section 2.2).

    channels, axis: None for one scale for the tensor; else a scale and a zero point for each of the `channels` entries
    of `axis` (0 for the rows of a weight, -1 for the channels of a LayerNorm's output). Buffers: scale (float) and
    zero_point (int32), shaped () or (channels,); zero_point may lie outside [0, 2^bits - 1].
    percentiles: range candidates of `fit`, which keeps the one of least squared error, channel by channel.
    include_zero: ranges are widened to hold 0, so that 0 is a level and zero_point in [0, 2^bits - 1].
    """

    zero_point: Tensor

    def __init__(self, bits: int, *, channels: int | None = None, axis: int = -1,
                 percentiles: Sequence[float] = ACTIVATION_PERCENTILES, include_zero: bool = False):
        shape = () if channels is None else (channels,)
        super().__init__(bits, shape)
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self.axis = axis
        self.percentiles = tuple(percentiles)
        self.include_zero = include_zero

    @property
    def is_channelwise(self) -> bool:
        """Whether every channel has its own scale."""
        return self.scale.ndim == 1

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """The range, among the percentiles of x, with the least squared error."""
        check_finite(x, self.site)
        rows = self._rows(x)
        best = torch.full(rows.shape[1:], torch.inf, dtype=rows.dtype, device=rows.device)
        scale, zero = torch.ones_like(best), torch.zeros_like(best)
        for low, high in zip(*tails(rows, self.percentiles), strict=True):
            if self.include_zero:
                low, high = low.clamp(max=0), high.clamp(min=0)
            step, offset = affine(low, high, self.levels)
            value = step * ((rows / step).round_().add_(offset).clamp_(0, self.levels - 1).sub_(offset))
            error = value.sub_(rows).square_().mean(0)
            better = error < best
            best = torch.where(better, error, best)
            scale, zero = torch.where(better, step, scale), torch.where(better, offset, zero)
        self.set(scale.reshape(self.scale.shape), zero.reshape(self.scale.shape))

    @torch.no_grad()
    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take over a scale and an integer zero point, one each or one a channel, and switch the quantiser on."""
        self.scale = scale.detach().clone().to(self.scale.dtype)
        self.zero_point = zero_point.detach().to(torch.int32).clone()
        self.enabled = True

    def place(self, x: Tensor) -> Tensor:
        """round(x / scale) + zero_point."""
        return (x / self._along(self.scale, x)).round_().add_(self._along(self.zero_point, x))

    def dequantise(self, codes: Tensor) -> Tensor:
        """scale (q - zero_point)."""
        return (codes - self._along(self.zero_point, codes)) * self._along(self.scale, codes)

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """1 inside the clamp range, 0 outside."""
        return inside

    def _along(self, setting: Tensor, x: Tensor) -> Tensor:
        if setting.ndim == 0:
            return setting
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return setting.view(shape)

    def _rows(self, x: Tensor) -> Tensor:
        """x as (values, channels), channels = 1 per tensor; never below float32."""
        x = _wide(x)
        if not self.is_channelwise:
            return x.reshape(-1, 1)
        return x.movedim(self.axis, -1).reshape(-1, self.scale.shape[0])


class Log2Quantiser(Quantiser):
    """q = clamp(round(-k log2(x / scale)), 0, 2^bits - 1), x^ = scale 2^(-q/k) for x in [0, scale] (section 2.3).

    steps: k, the codes an octave: 1 is log2, 2 is RepQ-ViT's log-sqrt2.
    masked: the last code stands for 0 instead. The released codes of FQ-ViT, RepQ-ViT and AdaLog mask beyond the last
    code and so hold 2^bits + 1 values; `levels="official"` does as they do.
    scale: 1 for the output of a softmax under log2 (FQ-ViT); `fit` searches it among upper percentiles of x.
    """

    def __init__(self, bits: int, *, steps: int = 1, masked: bool = False, levels: Levels = "paper",
                 percentiles: Sequence[float] = ACTIVATION_PERCENTILES):
        super().__init__(bits)
        self.steps = steps
        self.masked = masked
        self.extra = masked and levels == "official"
        self.percentiles = tuple(percentiles)

    @property
    def code_count(self) -> int:
        """2^bits, or 2^bits + 1 where the official code masks beyond its last code."""
        return self.levels + self.extra

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """The scale, among the upper percentiles of x and its maximum, with the least squared error."""
        check_finite(x, self.site)
        sample = spread(x)
        _, highs = tails(x.reshape(-1, 1), (*self.percentiles, 1.0))
        self.enabled = True
        best = torch.inf
        chosen = self.scale
        for high in highs.flatten().unique():
            self.scale = high.clamp(min=torch.finfo(torch.float32).tiny).to(self.scale.dtype)
            error = _squared_error(self, sample)
            if error < best:
                best, chosen = error, self.scale
        self.scale = chosen

    def place(self, x: Tensor) -> Tensor:
        """round(-k log2(x / scale)): larger for smaller x; beyond the last code for x <= 0."""
        return (_log2(x / self.scale) * -self.steps).round_()

    def dequantise(self, codes: Tensor) -> Tensor:
        """scale 2^(-q/k), or 0 for the last code if masked."""
        return self.table()[codes.long()]

    def table(self) -> Tensor:
        """The value of every code, (code_count,)."""
        codes = torch.arange(self.code_count, device=self.scale.device)
        whole = -(codes // -self.steps)  # ceil(q / k): a shift; the rest is a factor of one in k values
        values = self.scale * torch.exp2((whole - codes / self.steps).to(self.scale.dtype)) * _power(-whole, self.scale)
        return torch.where(codes == self.code_count - 1, 0, values) if self.masked else values

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """x^ / x, the derivative of 2^log2(x) with the rounding passed through."""
        return torch.where(inside, value / x, 0)


class SulqQuantiser(Quantiser):
    """SULQ (section 3.2 of the paper, eq 13-14): shift, take log2, quantise uniformly.

    y = -log2(x + eta), q = clamp(round((y - offset) / scale) + zero_point, 0, 2^bits - 1);
    e = round(scale (q - zero_point) + offset), x^ = 2^-e - eta. The inner round makes 2^-e a shift.
    Buffers: scale, zero_point (int32), offset (0 but under "official") and eta, each ().
    etas: the shifts that `fit` tries. levels: "official" has the step (max - min) / L, a fractional offset for the
    zero point and 2^bits + 1 codes, as the released forward pass does. whole_exponents: False drops the inner round
    (ours; the values then come from a table only).
    """

    zero_point: Tensor
    offset: Tensor
    eta: Tensor

    def __init__(self, bits: int, *, etas: Sequence[float] = ETA_GRID, levels: Levels = "paper",
                 whole_exponents: bool = True):
        super().__init__(bits)
        if not etas or min(etas) <= 0:
            raise InputError(f"SULQ got the shifts {tuple(etas)}; log2(0 + eta) needs eta > 0. Pass positive ones.")
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("eta", torch.tensor(float(etas[0])))
        self.etas = tuple(etas)
        self.official = levels == "official"
        self.whole_exponents = whole_exponents

    @property
    def code_count(self) -> int:
        """2^bits, or 2^bits + 1 under "official"."""
        return self.levels + self.official

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """The eta with the least squared error on x."""
        sample = spread(x)
        self.fit_by(x, lambda: _squared_error(self, sample))

    @torch.no_grad()
    def fit_by(self, x: Tensor, error: Callable[[], float]) -> None:
        """The eta with the least error(), which is called with this quantiser set to each eta in turn."""
        check_finite(x, self.site)
        low, high = x.min().to(self.eta.dtype), x.max().to(self.eta.dtype)
        self.enabled = True
        best, chosen = torch.inf, self.etas[0]
        for eta in self.etas:
            self.use(eta, low, high)
            found = error()
            if found < best:
                best, chosen = found, eta
        self.use(chosen, low, high)

    @torch.no_grad()
    def use(self, eta: float, low: Tensor, high: Tensor) -> None:
        """Take a shift, and the scale and zero point for values in [low, high]."""
        self.eta = torch.full_like(self.eta, eta)
        least, most = -_log2(high + self.eta), -_log2(low + self.eta)
        if self.official:
            self.scale = ((most - least) / self.levels).clamp(min=1e-8)
            self.offset = least.clone()
        else:
            self.scale, zero = affine(least, most, self.levels)
            self.zero_point = zero.to(torch.int32)
        self.enabled = True

    def place(self, x: Tensor) -> Tensor:
        """round((-log2(x + eta) - offset) / scale) + zero_point: larger for smaller x."""
        return ((-_log2(x + self.eta) - self.offset) / self.scale).round_().add_(self.zero_point)

    def dequantise(self, codes: Tensor) -> Tensor:
        """2^-e - eta."""
        return self.table()[codes.long()]

    def exponents(self) -> Tensor:
        """The exponent e of every code, (code_count,); whole numbers unless `whole_exponents` is False."""
        codes = torch.arange(self.code_count, device=self.scale.device)
        exponents = self.scale * (codes - self.zero_point) + self.offset
        return exponents.round() if self.whole_exponents else exponents

    def table(self) -> Tensor:
        """The value of every code, (code_count,)."""
        return _power(-self.exponents(), self.scale) - self.eta

    def shift_table(self) -> tuple[Tensor, int]:
        """(integers, E) with x^ = 2^-E integers[code] - eta exactly, int64; they fit 8 bits unsigned if E <= 7.

        sum_j x^_j v_j = 2^-E sum_j integers[code_j] v_j - eta sum_j v_j is the integer form of A V. Exponents below 0
        (values above 1) and beyond 62 do not occur for x in [0, 1] and eta >= 2^-62. Raises InputError without whole
        exponents.
        """
        if not self.whole_exponents:
            raise InputError("This SULQ quantiser has fractional exponents, so its levels are no shifts. "
                             "Quantise with whole exponents, or use `table`.")
        exponents = self.exponents().to(torch.int64)
        deepest = int(exponents.max())
        return torch.ones_like(exponents) << (deepest - exponents), deepest

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """2^-e / (x + eta), 0 where the code was clamped."""
        return torch.where(inside, (value + self.eta) / (x + self.eta), 0)


class AdaLogQuantiser(Quantiser):
    """AdaLog: a logarithm whose base 2^(base / 37) is searched; the last code stands for 0. Buffers: scale, base."""

    RESOLUTION = 37
    base: Tensor

    def __init__(self, bits: int):
        super().__init__(bits)
        self.register_buffer("base", torch.tensor(self.RESOLUTION, dtype=torch.int32))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """scale = max x; the base with the least squared error."""
        check_finite(x, self.site)
        sample = spread(x)
        self.scale = x.max().clamp(min=torch.finfo(torch.float32).tiny).to(self.scale.dtype)
        self.enabled = True
        errors = []
        for base in range(5, 3 * self.RESOLUTION + 1):
            self.base = torch.full_like(self.base, base)
            errors.append(_squared_error(self, sample))
        self.base = torch.full_like(self.base, 5 + errors.index(min(errors)))

    def place(self, x: Tensor) -> Tensor:
        """round(-log2(x / scale) 37 / base): larger for smaller x."""
        return (_log2(x / self.scale) * -self.RESOLUTION / self.base).round_()

    def dequantise(self, codes: Tensor) -> Tensor:
        """scale 2^(-q base / 37), 0 for the last code."""
        return self.table()[codes.long()]

    def table(self) -> Tensor:
        """The value of every code, (code_count,)."""
        codes = torch.arange(self.levels, device=self.scale.device)
        parts = codes * self.base
        shift, part = parts // self.RESOLUTION, parts % self.RESOLUTION
        values = self.scale * torch.exp2(-part.to(self.scale.dtype) / self.RESOLUTION) * _power(-shift, self.scale)
        return torch.where(codes == self.levels - 1, 0, values)

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """x^ / x, the derivative of base^log_base(x) with the rounding passed through."""
        return torch.where(inside, value / x, 0)


class TwinUniformQuantiser(Quantiser):
    """PTQ4ViT's twin uniform quantiser for values in [0, 1]: half the codes below a split point, half up to 1.

    scale: the split point 2^-i, i in 0..19. Code q < 2^(bits-1) is q split / (2^(bits-1) - 1); the others are
    (q - 2^(bits-1)) / (2^(bits-1) - 1).
    """

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """The split point with the least squared error."""
        check_finite(x, self.site)
        sample = spread(x)
        self.enabled = True
        errors = []
        for power in range(20):
            self.scale = torch.full_like(self.scale, 2.0**-power)
            errors.append(_squared_error(self, sample))
        self.scale = torch.full_like(self.scale, 2.0 ** -errors.index(min(errors)))

    def place(self, x: Tensor) -> Tensor:
        """The code; its highest bit says which of the two ranges."""
        half = self.levels // 2
        small = (x / self.scale * (half - 1)).round().clamp(0, half - 1)
        large = (x * (half - 1)).round().clamp(0, half - 1) + half
        return torch.where(x <= self.scale, small, large)

    def dequantise(self, codes: Tensor) -> Tensor:
        """The value of every code."""
        return self.table()[codes.long()]

    def table(self) -> Tensor:
        """The value of every code, (code_count,)."""
        half = self.levels // 2
        steps = torch.arange(half, device=self.scale.device, dtype=self.scale.dtype) / (half - 1)
        return torch.cat([steps * self.scale, steps])

    def slope(self, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        """1 in [0, 1], 0 outside."""
        return (x >= 0) & (x <= 1)


# ---- arithmetic -------------------------------------------------------------------------------------------------


def check_bits(bits: int) -> None:
    """Raises InputError for a number of bits outside 2-8."""
    if bits not in range(2, 9):
        raise InputError(f"{bits} bits were asked for; a quantiser here has 2 to 8. Pass, for instance, 3, 4 or 8.")


def check_finite(x: Tensor, site: str) -> None:
    """Raises InputError, naming the place, if x is empty or holds NaN or infinity."""
    place = site or "a quantiser"
    if not x.numel():
        raise InputError(f"No values reached {place}, so no range can be chosen. Calibrate with at least one image.")
    if not torch.isfinite(x).all():
        raise InputError(f"NaN or infinity reached {place}, so no range can be chosen. Look for the first layer whose "
                         "output is not finite: the weights are broken, or half precision overflowed (use float32).")


def affine(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """(scale, zero point) of ranges [low, high]; the zero point is a whole number, as float, of at most 2^15.

    A range of no width (a dead channel) is widened just so far that its one value is a level.
    """
    scale = (high - low) / (levels - 1)
    floor = scale.median() * 1e-8 if scale.ndim else scale * 0
    tiny = torch.finfo(scale.dtype).tiny * 2.0**20
    scale = torch.maximum(torch.maximum(scale, low.abs() / MAX_ZERO_POINT), floor.clamp(min=tiny))
    return scale, (-low / scale).round()


def tails(rows: Tensor, percentiles: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Lower and upper quantiles of each column of (values, columns): two (percentiles, columns) tensors.

    As torch.quantile with linear interpolation at 1 - p and p, for p in [0.5, 1], but for any number of values: only
    the tails are sorted.
    """
    count = rows.shape[0]
    places = [p * (count - 1) for p in percentiles]
    deep = count - int(min(places))
    top = rows.topk(deep, dim=0).values
    bottom = rows.topk(deep, dim=0, largest=False).values
    lows, highs = [], []
    for place in places:
        depth = count - 1 - place
        near, part = int(depth), depth - int(depth)
        far = min(near + 1, deep - 1)
        highs.append(torch.lerp(top[near], top[far], part))
        lows.append(torch.lerp(bottom[near], bottom[far], part))
    return torch.stack(lows), torch.stack(highs)


def spread(x: Tensor, most: int = SEARCH_SAMPLE) -> Tensor:
    """At most `most` values of x, evenly spaced, never below float32."""
    flat = x.reshape(-1)
    flat = flat[:: -(flat.numel() // -most)] if flat.numel() > most else flat
    return _wide(flat)


def _wide(x: Tensor) -> Tensor:
    """x in at least float32: half precision has too few digits for the arithmetic of codes."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _log2(x: Tensor) -> Tensor:
    """log2 with 0 and below taken as the least normal number."""
    return x.clamp(min=torch.finfo(torch.float32).tiny).log2()


def _power(exponents: Tensor, like: Tensor) -> Tensor:
    return torch.exp2(exponents.to(like.dtype))


def _squared_error(quantiser: Quantiser, x: Tensor) -> float:
    return float((quantiser.dequantise(quantiser.codes(x)) - x).square().mean())


def _after_load(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Quantiser)
    module.levels = 2 ** int(module.bits)
    module.enabled = True
