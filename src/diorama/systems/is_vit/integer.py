"""A quantised vision transformer computed on its integer codes; the reference that faster paths are measured against.

Every matrix product is taken of whole numbers (code minus zero point), exactly, and rounded to float32 once; then it is
scaled and biased in float32, always in the same order. So the result does not depend on how the sum was made:
`hold_codes` gives the network that holds codes and sums them in integer accumulators, or as floats that hold every
partial sum (much faster, and on any device); `exact_products` lets a fake-quantised network multiply the same whole
numbers; and all of them agree in every bit. LayerNorm, softmax, GELU, residual sums and the convolution of the 8-bit
image are the same float32 operations in all.

A product without one scale for its sums (a channel-wise LayerNorm output, attention probabilities of AdaLog, the twin
quantiser or fractional exponents) is taken of the dequantised floats, again the same operation in both.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from diorama.errors import InputError
from diorama.nn.quantisers import Log2Quantiser, Quantiser, SulqQuantiser, UniformQuantiser
from diorama.systems.is_vit.quantised import AttentionQuantisers, QuantisedConv, QuantisedLinear, QuantisedNorm
from diorama.systems.is_vit.structure import find_structure, replace_part

MOST_SHIFT = 15
"""Probabilities whose levels span more octaves are multiplied as floats."""

Product = Callable[[Tensor, Tensor, int], Tensor]
"""product(a, b, largest): the float32 nearest to a @ b, for integers a (..., M, K), b (..., K, N), |a b| <= largest."""


def integer_product(a: Tensor, b: Tensor, largest: int) -> Tensor:
    """a @ b in int32 accumulators, int64 where K largest reaches 2^31; on the CPU, since CUDA has no such product."""
    wide = torch.int32 if a.shape[-1] * largest < 2**31 else torch.int64
    return torch.matmul(a.to("cpu", wide), b.to("cpu", wide)).to(a.device, torch.float32)


def float_product(a: Tensor, b: Tensor, largest: int) -> Tensor:
    """a @ b in float32 where K largest is below 2^24, else float64: no partial sum is ever rounded, on any device."""
    wide = torch.float32 if a.shape[-1] * largest < 2**24 else torch.float64
    return torch.matmul(a.to(wide), b.to(wide)).float()


Sums = Literal["integer", "float"]
PRODUCTS: Mapping[Sums, Product] = {"integer": integer_product, "float": float_product}
ATTENTION: Mapping[Sums, str] = {"integer": "diorama_integer", "float": "diorama_exact"}
"""Names of `coded_attention` with either product among transformers' attention functions."""


# ---- layers ---------------------------------------------------------------------------------------------------------


class CodedLinear(nn.Module):
    """A linear layer that holds the codes of its weights, uint8 (out, in), and multiplies codes.

    source: the quantiser of its input when that sits on the LayerNorm before (`input_quantiser` is None then).
    """

    codes: Tensor

    def __init__(self, layer: QuantisedLinear, source: Quantiser | None, product: Product):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("codes", codes_of(layer))
        self.bias = layer.bias
        self.weight_quantiser = layer.weight_quantiser
        self.input_quantiser = layer.input_quantiser
        self.shared_source = (source,)  # in a tuple, so that the norm alone owns it
        self.product = product

    @property
    def source(self) -> Quantiser:
        """The quantiser of the input."""
        quantiser = self.input_quantiser if self.input_quantiser is not None else self.shared_source[0]
        assert isinstance(quantiser, Quantiser)
        return quantiser

    def forward(self, x: Tensor) -> Tensor:
        source, weights = self.source, self.weight_quantiser
        assert isinstance(weights, UniformQuantiser)
        if not has_one_scale(source):
            shown = x if self.input_quantiser is None else source(x)
            return F.linear(shown, weights.dequantise(self.codes), self.bias)
        assert isinstance(source, UniformQuantiser)
        given = source.codes(x) - source.zero_point
        held = self.codes.to(torch.int32) - weights.zero_point[:, None]
        out = self.product(given, held.t(), span(source) * span(weights)) * (source.scale * weights.scale)
        return out if self.bias is None else out + self.bias


class CodedPatches(nn.Module):
    """The convolution that embeds patches, holding the codes of its weights; the image itself is not quantised."""

    codes: Tensor

    def __init__(self, layer: QuantisedConv):
        super().__init__()
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.register_buffer("codes", codes_of(layer))
        self.bias = layer.bias
        self.weight_quantiser = layer.weight_quantiser

    @property
    def weight(self) -> Tensor:
        """The values of the codes, float32 (out, in, height, width)."""
        quantiser = self.weight_quantiser
        assert isinstance(quantiser, UniformQuantiser)
        return quantiser.dequantise(self.codes)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.conv2d(pixels, self.weight, self.bias, self.stride, self.padding)


def codes_of(layer: QuantisedLinear | QuantisedConv) -> Tensor:
    """uint8 codes of a layer's weights, in their shape; empty on the meta device for a layer there."""
    quantiser = layer.weight_quantiser
    assert isinstance(quantiser, UniformQuantiser)
    if layer.weight.is_meta:
        return torch.empty_like(layer.weight, dtype=torch.uint8)
    return quantiser.codes(layer.weight.detach()).to(torch.uint8)


def has_one_scale(quantiser: Quantiser) -> bool:
    """Whether sums of the quantiser's values are a scale times a whole number."""
    return isinstance(quantiser, UniformQuantiser) and not quantiser.is_channelwise


def span(quantiser: UniformQuantiser) -> int:
    """The largest |code - zero point|."""
    zero = quantiser.zero_point
    return int(torch.maximum(zero, quantiser.levels - 1 - zero).abs().max())


# ---- attention ------------------------------------------------------------------------------------------------------


def probability_integers(quantiser: Quantiser) -> tuple[Tensor, Tensor, Tensor] | None:
    """(integers, unit, shift) with the value of code c = unit integers[c] + shift; None if there is no such form.

    For SULQ the integers are 2^(E - e), the unit 2^-E and the shift -eta (section 2.4), for log2 likewise; int64
    (code_count,), and float32 () each.
    """
    none = torch.zeros_like(quantiser.scale)
    if isinstance(quantiser, UniformQuantiser) and not quantiser.is_channelwise:
        codes = torch.arange(quantiser.code_count, device=quantiser.scale.device)
        return codes - quantiser.zero_point, quantiser.scale, none
    if isinstance(quantiser, SulqQuantiser) and quantiser.whole_exponents:
        integers, deepest = quantiser.shift_table()
        return (integers, none + 2.0**-deepest, -quantiser.eta) if deepest <= MOST_SHIFT else None
    if isinstance(quantiser, Log2Quantiser) and quantiser.steps == 1:
        deepest = quantiser.code_count - 1 - quantiser.masked
        if deepest > MOST_SHIFT:
            return None
        codes = torch.arange(quantiser.code_count, device=quantiser.scale.device)
        integers = torch.where(codes > deepest, 0, 1 << (deepest - codes).clamp(min=0))
        return integers, quantiser.scale * 2.0**-deepest, none
    return None


def coded_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, *, product: Product, **unused: Any,
) -> tuple[Tensor, Tensor]:
    """`quantised.quantised_attention` with both products taken of integers; dropout is not applied."""
    quantisers: Any = module.quantisers
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k = quantisers.query, quantisers.key
    scores = product(q.codes(query) - q.zero_point, (k.codes(key) - k.zero_point).transpose(2, 3),
                     span(q) * span(k)) * (q.scale * k.scale * scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    probability = F.softmax(scores, dim=-1, dtype=torch.float32)
    context = _average(quantisers, quantisers.probability.codes(probability), value, product)
    return context.transpose(1, 2).contiguous(), probability


def _average(quantisers: AttentionQuantisers, codes: Tensor, value: Tensor, product: Product) -> Tensor:
    """A V (B, H, N, d) from the codes of A and the values V."""
    probability, v = quantisers.probability, quantisers.value
    table = probability_integers(probability)
    if table is None:
        return torch.matmul(probability.dequantise(codes), v(value))
    assert isinstance(v, UniformQuantiser)
    integers, unit, shift = table
    held = v.codes(value) - v.zero_point
    out = product(integers[codes.long()], held, int(integers.abs().max()) * span(v)) * (unit * v.scale)
    if isinstance(probability, SulqQuantiser):
        out = out + held.sum(dim=-2, keepdim=True).float() * (shift * v.scale)
    return out


for sums, product in PRODUCTS.items():
    AttentionInterface.register(ATTENTION[sums], partial(coded_attention, product=product))


# ---- whole networks -------------------------------------------------------------------------------------------------


def hold_codes(model: nn.Module, sums: Sums = "integer") -> None:
    """Let every quantised layer of `model` hold the codes of its weights instead of the weights, and multiply codes.

    In place; the float weights are gone afterwards. Layers on the meta device get empty codes there. sums: how exact
    sums are made, which changes no bit. Raises InputError for zero points that are fractions.
    """
    sources = _sources(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear):
            replace_part(model, name, CodedLinear(module, sources.get(name), PRODUCTS[sums]))
        elif isinstance(module, QuantisedConv):
            replace_part(model, name, CodedPatches(module))
        elif isinstance(getattr(module, "quantisers", None), AttentionQuantisers):
            _attend(module, ATTENTION[sums])


@contextmanager
def exact_products(model: nn.Module) -> Iterator[None]:
    """Inside the block a fake-quantised model multiplies the whole numbers behind its values, exactly, as floats."""
    before = [(name, module) for name, module in model.named_modules()
              if isinstance(module, QuantisedLinear | QuantisedConv)]
    attentions: list[Any] = [module for module in model.modules()
                             if isinstance(getattr(module, "quantisers", None), AttentionQuantisers)]
    implementations = [attention.config._attn_implementation for attention in attentions]
    hold_codes(model, "float")
    try:
        yield
    finally:
        for name, module in before:
            replace_part(model, name, module)
        for attention, implementation in zip(attentions, implementations, strict=True):
            attention.config._attn_implementation = implementation


def _attend(module: Any, attention: str) -> None:
    module.config._attn_implementation = attention


def _sources(model: nn.Module) -> dict[str, Quantiser]:
    """For every layer that reads a quantised LayerNorm, the quantiser of its output."""
    sources: dict[str, Quantiser] = {}
    for norm, readers in find_structure(model).norms():
        part = model.get_submodule(norm)
        assert isinstance(part, QuantisedNorm) and isinstance(part.output_quantiser, Quantiser)
        sources |= dict.fromkeys(readers, part.output_quantiser)
    for name, module in model.named_modules():
        if isinstance(module, Quantiser) and torch.is_floating_point(getattr(module, "zero_point", torch.tensor(0))):
            raise InputError(f"The zero point of {name} is a fraction, as in the released code, so its values are no "
                             "codes. Quantise with compatibility 'paper'.")
    return sources
