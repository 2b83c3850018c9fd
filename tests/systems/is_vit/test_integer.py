"""The integer reference equals exact fake quantisation bit for bit; the fast path equals both but for a rare code."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface

from diorama.errors import InputError
from diorama.nn import int8
from diorama.nn.quantisers import AdaLogQuantiser, Log2Quantiser, Quantiser, SulqQuantiser, UniformQuantiser
from diorama.systems.is_vit import integer
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.fast import INT8_ATTENTION, Int8Attention, codes_of_quantiser, use_int8
from diorama.systems.is_vit.integer import (
    CodedLinear,
    exact_products,
    float_product,
    hold_codes,
    integer_product,
    probability_integers,
)
from diorama.systems.is_vit.quantised import AttentionQuantisers, QuantisedLinear
from diorama.systems.is_vit.reparameterise import reparameterise

PLAIN = QuantiseConfig(norm="tensor", method="none")
KINDS = ("vit", "deit", "distilled deit", "swin", "clip")
SOFTMAX = ("sulq", "uniform", "log2", "log2_masked", "log_sqrt2", "adalog", "twin")
needs_vnni = pytest.mark.skipif(not int8.has_int8_kernels(), reason="this CPU has no VNNI instructions")


def coded(model: Any, sums: integer.Sums = "integer") -> Any:
    held = copy.deepcopy(model)
    hold_codes(held, sums)
    return held


def exact(model: Any, answer: Callable[..., Tensor], pixels: Tensor) -> Tensor:
    with exact_products(model):
        return answer(model, pixels)


# ---- products -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sampled_from([(7, 7), (255, 255), (2**15, 255)]), st.integers(0, 2**31))
def test_both_products_are_the_rounded_exact_sum(inner: int, most: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-most[0], most[0] + 1, (2, 3, inner), generator=generator)
    b = torch.randint(-most[1], most[1] + 1, (2, inner, 4), generator=generator)
    wanted = torch.matmul(a, b).to(torch.float32)
    assert torch.equal(integer_product(a, b, most[0] * most[1]), wanted)
    assert torch.equal(float_product(a, b, most[0] * most[1]), wanted)


def test_products_stay_exact_at_the_bounds_of_their_accumulators() -> None:
    a = torch.full((1, 2**17), 255, dtype=torch.int32)
    wanted = 255 * 255 * 2**17  # above 2^31, and no float32
    assert wanted > 2**31
    for product in (integer_product, float_product):
        assert product(a, a.t(), 255 * 255).item() == float(torch.tensor(wanted, dtype=torch.float64).float())
    beyond = torch.tensor([[2**12 + 1, 1, 1]]), torch.tensor([[2**12], [1], [1]])  # float32 loses either 1
    assert float_product(*beyond, 2**25).item() == integer_product(*beyond, 2**25).item() == 2**24 + 2**12 + 2


@pytest.mark.parametrize("quantiser, integers", [
    (SulqQuantiser(3, etas=(2.0**-5,)), True), (SulqQuantiser(4), True),
    (SulqQuantiser(3, whole_exponents=False), False),
    (UniformQuantiser(4, include_zero=True), True), (Log2Quantiser(3), True), (Log2Quantiser(3, masked=True), True),
    (Log2Quantiser(6), False), (Log2Quantiser(3, steps=2, masked=True), False), (AdaLogQuantiser(3), False),
])
def test_levels_of_probabilities_as_integers(quantiser: Quantiser, integers: bool) -> None:
    probabilities = torch.randn(400, 20).mul(3).softmax(-1)
    quantiser.fit(probabilities)
    found = probability_integers(quantiser)
    assert (found is not None) == integers
    if found is None:
        return
    table, unit, shift = found
    assert not table.is_floating_point()
    shown = table.double() * unit.double() + shift.double()
    torch.testing.assert_close(shown, quantiser.dequantise(torch.arange(quantiser.code_count)).double(), rtol=1e-6,
                               atol=1e-9)


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", ["w3a3", "w6a6", "w8a8"])
def test_integers_give_the_bits_of_exact_fake_quantisation(
    kind: str, bits: str, tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor],
    pixels: Tensor,
) -> None:
    model = calibrated(tiny[kind](), pixels, PLAIN.with_bits(bits))
    integers = answer(coded(model), pixels)
    assert torch.equal(integers, exact(model, answer, pixels))
    assert torch.equal(integers, answer(coded(model, "float"), pixels))


@pytest.mark.parametrize("softmax", SOFTMAX)
def test_they_do_for_every_quantiser_of_probabilities(
    softmax: Any, tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor], pixels: Tensor
) -> None:
    for bits in ("w3a3", "w4a4", "w8a8"):
        model = calibrated(tiny["vit"](), pixels, replace(PLAIN, softmax=softmax).with_bits(bits))
        assert torch.equal(answer(coded(model), pixels), exact(model, answer, pixels))


def test_they_do_after_folding_and_with_channelwise_norms(
    tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor], pixels: Tensor
) -> None:
    model = calibrated(tiny["vit"](), pixels, replace(PLAIN, norm="channel"))
    assert torch.equal(answer(coded(model), pixels), exact(model, answer, pixels))
    from diorama.systems.is_vit.quantised import norm_readers, round_weights
    from diorama.systems.is_vit.structure import find_structure

    for norm, readers in norm_readers(model, find_structure(model)):
        reparameterise(norm, readers)
    round_weights(model)
    assert torch.equal(answer(coded(model), pixels), exact(model, answer, pixels))


@pytest.mark.parametrize("kind", ["vit", "swin", "clip"])
def test_each_layer_is_that_of_the_fake_quantised_network(
    kind: str, tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor
) -> None:
    model = calibrated(tiny[kind](), pixels, PLAIN.with_bits("w4a4"))
    held = coded(model)
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, QuantisedLinear)]
    assert len(layers) >= 12
    for name, layer in layers:
        twin = held.get_submodule(name)
        x = twin.source(torch.randn(3, 7, layer.in_features) * 7 * twin.source.scale)
        with torch.no_grad():
            torch.testing.assert_close(twin(x), layer(x), rtol=1e-5, atol=1e-5)


def test_attention_is_that_of_the_fake_quantised_network(tiny: dict[str, Any], calibrated: Callable[..., Any],
                                                         pixels: Tensor) -> None:
    attention = calibrated(tiny["vit"](), pixels, PLAIN.with_bits("w4a4")).vit.layers[0].attention
    inputs = [torch.randn(2, 4, 5, 8) * 5 * site.scale for site in
              (attention.quantisers.query, attention.quantisers.key, attention.quantisers.value)]
    functions = AttentionInterface()
    plain, integers = (functions[name](attention, *inputs, None, scaling=0.3) for name in
                       ("diorama_quantised", integer.ATTENTION["integer"]))
    torch.testing.assert_close(integers[1], plain_probabilities(attention, *inputs[:2]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(integers[0], plain[0], rtol=1e-5, atol=1e-5)


def plain_probabilities(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    sites = attention.quantisers
    return (sites.query(query) @ sites.key(key).mT * 0.3).softmax(-1)


def test_exact_products_come_back_after_an_error(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor,
                                                 answer: Callable[..., Tensor]) -> None:
    model = calibrated(tiny["vit"](), pixels, PLAIN)
    plain = answer(model, pixels)
    with exact_products(model):
        torch.testing.assert_close(answer(model, pixels), plain, rtol=0.2, atol=0.2)
    assert torch.equal(answer(model, pixels), plain)
    with pytest.raises(RuntimeError, match="stop"), exact_products(model):
        raise RuntimeError("stop")
    assert torch.equal(answer(model, pixels), plain)


def test_accumulators_are_integers(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor,
                                   answer: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model = coded(calibrated(tiny["vit"](), pixels, PLAIN))
    kinds = []
    matmul = torch.matmul

    def watched(a: Tensor, b: Tensor) -> Tensor:
        kinds.append((a.dtype, b.dtype))
        return matmul(a, b)

    monkeypatch.setattr(integer.torch, "matmul", watched)
    answer(model, pixels)
    assert len(kinds) == 2 * 6 + 2 * 2 + 1  # six layers and two products a block, and the head
    assert set(kinds) == {(torch.int32, torch.int32)}


def test_a_network_that_holds_codes_has_no_float_weights(tiny: dict[str, Any], calibrated: Callable[..., Any],
                                                         pixels: Tensor) -> None:
    model = coded(calibrated(tiny["vit"](), pixels, PLAIN))
    layer = model.vit.layers[0].mlp.fc1
    assert isinstance(layer, CodedLinear) and layer.codes.dtype == torch.uint8
    assert int(layer.codes.max()) <= 7
    assert not any(name.endswith(("proj.weight", "fc1.weight", "fc2.weight")) for name in model.state_dict())


def test_fractions_are_refused(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor) -> None:
    from diorama.systems.is_vit.quantised import norm_readers, round_weights
    from diorama.systems.is_vit.structure import find_structure

    model = calibrated(tiny["vit"](), pixels, replace(PLAIN, norm="channel"))
    for norm, readers in norm_readers(model, find_structure(model)):
        reparameterise(norm, readers, compatibility="official")
    round_weights(model)
    with pytest.raises(InputError, match="is a fraction"):
        hold_codes(model)


# ---- the fast path --------------------------------------------------------------------------------------------------


@needs_vnni
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", ["w3a3", "w4a8", "w8a8"])
def test_bytes_give_the_reference_but_for_a_code_now_and_then(
    kind: str, bits: str, tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor],
    pixels: Tensor,
) -> None:
    model = coded(calibrated(tiny[kind](), pixels, PLAIN.with_bits(bits)))
    wanted = answer(model, pixels)
    use_int8(model)
    assert model.config._attn_implementation == INT8_ATTENTION
    gap = (answer(model, pixels) - wanted).abs().flatten(1).amax(1) / wanted.abs().max()
    assert (gap <= 1e-4).float().mean() >= 0.7
    assert gap.max() <= 0.2


@needs_vnni
@pytest.mark.parametrize("softmax", SOFTMAX)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_int8_attention_is_the_reference(softmax: str, bits: int) -> None:
    config = replace(PLAIN, softmax=softmax).with_bits(f"w4a{bits}")  # type: ignore[arg-type]
    from diorama.systems.is_vit.quantised import probability_quantiser

    query, key, value = (torch.randn(2, 3, 33, 16) + shift for shift in (0.1, -0.2, 0.5))
    mask = torch.randn(2, 3, 33, 33)
    sites = AttentionQuantisers(UniformQuantiser(bits), UniformQuantiser(bits), probability_quantiser(config),
                                UniformQuantiser(bits))
    for site, x in ((sites.query, query), (sites.key, key), (sites.value, value)):
        site.fit(x)
    scores = sites.query(query) @ sites.key(key).mT * 0.25 + mask
    sites.probability.fit(scores.softmax(-1))
    holder = torch.nn.Module()
    holder.quantisers = sites
    reference: Any = AttentionInterface()[integer.ATTENTION["integer"]]
    context, _ = reference(holder, query, key, value, mask, scaling=0.25)
    out = UniformQuantiser(bits)
    out.fit(context)
    fast = Int8Attention(sites, 0.25, codes_of_quantiser(out))
    signed = [(site.codes(x) - codes_of_quantiser(site).offset).to(torch.int8)
              for site, x in ((sites.query, query), (sites.key, key), (sites.value, value))]
    found = fast(*signed, mask).to(torch.int32)
    away = (found - out.codes(context)).abs()
    assert int(away.max()) <= 1
    assert (away > 0).float().mean() <= 0.02


@needs_vnni
def test_sulq_runs_on_bytes_up_to_seven_octaves() -> None:
    for eta, is_integer in ((0.01, True), (0.001, False)):
        probability = SulqQuantiser(4, etas=(eta,))
        probability.fit(torch.randn(64, 50).mul(6).softmax(-1))
        sites = AttentionQuantisers(*(UniformQuantiser(4), UniformQuantiser(4), probability, UniformQuantiser(4)))
        attention = Int8Attention(sites, 1.0, codes_of_quantiser(UniformQuantiser(4)))
        assert attention.is_integer == is_integer
        levels = attention.levels(torch.rand(5, 50).softmax(-1))
        assert levels.dtype == (torch.uint8 if is_integer else torch.float32)


@needs_vnni
def test_what_has_no_bytes_is_refused(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor) -> None:
    with pytest.raises(InputError, match="holds no codes"):
        use_int8(tiny["vit"]())
    model = coded(calibrated(tiny["vit"](), pixels, replace(PLAIN, norm="channel")))
    with pytest.raises(InputError, match="a scale for each channel"):
        use_int8(model)


def test_a_cpu_without_the_instructions_is_refused(
    tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = coded(calibrated(tiny["vit"](), pixels, PLAIN))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(InputError, match="no VNNI instructions"):
        use_int8(model)
