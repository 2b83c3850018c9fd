"""timm checkpoints by their key map, transformers' folders, and what is refused. The timm networks are written here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diorama.errors import CheckpointError
from diorama.systems.is_vit.data import Preprocessing
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.weights import IMAGENET, read_model, timm_model

WIDTH, HEADS = 32, 4


def linear(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def norm(tensors: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def attend(tensors: dict[str, Tensor], name: str, x: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    rows, tokens, width = x.shape
    q, k, v = linear(tensors, f"{name}.qkv", x).view(rows, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5 + bias
    return linear(tensors, f"{name}.proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, tokens, width))


def block(tensors: dict[str, Tensor], name: str, x: Tensor, heads: int, eps: float) -> Tensor:
    x = x + attend(tensors, f"{name}.attn", norm(tensors, f"{name}.norm1", x, eps), heads)
    hidden = linear(tensors, f"{name}.mlp.fc1", norm(tensors, f"{name}.norm2", x, eps))
    return x + linear(tensors, f"{name}.mlp.fc2", F.gelu(hidden))


def timm_vit(tensors: dict[str, Tensor], pixels: Tensor, *, distilled: bool) -> Tensor:
    """timm's forward of a ViT: fused qkv, eps 1e-6, class token first, both heads averaged."""
    x = F.conv2d(pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).transpose(1, 2)
    tokens = [tensors["cls_token"]] + ([tensors["dist_token"]] if distilled else [])
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in tokens), x], dim=1) + tensors["pos_embed"]
    for index in range(2):
        x = block(tensors, f"blocks.{index}", x, HEADS, 1e-6)
    x = norm(tensors, "norm", x, 1e-6)
    logits = linear(tensors, "head", x[:, 0])
    return (logits + linear(tensors, "head_dist", x[:, 1])) / 2 if distilled else logits


def layer_tensors(name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(out, into) * into**-0.5, f"{name}.bias": torch.randn(out) * 0.1}


def norm_tensors(name: str, width: int = WIDTH) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}


def block_tensors(name: str, width: int = WIDTH) -> dict[str, Tensor]:
    return {**norm_tensors(f"{name}.norm1", width), **norm_tensors(f"{name}.norm2", width),
            **layer_tensors(f"{name}.attn.qkv", 3 * width, width), **layer_tensors(f"{name}.attn.proj", width, width),
            **layer_tensors(f"{name}.mlp.fc1", 2 * width, width), **layer_tensors(f"{name}.mlp.fc2", width, 2 * width)}


def vit_tensors(*, distilled: bool = False) -> dict[str, Tensor]:
    tensors = {"cls_token": torch.randn(1, 1, WIDTH), "pos_embed": torch.randn(1, 5 + distilled, WIDTH),
               "patch_embed.proj.weight": torch.randn(WIDTH, 3, 8, 8) * 0.05,
               "patch_embed.proj.bias": torch.randn(WIDTH), **norm_tensors("norm"), **layer_tensors("head", 6, WIDTH)}
    if distilled:
        tensors |= {"dist_token": torch.randn(1, 1, WIDTH), **layer_tensors("head_dist", 6, WIDTH)}
    for index in range(2):
        tensors |= block_tensors(f"blocks.{index}")
    return tensors


@pytest.mark.parametrize("distilled", [False, True])
def test_timm_vits_give_the_same_logits(distilled: bool, pixels: Tensor) -> None:
    """Guards the order q, k, v, the eps and the two heads."""
    tensors = vit_tensors(distilled=distilled)
    model = timm_model(tensors, heads=HEADS)
    expected = timm_vit(tensors, pixels, distilled=distilled)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config.layer_norm_eps == 1e-6


def swin_tensors(*, starts_stage: bool, head: str) -> dict[str, Tensor]:
    tensors = {"patch_embed.proj.weight": torch.randn(16, 3, 2, 2) * 0.3, "patch_embed.proj.bias": torch.randn(16),
               **norm_tensors("patch_embed.norm", 16), **norm_tensors("norm", 32), **layer_tensors(head, 6, 32)}
    for stage, width in enumerate((16, 32)):
        for index in range(2 - stage):
            name = f"layers.{stage}.blocks.{index}"
            tensors |= block_tensors(name, width)
            tensors[f"{name}.attn.relative_position_bias_table"] = torch.randn(49, 2 + 2 * stage)
            tensors[f"{name}.attn.relative_position_index"] = torch.zeros(16, 16)
    merge = f"layers.{int(starts_stage)}.downsample"
    return {**tensors, **norm_tensors(f"{merge}.norm", 64), f"{merge}.reduction.weight": torch.randn(32, 64) * 0.1}


def windows(x: Tensor, side: int) -> Tensor:
    """(B, S, S, C) as windows of 4 x 4 (B n, 16, C)."""
    return x.view(-1, side // 4, 4, side // 4, 4, x.shape[-1]).transpose(2, 3).reshape(-1, 16, x.shape[-1])


def timm_swin(tensors: dict[str, Tensor], pixels: Tensor, *, merge: str, head: str) -> Tensor:
    """Swin's forward on 16 x 16 pixels: a grid of 8 x 8 with a shifted second block, then 4 x 4."""
    x = F.conv2d(pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=2)
    x = norm(tensors, "patch_embed.norm", x.permute(0, 2, 3, 1), 1e-5)
    place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
    index = ((place[:, :, None] - place[:, None, :] + 3) * torch.tensor([7, 1]).view(2, 1, 1)).sum(0)
    for stage, side in enumerate((8, 4)):
        for number in range(2 - stage):
            name, shift = f"layers.{stage}.blocks.{number}", 2 * (number % 2)
            bias = tensors[f"{name}.attn.relative_position_bias_table"][index].permute(2, 0, 1)[None]
            if shift:
                region = (torch.arange(8) >= 4).long() + (torch.arange(8) >= 6).long()
                labels = windows((3 * region[:, None] + region[None])[None, :, :, None].float(), 8)[:, :, 0]
                mask = torch.where(labels[:, :, None] == labels[:, None], 0.0, -100.0)
                bias = bias + mask.repeat(len(pixels), 1, 1)[:, None]
            hidden = norm(tensors, f"{name}.norm1", x, 1e-5).roll((-shift, -shift), (1, 2))
            mixed = attend(tensors, f"{name}.attn", windows(hidden, side), 2 + 2 * stage, bias)
            mixed = mixed.view(-1, side // 4, side // 4, 4, 4, x.shape[-1]).transpose(2, 3).reshape(x.shape)
            x = x + mixed.roll((shift, shift), (1, 2))
            hidden = linear(tensors, f"{name}.mlp.fc1", norm(tensors, f"{name}.norm2", x, 1e-5))
            x = x + linear(tensors, f"{name}.mlp.fc2", F.gelu(hidden))
        if stage == 0:
            corners = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
            x = linear(tensors, f"{merge}.reduction", norm(tensors, f"{merge}.norm", corners, 1e-5))
    return linear(tensors, head, norm(tensors, "norm", x, 1e-5).flatten(1, 2).mean(1))


@pytest.mark.parametrize(("starts_stage", "head"), [(True, "head.fc"), (False, "head")])
def test_timm_and_microsoft_swins_give_the_same_logits(starts_stage: bool, head: str, pixels: Tensor) -> None:
    """Guards the place of the patch merging, the relative positions and the name of the head."""
    tensors = swin_tensors(starts_stage=starts_stage, head=head)
    model = timm_model(tensors, size=16)
    expected = timm_swin(tensors, pixels, merge=f"layers.{int(starts_stage)}.downsample", head=head)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_timm_folder_brings_its_preprocessing(tmp_path: Path) -> None:
    save_file(vit_tensors(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({
        "architecture": "vit_tiny_test", "model_args": {"num_heads": HEADS}, "label_names": list("abcdef"),
        "pretrained_cfg": {"input_size": [3, 16, 16], "crop_pct": 0.875, "interpolation": "bicubic"}}))
    source = read_model(tmp_path)
    assert source.preprocessing == Preprocessing(size=16, resize_to=18, mean=IMAGENET[0], std=IMAGENET[1])
    assert source.labels == tuple("abcdef")


def test_a_file_of_deits_or_swins_authors_is_read_alone(tmp_path: Path, pixels: Tensor) -> None:
    """They publish .pth files whose tensors lie under "model"."""
    tensors = vit_tensors()
    torch.save({"model": tensors}, tmp_path / "deit.pth")
    vit = VisionTransformer.from_pretrained(tmp_path / "deit.pth", device="cpu")
    with torch.no_grad():
        expected = timm_model(tensors)(pixels).logits
    assert torch.equal(vit.logits(pixels), expected)
    assert vit.name == "deit" and vit.preprocessing.resize_to == 18 and vit.labels == tuple("012345")


def test_tensors_of_another_architecture_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no ViT, DeiT or Swin of timm"):
        timm_model({"conv1.weight": torch.zeros(3)})
    broken = vit_tensors()
    del broken["blocks.1.norm2.weight"]
    with pytest.raises(CheckpointError, match=r"vit\.layers\.1\.layernorm_after\.weight"):
        timm_model(broken, heads=HEADS)


# ---- transformers' own folders ----


@pytest.mark.parametrize("name", ["vit", "distilled deit", "swin", "clip"])
def test_a_saved_model_comes_back(
    name: str, pixels: Tensor, tmp_path: Path, tiny: dict[str, Any], answer: Any
) -> None:
    model = tiny[name]()
    model.save_pretrained(tmp_path)
    source = read_model(tmp_path)
    assert type(source.model) is type(model)
    assert torch.equal(answer(source.model, pixels), answer(model, pixels))
    assert len(source.labels) == (0 if name == "clip" else 5)


def test_names_from_before_5_9_are_read(pixels: Tensor, tmp_path: Path, tiny: dict[str, Any], answer: Any) -> None:
    model = tiny["vit"]()
    model.save_pretrained(tmp_path)
    old = {}
    for name, tensor in model.state_dict().items():
        for new, before in ((".layers.", ".encoder.layer."), ("attention.q_proj", "attention.attention.query"),
                            ("attention.k_proj", "attention.attention.key"),
                            ("attention.v_proj", "attention.attention.value"),
                            ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
                            ("mlp.fc2", "output.dense")):
            name = name.replace(new, before)
        old[name] = tensor
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(answer(read_model(tmp_path).model, pixels), answer(model, pixels))


def test_a_checkpoint_without_its_classifier_or_backbone_is_refused(tmp_path: Path, tiny: dict[str, Any]) -> None:
    """transformers would leave what is absent random and say so in passing."""
    model = tiny["vit"]()
    model.save_pretrained(tmp_path)
    tensors = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks tensors .*layers\.1.*left random"):
        read_model(tmp_path)


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet",
                                                      "architectures": ["ResNetForImageClassification"]}))
    with pytest.raises(CheckpointError, match=r"'resnet'.*ViTForImageClassification"):
        read_model(tmp_path)


def test_preprocessing_round_trips() -> None:
    for one in (Preprocessing(size=32), Preprocessing(size=224, resize_to=256, mean=IMAGENET[0], std=IMAGENET[1],
                                                      interpolation="bilinear")):
        assert Preprocessing.from_dict(one.to_dict(), one.size) == one
