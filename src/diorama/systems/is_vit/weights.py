"""Vision transformers from disk: transformers' folders of any age, and timm's checkpoints by their tensors' names.

`read_model` gives the model of transformers with what a picture needs before it. Missing tensors are always an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PretrainedConfig,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging

from diorama.checkpoints import load_into, read_config, read_tensors, weight_files
from diorama.errors import CheckpointError
from diorama.systems.is_vit.config import read_json
from diorama.systems.is_vit.data import Preprocessing

CLASSES: Mapping[str, tuple[Any, type[PretrainedConfig]]] = {
    "ViTForImageClassification": (ViTForImageClassification, ViTConfig),
    "DeiTForImageClassification": (DeiTForImageClassification, DeiTConfig),
    "DeiTForImageClassificationWithTeacher": (DeiTForImageClassificationWithTeacher, DeiTConfig),
    "SwinForImageClassification": (SwinForImageClassification, SwinConfig),
    "CLIPVisionModel": (CLIPVisionModel, CLIPVisionConfig),
}
PREPROCESSOR = "preprocessor_config.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VIT_EPS = 1e-6
"""LayerNorm of timm's ViT and DeiT; transformers' default is 1e-12."""


@dataclass(frozen=True)
class Source:
    """A float model with its preprocessing and the names of its classes (empty for a tower)."""

    model: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]


def read_model(folder: Path) -> Source:
    """The float model of a folder. Raises CheckpointError for another kind of model, and for absent tensors."""
    config = read_config(folder)
    if "quantization_config" in config:
        raise CheckpointError(f"{folder} is quantised already ({config['quantization_config'].get('quant_method')}); "
                              "quantising codes again would only lose more. Pass the checkpoint it was made from.")
    if "architecture" in config and "model_type" not in config:
        return _from_timm(folder, config)
    name = architecture_of(config)
    if name is None:
        raise CheckpointError(f"{folder} holds a {config.get('model_type', 'model without model_type')!r} "
                              f"({', '.join(config.get('architectures') or ['no architecture named'])}), which is not "
                              f"quantised here. Pass one of: {', '.join(CLASSES)}.")
    model = _from_transformers(folder, name)
    labels = tuple(model.config.id2label[index] for index in range(len(model.config.id2label))) \
        if name != "CLIPVisionModel" else ()
    return Source(model, read_preprocessing(folder, _image_size(model.config)), labels)


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class of transformers that a config.json describes, or None if it is none that is supported."""
    for name in config.get("architectures") or ():
        if name in CLASSES:
            return name
    if config.get("architectures"):
        return None
    kinds = {cls.model_type: name for name, (_, cls) in CLASSES.items() if name != "DeiTForImageClassification"}
    return kinds.get(config.get("model_type", ""))


def _from_transformers(folder: Path, name: str) -> Any:
    cls, _ = CLASSES[name]
    weight_files(folder)  # says what is absent in our words
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, found = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32,
                                           local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name} ({str(error).splitlines()[0][:160]}). "
                              "Download or save it again.") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    absent = sorted(found["missing_keys"])
    if absent or found["mismatched_keys"]:
        names = ", ".join(absent[:6]) or ", ".join(str(entry) for entry in list(found["mismatched_keys"])[:3])
        raise CheckpointError(f"{folder} lacks tensors of {name} ({names}), which would be left random. "
                              "Pass a checkpoint with a trained classifier.")
    return model.eval()


def _image_size(config: Any) -> int:
    size = config.image_size
    return int(size if isinstance(size, int) else size[0])


def read_preprocessing(folder: Path, size: int) -> Preprocessing:
    """What preprocessor_config.json says; transformers' ViT defaults where the file is absent."""
    path = folder / PREPROCESSOR
    return Preprocessing.from_dict(read_json(path), size) if path.is_file() else Preprocessing(size=size)


def empty_model(config: Mapping[str, Any]) -> Any:
    """The model that a config.json describes, with random weights. Raises CheckpointError for another kind."""
    name = architecture_of(config)
    if name is None:
        raise CheckpointError(f"This config.json describes {config.get('architectures')}, which is not quantised here. "
                              f"Pass one of: {', '.join(CLASSES)}.")
    cls, config_cls = CLASSES[name]
    own = {key: value for key, value in config.items() if key not in ("system", "quantization_config")}
    return cls(config_cls.from_dict(own)).eval()


# ---- timm -----------------------------------------------------------------------------------------------------------


def _from_timm(folder: Path, config: Mapping[str, Any]) -> Source:
    tensors = read_tensors(folder)
    cfg = config.get("pretrained_cfg", config)
    size = int((cfg.get("input_size") or (3, 224, 224))[-1])
    model = timm_model(tensors, size=size, heads=(config.get("model_args") or {}).get("num_heads"))
    mean, std = (tuple(cfg.get(key) or default) for key, default in zip(("mean", "std"), IMAGENET, strict=True))
    crop = float(cfg.get("crop_pct") or 0.875)
    preprocessing = Preprocessing(size=size, resize_to=int(size / crop), mean=mean, std=std,
                                  interpolation=cfg.get("interpolation", "bicubic"))
    names = config.get("label_names") or cfg.get("label_names")
    labels = tuple(names) if names else tuple(str(index) for index in range(model.config.num_labels))
    return Source(model, preprocessing, labels)


def read_timm_file(path: Path) -> Source:
    """A weights file alone (.safetensors, .pth, .bin) of DeiT's, Swin's or timm's making, at ImageNet's preprocessing.

    Swin is taken to see 224 pixels; classes are numbered. Raises CheckpointError.
    """
    model = timm_model(read_tensors(path))
    size = _image_size(model.config)
    labels = tuple(str(index) for index in range(model.config.num_labels))
    return Source(model, Preprocessing(size=size, resize_to=int(size / 0.875), mean=IMAGENET[0], std=IMAGENET[1]),
                  labels)


def timm_model(tensors: Mapping[str, Tensor], *, size: int = 224, heads: int | None = None) -> Any:
    """transformers' model with the weights of a timm ViT, DeiT (distilled or not) or Swin; sizes from the shapes.

    size: pixels a side, needed for Swin. heads: of a ViT, by default width / 64 (no tensor tells; Swin's tables do).
    Raises CheckpointError for another architecture and for tensors that do not fit.
    """
    if "blocks.0.attn.qkv.weight" in tensors:
        model, renamed = _timm_vit(tensors, heads)
    elif "layers.0.blocks.0.attn.relative_position_bias_table" in tensors:
        model, renamed = _timm_swin(tensors, size)
    else:
        raise CheckpointError("These tensors are of no ViT, DeiT or Swin of timm "
                              f"(found: {', '.join(list(tensors)[:4])} ...). Pass one of these.")
    load_into(model, renamed)
    return model.eval()


def _timm_vit(tensors: Mapping[str, Tensor], heads: int | None) -> tuple[Any, dict[str, Tensor]]:
    distilled = "dist_token" in tensors
    width = tensors["pos_embed"].shape[-1]
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    side = isqrt(tensors["pos_embed"].shape[1] - 1 - distilled)
    values: dict[str, Any] = {
        "hidden_size": width, "num_hidden_layers": _depth(tensors, r"blocks\.(\d+)\."),
        "num_attention_heads": heads or max(width // 64, 1), "patch_size": patch, "image_size": side * patch,
        "intermediate_size": tensors["blocks.0.mlp.fc1.weight"].shape[0], "layer_norm_eps": VIT_EPS,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors, "num_labels": tensors["head.weight"].shape[0],
    }
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**values)) if distilled \
        else ViTForImageClassification(ViTConfig(**values))
    return model, dict(_renamed(tensors, vit_name(distilled)))


def _timm_swin(tensors: Mapping[str, Tensor], size: int) -> tuple[Any, dict[str, Tensor]]:
    stages = _depth(tensors, r"layers\.(\d+)\.")
    tables = [tensors[f"layers.{s}.blocks.0.attn.relative_position_bias_table"] for s in range(stages)]
    width = tensors["patch_embed.proj.weight"].shape[0]
    head = "head.fc" if "head.fc.weight" in tensors else "head"
    values: dict[str, Any] = {
        "image_size": size, "patch_size": tensors["patch_embed.proj.weight"].shape[-1], "embed_dim": width,
        "depths": [_depth(tensors, rf"layers\.{s}\.blocks\.(\d+)\.") for s in range(stages)],
        "num_heads": [table.shape[1] for table in tables], "window_size": (isqrt(tables[0].shape[0]) + 1) // 2,
        "mlp_ratio": tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width, "layer_norm_eps": 1e-5,
        "drop_path_rate": 0.0, "num_labels": tensors[f"{head}.weight"].shape[0],
    }
    starts = "layers.0.downsample.reduction.weight" not in tensors
    return SwinForImageClassification(SwinConfig(**values)), dict(_renamed(tensors, swin_name(starts_stage=starts)))


def _depth(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))


Rename = list[tuple[str, str]]


def vit_name(distilled: bool) -> Rename:
    """timm's names of a ViT or DeiT as patterns, and transformers' names."""
    base = "deit" if distilled else "vit"
    return [
        (r"patch_embed\.proj\.", f"{base}.embeddings.patch_embeddings.projection."),
        (r"cls_token", f"{base}.embeddings.cls_token"),
        (r"dist_token", f"{base}.embeddings.distillation_token"),
        (r"pos_embed", f"{base}.embeddings.position_embeddings"),
        (r"blocks\.(\d+)\.norm1\.", rf"{base}.layers.\1.layernorm_before."),
        (r"blocks\.(\d+)\.norm2\.", rf"{base}.layers.\1.layernorm_after."),
        (r"blocks\.(\d+)\.attn\.qkv\.", rf"{base}.layers.\1.attention.qkv."),
        (r"blocks\.(\d+)\.attn\.proj\.", rf"{base}.layers.\1.attention.o_proj."),
        (r"blocks\.(\d+)\.mlp\.", rf"{base}.layers.\1.mlp."),
        (r"norm\.", f"{base}.layernorm."),
        (r"head_dist\.", "distillation_classifier."),
        (r"head\.", "cls_classifier." if distilled else "classifier."),
    ]


def swin_name(*, starts_stage: bool) -> Rename:
    """timm's or Microsoft's names of a Swin as patterns, and transformers' names.

    starts_stage: the patch merging stands at the start of the next stage (timm from 0.9) instead of the end.
    """
    block = r"layers\.(\d+)\.blocks\.(\d+)\."
    there = r"swin.encoder.layers.\1.blocks.\2."
    return [
        (r"patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
        (r"patch_embed\.norm\.", "swin.embeddings.norm."),
        (block + r"norm1\.", there + "layernorm_before."),
        (block + r"norm2\.", there + "layernorm_after."),
        (block + r"attn\.qkv\.", there + "attention.qkv."),
        (block + r"attn\.proj\.", there + "attention.o_proj."),
        (block + r"attn\.relative_position_bias_table", there + "attention.relative_position_bias."
                                                               "relative_position_bias_table"),
        (block + r"mlp\.", there + "mlp."),
        (r"layers\.(\d+)\.downsample\.", "swin.encoder.layers.{earlier}.downsample." if starts_stage
         else r"swin.encoder.layers.\1.downsample."),
        (r"norm\.", "swin.layernorm."),
        (r"head\.(?:fc\.)?", "classifier."),
    ]


def _renamed(tensors: Mapping[str, Tensor], rename: Rename) -> Iterator[tuple[str, Tensor]]:
    """Tensors under transformers' names, q, k and v cut apart; buffers that transformers recomputes are left out."""
    for name, tensor in tensors.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        new = next((_rename(name, found, to) for pattern, to in rename if (found := re.match(pattern, name))), name)
        if ".qkv." in new:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield new.replace(".qkv.", f".{letter}_proj."), part
        else:
            yield new, tensor


def _rename(name: str, found: re.Match[str], to: str) -> str:
    if "{earlier}" in to:
        return to.replace("{earlier}", str(int(found[1]) - 1)) + name[found.end():]
    return found.expand(to) + name[found.end():]
