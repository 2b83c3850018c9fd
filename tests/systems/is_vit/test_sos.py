"""The three stages, what they may and may not change, and the baselines in the same frame."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diorama.errors import InputError
from diorama.nn.quantisers import Quantiser, UniformQuantiser
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.baselines import LearnedRounding, LearnedScale
from diorama.systems.is_vit.config import PRESETS, QuantiseConfig
from diorama.systems.is_vit.quantised import QuantisedNorm, weight_layers
from diorama.systems.is_vit.tuning import batches, reconstruction_loss


def quick(config: QuantiseConfig, name: str, **changes: Any) -> QuantiseConfig:
    """A recipe with the small counts of the tests."""
    return replace(PRESETS[name], iterations=config.iterations, batch=config.batch, images=16, range_images=16,
                   **changes)


@pytest.mark.parametrize("recipe", PRESETS)
def test_every_recipe_gives_a_network_on_the_lattice(
    recipe: str, pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig
) -> None:
    config = quick(fast, recipe)
    small, tuned = sos.quantise(tiny["vit"](), pixels, config)
    assert torch.isfinite(answer(small, pixels)).all()
    for layer in weight_layers(small):
        assert isinstance(layer.weight_quantiser, UniformQuantiser) and layer.weight_quantiser.enabled
        rows = layer.weight_quantiser(layer.weight).flatten(1)
        assert max(len(row.unique()) for row in rows) <= 8
    norm = small.vit.layers[0].layernorm_before
    assert isinstance(norm, QuantisedNorm) and not norm.output_quantiser.is_channelwise
    per_unit = {"is-vit": 2, "brecq": 1, "qdrop": 1}.get(recipe, 0)
    if per_unit:
        assert Counter(one.unit for one in tuned)["vit.layers.0"] == per_unit
    else:
        assert not tuned


def test_the_float_model_is_not_touched(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    model = tiny["vit"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sos.quantise(model, pixels, fast)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(part, Quantiser) for part in model.modules())


def test_stage_1_trains_weights_only(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    model = tiny["vit"]()
    small, _ = sos.quantise(model, pixels, quick(fast, "is-vit", stages=1))
    layer, original = small.vit.layers[0], model.vit.layers[0]
    assert torch.equal(layer.layernorm_before.weight, original.layernorm_before.weight)
    assert torch.equal(layer.layernorm_after.bias, original.layernorm_after.bias)
    assert not torch.equal(layer.mlp.fc1.weight, original.mlp.fc1.weight)
    assert layer.layernorm_before.output_quantiser.is_channelwise


def test_the_patch_embedding_has_no_stage_1(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    """Nothing in it is quantised there, so its loss would be 0."""
    _, tuned = sos.quantise(tiny["vit"](), pixels, fast)
    assert [one.stage for one in tuned if one.unit == "vit.embeddings"] == ["stage 3"]
    assert [one.stage for one in tuned if one.unit == "head"] == ["stage 1", "stage 3"]


def test_frozen_scales_stay(
    pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the range search and the end of stage 3 no scale or zero point moves."""
    seen: list[dict[str, Tensor]] = []
    descend = sos.descend

    def watching(unit: Any, *arguments: Any, **named: Any) -> list[float]:
        before = {name: value.clone() for name, value in unit.module.state_dict().items()}
        losses = descend(unit, *arguments, **named)
        after = unit.module.state_dict()
        seen.append({name: after[name] - value for name, value in before.items()})
        return losses

    monkeypatch.setattr(sos, "descend", watching)
    sos.quantise(tiny["vit"](), pixels, fast)
    assert len(seen) == 1 + 2 * 3
    moved = Counter(name.rsplit(".", 1)[-1] for change in seen for name, value in change.items() if value.any())
    assert set(moved) <= {"weight", "bias"}
    norms = [value for change in seen for name, value in change.items() if "layernorm" in name]
    assert norms and not any(value.any() for value in norms)


def test_tuning_lowers_the_loss_of_every_unit(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    config = replace(fast, iterations=24, learning_rate=1e-3, batch=16)
    _, tuned = sos.quantise(tiny["vit"](), pixels, config)
    assert all(one.last <= one.first * 1.02 for one in tuned)
    assert any(one.last < 0.95 * one.first for one in tuned)


def test_stage_1_sees_the_float_networks_input_and_stage_3_the_quantised(
    pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny["vit"]()
    with torch.no_grad():
        exact = model.vit.embeddings(pixels)
    inputs: dict[str, list[Tensor]] = {}
    descend = sos.descend

    def watching(unit: Any, given: Tensor, *arguments: Any, **named: Any) -> list[float]:
        inputs.setdefault(unit.name, []).append(given)
        return descend(unit, given, *arguments, **named)

    monkeypatch.setattr(sos, "descend", watching)
    sos.quantise(model, pixels, fast)
    first, third = inputs["vit.layers.0"]
    torch.testing.assert_close(first, exact)
    assert not torch.allclose(third, exact, atol=1e-3)


def test_earlier_blocks_are_not_run_again_for_every_unit(
    pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig
) -> None:
    model = tiny["vit"]()
    calls: list[int] = []
    model.vit.layers[0].register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    sos.quantise(model, pixels, replace(fast, iterations=1))
    # The copy that is quantised has the hook too: the pass for ranges, a step a stage, and once to carry on.
    assert sum(calls) <= 16 * 3 + 2 * 8 and len(calls) <= 8


def test_drop_path_stays_off(fast: QuantiseConfig, tiny: dict[str, Any]) -> None:
    """Swin's config has stochastic depth of 0.1; the released code tunes with it on."""
    model = tiny["swin"]()
    paths = [part for part in model.modules() if type(part).__name__ == "SwinDropPath"]
    assert paths
    modes: list[bool] = []
    for part in paths:
        part.register_forward_hook(lambda module, given, out: modes.append(module.training))
    sos.quantise(model, torch.randn(8, 3, 16, 16), replace(fast, iterations=2))
    assert modes and not any(modes)


@pytest.mark.parametrize("name", ["swin", "distilled deit", "clip"])
def test_other_networks_go_through_all_stages(
    name: str, pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig
) -> None:
    model = tiny[name]()
    small, tuned = sos.quantise(model, pixels, replace(fast, weight_bits=8, activation_bits=6, iterations=3))
    exact, found = answer(model, pixels), answer(small, pixels)
    assert (found - exact).norm() < 0.25 * exact.norm()
    if name == "swin":
        assert any("downsample" in one.unit for one in tuned)


def test_eight_bits_are_close_to_float(pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig) -> None:
    model = tiny["vit"]()
    errors = {}
    for bits in ("w3a3", "w8a8"):
        small, _ = sos.quantise(model, pixels, quick(fast, "uniform").with_bits(bits))
        errors[bits] = float((answer(small, pixels) - answer(model, pixels)).norm() / answer(model, pixels).norm())
    assert errors["w8a8"] < 0.05 < errors["w3a3"]


# ---- resuming ----


def test_a_stopped_run_goes_on_after_its_last_unit(
    pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig, tmp_path: Path
) -> None:
    model = tiny["vit"]()
    whole, _ = sos.quantise(model, pixels, fast)

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sos.quantise(model, pixels, fast, keep=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("unit_*.safetensors"))) == 2
    resumed, tuned = sos.quantise(model, pixels, fast, keep=tmp_path)
    assert {one.unit for one in tuned} == {"vit.layers.1", "head"}
    assert torch.equal(answer(resumed, pixels), answer(whole, pixels))


# ---- parts ----


def test_the_loss_sums_over_tokens_and_means_over_the_rest() -> None:
    out, target = torch.zeros(2, 5, 3), torch.ones(2, 5, 3)
    assert reconstruction_loss(out, target).item() == 5
    assert reconstruction_loss(torch.zeros(4, 7), torch.ones(4, 7)).item() == 7
    assert reconstruction_loss(torch.zeros(2, 3, 5, 3), torch.ones(2, 3, 5, 3)).item() == 5


def test_batches_depend_on_the_seed_alone() -> None:
    one, two, other = (torch.stack(list(batches(50, 8, 4, seed))) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert all(len(row.unique()) == 8 for row in one)


def test_learned_rounding_starts_at_the_weight_and_ends_on_the_lattice() -> None:
    weight = torch.randn(6, 10)
    quantiser = UniformQuantiser(4, channels=6, axis=0, include_zero=True, percentiles=(1.0,))
    quantiser.fit(weight)
    rounding = LearnedRounding(weight, quantiser)
    inside = (quantiser.place(weight) > 0) & (quantiser.place(weight) < 15)
    torch.testing.assert_close(rounding(weight).detach()[inside], weight[inside], atol=2e-3, rtol=0)
    torch.testing.assert_close(quantiser(rounding.rounded()), rounding.rounded())
    assert ((rounding.rounded() - weight).abs() <= quantiser.scale[:, None] * 1.001).all()
    rounding.alpha.data.fill_(50.0)
    assert float(rounding.penalty(2.0).detach()) == pytest.approx(0)


def test_qdrop_leaves_about_half_of_the_values_alone() -> None:
    quantiser = UniformQuantiser(2)
    x = torch.randn(4000)
    quantiser.fit(x)
    shown = LearnedScale(quantiser, 0.5, torch.Generator().manual_seed(0))(x)
    assert 0.45 < (shown == x).float().mean() < 0.55
    whole = LearnedScale(quantiser, 1.0, torch.Generator())
    torch.testing.assert_close(whole(x).detach(), quantiser(x))
    whole(x).square().sum().backward()
    assert whole.scale.grad is not None and whole.scale.grad.abs() > 0


def test_baselines_take_the_steps_of_both_stages(
    pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    summary = sos._summary
    monkeypatch.setattr(sos, "_summary", lambda unit, stage, losses: counts.append(len(losses)) or summary(
        unit, stage, losses))
    for config in (quick(fast, "qdrop"), quick(fast, "is-vit", method="one_stage")):
        sos.quantise(tiny["vit"](), pixels, config)
    assert set(counts) == {2 * fast.iterations}


# ---- what is refused ----


def test_no_images_are_refused(tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    with pytest.raises(InputError, match="No calibration image"):
        sos.quantise(tiny["vit"](), torch.zeros(0, 3, 16, 16), fast)


def test_a_loss_that_is_not_finite_names_its_unit(pixels: Tensor, tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    with pytest.raises(InputError, match=r"loss of vit\.(layers|embeddings)|loss of head"):
        sos.quantise(tiny["vit"](), pixels, replace(fast, iterations=40, learning_rate=1e30))


def test_another_kind_of_model_cannot_be_cut_into_units(fast: QuantiseConfig) -> None:
    from diorama.systems.is_vit.units import units_of

    with pytest.raises(InputError, match="Sequential is not a model that can be cut"):
        units_of(nn.Sequential())
