"""Structure in every layout, quantisers in their places, and the network unchanged while they are off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diorama.errors import InputError
from diorama.nn.quantisers import (
    AdaLogQuantiser,
    Log2Quantiser,
    Quantiser,
    SulqQuantiser,
    TwinUniformQuantiser,
    UniformQuantiser,
)
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import (
    QuantisedConv,
    QuantisedLinear,
    QuantisedNorm,
    WindowAttention,
    calibrating,
    insert,
    is_quantised,
    probability_quantiser,
    without_quantisers,
)
from diorama.systems.is_vit.structure import find_structure
from diorama.systems.is_vit.units import forward_through, units_of

NAMES = ("vit", "deit", "distilled deit", "swin", "clip")


@pytest.mark.parametrize("name", NAMES)
def test_without_fitted_quantisers_nothing_changes(
    name: str, pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig
) -> None:
    model = tiny[name]()
    before = answer(model, pixels)
    by_units = forward_through(units_of(model), pixels, 5)
    insert(model, fast)
    torch.testing.assert_close(answer(model, pixels), before, atol=1e-6, rtol=1e-5)
    if name == "distilled deit":
        by_units = (by_units[:, :5] + by_units[:, 5:]) / 2
    torch.testing.assert_close(by_units, before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_units_of_a_quantised_model_are_its_forward(
    name: str, pixels: Tensor, tiny: dict[str, Any], answer: Any, calibrated: Any
) -> None:
    model = calibrated(tiny[name](), pixels)
    with torch.no_grad():
        by_units = forward_through(units_of(model), pixels, 16)
    if name == "distilled deit":
        by_units = (by_units[:, :5] + by_units[:, 5:]) / 2
    torch.testing.assert_close(by_units, answer(model, pixels), atol=1e-6, rtol=1e-5)


def test_every_layer_and_matrix_product_has_its_quantisers(
    pixels: Tensor, tiny: dict[str, Any], calibrated: Any
) -> None:
    model = calibrated(tiny["vit"](), pixels)
    linears = [part for part in model.modules() if isinstance(part, QuantisedLinear)]
    assert len(linears) == 2 * 6 + 1
    assert sum(part.input_quantiser is None for part in linears) == 2 * 4  # q, k, v and fc1 read a LayerNorm
    assert sum(isinstance(part, QuantisedConv) for part in model.modules()) == 1
    assert sum(isinstance(part, QuantisedNorm) for part in model.modules()) == 4
    assert isinstance(model.vit.layernorm, nn.LayerNorm)  # its output enters the head, whose own input is quantised
    assert all(part.enabled for part in model.modules() if isinstance(part, Quantiser))
    quantisers = model.vit.layers[0].attention.quantisers
    assert isinstance(quantisers.probability, SulqQuantiser)
    assert not quantisers.query.is_channelwise and model.vit.layers[0].layernorm_before.output_quantiser.is_channelwise
    assert not [name for name, part in model.named_modules() if type(part) is nn.Linear]


def test_attention_multiplies_quantised_values(pixels: Tensor, tiny: dict[str, Any], calibrated: Any) -> None:
    model = calibrated(tiny["vit"](), pixels)
    attention = model.vit.layers[0].attention
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    for name, quantiser in attention.quantisers.named_children():
        quantiser.register_forward_hook(keep(name))
    with torch.no_grad():
        context, _ = attention(model.vit.layers[0].layernorm_before(torch.randn(2, 5, 32)))
    assert {name: len(values.unique()) <= 8 for name, values in seen.items()} == dict.fromkeys(
        ("query", "key", "probability", "value"), True)
    mixed = (seen["probability"] @ seen["value"]).transpose(1, 2).reshape(2, 5, 32)
    torch.testing.assert_close(context, attention.o_proj(mixed))


def test_the_norms_output_is_quantised_once_for_its_three_readers(
    pixels: Tensor, tiny: dict[str, Any], answer: Any, calibrated: Any
) -> None:
    model = calibrated(tiny["vit"](), pixels)
    layer = model.vit.layers[0]
    calls = []
    layer.layernorm_before.output_quantiser.register_forward_hook(lambda *_: calls.append(1))
    answer(model, pixels)
    assert len(calls) == 1
    assert all(part.input_quantiser is None for part in
               (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj))


def test_ranges_come_from_one_pass_with_all_quantisers_on(
    pixels: Tensor, tiny: dict[str, Any], calibrated: Any, fast: QuantiseConfig
) -> None:
    """The second block is calibrated on what the quantised first block gives."""
    model = calibrated(tiny["vit"](), pixels)
    twin = tiny["vit"]()
    insert(twin, fast)
    with torch.no_grad(), calibrating(twin):
        hidden = twin.vit.embeddings(pixels)
        first = twin.vit.layers[0](hidden)
        twin.vit.layers[1](first)
    ours = model.vit.layers[1].layernorm_before.output_quantiser.scale
    torch.testing.assert_close(twin.vit.layers[1].layernorm_before.output_quantiser.scale, ours)


def test_swins_padding_stays_zero(tiny: dict[str, Any], calibrated: Any) -> None:
    """A 10 x 10 grid is padded to 12 x 12 with zeros after the norm, so 0 has to be a level (channel by channel)."""
    model = calibrated(tiny["swin"](20), torch.randn(8, 3, 20, 20))
    norm = model.swin.encoder.layers[0].blocks[0].layernorm_before.output_quantiser
    assert norm.is_channelwise
    assert torch.equal(norm(torch.zeros(1, 16)), torch.zeros(1, 16))
    assert (norm.zero_point >= 0).all() and (norm.zero_point <= 7).all()


def test_only_norms_inside_blocks_are_quantised(tiny: dict[str, Any]) -> None:
    """A norm whose output is the residual stream (Swin's embedding, CLIP's pre-norm) cannot be folded."""
    swin, clip = find_structure(tiny["swin"]()), find_structure(tiny["clip"]())
    names = [name for name, _ in (*swin.norms(), *clip.norms())]
    assert len(names) == 3 * 2 + 2 * 2
    assert all(".blocks." in name or "encoder.layers" in name for name in names)
    assert dict(swin.norms())["swin.encoder.layers.0.blocks.0.layernorm_before"] == tuple(
        f"swin.encoder.layers.0.blocks.0.attention.{part}" for part in ("q_proj", "k_proj", "v_proj"))


def test_quantisers_can_be_switched_off(pixels: Tensor, tiny: dict[str, Any], answer: Any, calibrated: Any) -> None:
    model = tiny["vit"]()
    before = answer(model, pixels)
    calibrated(model, pixels)
    assert not torch.allclose(answer(model, pixels), before, atol=1e-3)
    with without_quantisers(model):
        torch.testing.assert_close(answer(model, pixels), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("softmax", "kind"), [
    ("sulq", SulqQuantiser), ("uniform", UniformQuantiser), ("log2", Log2Quantiser), ("log2_masked", Log2Quantiser),
    ("log_sqrt2", Log2Quantiser), ("adalog", AdaLogQuantiser), ("twin", TwinUniformQuantiser)])
def test_every_softmax_quantiser_runs(
    softmax: Any, kind: type, pixels: Tensor, tiny: dict[str, Any], answer: Any, calibrated: Any
) -> None:
    config = QuantiseConfig(softmax=softmax, activation_bits=4, range_images=16)
    assert isinstance(probability_quantiser(config), kind)
    assert torch.isfinite(answer(calibrated(tiny["vit"](), pixels, config), pixels)).all()


def test_eta_by_the_error_of_attention_is_no_worse_there(pixels: Tensor, tiny: dict[str, Any]) -> None:
    errors = {}
    for eta_error in ("probabilities", "attention"):
        model = tiny["vit"]()
        config = QuantiseConfig(eta_error=eta_error, range_images=16)  # type: ignore[arg-type]
        insert(model, config)
        attention = model.vit.layers[0].attention
        kept: list[tuple[Tensor, Tensor]] = []
        attention.quantisers.value.register_forward_hook(lambda module, given, out, kept=kept: kept.append(out))
        with torch.no_grad(), calibrating(model):
            hidden = model.vit.layers[0].layernorm_before(model.vit.embeddings(pixels))
            attention(hidden)
            q, k = (layer(hidden).view(16, -1, 4, 8).transpose(1, 2) for layer in (attention.q_proj, attention.k_proj))
        quantisers = attention.quantisers
        scores = quantisers.query(q) @ quantisers.key(k).transpose(2, 3) * 8**-0.5
        exact, value = scores.softmax(-1), kept[0]
        errors[eta_error] = float(((quantisers.probability(exact) - exact) @ value).square().mean().detach())
    assert errors["attention"] <= errors["probabilities"] * (1 + 1e-6)


# ---- the layout of older transformers ----


class _Old(nn.Module):
    def __init__(self, **parts: Any):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def old_vit_block(width: int = 8) -> nn.Module:
    attention = _Old(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width))
    return _Old(layernorm_before=nn.LayerNorm(width), layernorm_after=nn.LayerNorm(width),
                attention=_Old(attention=attention, output=_Old(dense=nn.Linear(width, width))),
                intermediate=_Old(dense=nn.Linear(width, 2 * width)), output=_Old(dense=nn.Linear(2 * width, width)))


def test_the_layout_before_5_9_is_found_by_its_names() -> None:
    model = _Old(vit=_Old(encoder=_Old(layer=nn.ModuleList([old_vit_block(), old_vit_block()]))),
                 classifier=nn.Linear(8, 3))
    structure = find_structure(model)
    assert [name for name, _ in structure.blocks] == ["vit.encoder.layer.0", "vit.encoder.layer.1"]
    assert dict(structure.norms())["vit.encoder.layer.1.layernorm_before"] == tuple(
        f"vit.encoder.layer.1.attention.attention.{part}" for part in ("query", "key", "value"))
    assert "vit.encoder.layer.0.attention.output.dense" in structure.layers() and structure.heads == ("classifier",)


def test_old_swins_window_attention_equals_the_present_one(pixels: Tensor, tiny: dict[str, Any]) -> None:
    """Its matrix products are inline, so the module is replaced; same numbers as transformers' own class today."""
    present = tiny["swin"]().swin.encoder.layers[0].blocks[0].attention
    old = _Old(query=present.q_proj, key=present.k_proj, value=present.v_proj, num_attention_heads=2,
               relative_position_bias_table=present.relative_position_bias.relative_position_bias_table,
               relative_position_index=present.relative_position_bias.relative_position_index.view(16, 16))
    hidden, mask = torch.randn(8, 16, 16), torch.randn(4, 16, 16)
    with torch.no_grad():
        for given_mask in (None, mask):
            theirs = present(hidden, given_mask)[0]
            (context,) = WindowAttention(old)(hidden, given_mask)
            torch.testing.assert_close(present.o_proj(context), theirs, atol=1e-6, rtol=1e-5)


def test_old_swins_attention_is_replaced_and_quantised(fast: QuantiseConfig) -> None:
    block = old_vit_block()
    inner = _Old(query=nn.Linear(8, 8), key=nn.Linear(8, 8), value=nn.Linear(8, 8), num_attention_heads=2)
    inner.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))
    inner.register_buffer("relative_position_index", torch.randint(0, 9, (4, 4)))
    block.attention = _Old(output=_Old(dense=nn.Linear(8, 8)))
    block.attention.add_module("self", inner)
    model = _Old(blocks=nn.ModuleList([block]))
    insert(model, fast)
    attention = model.blocks[0].attention.self  # type: ignore[union-attr]
    assert isinstance(attention, WindowAttention)
    with torch.no_grad(), calibrating(model):
        attention(torch.randn(4, 4, 8))
    assert attention.quantisers.probability.enabled


# ---- what is refused ----


def test_quantised_twice_is_refused(
    pixels: Tensor, tiny: dict[str, Any], calibrated: Any, fast: QuantiseConfig
) -> None:
    model = calibrated(tiny["vit"](), pixels)
    assert is_quantised(model)
    with pytest.raises(InputError, match="quantised already"):
        insert(model, fast)


def test_unsupported_modules_are_named_with_what_is_supported(tiny: dict[str, Any], fast: QuantiseConfig) -> None:
    with pytest.raises(InputError, match=r"Sequential has no block.*ViTForImageClassification"):
        insert(nn.Sequential(nn.Conv2d(3, 4, 3)), fast)
    model = tiny["vit"]()
    model.vit.stem = nn.Conv2d(3, 3, 3)
    with pytest.raises(InputError, match=r"vit\.stem \(Conv2d\).*SwinForImageClassification"):
        insert(model, fast)


def test_nan_is_reported_with_block_and_layer(
    pixels: Tensor, tiny: dict[str, Any], answer: Any, fast: QuantiseConfig
) -> None:
    model = tiny["vit"]()
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.weight[0, 0] = torch.nan
    insert(model, fast)
    with pytest.raises(InputError, match=r"the input of vit\.layers\.1\.mlp\.fc2"), torch.no_grad(), calibrating(model):
        answer(model, pixels)
