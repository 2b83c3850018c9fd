"""Text-to-image checkpoints in diffusers' layout: a folder a part, named by model_index.json.

Read are Stable Diffusion 1 and 2 (U-Net, CLIP), PixArt-alpha and -sigma (transformer, T5), DeepFloyd IF's first
stage (U-Net of pixels, T5, learned variance) and Stable Diffusion 3 (transformer over text and picture, flow).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from diorama.diffusion.networks import Network
from diorama.diffusion.stacked_text import StackedText
from diorama.diffusion.text import TextEncoder, TextLimits
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError

NETWORKS: dict[str, Network] = {
    "UNet2DConditionModel": UNet2DConditionModel, "PixArtTransformer2DModel": PixArtTransformer2DModel,
    "Transformer2DModel": Transformer2DModel, "SD3Transformer2DModel": SD3Transformer2DModel,
}
TOWERS: dict[str, Any] = {"CLIPTextModel": CLIPTextModel, "T5EncoderModel": T5EncoderModel}
T5_LENGTHS = {"PixArtSigmaPipeline": 300, "PixArtAlphaPipeline": 120}
"""Tokens of a caption in each pipeline of diffusers; others (IF) take 77."""


def read_public(folder: Path, *, name: str, device: str = "auto", dtype: str | None = None) -> TextToImage:
    """The model in a folder with model_index.json; dtype None is float32.

    Raises CheckpointError for parts that are absent or of classes that are not read here.
    """
    index = _json(folder / "model_index.json")
    part = "unet" if "unet" in index else "transformer"
    network_class = _known(folder, index, part, NETWORKS)
    is_stacked = network_class is SD3Transformer2DModel
    tower_class = None if is_stacked else _known(folder, index, "text_encoder", TOWERS)
    wanted = getattr(torch, dtype) if dtype else torch.float32
    try:
        network = network_class.from_pretrained(folder / part, local_files_only=True, torch_dtype=wanted)
        text = _stacked(folder, index, network) if is_stacked else _single(folder, index, tower_class, part)
        autoencoder: Any = None
        if index.get("vae"):
            autoencoder = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0][:200]}). "
                              "Download it again.") from error
    levels = len(autoencoder.config.block_out_channels) if autoencoder is not None else 1
    return TextToImage(network, text, autoencoder,
                       _json(folder / "scheduler" / "scheduler_config.json"),
                       network.config.sample_size * 2 ** (levels - 1), name=name, device=device)


def _single(folder: Path, index: dict[str, Any], tower_class: Any, part: str) -> TextEncoder:
    tower = tower_class.from_pretrained(folder / "text_encoder", local_files_only=True)
    tokenizer = _tokenizer(folder / "tokenizer")
    return TextEncoder(tower, tokenizer, _limits(tower, tokenizer, str(index.get("_class_name", "")), part))


def _stacked(folder: Path, index: dict[str, Any], network: Network) -> StackedText:
    """Stable Diffusion 3's encoders; the third, T5, may be absent."""
    clips = [CLIPTextModelWithProjection.from_pretrained(folder / name, local_files_only=True)
             for name in ("text_encoder", "text_encoder_2")]
    tokenizers = [_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    t5 = None
    if (index.get("text_encoder_3") or [None, None])[1] is not None:
        t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_3", local_files_only=True)
        tokenizers.append(_tokenizer(folder / "tokenizer_3"))
    return StackedText(clips, tokenizers, t5, network.config.joint_attention_dim)


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{folder} has a {type(tokenizer).__name__}, and a fast tokenizer is needed. "
                              "Add its tokenizer.json.")
    return tokenizer


def _limits(tower: Any, tokenizer: PreTrainedTokenizerFast, pipeline: str, part: str) -> TextLimits:
    if isinstance(tower, CLIPTextModel):
        length = min(tokenizer.model_max_length, tower.config.max_position_embeddings)
        return TextLimits(length, to_full=True, masked=False, tower_masked=False)
    return TextLimits(T5_LENGTHS.get(pipeline, 77), to_full=True, masked=part == "transformer")


def _known(folder: Path, index: dict[str, Any], part: str, classes: dict[str, Any]) -> Any:
    entry = index.get(part)
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if name not in classes:
        raise CheckpointError(f"{folder} has the {part} {name!r}, and {', '.join(classes)} can be read here. "
                              "Pass a checkpoint of one of these.")
    return classes[name]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}). "
                              "Download the checkpoint again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Download the checkpoint again.")
    return content
