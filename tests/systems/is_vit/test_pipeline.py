"""Load, quantise, save, load again, classify; and a run that stops and goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diorama
from diorama.errors import CheckpointError, InputError, MediaError
from diorama.media.images import save_image
from diorama.systems.is_vit.config import PRESETS, QuantiseConfig, parse_bits, preset
from diorama.systems.is_vit.data import Labelled, Preprocessing
from diorama.systems.is_vit.evaluate import (
    accuracy,
    channel_spread,
    file_bytes,
    inject_outliers,
    milliseconds,
)
from diorama.systems.is_vit.integer import exact_products
from diorama.systems.is_vit.pipeline import VisionTransformer, quantise_to, unfinished
from diorama.systems.is_vit.sos import quantise

CLASSES = ("ant", "bee", "cow", "dog", "elk")


@pytest.fixture
def vit(tiny: dict[str, Any]) -> VisionTransformer:
    return VisionTransformer(tiny["vit"](), Preprocessing(size=16), CLASSES, name="tiny", device="cpu")


def test_a_quantised_folder_gives_the_same_bits(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    small = quantise_to(tmp_path / "small", vit, pixels, fast, source="noise")
    loaded = diorama.load(tmp_path / "small", device="cpu")
    assert isinstance(loaded, VisionTransformer)
    with exact_products(small.model):
        expected = small.logits(pixels)
    assert torch.equal(loaded.logits(pixels), expected)
    torch.testing.assert_close(small.logits(pixels), expected, rtol=1e-4, atol=1e-4)
    assert loaded.settings == fast and loaded.labels == CLASSES
    assert loaded.preprocessing == vit.preprocessing
    assert loaded.record["calibration"] == {"source": "noise", "images": 16}
    assert not unfinished(tmp_path / "small").exists()
    assert file_bytes(small.model) < file_bytes(vit.model) / 3
    size = (tmp_path / "small/model.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "small/model.safetensors").read_bytes()[:8], "little")
    assert size - header == file_bytes(small.model)


def test_a_stopped_run_goes_on_and_another_is_refused(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    out = tmp_path / "small"

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise_to(out, vit, pixels, fast, source="noise", progress=stop)
    assert not out.exists() and unfinished(out).is_dir()
    with pytest.raises(InputError, match="other settings, images or weights"):
        quantise_to(out, vit, pixels, replace(fast, seed=5), source="noise")
    with pytest.raises(InputError, match="other settings, images or weights"):
        quantise_to(out, vit, pixels + 1, fast, source="noise")
    seen: list[int] = []
    resumed = quantise_to(out, vit, pixels, fast, source="noise", progress=lambda what, done, total: seen.append(done))
    whole = vit.quantise(pixels, fast)
    assert torch.equal(resumed.logits(pixels), whole.logits(pixels)) and seen == [1, 2, 3, 4]


def test_quantised_twice_is_refused(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    small = vit.quantise(pixels, replace(fast, method="none"))
    with pytest.raises(InputError, match="quantised already"):
        small.quantise(pixels, fast)
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="quantised already"):
        VisionTransformer.from_pretrained(tmp_path / "small", device="cpu").quantise(pixels, fast)


def test_a_flipped_byte_is_found(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    vit.quantise(pixels, replace(fast, method="none")).save_pretrained(tmp_path / "small")
    path = tmp_path / "small/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="digest"):
        VisionTransformer.from_pretrained(tmp_path / "small", device="cpu")


def test_classify_files(vit: VisionTransformer, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", np.full((30, 50, 3), 90, dtype=np.uint8))
    (found,) = vit.classify([tmp_path / "a.png"], top=3)
    assert found.label in CLASSES and len(found.ranking) == 3
    assert found.ranking[0] == (found.label, found.probability)
    with pytest.raises(InputError, match="No image was named"):
        vit.classify([])
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"b\.png"):
        vit.classify([tmp_path / "b.png"])


def test_pixels_of_another_size_are_refused(vit: VisionTransformer) -> None:
    with pytest.raises(InputError, match=r"\(2, 3, 8, 8\) arrived, and tiny reads \(images, 3, 16, 16\)"):
        vit.logits(torch.zeros(2, 3, 8, 8))


def test_towers_quantise_but_name_no_class(
    tiny: dict[str, Any], pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    tower = VisionTransformer(tiny["clip"](), Preprocessing(size=16), (), name="tower", device="cpu")
    tower.quantise(pixels, replace(fast, method="none")).save_pretrained(tmp_path / "tower")
    loaded = VisionTransformer.from_pretrained(tmp_path / "tower", device="cpu")
    with torch.no_grad():
        assert torch.isfinite(loaded.model(pixels).last_hidden_state).all()
    with pytest.raises(InputError, match="tower without a classifier"):
        loaded.logits(pixels)


def test_a_float_model_is_saved_for_transformers_too(vit: VisionTransformer, pixels: Tensor, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    vit.model.half().float()
    vit.save_pretrained(tmp_path / "vit")
    assert json.loads((tmp_path / "vit/config.json").read_text())["system"] == "is_vit"
    theirs = ViTForImageClassification.from_pretrained(tmp_path / "vit", dtype=torch.float32).eval()
    ours = VisionTransformer.from_pretrained(tmp_path / "vit", device="cpu")
    with torch.no_grad():
        assert torch.equal(theirs(pixels).logits, ours.logits(pixels))


def test_fractional_settings_cannot_be_packed(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tmp_path: Path
) -> None:
    small = vit.quantise(pixels, replace(fast, method="none", compatibility="official"))
    assert torch.isfinite(small.logits(pixels)).all()
    with pytest.raises(InputError, match="official"):
        small.save_pretrained(tmp_path / "small")
    assert not (tmp_path / "small").exists()


# ---- settings ----


@pytest.mark.parametrize("text", ["w1a3", "w3a9", "3", "w3", "wxa3", ""])
def test_bits_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match=r"2-8|of the form"):
        parse_bits(text)


def test_settings_round_trip_and_name_unknown_fields() -> None:
    for name in PRESETS:
        config = preset(name, "w4a6")
        assert QuantiseConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert config.iterations == 200 and preset(name, "w3a3").iterations == 1000
    with pytest.raises(CheckpointError, match="unknown field"):
        QuantiseConfig.from_dict({"colour": 3})
    with pytest.raises(InputError, match="no recipe 'x'"):
        preset("x", "w3a3")
    for changes in ({"stages": 4}, {"iterations": 0}, {"weight_bits": 9}):
        with pytest.raises(InputError):
            QuantiseConfig(**changes)  # type: ignore[arg-type]


# ---- measuring ----


def test_injected_outliers_keep_the_float_network(vit: VisionTransformer, pixels: Tensor) -> None:
    before, spread = vit.logits(pixels), channel_spread(vit.model, pixels)
    inject_outliers(vit.model, factor=40.0, channels=3, seed=0)
    torch.testing.assert_close(vit.logits(pixels), before, rtol=1e-4, atol=1e-4)
    after = channel_spread(vit.model, pixels)
    assert [one.norm for one in after] == [one.norm for one in spread] and len(after) == 4
    assert all(new.ratio > 3 * old.ratio for new, old in zip(after, spread, strict=True))


def test_reparameterisation_undoes_injected_outliers(
    vit: VisionTransformer, pixels: Tensor, fast: QuantiseConfig, tiny: dict[str, Any]
) -> None:
    changed = tiny["vit"]()
    inject_outliers(changed, factor=40.0, channels=3, seed=0)
    exact = vit.logits(pixels)
    errors = {}
    for norm in ("tensor", "reparameterised"):
        config = replace(fast, method="none", norm=norm, softmax="uniform", weight_bits=8, activation_bits=4)
        small, _ = quantise(changed, pixels, config)
        with torch.no_grad():
            errors[norm] = float((small(pixels).logits - exact).norm() / exact.norm())
    assert errors["reparameterised"] < 0.5 * errors["tensor"]


def test_accuracy_and_time(vit: VisionTransformer, pixels: Tensor) -> None:
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    labels = vit.logits(vit.preprocessing.normalise(images)).argmax(-1)
    assert accuracy(vit.model, vit.preprocessing, Labelled(images, labels, CLASSES)).mean == 1
    wrong = Labelled(images, (labels + 1) % 5, CLASSES)
    assert accuracy(vit.model, vit.preprocessing, wrong).mean == 0
    assert milliseconds(vit.model, pixels, repeats=2) > 0
