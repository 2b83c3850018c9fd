"""Packed files: size, round trip without float weights, and what is said of a damaged or foreign one."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ViTConfig, ViTForImageClassification

from diorama.errors import CheckpointError, InputError
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.integer import CodedLinear, CodedPatches, exact_products
from diorama.systems.is_vit.packed import (
    FIELD,
    config_digest,
    is_packed,
    load_packed,
    packed_size,
    packed_tensors,
    save_packed,
)
from diorama.systems.is_vit.quantised import QuantisedLinear, insert
from diorama.systems.is_vit.weights import empty_model

TENSOR = QuantiseConfig(norm="tensor", method="none")
VIT_B = ViTConfig(layer_norm_eps=1e-6, num_labels=1000)


@pytest.fixture
def packed(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor, tmp_path: Path) -> Path:
    return save_packed(tmp_path / "small", calibrated(tiny["vit"](), pixels, TENSOR), TENSOR, "a card",
                       record={"images": 16})


@pytest.mark.parametrize("kind", ["vit", "deit", "distilled deit", "swin", "clip"])
@pytest.mark.parametrize("bits", ["w3a3", "w4a8", "w8a8"])
def test_a_loaded_file_gives_the_bits_of_the_quantised_model(
    kind: str, bits: str, tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor],
    pixels: Tensor, tmp_path: Path,
) -> None:
    settings = TENSOR.with_bits(bits)
    model = calibrated(tiny[kind](), pixels, settings)
    save_packed(tmp_path / "small", model, settings, "a card")
    loaded = load_packed(tmp_path / "small", empty_model)
    with exact_products(model):
        expected = answer(model, pixels)
    assert torch.equal(answer(loaded, pixels), expected)
    again = save_packed(tmp_path / "again", loaded, settings, "a card")
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "small/model.safetensors").read_bytes()


def test_channelwise_settings_load_as_they_were(
    tiny: dict[str, Any], calibrated: Callable[..., Any], answer: Callable[..., Tensor], pixels: Tensor, tmp_path: Path
) -> None:
    settings = replace(TENSOR, norm="channel")
    model = calibrated(tiny["vit"](), pixels, settings)
    save_packed(tmp_path / "small", model, settings, "a card")
    with exact_products(model):
        expected = answer(model, pixels)
    assert torch.equal(answer(load_packed(tmp_path / "small", empty_model), pixels), expected)


class _Floats(TorchDispatchMode):
    """The largest tensor of floats that any operation wrote into real memory."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        reserved = func.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.zeros, torch.ops.aten.ones)
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_meta and not reserved:
                self.largest = max(self.largest, tensor.numel())
        return out


def test_no_float_weight_is_made_while_loading(packed: Path) -> None:
    with _Floats() as seen:
        loaded: Any = load_packed(packed, empty_model)
    inside = [part.codes.numel() for part in loaded.vit.modules() if isinstance(part, CodedLinear | CodedPatches)]
    stored = max(tensor.numel() for tensor in load_file(packed / "model.safetensors").values()
                 if tensor.is_floating_point())
    assert seen.largest == stored < min(inside)
    assert not any(parameter.is_meta for parameter in loaded.parameters())


def test_the_float_model_is_seen_by_that_check(packed: Path) -> None:
    content = json.loads((packed / "config.json").read_text())
    with _Floats() as seen:
        empty_model(content)
    assert seen.largest > 32 * 32


def test_a_vit_b_of_three_bits_is_at_most_36_megabytes() -> None:
    settings = TENSOR.with_bits("w3a3")
    with init_empty_weights(include_buffers=False):
        model = ViTForImageClassification(VIT_B)
    insert(model, settings)
    assert sum(tensor.numel() for tensor in model.parameters()) > 86e6
    assert packed_size(model) <= 36e6


def test_the_size_is_what_the_file_holds(packed: Path, tiny: dict[str, Any], calibrated: Callable[..., Any],
                                         pixels: Tensor) -> None:
    model = calibrated(tiny["vit"](), pixels, TENSOR)
    tensors, bits = packed_tensors(model, TENSOR)
    data = (packed / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert packed_size(model) == sum(t.numel() * t.element_size() for t in tensors.values()) == len(data) - header
    assert packed_size(load_packed(packed, empty_model)) == packed_size(model)
    layer = model.vit.layers[0].mlp.fc1
    assert isinstance(layer, QuantisedLinear)
    assert tensors["vit.layers.0.mlp.fc1.codes"].numel() == -(-layer.weight.numel() * 3 // 8)
    assert set(bits.values()) == {3}


@pytest.mark.slow
def test_a_real_vit_b_file_is_small_and_loads_in_little_memory(tmp_path: Path) -> None:
    settings = TENSOR.with_bits("w3a3")
    torch.manual_seed(0)
    model = ViTForImageClassification(VIT_B).eval()
    insert(model, settings)
    for module in model.modules():
        if isinstance(module, QuantisedLinear) or hasattr(module, "weight_quantiser"):
            quantiser: Any = module.weight_quantiser
            span = module.weight.detach().abs().amax(tuple(range(1, module.weight.ndim)))
            quantiser.set(span * 2 / 7, torch.full_like(span, 4))
    for module in model.modules():
        if hasattr(module, "enabled"):
            module.enabled = True
    folder = save_packed(tmp_path / "b", model, settings, "a card")
    assert (folder / "model.safetensors").stat().st_size <= 36e6
    code = ("import resource, sys\n"
            "from transformers import ViTForImageClassification\n"
            "from diorama.systems.is_vit.packed import load_packed\n"
            "from diorama.systems.is_vit.weights import empty_model\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "load_packed(sys.argv[1], empty_model)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 346e6 * 0.6  # the float weights alone are 346 MB; codes are a byte each in memory


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_flipped_byte_is_found(packed: Path, place: float) -> None:
    path = packed / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header + int((len(data) - header) * place)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"The tensor \S+ of .* \(its digest differs\)"):
        load_packed(packed, empty_model)


def test_every_flipped_byte_of_the_header_is_found(packed: Path) -> None:
    path = packed / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(0, header, 211):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_packed(packed, empty_model)


def test_a_changed_config_is_found(packed: Path) -> None:
    path = packed / "config.json"
    path.write_text(path.read_text().replace('"weight_bits": 3', '"weight_bits": 4'))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        load_packed(packed, empty_model)


def test_another_format_is_refused(packed: Path) -> None:
    content = json.loads((packed / "config.json").read_text())
    content[FIELD]["format"] = 99
    content[FIELD]["config_sha256"] = config_digest(content)
    (packed / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="packed format 99, and this version reads 1"):
        load_packed(packed, empty_model)


def test_absent_and_added_tensors_are_named(packed: Path) -> None:
    tensors = load_file(packed / "model.safetensors")
    save_file({**tensors, "extra": torch.zeros(2)}, packed / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor extra"):
        load_packed(packed, empty_model)
    tensors.pop("classifier.codes")
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor classifier\.codes"):
        load_packed(packed, empty_model)


def test_what_cannot_be_packed_is_refused(
    tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor, tmp_path: Path
) -> None:
    model = tiny["vit"]()
    with pytest.raises(InputError, match="not quantised, so there is nothing to pack"):
        save_packed(tmp_path / "x", model, TENSOR, "a card")
    insert(model, TENSOR)
    with pytest.raises(InputError, match=r"quantiser \S+ was not fitted"):
        save_packed(tmp_path / "x", model, TENSOR, "a card")
    ready = calibrated(tiny["vit"](), pixels, TENSOR)
    with pytest.raises(InputError, match="fractional zero points"):
        save_packed(tmp_path / "x", ready, replace(TENSOR, compatibility="official"), "a card")
    with pytest.raises(InputError, match="holds float32"):
        save_packed(tmp_path / "x", ready.double(), TENSOR, "a card")
    assert not (tmp_path / "x").exists()


def test_a_float_checkpoint_is_not_packed(packed: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    tiny["vit"]().save_pretrained(tmp_path / "float")
    assert is_packed(packed) and not is_packed(tmp_path / "float") and not is_packed(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is no packed checkpoint"):
        load_packed(tmp_path / "float", empty_model)
