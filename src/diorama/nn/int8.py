"""Products of bytes on the CPU: unsigned activations, signed weights, sums in int32, through oneDNN in torch.

The layers here pass codes on instead of floats, so that between two products little is done in floating point: a linear
layer scales, adds its bias, applies GELU and rounds to the next codes in one kernel; a LayerNorm with the scale of the
codes in its weights is followed by a clamp only. Needs AVX512-VNNI or AVX-VNNI; without them oneDNN saturates sums of
two products in 16 bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diorama.errors import InputError

Activation = Literal["none", "gelu"]

SMALL = 2**19
"""Multiplications in a product of matrices below which calling oneDNN for each costs more than bytes save."""
CACHED = 2**18
"""Outputs that are worked on at a time where a product needs more passes: a megabyte of float32."""
EXACT = 512
"""Sums of fewer products of two bytes stay below 2^24 and are exact in float32."""


@dataclass(frozen=True)
class Codes:
    """Uniform codes of activations: value = scale (code - zero), code in [0, levels); at most 256 levels."""

    scale: float
    zero: int
    levels: int

    @property
    def offset(self) -> int:
        """What makes code - offset a signed byte: the zero point if that fits, else the nearest number that does."""
        return min(max(self.zero, self.levels - 128), 128)

    @property
    def rest(self) -> int:
        """zero - offset: 0 unless the zero point does not fit."""
        return self.zero - self.offset

    def of(self, x: Tensor) -> Tensor:
        """uint8 codes of x; ties go to the even code."""
        return self.bytes(torch.add(torch.tensor(float(self.zero)), x, alpha=1 / self.scale))

    def bytes(self, place: Tensor) -> Tensor:
        """uint8 codes of x / scale + zero, which is overwritten."""
        return to_bytes(place.round_().clamp_(0, self.levels - 1), self.levels - 1)


def to_bytes(whole: Tensor, most: int) -> Tensor:
    """uint8 of whole floats in [0, most]; torch goes to int8 and int32 several times as fast as to uint8."""
    return whole.to(torch.int8).view(torch.uint8) if most < 128 else whole.to(torch.int32).to(torch.uint8)


def has_int8_kernels() -> bool:
    """Whether this CPU multiplies bytes in hardware."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni"))


def require_int8_kernels() -> None:
    """Raises InputError on a CPU without them."""
    if not has_int8_kernels():
        raise InputError("This CPU has no VNNI instructions, without which sums of bytes overflow. "
                         "Use the integer reference, or a CPU with AVX512-VNNI or AVX-VNNI.")


class Int8Linear(nn.Module):
    """uint8 codes (..., in) to float32, or to codes (..., out), with weights of up to 8 bits.

    weight: whole numbers (out, in), int8 or wider, of at most 256 different values a row; weight_scale: (out,). The
    layer computes y = sum_k (x_k - zero) weight_k scale weight_scale + bias, then GELU if asked, then, if `out` is
    given, the codes of y: uint8 codes, or with `signed` int8 codes minus `out.offset`. An input of floats is turned
    into codes first. Rows of weights that do not fit int8 cost a sum of the inputs and two passes over the output.
    """

    scale: Tensor
    shift: Tensor
    zeros: Tensor
    correction: Tensor

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, given: Codes, *,
                 activation: Activation = "none", out: Codes | None = None, signed: bool = False):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.to(torch.int32)
        middle = torch.where((weight.amin(1) < -128) | (weight.amax(1) > 127), weight.amin(1) + 128, 0)
        held = (weight - middle[:, None]).to(torch.int8)
        scale = weight_scale.double() * given.scale
        shift = -given.zero * weight.sum(1).double() * scale
        shift = shift if bias is None else shift + bias.double()
        self.given, self.out, self.signed, self.activation = given, out, signed, activation
        self.fused = not bool(middle.any())
        low = -out.offset if out is not None and signed else 0
        self.bounds = (float(low), float(low + out.levels - 1)) if out is not None else (-math.inf, math.inf)
        if out is not None and activation == "none":  # the codes' scale and zero point go into the weights' scale
            scale, shift = scale / out.scale, shift / out.scale + out.zero + low
        self.packed = torch.ops.onednn.qlinear_prepack(held, None)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("shift", shift.float(), persistent=False)
        self.register_buffer("zeros", torch.zeros(self.out_features, dtype=torch.int32), persistent=False)
        self.register_buffer("correction", (middle.double() * scale).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        codes = x if x.dtype == torch.uint8 else self.given.of(x)
        if not self.fused:
            rows = codes.flatten(0, -2).split(max(CACHED // self.out_features, 1))
            parts = [self._finish(self._multiply(part, torch.float32), part) for part in rows]
            return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*codes.shape[:-1], -1)
        if self.out is None:
            return self._multiply(codes, torch.float32, self.activation)
        kind = torch.int8 if self.signed else torch.uint8
        if self.activation == "none":
            whole = self.bounds == ((-128.0, 127.0) if self.signed else (0.0, 255.0))
            return self._multiply(codes, kind, "none" if whole else "hardtanh", () if whole else self.bounds)
        made = self._multiply(codes, torch.uint8, self.activation, scale=self.out.scale, zero=self.out.zero)
        return made if self.out.levels == 256 else made.clamp_(max=self.out.levels - 1)

    def _multiply(self, codes: Tensor, kind: torch.dtype, post: str = "none", bounds: Sequence[float] = (), *,
                  scale: float = 1.0, zero: int = 0) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(codes, 1.0, 0, self.packed, self.scale, self.zeros, self.shift,
                                                  scale, zero, kind, post, list(bounds), "none")

    def _finish(self, y: Tensor, codes: Tensor) -> Tensor:
        """Add what the bytes of the weights lack, (rows, out) in place; then what the kernel would have done."""
        y = y.addr_(codes.sum(-1, dtype=torch.float32), self.correction)
        if self.activation == "gelu":
            y = F.gelu(y)
        if self.out is None:
            return y
        if self.activation == "gelu":
            return self.out.of(y)
        y = y.round_().clamp_(*self.bounds)
        return y.to(torch.int8) if self.signed else to_bytes(y, self.out.levels - 1)


class Int8LayerNorm(nn.Module):
    """LayerNorm over the last axis straight to uint8 codes, with the scale of the codes in its weights."""

    scale: Tensor
    shift: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, eps: float, out: Codes):
        super().__init__()
        self.eps, self.out = eps, out
        self.register_buffer("scale", (weight.double() / out.scale).float(), persistent=False)
        self.register_buffer("shift", (bias.double() / out.scale + out.zero).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out.bytes(F.layer_norm(x, (x.shape[-1],), self.scale, self.shift, self.eps))


def int8_products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b as float32 (n, M, N), for a (n, M, K) of either kind of byte and b (n, K, N) int8.

    Summed in int32; small products are taken together, of floats, whose sums are exact there as well.
    """
    rows, inner, columns = a.shape[1], a.shape[2], b.shape[2]
    if rows * inner * columns < SMALL and inner < EXACT:
        return torch.bmm(a.float(), b.float())
    out = torch.empty(a.shape[0], rows, columns, dtype=torch.int32)
    for left, right, place in zip(a, b, out, strict=True):
        torch._int_mm(left, right, out=place)
    return out.float()
