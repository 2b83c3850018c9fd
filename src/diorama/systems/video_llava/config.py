"""The sizes and choices of Video-LLaVA (arXiv 2311.10122), each with where it comes from.

`MINIATURE` trains on two CPU cores, `PUBLIC_7B` describes the public 7B checkpoint; both build the same classes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from diorama.errors import CheckpointError, InputError

SYSTEM_LINE = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
               "detailed, and polite answers to the user's questions.")

PixelMode = Literal["official", "port"]
TokenMode = Literal["original", "port"]
FrameSampling = Literal["ends", "intervals"]
Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """A CLIP vision transformer; the defaults are ViT-L/14, the size of both LanguageBind towers."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: Activation = "gelu"
    """The weights were trained with exact GELU; a CLIP config without this field means quick_gelu."""
    layer_norm_eps: float = 1e-5
    frames: int = 8
    """Length of each layer's temporal embedding (video tower only); clips of 1 to `frames` frames are accepted."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InputError(f"An image of {self.image_size} pixels does not divide into patches of "
                             f"{self.patch_size}. Choose an image_size that is a multiple of patch_size.")
        if self.hidden_size % self.num_heads:
            raise InputError(f"A width of {self.hidden_size} does not divide into {self.num_heads} heads. "
                             "Choose a hidden_size that is a multiple of num_heads.")

    @property
    def num_patches(self) -> int:
        """Patches of one frame, without CLS."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """The CLIP text transformer used in the alignment stage; the defaults are LanguageBind's (ViT-L/14's text side)."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 77
    hidden_act: Activation = "gelu"
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    """The text feature is read at the first token with this id."""
    pad_token_id: int = 49407
    projection_dim: int = 768
    temperature: float = 0.07
    """Start of the learned softmax temperature (LanguageBind, scripts/video_language/train.sh)."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A LLaMA decoder; the defaults are Vicuna-7B v1.5 (LLaMA-2)."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    intermediate_size: int = 11008
    max_positions: int = 4096
    rms_norm_eps: float = 1e-5
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Conversation template `v1` (= vicuna_v1), used in both training stages of the official scripts (--version v1)."""

    system: str = SYSTEM_LINE
    user: str = "USER"
    """Template `llava_v1`, used by the official video question script, says "human" in its system line instead."""
    assistant: str = "ASSISTANT"
    end: str = "</s>"
    tokens: TokenMode = "original"
    """"original" tokenizes the text between the media markers piece by piece; "port" the whole string at once."""


@dataclass(frozen=True, kw_only=True)
class VideoLlavaConfig:
    """Everything needed to build the model and its inputs."""

    tower: TowerConfig = field(default_factory=TowerConfig)
    text_tower: TextTowerConfig = field(default_factory=TextTowerConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)

    select_layer: int = -2
    """Feature layer: hidden_states[-2], so the last layer and post_layernorm are never run (mm_vision_select_layer)."""
    image_keeps_cls: bool = False
    """Images drop CLS: 256 tokens (released code; the paper does not say)."""
    video_keeps_cls: bool = True
    """Clips keep CLS in every frame: 8 x 257 tokens (released code; the paper does not say)."""
    projector: Literal["mlp2x_gelu"] = "mlp2x_gelu"
    """Linear, exact GELU, Linear ("two fully connected layers"), shared by images and clips."""
    separate_projectors: bool = False
    """True only in the ablation that gives images and clips a projector each."""
    temporal_attention: bool = True
    """False reproduces the transformers port, whose video tower has no temporal attention."""
    pixels: PixelMode = "official"
    """Order of operations in preprocessing; neither mode flips at random."""
    pad_square: bool = True
    """Pad images to a square with the mean color first (official evaluation and training: image_aspect_ratio "pad";
    the official command line and the port do not). Clips are never padded."""
    frame_sampling: FrameSampling = "ends"
    """The mode of media.videos.FrameSampler: "ends" (official) takes the first and last frame, "intervals" (port) the
    starts of equal intervals."""
    max_text_tokens: int = 2048
    """Text tokens before the media are spliced in (model_max_length)."""

    @property
    def image_tokens(self) -> int:
        """Tokens an image takes in the prompt."""
        return self.tower.num_patches + self.image_keeps_cls

    def video_tokens(self, frames: int) -> int:
        """Tokens a clip of `frames` frames takes in the prompt."""
        return frames * (self.tower.num_patches + self.video_keeps_cls)

    def with_vocabulary(self, size: int, *, bos: int, eos: int, pad: int) -> "VideoLlavaConfig":
        """The same config for a tokenizer of `size` tokens, shared by the language model and the text tower."""
        ids: dict[str, Any] = {"vocab_size": size, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
        return replace(self, language=replace(self.language, **ids), text_tower=replace(self.text_tower, **ids))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"model_type": "diorama_video_llava", **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VideoLlavaConfig":
        """The inverse of `to_dict`. Raises CheckpointError for another model's config or an unknown field."""
        values = dict(values)
        kind = values.pop("model_type", "diorama_video_llava")
        if kind != "diorama_video_llava":
            raise CheckpointError(f"This config.json describes a {kind!r} model, not one saved by diorama. "
                                  "Load public layouts with diorama.systems.video_llava.weights.")
        parts = {"tower": TowerConfig, "text_tower": TextTowerConfig, "language": LanguageConfig,
                 "prompt": PromptConfig}
        for name, part in parts.items():
            if name in values:
                values[name] = part(**_known(part, values[name], name))
        return cls(**_known(cls, values, "config"))

    def write(self, path: Path) -> None:
        """Write config.json; the file is whole or absent, never half written."""
        unfinished = path.with_name(path.name + ".partial")
        unfinished.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> "VideoLlavaConfig":
        """Read config.json. Raises CheckpointError if it is absent, no JSON, or another model's."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as a config ({error}). "
                                  "Pass a folder that `save_pretrained` or the training wrote.") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object with the fields of a "
                                  "config. Pass a folder that `save_pretrained` or the training wrote.")
        return cls.from_dict(values)


def _known(part: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {f.name for f in fields(part)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(f"{where} has the unknown field{'s' * (len(unknown) > 1)} {', '.join(unknown)}; "
                              f"it was written by another version. Known fields: {', '.join(sorted(known))}.")
    return dict(values)


MINIATURE = VideoLlavaConfig(
    tower=TowerConfig(image_size=60, patch_size=10, hidden_size=160, num_layers=5, num_heads=5, intermediate_size=640),
    text_tower=TextTowerConfig(vocab_size=512, hidden_size=128, num_layers=2, num_heads=4, intermediate_size=512,
                               max_positions=96, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                               projection_dim=128),
    language=LanguageConfig(vocab_size=512, hidden_size=192, num_layers=4, num_heads=6, intermediate_size=512,
                            max_positions=4096, pad_token_id=0),
    prompt=PromptConfig(system=""), pixels="port", pad_square=False,
)
"""Trains on two CPU cores; 36 tokens an image, 37 a frame; about 5.5 million weights. Without the system line, which
would be a sixth of every image's sequence (the port's documentation leaves it out too)."""

PUBLIC_7B = VideoLlavaConfig()
"""LanguageBind/Video-LLaVA-7B: LanguageBind towers (ViT-L/14), Vicuna-7B v1.5; 7.47 billion weights."""
