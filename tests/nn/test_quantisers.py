"""Golden values, parity with torch's fake quantisation, and what must hold for any tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diorama.errors import InputError
from diorama.nn import quantisers
from diorama.nn.quantisers import (
    ETA_GRID,
    ETA_POWERS,
    MIN_MAX,
    AdaLogQuantiser,
    Log2Quantiser,
    Quantiser,
    SulqQuantiser,
    TwinUniformQuantiser,
    UniformQuantiser,
    tails,
)

EXAMPLE = torch.tensor([1.08e-8, 2.38e-5, 0.868])


def probabilities(rows: int = 40, columns: int = 50, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(spread * torch.randn(rows, columns, generator=generator), dim=-1)


def fitted(quantiser: Quantiser, x: torch.Tensor) -> Quantiser:
    quantiser.fit(x)
    return quantiser


def every_quantiser(bits: int) -> list[Quantiser]:
    return [UniformQuantiser(bits), UniformQuantiser(bits, channels=50), UniformQuantiser(bits, include_zero=True),
            Log2Quantiser(bits), Log2Quantiser(bits, masked=True), Log2Quantiser(bits, steps=2, masked=True),
            SulqQuantiser(bits), SulqQuantiser(bits, etas=ETA_POWERS), SulqQuantiser(bits, whole_exponents=False),
            AdaLogQuantiser(bits), TwinUniformQuantiser(bits)]


# ---- golden values ----


def test_the_papers_example_of_sulq() -> None:
    sulq = fitted(SulqQuantiser(3, etas=(1e-6,)), EXAMPLE)
    assert isinstance(sulq, SulqQuantiser)
    assert sulq.scale.item() == pytest.approx(2.8160, abs=5e-5)
    assert sulq.zero_point.item() == 0
    assert sulq.codes(EXAMPLE).tolist() == [7, 5, 0]
    assert sulq.exponents().tolist() == [0, 3, 6, 8, 11, 14, 17, 20]
    assert sulq(EXAMPLE)[1].item() == pytest.approx(6.0035e-5, rel=1e-4)


def test_the_papers_example_spans_19_octaves_with_a_power_of_two() -> None:
    sulq = fitted(SulqQuantiser(3, etas=(2.0**-19,)), EXAMPLE)
    assert isinstance(sulq, SulqQuantiser)
    assert sulq.exponents().tolist() == [0, 3, 5, 8, 11, 13, 16, 19]


def test_log2_golden_values() -> None:
    log2 = Log2Quantiser(3)
    log2.enabled = True
    assert log2(EXAMPLE).tolist() == [2.0**-7, 2.0**-7, 1.0]
    half = Log2Quantiser(3, steps=2)
    assert half.table()[1].item() == pytest.approx(2**-0.5, abs=1e-7)
    assert half.table()[3].item() == pytest.approx(2**-1.5, abs=1e-7)


@pytest.mark.parametrize(("eta", "most"),
                         [(0.001, 11), (0.005, 9), (0.01, 8), (0.02, 7), (0.05, 5), (0.1, 4), (0.5, 3)])
def test_whole_exponents_cap_the_levels_of_sulq(eta: float, most: int) -> None:
    sulq = SulqQuantiser(8, etas=(eta,))
    sulq.use(eta, torch.tensor(0.0), torch.tensor(1.0))
    assert len(sulq.table().unique()) == most


def test_powers_of_two_are_exact() -> None:
    exponents = torch.arange(0, 63)
    assert torch.exp2(-exponents.float()).tolist() == [2.0**-e for e in range(63)]


# ---- parity ----


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_uniform_equals_torchs_fake_quantisation(bits: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(64, 12)
    quantiser = fitted(UniformQuantiser(bits, percentiles=MIN_MAX, include_zero=True), x)
    assert isinstance(quantiser, UniformQuantiser)
    scale, zero = float(quantiser.scale), int(quantiser.zero_point)
    reference = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    torch.testing.assert_close(quantiser(x), reference, atol=1e-6, rtol=0)


def test_channelwise_equals_torchs_per_channel() -> None:
    torch.manual_seed(2)
    weight = torch.randn(6, 20) * torch.arange(1, 7)[:, None]
    quantiser = fitted(UniformQuantiser(4, channels=6, axis=0, include_zero=True), weight)
    assert isinstance(quantiser, UniformQuantiser)
    reference = torch.fake_quantize_per_channel_affine(weight, quantiser.scale, quantiser.zero_point, 0, 0, 15)
    torch.testing.assert_close(quantiser(weight), reference, atol=1e-5, rtol=0)


def test_rounding_is_half_to_even() -> None:
    quantiser = UniformQuantiser(4)
    quantiser.set(torch.tensor(1.0), torch.tensor(0))
    assert quantiser.codes(torch.tensor([0.5, 1.5, 2.5, 3.5])).tolist() == [0, 2, 2, 4]


def test_tails_are_quantiles_and_never_ask_torch_quantile(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(1001, 5)
    percentiles = (0.97, 0.999, 0.99999, 1.0)
    levels = torch.tensor(percentiles)
    lows, highs = torch.quantile(rows, 1 - levels, dim=0), torch.quantile(rows, levels, dim=0)
    monkeypatch.setattr(torch, "quantile", None)  # it refuses more than 2^24 values
    found_low, found_high = tails(rows, percentiles)
    torch.testing.assert_close(found_low, lows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_high, highs, atol=1e-5, rtol=1e-5)
    fitted(UniformQuantiser(3), rows)


# ---- what always holds ----


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_integers_and_no_more_than_the_levels(bits: int) -> None:
    x = probabilities()
    for quantiser in every_quantiser(bits):
        codes = fitted(quantiser, x).codes(x)
        assert codes.dtype == torch.int32
        assert int(codes.min()) >= 0 and int(codes.max()) < 2**bits == quantiser.code_count
        by_channel = isinstance(quantiser, UniformQuantiser) and quantiser.is_channelwise
        columns = x[:, :1] if by_channel else x
        assert len(quantiser(x)[:, : columns.shape[1]].unique()) <= 2**bits


def test_the_released_codes_have_one_level_more() -> None:
    x = torch.linspace(0, 1, 20_000)
    for quantiser in (SulqQuantiser(3, etas=(0.001,), levels="official"),
                      Log2Quantiser(3, masked=True, levels="official")):
        assert fitted(quantiser, x).code_count == 9
        assert len(quantiser.codes(x).unique()) == 9
    assert not Log2Quantiser(3, levels="official").extra  # without a mask nothing lies beyond the last code


def test_forward_is_dequantise_of_codes_and_keeps_the_dtype() -> None:
    x = probabilities()
    for quantiser in every_quantiser(3):
        fitted(quantiser, x)
        assert torch.equal(quantiser(x), quantiser.dequantise(quantiser.codes(x)).to(x.dtype))
        assert quantiser(x.bfloat16()).dtype == torch.bfloat16
        assert torch.equal(quantiser.codes(x.bfloat16()), quantiser.codes(x.bfloat16().float()))


def test_state_dicts_carry_everything() -> None:
    x = probabilities()
    for quantiser, blank in zip(every_quantiser(3), every_quantiser(4), strict=True):
        fitted(quantiser, x)
        assert not blank.enabled and torch.equal(blank(x), x)
        blank.load_state_dict(quantiser.state_dict())
        assert torch.equal(blank(x), quantiser(x))


@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3, 4, 6, 8]), st.floats(0.1, 100))
@settings(max_examples=25, deadline=None)
def test_uniform_properties(seed: int, bits: int, factor: float) -> None:
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quantiser = UniformQuantiser(bits, percentiles=MIN_MAX).double()
    quantiser.fit(x)
    shown = quantiser(x)
    assert (shown - x).abs().max() <= quantiser.scale * (0.5 + 0.5)  # half a step, and half a step of the zero point
    inside = (x >= quantiser.dequantise(torch.tensor(0))) & (x <= quantiser.dequantise(torch.tensor(2**bits - 1)))
    assert (shown - x)[inside].abs().max() <= quantiser.scale / 2 * (1 + 1e-9)
    torch.testing.assert_close(quantiser(shown), shown, rtol=0, atol=0)
    scaled = UniformQuantiser(bits).double()
    scaled.set(quantiser.scale * factor, quantiser.zero_point)
    torch.testing.assert_close(scaled(x * factor), shown * factor, rtol=1e-9, atol=1e-9)


def test_more_bits_never_hurt_the_uniform_quantiser() -> None:
    x = torch.randn(2000)
    errors = [float((fitted(UniformQuantiser(bits), x)(x) - x).square().mean()) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_sulq_is_monotone_and_powers_of_two_hold_zero(bits: int) -> None:
    x = torch.cat([torch.zeros(1), probabilities().flatten()]).sort().values
    for etas in (ETA_GRID, ETA_POWERS):
        shown = fitted(SulqQuantiser(bits, etas=etas), x)(x)
        assert (shown.diff() >= 0).all()
    assert shown[0] == 0 and (shown >= 0).all()
    grid = fitted(SulqQuantiser(bits, etas=(0.01,)), x)
    assert grid(x)[0].item() == pytest.approx(2.0**-7 - 0.01, abs=1e-8)  # log2 eta rounds to -7


def test_the_search_takes_the_shift_of_least_error() -> None:
    x = probabilities()
    chosen = fitted(SulqQuantiser(3), x)
    errors = {eta: float((fitted(SulqQuantiser(3, etas=(eta,)), x)(x) - x).square().mean()) for eta in ETA_GRID}
    assert isinstance(chosen, SulqQuantiser)
    assert chosen.eta.item() == pytest.approx(min(errors, key=lambda eta: errors[eta]))


def test_the_shift_table_is_exact_and_fits_a_byte_from_eta_0_0055() -> None:
    for eta, fits in ((0.001, False), (0.005, False), (0.01, True), (2.0**-7, True), (0.5, True)):
        sulq = SulqQuantiser(3, etas=(eta,)).double()
        sulq.use(eta, torch.tensor(0.0), torch.tensor(1.0))
        integers, deepest = sulq.shift_table()
        assert torch.equal(integers.double() * 2.0**-deepest - sulq.eta, sulq.table())
        assert (int(integers.max()) <= 255) == fits == (deepest <= 7)


def test_integer_a_v_is_exact() -> None:
    """sum_j a_j v_j = 2^-E sum_j t_j v_j - eta sum_j v_j (section 2.4), with v as whole numbers."""
    a = probabilities().double()
    sulq = fitted(SulqQuantiser(3).double(), a)
    assert isinstance(sulq, SulqQuantiser)
    v = torch.randint(-7, 8, (50, 6))
    integers, deepest = sulq.shift_table()
    whole = integers[sulq.codes(a).long()] @ v
    shown = whole.double() * 2.0**-deepest - sulq.eta * v.sum(0)
    torch.testing.assert_close(shown, sulq(a) @ v.double(), rtol=0, atol=1e-12)


def test_fractional_exponents_have_no_shift_table() -> None:
    with pytest.raises(InputError, match="fractional exponents"):
        fitted(SulqQuantiser(3, whole_exponents=False), probabilities()).shift_table()  # type: ignore[attr-defined]


# ---- gradients ----


def test_gradients_pass_rounding_and_stop_at_the_clamp() -> None:
    quantiser = UniformQuantiser(3)
    quantiser.set(torch.tensor(0.5), torch.tensor(2))
    x = torch.tensor([-9.0, -0.6, 0.1, 1.9, 9.0], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_gradient_of_sulq_is_two_to_minus_e_over_the_shifted_value_and_0_where_clamped() -> None:
    sulq = SulqQuantiser(3, etas=(0.01,))
    sulq.use(0.01, torch.tensor(1e-3), torch.tensor(0.8))
    x = torch.tensor([0.0, 1e-9, 0.004, 0.2, 0.9, 5.0], requires_grad=True)
    sulq(x).sum().backward()
    place = ((-(x.detach() + 0.01).log2()) / sulq.scale).round() + sulq.zero_point
    inside = (place >= 0) & (place <= 7)
    expected = torch.where(inside, (sulq(x).detach() + 0.01) / (x.detach() + 0.01), 0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    assert x.grad[-1] == 0 and x.grad.max() < 3


def test_zero_never_gives_nan() -> None:
    x = torch.tensor([0.0, 0.0, 1e-30, 0.3, 0.7])
    for quantiser in every_quantiser(3):
        if isinstance(quantiser, UniformQuantiser) and quantiser.is_channelwise:
            continue
        given_x = x.clone().requires_grad_()
        fitted(quantiser, x)(given_x).sum().backward()
        assert given_x.grad is not None and torch.isfinite(given_x.grad).all()
        assert torch.isfinite(quantiser(x.half())).all()


# ---- edges ----


def test_dead_and_constant_channels() -> None:
    x = torch.randn(200, 4)
    x[:, 1], x[:, 2] = 0.0, 7.5
    quantiser = fitted(UniformQuantiser(3, channels=4), x)
    assert isinstance(quantiser, UniformQuantiser)
    shown = quantiser(x)
    assert torch.isfinite(shown).all() and (quantiser.zero_point.abs() <= 2**15).all() and (quantiser.scale > 0).all()
    torch.testing.assert_close(shown[:, 1], x[:, 1])
    torch.testing.assert_close(shown[:, 2], x[:, 2], rtol=1e-4, atol=1e-4)


def test_channels_are_the_last_axis_of_any_tensor() -> None:
    gain = torch.tensor([1.0, 10.0, 100.0])
    x = torch.rand(2, 5, 7, 3) * gain
    quantiser = fitted(UniformQuantiser(4, channels=3, include_zero=True, percentiles=MIN_MAX), x)
    torch.testing.assert_close(quantiser.scale / gain, torch.full((3,), 1 / 15), rtol=0.1, atol=0)


def test_include_zero_makes_zero_a_level() -> None:
    quantiser = fitted(UniformQuantiser(3, include_zero=True), torch.rand(100) + 2)
    assert isinstance(quantiser, UniformQuantiser)
    assert quantiser(torch.zeros(1)).item() == 0 and 0 <= int(quantiser.zero_point) <= 7


@pytest.mark.parametrize("bits", [1, 9, 0, -3])
def test_bits_outside_2_to_8_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="2 to 8"):
        UniformQuantiser(bits)


def test_nan_and_nothing_are_refused_by_name() -> None:
    for quantiser in every_quantiser(3):
        quantiser.site = "the query of block 7"
        with pytest.raises(InputError, match="the query of block 7"):
            quantiser.fit(torch.full((3, 50), torch.nan))
        with pytest.raises(InputError, match="No values"):
            quantiser.fit(torch.zeros(0, 50))


def test_a_shift_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="eta > 0"):
        SulqQuantiser(3, etas=(0.0, 0.1))


def test_the_search_of_large_tensors_takes_evenly_spaced_values() -> None:
    assert quantisers.spread(torch.arange(10.0), most=5).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("tokens", "sulq_is_better"), [(17, False), (197, True)])
def test_sulq_gains_over_log2_where_tokens_are_many(tokens: int, sulq_is_better: bool) -> None:
    """Softmax of Gaussian logits of deviation 3 at 3 bits, values of mean 1: the error of A V.

    log2's last level is 1/128 of the largest, and what lies below it adds up over the tokens of a row; SULQ's levels
    for small probabilities lie below zero, and rows lose. Among 17 tokens there is little below that level.
    """
    generator = torch.Generator().manual_seed(0)
    probability = (3 * torch.randn(24, tokens, tokens, generator=generator)).softmax(-1)
    value = 1 + torch.randn(24, tokens, 16, generator=generator)
    exact = probability @ value
    errors, rows = {}, {}
    for name, quantiser in (("sulq", SulqQuantiser(3)), ("log2", Log2Quantiser(3)),
                            ("powers", SulqQuantiser(3, etas=ETA_POWERS))):
        quantiser.fit(probability)
        shown = quantiser(probability)
        errors[name] = float((shown @ value - exact).norm() / exact.norm())
        rows[name] = float(shown.sum(-1).mean())
    assert (errors["sulq"] < errors["log2"] - 0.1) == sulq_is_better
    if tokens == 197:
        assert rows["sulq"] == pytest.approx(0.47, abs=0.03) and rows["powers"] == pytest.approx(0.99, abs=0.02)
        assert rows["log2"] > 1.5
    else:
        assert abs(errors["sulq"] - errors["log2"]) < 0.05 and rows["log2"] < 1.15
