"""A vision transformer with quantisers in it: transformers' own model whose layers, norms and attentions carry them.

`insert` puts unfitted quantisers in place (the model computes as before), `calibrating` fits those of activations in
one pass, `round_weights` those of weights. Where each sits is section 2.1's table; the image itself, softmax, GELU,
residual sums, biases and embeddings stay in floating point.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from diorama.errors import InputError
from diorama.nn.quantisers import (
    ETA_GRID,
    ETA_POWERS,
    AdaLogQuantiser,
    Log2Quantiser,
    Quantiser,
    SulqQuantiser,
    TwinUniformQuantiser,
    UniformQuantiser,
)
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.structure import Structure, find_structure, part_of, replace_part

SomeQuantiser = TypeVar("SomeQuantiser", bound=Quantiser)

ATTENTION = "diorama_quantised"
"""The name of `quantised_attention` among transformers' attention functions."""


class QuantisedLinear(nn.Module):
    """nn.Linear whose weight (out, in) and input pass quantisers; the input's may sit on the LayerNorm before."""

    def __init__(self, linear: nn.Linear, weight_quantiser: UniformQuantiser, input_quantiser: Quantiser | None):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_quantiser: nn.Module = weight_quantiser
        self.input_quantiser: nn.Module | None = input_quantiser

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantiser is not None:
            x = self.input_quantiser(x)
        return F.linear(x, self.weight_quantiser(self.weight), self.bias)


class QuantisedConv(nn.Module):
    """nn.Conv2d whose weight is quantised by output channel; its input passes a quantiser unless it is the image.

    The image is 8 bit as it is: the convolution that embeds patches has no input quantiser.
    """

    def __init__(self, conv: nn.Conv2d, weight_quantiser: UniformQuantiser, input_quantiser: Quantiser | None = None):
        super().__init__()
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.weight, self.bias = conv.weight, conv.bias
        self.weight_quantiser: nn.Module = weight_quantiser
        self.input_quantiser: nn.Module | None = input_quantiser

    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantiser is not None:
            x = self.input_quantiser(x)
        return F.conv2d(x, self.weight_quantiser(self.weight), self.bias, self.stride, self.padding)


class QuantisedNorm(nn.Module):
    """nn.LayerNorm whose output is quantised once, for all layers that read it."""

    def __init__(self, norm: nn.LayerNorm, output_quantiser: Quantiser):
        super().__init__()
        self.normalized_shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.output_quantiser: nn.Module = output_quantiser

    def forward(self, x: Tensor) -> Tensor:
        return self.output_quantiser(F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps))


class AttentionQuantisers(nn.Module):
    """The quantisers of the two matrix products of an attention: Q K^T and A V."""

    def __init__(self, query: Quantiser, key: Quantiser, probability: Quantiser, value: Quantiser, *,
                 fit_by_attention: bool = False):
        super().__init__()
        self.query, self.key, self.probability, self.value = query, key, probability, value
        self.fit_by_attention = fit_by_attention


WeightLayer = QuantisedLinear | QuantisedConv


def quantised_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, d) with the quantisers of `module.quantisers`, plain where it has none; softmax in float32.

    An attention function of transformers: returns the context (B, N, H, d) and the probabilities (B, H, N, N).
    """
    quantisers = getattr(module, "quantisers", None)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if quantisers is not None:
        query, key = quantisers.query(query), quantisers.key(key)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    probability = F.softmax(scores, dim=-1, dtype=wide)
    if quantisers is not None:
        value = quantisers.value(value)
        if quantisers.fit_by_attention and quantisers.probability.observing:
            fit_by_attention(quantisers.probability, probability, value)
        else:
            probability = quantisers.probability(probability)
    probability = F.dropout(probability.to(value.dtype), p=dropout, training=module.training)
    return torch.matmul(probability, value).transpose(1, 2).contiguous(), probability


AttentionInterface.register(ATTENTION, quantised_attention)


def fit_by_attention(quantiser: SulqQuantiser, probability: Tensor, value: Tensor) -> None:
    """Ours: the eta of least squared error of A V, for A (B, H, N, N) and V (B, H, N, d)."""
    exact = torch.matmul(probability, value)

    def error() -> float:
        shown = quantiser.dequantise(quantiser.codes(probability)).to(value.dtype)
        return float((torch.matmul(shown, value) - exact).square().mean())

    quantiser.fit_by(probability, error)


class WindowAttention(nn.Module):
    """Swin's window attention of transformers before 5.9 with its products in `quantised_attention`."""

    relative_position_index: Tensor

    def __init__(self, attention: Any):
        super().__init__()
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.num_attention_heads: int = attention.num_attention_heads
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", attention.relative_position_index)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *more: Any,
                **unused: Any) -> tuple[Tensor]:
        windows, tokens, width = hidden_states.shape
        query, key, value = (layer(hidden_states).view(windows, tokens, self.num_attention_heads, -1).transpose(1, 2)
                             for layer in (self.query, self.key, self.value))
        index = self.relative_position_index.view(-1)
        bias = self.relative_position_bias_table[index].view(tokens, tokens, -1).permute(2, 0, 1)[None]
        if attention_mask is not None:
            images = windows // attention_mask.shape[0]
            bias = bias + attention_mask.repeat(images, 1, 1).unsqueeze(1)
        context, _ = quantised_attention(self, query, key, value, bias)
        return (context.reshape(windows, tokens, width),)


# ---- putting quantisers in ------------------------------------------------------------------------------------------


def insert(model: nn.Module, config: QuantiseConfig, *, norm: str | None = None) -> Structure:
    """Put unfitted quantisers into `model`, in place; it computes as before until they are fitted.

    norm: "channel" or "tensor" for the LayerNorm outputs; by default what `config` starts from. Raises InputError if
    the model is quantised already, or holds modules that are not supported.
    """
    if is_quantised(model):
        raise InputError(f"This {type(model).__name__} is quantised already; quantising codes again would only lose "
                         "more. Pass the checkpoint it was made from.")
    structure = find_structure(model)
    by_channel = (norm or ("tensor" if config.norm == "tensor" else "channel")) == "channel"
    swin = any("relative_position_bias" in name for name, _ in model.named_parameters())
    readers = structure.reads_norm()
    for name in structure.layers():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        weights = weight_quantiser(config, name, layer)
        if isinstance(layer, nn.Conv2d):
            replace_part(model, name, QuantisedConv(layer, weights))
        else:
            inputs = None if name in readers else activation_quantiser(config, f"the input of {name}", layer)
            replace_part(model, name, QuantisedLinear(layer, weights, inputs))
    for name, _ in structure.norms():
        norm_before = model.get_submodule(name)
        assert isinstance(norm_before, nn.LayerNorm)
        channels = norm_before.normalized_shape[0] if by_channel else None
        output = activation_quantiser(config, f"the output of {name}", norm_before, channels=channels,
                             include_zero=swin)  # windows are padded with zeros after the norm
        replace_part(model, name, QuantisedNorm(norm_before, output))
    for block, parts in structure.blocks:
        for names in parts.attentions:
            _quantise_attention(model, f"{block}.{names.module}", names.inline, config)
    return structure


def _quantise_attention(model: nn.Module, name: str, inline: bool, config: QuantiseConfig) -> None:
    attention: Any = model.get_submodule(name)
    if inline:
        attention = WindowAttention(attention)
        replace_part(model, name, attention)
    else:
        attention.config._attn_implementation = ATTENTION
    like = next(attention.parameters())
    query, key, value = (activation_quantiser(config, f"the {what} of {name}", like)
                         for what in ("query", "key", "value"))
    probability = _named(probability_quantiser(config), f"the probabilities of {name}", like)
    attention.quantisers = AttentionQuantisers(
        query, key, probability, value,
        fit_by_attention=config.eta_error == "attention" and config.softmax == "sulq")


def probability_quantiser(config: QuantiseConfig) -> Quantiser:
    """The quantiser of attention probabilities that the settings name."""
    bits = config.activation_bits
    etas = ETA_GRID if config.eta == "grid" else ETA_POWERS
    if config.softmax == "sulq":
        return SulqQuantiser(bits, etas=etas, levels=config.compatibility, whole_exponents=config.whole_exponents)
    if config.softmax == "uniform":
        return UniformQuantiser(bits, percentiles=config.activation_percentiles, include_zero=True)
    if config.softmax == "log2":
        return Log2Quantiser(bits, percentiles=config.activation_percentiles)
    if config.softmax == "log2_masked":
        return Log2Quantiser(bits, masked=True, levels=config.compatibility, percentiles=config.activation_percentiles)
    if config.softmax == "log_sqrt2":
        return Log2Quantiser(bits, steps=2, masked=True, levels=config.compatibility,
                             percentiles=config.activation_percentiles)
    return AdaLogQuantiser(bits) if config.softmax == "adalog" else TwinUniformQuantiser(bits)


def weight_quantiser(config: QuantiseConfig, name: str, layer: nn.Linear | nn.Conv2d) -> UniformQuantiser:
    """An unfitted quantiser of a layer's weight, one scale for each output."""
    quantiser = UniformQuantiser(config.weight_bits, channels=layer.weight.shape[0], axis=0, include_zero=True,
                                 percentiles=config.weight_percentiles)
    return _named(quantiser, f"the weights of {name}", layer)


def activation_quantiser(config: QuantiseConfig, site: str, like: nn.Module | Tensor, *, channels: int | None = None,
                         include_zero: bool = False) -> UniformQuantiser:
    """An unfitted uniform quantiser of activations; `site` names the place for messages."""
    quantiser = UniformQuantiser(config.activation_bits, channels=channels, include_zero=include_zero,
                                 percentiles=config.activation_percentiles)
    return _named(quantiser, site, like)


def _named(quantiser: SomeQuantiser, site: str, like: nn.Module | Tensor) -> SomeQuantiser:
    quantiser.site = site
    tensor = like if isinstance(like, Tensor) else next(like.parameters())
    wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    return quantiser.to(device=tensor.device, dtype=wide)


# ---- using them -----------------------------------------------------------------------------------------------------


def is_quantised(model: nn.Module) -> bool:
    """Whether any layer of the model carries a quantiser."""
    return any(isinstance(module, Quantiser) for module in model.modules())


def weight_layers(module: nn.Module) -> Iterator[WeightLayer]:
    """The quantised layers inside a module."""
    for part in module.modules():
        if isinstance(part, QuantisedLinear | QuantisedConv):
            yield part


def activation_quantisers(module: nn.Module) -> Iterator[Quantiser]:
    """The quantisers of activations inside a module."""
    for name, part in module.named_modules():
        if isinstance(part, Quantiser) and not name.endswith("weight_quantiser"):
            yield part


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Inside the block every activation quantiser fits itself to what it is given, in order, and then quantises it.

    Later layers so see quantised inputs; one pass over one batch (section 2.2).
    """
    quantisers = list(activation_quantisers(model))
    for quantiser in quantisers:
        quantiser.observing = True
    try:
        yield
    finally:
        for quantiser in quantisers:
            quantiser.observing = False


def round_weights(module: nn.Module) -> None:
    """Fit the weight quantisers inside a module to its present weights, and switch them on."""
    for layer in weight_layers(module):
        assert isinstance(layer.weight_quantiser, UniformQuantiser)
        layer.weight_quantiser.fit(layer.weight.detach())


@contextmanager
def without_quantisers(model: nn.Module) -> Iterator[None]:
    """Inside the block the model computes in floating point with its present weights."""
    quantisers = [part for part in model.modules() if isinstance(part, Quantiser)]
    before = [quantiser.enabled for quantiser in quantisers]
    for quantiser in quantisers:
        quantiser.enabled = False
    try:
        yield
    finally:
        for quantiser, was in zip(quantisers, before, strict=True):
            quantiser.enabled = was


def norm_readers(model: nn.Module, structure: Structure, block: str | None = None,
                 ) -> Iterator[tuple[QuantisedNorm, list[QuantisedLinear]]]:
    """Every quantised LayerNorm, of one block or of all, with the layers that read it."""
    for name, readers in structure.norms():
        if block is not None and not name.startswith(f"{block}."):
            continue
        norm, layers = model.get_submodule(name), [part_of(model, reader) for reader in readers]
        assert isinstance(norm, QuantisedNorm)
        yield norm, [layer for layer in layers if isinstance(layer, QuantisedLinear)]
