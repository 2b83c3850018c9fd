"""The fast path on CPUs: a coded network whose layers pass bytes on to one another.

`use_int8` turns a network that holds codes (`integer.hold_codes`, `packed.load_packed`) into one of `nn.int8`'s layers.
Inside a block the LayerNorm gives bytes, query, key and value layers take and give bytes, the probabilities become the
bytes of their quantiser's table (for SULQ 2^(E - e), section 2.4), and GELU ends in bytes; only softmax, its quantiser
and the residual sums are float32. The sums are those of the integer reference; what is between them is rounded
elsewhere (scales are folded, GELU is oneDNN's), so now and then a code differs by one.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.activations import GELUActivation

from diorama.errors import InputError
from diorama.nn.int8 import Codes, Int8LayerNorm, Int8Linear, int8_products, require_int8_kernels, to_bytes
from diorama.nn.quantisers import Quantiser, SulqQuantiser, UniformQuantiser
from diorama.systems.is_vit.integer import CodedLinear, CodedPatches, has_one_scale, probability_integers
from diorama.systems.is_vit.quantised import AttentionQuantisers, QuantisedNorm
from diorama.systems.is_vit.structure import AttentionNames, BlockNames, find_structure, part_of, replace_part

INT8_ATTENTION = "diorama_int8"
CACHED = 2**18
"""Scores that are worked on at a time: a megabyte of float32."""


class FloatPatches(nn.Module):
    """The convolution that embeds patches, in float32: the image is not quantised."""

    def __init__(self, layer: CodedPatches):
        super().__init__()
        self.stride, self.padding = layer.stride, layer.padding
        self.weight = nn.Parameter(layer.weight, requires_grad=False)
        self.bias = layer.bias

    def forward(self, pixels: Tensor) -> Tensor:
        return F.conv2d(pixels, self.weight, self.bias, self.stride, self.padding)


class Int8Attention(nn.Module):
    """Attention of signed codes (B, H, N, d) to the uint8 codes (B, N, H, d) that the output layer reads.

    Both products are of bytes when the levels of the probabilities are whole numbers of at most 255; else the second
    is of floats. Images are done a few at a time, so that their scores stay in the cache.
    """

    def __init__(self, quantisers: AttentionQuantisers, scaling: float, out: Codes):
        super().__init__()
        self.query, self.key, self.value = (codes_of_quantiser(quantiser) for quantiser in
                                            (quantisers.query, quantisers.key, quantisers.value))
        probability = quantisers.probability
        assert isinstance(probability, Quantiser)
        self.out = out
        self.scale = self.query.scale * self.key.scale * scaling
        table = probability_integers(probability)
        self.is_integer = table is not None and 0 <= int(table[0].min()) and int(table[0].max()) <= 255
        self.unit, self.shift = (1.0, 0.0) if table is None else (float(table[1]), float(table[2]))
        self.levels = level_function(probability, None if table is None else table[0], as_bytes=self.is_integer)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, tokens, width = query.shape
        context = torch.empty(batch, tokens, heads, width, dtype=torch.uint8)
        masks = None if mask is None else mask.expand(batch, -1, -1, -1)
        step = max(CACHED // (heads * tokens * tokens), 1)
        for start in range(0, batch, step):
            rows = slice(start, start + step)
            codes = self._attend(query[rows], key[rows], value[rows], None if masks is None else masks[rows])
            context[rows] = codes.transpose(1, 2)
        return context

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, N, d) int8 of a few images to uint8 codes (B, H, N, d)."""
        shape = query.shape[:2]
        scores = int8_products(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).unflatten(0, shape)
        if self.query.rest:  # of the other zero point softmax does not depend
            scores -= (self.query.rest * key.sum(-1, dtype=torch.float32))[..., None, :]
        scores *= self.scale
        if mask is not None:
            scores += mask
        levels = self.levels(F.softmax(scores, dim=-1))
        if self.is_integer:
            average = int8_products(levels.flatten(0, 1), value.flatten(0, 1)).unflatten(0, shape)
            if self.value.rest:
                average -= self.value.rest * levels.sum(-1, dtype=torch.float32)[..., None]
        else:
            average = torch.matmul(levels, value - float(self.value.rest))
        average *= self.unit * self.value.scale / self.out.scale
        if self.shift:
            columns = value.sum(-2, dtype=torch.float32) - self.value.rest * value.shape[-2]
            average += (columns * (self.shift * self.value.scale / self.out.scale) + self.out.zero)[..., None, :]
        else:
            average += self.out.zero
        return self.out.bytes(average)


def int8_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                   **unused: Any) -> tuple[Tensor, None]:
    """The attention function of transformers that hands over to the module's `Int8Attention`."""
    return module.int8(query, key, value, attention_mask), None


AttentionInterface.register(INT8_ATTENTION, int8_attention)


def level_function(quantiser: Quantiser, table: Tensor | None, *, as_bytes: bool) -> Callable[[Tensor], Tensor]:
    """A function from float32 probabilities, which it may overwrite, to what is multiplied with the values.

    That is uint8 `table[code]`, the same as float32 where bytes do not hold it, or the dequantised value if no table is
    given.
    """
    if table is None:
        return lambda probability: quantiser.dequantise(quantiser.codes(probability))
    if isinstance(quantiser, UniformQuantiser) and as_bytes and not int(quantiser.zero_point):
        return codes_of_quantiser(quantiser).of
    if isinstance(quantiser, SulqQuantiser):
        return _sulq_levels(quantiser, as_bytes=as_bytes)
    levels = table.to(torch.uint8 if as_bytes else torch.float32)
    return lambda probability: levels[quantiser.codes(probability).long()]


def _sulq_levels(quantiser: SulqQuantiser, *, as_bytes: bool) -> Callable[[Tensor], Tensor]:
    """2^(E - e) of SULQ in a few passes in place; the code counts from -zero_point here."""
    eta, scale, offset = float(quantiser.eta), float(quantiser.scale), float(quantiser.offset)
    low, high = -int(quantiser.zero_point), quantiser.code_count - 1 - int(quantiser.zero_point)
    deepest = float(quantiser.exponents().max())
    one = torch.ones((), dtype=torch.uint8)

    def levels(probability: Tensor) -> Tensor:
        place = probability.add_(eta).log2_()
        if offset:
            place.add_(offset)
        place.div_(-scale).round_().clamp_(low, high).mul_(-scale)
        if offset:
            place.sub_(offset)
        place.round_().add_(deepest)
        return torch.bitwise_left_shift(one, to_bytes(place, 7)) if as_bytes else place.exp2_()

    return levels


# ---- whole networks -------------------------------------------------------------------------------------------------


def codes_of_quantiser(quantiser: Any) -> Codes:
    """The codes of a fitted uniform quantiser of a tensor."""
    assert isinstance(quantiser, UniformQuantiser)
    return Codes(float(quantiser.scale), int(quantiser.zero_point), quantiser.levels)


def use_int8(model: nn.Module) -> None:
    """Turn a network that holds codes into one that multiplies bytes, in place, for inference on the CPU.

    Raises InputError on a CPU without VNNI, if the model lies elsewhere or is not coded, and for LayerNorm outputs that
    are quantised channel by channel.
    """
    require_int8_kernels()
    structure = find_structure(model)
    coded = {name: module for name, module in model.named_modules() if isinstance(module, CodedLinear)}
    if not coded:
        raise InputError(f"This {type(model).__name__} holds no codes, so there are no bytes to multiply. "
                         "Load a packed checkpoint.")
    if any(module.codes.device.type != "cpu" for module in coded.values()):
        raise InputError("The fast path is for the CPU, and this model lies on another device. Load it on the CPU.")
    for name, module in coded.items():
        if not has_one_scale(module.source):
            raise InputError(f"The input of {name} has a scale for each channel, so its products are none of bytes. "
                             "Quantise with norm 'reparameterised' or 'tensor'.")
    padded = any("relative_position_bias" in name for name, _ in model.named_parameters())
    for name, parts in structure.blocks:
        _turn_block(model.get_submodule(name), parts, norms=not padded)
    for name, module in list(model.named_modules()):
        if isinstance(module, CodedLinear):
            replace_part(model, name, _linear(module))
        elif isinstance(module, CodedPatches):
            replace_part(model, name, FloatPatches(module))


def _turn_block(block: nn.Module, parts: BlockNames, *, norms: bool) -> None:
    """norms: whether LayerNorms may give codes (Swin pads windows with zeros behind them)."""
    if norms:
        for name, _ in parts.norms:
            norm = part_of(block, name)
            assert isinstance(norm, QuantisedNorm) and norm.weight is not None and norm.bias is not None
            out = codes_of_quantiser(norm.output_quantiser)
            replace_part(block, name, Int8LayerNorm(norm.weight, norm.bias, norm.eps, out))
    for names in parts.attentions:
        _turn_attention(block, names)
    where = parts.fc1.rpartition(".")[0]
    fc1, fc2 = block.get_submodule(parts.fc1), block.get_submodule(parts.fc2)
    assert isinstance(fc1, CodedLinear) and isinstance(fc2, CodedLinear)
    activation = part_of(block, f"{where}.activation_fn")
    if isinstance(activation, GELUActivation):
        replace_part(block, f"{where}.activation_fn", nn.Identity())
        replace_part(block, parts.fc1, _linear(fc1, gelu=True, out=codes_of_quantiser(fc2.source)))


def _turn_attention(block: nn.Module, names: AttentionNames) -> None:
    attention: Any = block.get_submodule(names.module)
    output = block.get_submodule(names.output)
    assert isinstance(output, CodedLinear)
    quantisers = attention.quantisers
    for name, quantiser in zip(names.inputs, (quantisers.query, quantisers.key, quantisers.value), strict=True):
        layer = block.get_submodule(name)
        assert isinstance(layer, CodedLinear)
        replace_part(block, name, _linear(layer, out=codes_of_quantiser(quantiser), signed=True))
    scaling = getattr(attention, "scaling", getattr(attention, "scale", None))
    assert isinstance(scaling, float)
    attention.int8 = Int8Attention(quantisers, scaling, codes_of_quantiser(output.source))
    attention.config._attn_implementation = INT8_ATTENTION


def _linear(layer: CodedLinear, *, gelu: bool = False, out: Codes | None = None, signed: bool = False) -> Int8Linear:
    weights = layer.weight_quantiser
    assert isinstance(weights, UniformQuantiser)
    return Int8Linear(layer.codes.to(torch.int32) - weights.zero_point[:, None], weights.scale, layer.bias,
                      codes_of_quantiser(layer.source), activation="gelu" if gelu else "none", out=out, signed=signed)
