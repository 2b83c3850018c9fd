"""ONNX and plain safetensors of a packed checkpoint: valid, small, and equal to the integer reference."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from diorama.errors import CheckpointError, InputError, MissingExtra
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.export import export
from diorama.systems.is_vit.integer import CodedLinear, CodedPatches
from diorama.systems.is_vit.packed import load_packed, save_packed
from diorama.systems.is_vit.quantised import norm_readers, round_weights
from diorama.systems.is_vit.reparameterise import reparameterise
from diorama.systems.is_vit.structure import find_structure
from diorama.systems.is_vit.weights import PREPROCESSOR, empty_model, read_model

PLAIN = QuantiseConfig(norm="tensor", method="none")


@pytest.fixture
def save(tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor, tmp_path: Path) -> Callable[..., Path]:
    def make(kind: str = "vit", settings: QuantiseConfig = PLAIN) -> Path:
        folder = save_packed(tmp_path / "small", calibrated(tiny[kind](), pixels, settings), settings, "a card")
        (folder / PREPROCESSOR).write_text("{}")
        return folder

    return make


def onnx_packages() -> tuple[Any, Any]:
    """onnx and onnxruntime; skips where one is absent."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    return (pytest.importorskip("onnx", reason="onnx is not installed"),
            pytest.importorskip("onnxruntime", reason="onnxruntime is not installed"))


def check_onnx(folder: Path, answer: Callable[..., Tensor], pixels: Tensor, out: Path) -> Any:
    """Export, check, run at two batch sizes; the ONNX model."""
    onnx, runtime = onnx_packages()
    path = export(folder, out, "onnx")
    assert path == out / "model.onnx" and (out / PREPROCESSOR).is_file()
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(path)
    wanted = answer(load_packed(folder, empty_model), pixels)
    for rows in (pixels[:1], pixels):
        found = torch.from_numpy(session.run(None, {"pixels": rows.numpy()})[0])
        near = (found - wanted[: len(rows)]).abs().flatten(1).amax(1) <= 1e-4 * wanted.abs().max()
        assert near.float().mean() >= 0.9
    return model


def test_onnx_of_three_bits_holds_four_bit_weights(
    save: Callable[..., Path], answer: Callable[..., Tensor], pixels: Tensor, tmp_path: Path
) -> None:
    onnx, _ = onnx_packages()
    model = check_onnx(save(), answer, pixels, tmp_path / "onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 2 * 7 + 1  # two norms, q, k, v, proj and fc2 of two blocks, and the head
    assert kinds.count("DequantizeLinear") == 2 * 7 + 1 + 2 * 6 + 2
    assert "Log" in kinds
    narrow = [tensor for tensor in model.graph.initializer
              if tensor.data_type == onnx.TensorProto.UINT4 and len(tensor.dims) >= 2]
    assert len(narrow) == 2 * 6 + 2
    assert all(len(tensor.raw_data) == -(-torch.Size(tensor.dims).numel() // 2) for tensor in narrow)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("kind, bits, softmax", [
    ("swin", "w3a3", "sulq"), ("distilled deit", "w8a8", "uniform"), ("clip", "w4a6", "log2_masked")])
def test_onnx_of_other_models(
    kind: str, bits: str, softmax: Any, save: Callable[..., Path], answer: Callable[..., Tensor], pixels: Tensor,
    tmp_path: Path,
) -> None:
    folder = save(kind, replace(PLAIN, softmax=softmax).with_bits(bits))
    check_onnx(folder, answer, pixels, tmp_path / "onnx")


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_floats_are_transformers_own_with_rounded_weights(
    kind: str, save: Callable[..., Path], pixels: Tensor, tmp_path: Path
) -> None:
    folder = save(kind)
    out = export(folder, tmp_path / "floats", "safetensors")
    model = AutoModelForImageClassification.from_pretrained(out)
    packed: Any = load_packed(folder, empty_model)
    for name, layer in packed.named_modules():
        if isinstance(layer, CodedLinear | CodedPatches):
            weight = model.get_submodule(name).weight
            assert torch.equal(weight, layer.weight_quantiser.dequantise(layer.codes))
            assert all(len(row.unique()) <= 8 for row in weight)
    with torch.no_grad():
        close = (model(pixels).logits - packed(pixels).logits).abs().mean() / packed(pixels).logits.abs().mean()
    assert close < 1
    assert read_model(out).labels == tuple(model.config.id2label.values())


def test_biases_that_folding_made_are_written(
    tiny: dict[str, Any], calibrated: Callable[..., Any], pixels: Tensor, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    settings = replace(PLAIN, norm="reparameterised")
    config = tiny["vit"]().config.to_dict()
    model = ViTForImageClassification(ViTConfig.from_dict({**config, "qkv_bias": False})).eval()
    calibrated(model, pixels, settings)
    for norm, readers in norm_readers(model, find_structure(model)):
        reparameterise(norm, readers)
    round_weights(model)
    folder = save_packed(tmp_path / "small", model, settings, "a card")
    query = load_packed(folder, empty_model).get_submodule("vit.layers.0.attention.q_proj")
    again = AutoModelForImageClassification.from_pretrained(export(folder, tmp_path / "floats", "safetensors"))
    assert again.config.qkv_bias
    assert torch.equal(again.vit.layers[0].attention.q_proj.bias, query.bias)
    assert query.bias.abs().max() > 0


def test_what_cannot_be_exported_is_refused(
    save: Callable[..., Path], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save()
    tiny["vit"]().save_pretrained(tmp_path / "float")
    for kind in ("onnx", "safetensors"):
        with pytest.raises(CheckpointError, match="no packed checkpoint"):
            export(tmp_path / "float", tmp_path / "out", kind)  # type: ignore[arg-type]
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="digest differs"):
        export(folder, tmp_path / "out", "safetensors")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'diorama\[onnx\]'"):
        export(folder, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_overwritten_by_onnx(save: Callable[..., Path], tmp_path: Path) -> None:
    onnx_packages()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds no model\.onnx, so it is not overwritten"):
        export(save(), tmp_path / "mine", "onnx")
