"""Stage 2: exact in float64 for any whole zero point, and what goes wrong without one."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diorama.errors import InputError
from diorama.nn.quantisers import UniformQuantiser
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import (
    QuantisedLinear,
    QuantisedNorm,
    insert,
    norm_readers,
    round_weights,
    without_quantisers,
)
from diorama.systems.is_vit.reparameterise import FractionalQuantiser, reparameterise
from diorama.systems.is_vit.structure import find_structure

CHANNELS = 48


def site(seed: int, *, bias: bool = True) -> tuple[QuantisedNorm, list[QuantisedLinear], Tensor]:
    """A LayerNorm whose channels differ, three readers and rows to run on, all float64."""
    torch.manual_seed(seed)
    norm = nn.LayerNorm(CHANNELS).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(CHANNELS) * 4 + 0.1)
        norm.bias.copy_(torch.randn(CHANNELS))
    quantised = QuantisedNorm(norm, UniformQuantiser(3, channels=CHANNELS).double())
    readers = [QuantisedLinear(nn.Linear(CHANNELS, 20, bias=bias).double(),
                               UniformQuantiser(3, channels=20, axis=0).double(), None) for _ in range(3)]
    rows = torch.randn(200, CHANNELS, dtype=torch.float64)
    quantiser = quantised.output_quantiser
    assert isinstance(quantiser, UniformQuantiser)
    quantiser.enabled = False
    quantiser.fit(quantised(rows).detach())
    return quantised, readers, rows


def outputs(norm: QuantisedNorm, readers: list[QuantisedLinear], rows: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [reader(norm(rows)) for reader in readers]


@given(st.integers(0, 1000), st.integers(-20, 20), st.floats(0.01, 50))
@settings(max_examples=15, deadline=None)
def test_any_whole_zero_point_and_any_scale_are_lossless(seed: int, zero: int, scale: float) -> None:
    norm, readers, rows = site(seed)
    before = outputs(norm, readers, rows)
    exact = norm.output_quantiser
    assert isinstance(exact, UniformQuantiser)
    codes = exact.codes(nn.functional.layer_norm(rows, (CHANNELS,), norm.weight, norm.bias, norm.eps))
    with without_quantisers(norm):
        plain = outputs(norm, readers, rows)
    reparameterise(norm, readers, scale=torch.tensor(scale), zero_point=zero)
    after = outputs(norm, readers, rows)
    quantiser = norm.output_quantiser
    assert isinstance(quantiser, UniformQuantiser) and not quantiser.is_channelwise
    folded = nn.functional.layer_norm(rows, (CHANNELS,), norm.weight, norm.bias, norm.eps)
    assert (quantiser.codes(folded) == codes).double().mean() > 0.999  # but for ties
    for old, new in zip(before, after, strict=True):
        differing = (old - new).abs() > 1e-11 * max(1.0, abs(zero)) * max(1.0, scale)
        assert differing.any(1).double().mean() <= 0.05  # a code at a tie moves its row
    with without_quantisers(norm):
        for old, new in zip(plain, outputs(norm, readers, rows), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_means_are_the_default_and_lossless_to_1e_12(bias: bool) -> None:
    norm, readers, rows = site(3, bias=bias)
    before = outputs(norm, readers, rows)
    channelwise = norm.output_quantiser
    assert isinstance(channelwise, UniformQuantiser)
    scale, zero = channelwise.scale.mean(), channelwise.zero_point.double().mean().round()
    reparameterise(norm, readers)
    quantiser = norm.output_quantiser
    assert isinstance(quantiser, UniformQuantiser)
    assert quantiser.scale == scale and quantiser.zero_point == zero
    assert all(reader.bias is not None for reader in readers)
    for old, new in zip(before, outputs(norm, readers, rows), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
    assert len(norm(rows).unique()) <= 8


def test_all_readers_are_folded_and_wait_for_new_ranges() -> None:
    norm, readers, rows = site(4)
    for reader in readers:
        round_weights(reader)
    reparameterise(norm, readers)
    assert not any(reader.weight_quantiser.enabled for reader in readers)
    norm, readers, rows = site(4)
    before = outputs(norm, readers, rows)
    reparameterise(norm, readers[:2])  # the classic mistake: v forgotten
    after = outputs(norm, readers, rows)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-12)
    assert (after[2] - before[2]).abs().max() > 0.1


def test_the_bias_moves_by_the_original_weight() -> None:
    norm, readers, _ = site(5)
    reader = readers[0]
    weight, bias = reader.weight.detach().clone(), reader.bias.detach().clone()
    channelwise = norm.output_quantiser
    assert isinstance(channelwise, UniformQuantiser)
    s, z = channelwise.scale, channelwise.zero_point.double()
    reparameterise(norm, readers)
    common, middle = s.mean(), z.mean().round()
    torch.testing.assert_close(reader.bias, bias - weight @ (s * (z - middle)), rtol=0, atol=1e-12)
    torch.testing.assert_close(reader.bias, bias - reader.weight @ (common * (z - middle)), rtol=0, atol=1e-12)


def test_a_fractional_zero_point_is_not_lossless_and_has_a_level_more() -> None:
    norm, readers, rows = site(6)
    before = outputs(norm, readers, rows)
    reparameterise(norm, readers, compatibility="official")
    quantiser = norm.output_quantiser
    assert isinstance(quantiser, FractionalQuantiser) and quantiser.zero_point % 1 != 0
    after = outputs(norm, readers, rows)
    assert max((old - new).abs().max() for old, new in zip(before, after, strict=True)) > 0.1
    shown = norm(rows)
    assert len(shown.unique()) == 9 == quantiser.code_count
    folded = nn.functional.layer_norm(rows, (CHANNELS,), norm.weight, norm.bias, norm.eps)
    direct = ((folded / quantiser.scale).round() + quantiser.zero_point).clamp(0, 7) - quantiser.zero_point
    torch.testing.assert_close(shown, quantiser.scale * direct)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_whole_network_keeps_its_float_and_its_quantised_logits(
    name: str, pixels: Tensor, tiny: dict[str, Any], answer: Any, calibrated: Any
) -> None:
    model = calibrated(tiny[name]().double(), pixels.double())
    for part in model.modules():
        if isinstance(part, QuantisedLinear):
            part.weight_quantiser.enabled = False  # weights are rounded anew after the fold
    with without_quantisers(model):
        plain = answer(model, pixels.double())
    quantised = answer(model, pixels.double())
    for norm, readers in norm_readers(model, find_structure(model)):
        reparameterise(norm, readers)
    with without_quantisers(model):
        torch.testing.assert_close(answer(model, pixels.double()), plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answer(model, pixels.double()), quantised, rtol=1e-6, atol=1e-6)


def test_only_channel_wise_outputs_can_be_folded(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    model = tiny["vit"]()
    structure = insert(model, fast, norm="tensor")
    norm, readers = next(iter(norm_readers(model, structure)))
    with pytest.raises(InputError, match="no channel-wise scales"):
        reparameterise(norm, readers)
