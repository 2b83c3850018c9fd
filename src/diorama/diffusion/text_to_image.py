"""A text-to-image model: network, text encoder, autoencoder and schedule as one object that draws and denoises.

    model = TextToImage.from_pretrained("text-to-image-mini")
    images = model.generate(["a red cube and a blue sphere"], guidance=5.0)

The miniature is a small `PixArtTransformer2DModel` on a small `AutoencoderKL`'s latents; a folder or hub id in
diffusers' own layout (Stable Diffusion 1 and 2, PixArt, DeepFloyd IF's first stage) is read into the same object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from diorama.checkpoints import load_into, miniature_names, read_config, read_tensors, resolve, write_checkpoint
from diorama.diffusion import schedules
from diorama.diffusion.guidance import branch_weights, combine
from diorama.diffusion.networks import Denoiser, Network, predict, read_scheduler
from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.samplers import sample_ddim
from diorama.diffusion.text import BagOfWords, Condition, Memory, TextEncoder, TextLimits
from diorama.diffusion.text_once import text_once
from diorama.errors import CheckpointError, InputError
from diorama.language.word_tokenizer import build_word_tokenizer
from diorama.world.vocabulary import WORDS

SYSTEM = "text_to_image"
DEFAULT = "text-to-image-mini"
ZERO_SNR_V = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 8.5e-4,
              "beta_end": 1.2e-2, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
"""Emu Video's schedule and target (arXiv 2311.10709, section 3.2), in the words of a diffusers scheduler config."""

Autoencoder = Any
"""diffusers' AutoencoderKL, whose methods are not typed."""


@dataclass(frozen=True, kw_only=True)
class MiniatureConfig:
    """Sizes of a miniature; the defaults are the shipped one's (few tokens, so cheap on a CPU)."""

    image_size: int = 32
    latent: bool = True
    """Diffuse in the latents of an autoencoder, or in pixels."""
    latent_channels: int = 8
    """As Emu's (section 3.1 of arXiv 2309.15807 raises 4 to 16; Emu Video has 8)."""
    autoencoder_widths: tuple[int, ...] = (32, 64, 64)
    """Channels a level; each level but the first halves the side."""
    tokens: int = 4
    """Patches a side that the transformer sees."""
    width: int = 192
    layers: int = 7
    head_width: int = 32
    text: Literal["ordered", "bag"] = "ordered"
    """A transformer over words, or the mean of their embeddings."""
    text_width: int = 128
    text_layers: int = 2
    words: int = 64
    """Tokens a caption has at most."""

    @property
    def latent_size(self) -> int:
        return self.image_size // 2 ** (len(self.autoencoder_widths) - 1) if self.latent else self.image_size


class TextToImage:
    """A text-conditioned diffusion model with all it takes to draw and to denoise.

    network: `UNet2DConditionModel` or a PixArt-class transformer. autoencoder: None for a model of pixels, whose
    values are -1 .. 1. scheduler: a diffusers scheduler config, from which schedule and target are read.
    """

    def __init__(self, network: Network, text: TextEncoder, autoencoder: Autoencoder,
                 scheduler: dict[str, Any], image_size: int, *, name: str = "", device: str = "auto"):
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.network = network.to(self.device).eval()
        self.text = text
        self.text.tower.to(self.device).eval()
        self.autoencoder = autoencoder and autoencoder.to(self.device).eval()
        self.scheduler = dict(scheduler)
        self.schedule, self.target = read_scheduler(scheduler)
        self.image_size = image_size
        self.name = name
        self.denoiser = Denoiser(lambda x, times, condition: predict(self.network, x, times, condition),
                                 self.schedule, self.target)

    # ---- pixels, latents, words ----

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what is diffused."""
        config = self.network.config
        return (config.in_channels, config.sample_size, config.sample_size)

    @torch.no_grad()
    def to_latents(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 (B, 3, S, S) as what is diffused: the mean of the posterior, never a draw from it."""
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, *[self.image_size] * 2):
            raise InputError(f"Pixels of shape {tuple(pixels.shape)} and type {pixels.dtype} arrived, and the model "
                             f"reads uint8 (pictures, 3, {self.image_size}, {self.image_size}). Resize them first.")
        values = pixels.to(self.device).float() / 127.5 - 1
        if self.autoencoder is None:
            return values
        config = self.autoencoder.config
        mean = self.autoencoder.encode(values.to(self.autoencoder.dtype)).latent_dist.mode().float()
        return (mean - (config.shift_factor or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def to_pixels(self, latents: Tensor) -> Tensor:
        """Latents as uint8 pixels (B, 3, S, S)."""
        values = latents
        if self.autoencoder is not None:
            config = self.autoencoder.config
            latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
            values = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample.float()
        return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def encode_text(self, captions: Sequence[str]) -> Condition:
        """Captions as conditions; "" is what training dropped captions to."""
        return self.text.encode(captions)

    def text_once(self) -> AbstractContextManager[Memory]:
        """Inside, the network looks once at each caption that the memory numbers."""
        return text_once(self.network)

    # ---- drawing ----

    def guided(self, captions: Sequence[str], guidance: float) -> Guided:
        """A denoiser of a fixed batch of captions with classifier-free guidance; scale 1 costs one call a step."""
        branches = (self.encode_text([""] * len(captions)), self.encode_text(captions))
        return Guided(self.denoiser, branches, tuple(branch_weights((guidance,))))

    @torch.no_grad()
    def draw_latents(self, captions: Sequence[str], *, steps: int = 25, guidance: float = 5.0, seed: int = 0) -> Tensor:
        """One latent a caption by DDIM with steps dense near pure noise; row i depends on `seed` + i alone."""
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(captions))]
        noise = torch.stack([torch.randn(self.latent_shape, generator=g) for g in generators]).to(self.device)
        visited = schedules.dense_near_noise(len(self.schedule), steps)
        return sample_ddim(self.guided(captions, guidance), noise, self.schedule, visited)

    def generate(self, captions: Sequence[str], *, steps: int = 25, guidance: float = 5.0, seed: int = 0) -> Tensor:
        """One picture a caption, uint8 (B, 3, S, S)."""
        return self.to_pixels(self.draw_latents(captions, steps=steps, guidance=guidance, seed=seed))

    # ---- loading and saving ----

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, device: str = "auto", dtype: str | None = None,
        strict: bool = True, revision: str | None = None, token: str | None = None,
        local_files_only: bool | None = None, cache_dir: str | Path | None = None,
    ) -> TextToImage:
        """A miniature, a folder or a hub id, in our layout or diffusers'. dtype None is float32.

        Raises CheckpointError for what is absent, incomplete or of a class not known here.
        """
        if name_or_path == DEFAULT and DEFAULT not in miniature_names():
            raise CheckpointError(f"The miniature {DEFAULT!r} is not shipped yet. Train one with `diorama selfeval "
                                  "train` and pass its folder, or pass a hub id in diffusers' layout.")
        folder = resolve(name_or_path, revision=revision, token=token, local_files_only=local_files_only,
                         cache_dir=cache_dir)
        if (folder / "model_index.json").is_file():
            from diorama.diffusion.public_layout import read_public

            return read_public(folder, name=str(name_or_path), device=device, dtype=dtype)
        config = read_config(folder)
        if config.get("system") != SYSTEM:
            raise CheckpointError(f"{folder} is a checkpoint of {config.get('system', 'something else')!r}, not of a "
                                  "text-to-image model. Pass one that is, or a folder with model_index.json.")
        model = _built(config, folder, name=str(name_or_path), device=device)
        load_into(model.modules(), {k: v.float() for k, v in read_tensors(folder).items()}, strict=strict)
        if dtype is not None:
            model.network.to(getattr(torch, dtype))
        return model

    def save_pretrained(self, folder: str | Path, *, card: str, dtype: torch.dtype | None = None) -> Path:
        """Write config, weights, tokenizer and card as one folder that `from_pretrained` reads."""
        autoencoder = self.autoencoder
        config = {
            "system": SYSTEM, "image_size": self.image_size,
            "network": {"_class_name": type(self.network).__name__, **_plain(self.network.config)},
            "text": _tower_config(self.text.tower),
            "limits": asdict(self.text.limits),
            "autoencoder": _plain(autoencoder.config) if autoencoder is not None else None,
            "scheduler": self.scheduler,
        }
        folder = write_checkpoint(folder, config, self.modules().state_dict(), card, dtype)
        self.text.tokenizer.save_pretrained(folder)
        return folder

    def modules(self) -> nn.ModuleDict:
        """The trained parts by name: network, text and, if there is one, autoencoder."""
        parts = {"network": self.network, "text": self.text.tower, "autoencoder": self.autoencoder}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class Guided:
    """Guidance over branches of conditions; only branches that count are computed, in one batch."""

    denoiser: Denoiser
    branches: tuple[Condition, ...]
    weights: tuple[float, ...]

    def __call__(self, x: Tensor, index: Tensor) -> Denoised:
        kept = [(b, w) for b, w in zip(self.branches, self.weights, strict=True) if w != 0]
        answers = [self.denoiser(x, index, condition) for condition, _ in kept]
        said = combine(answers, [weight for _, weight in kept])
        assert isinstance(said, Denoised)
        return said


# ---- building ----------------------------------------------------------------------------------------------------


def build_miniature(config: MiniatureConfig, *, words: Sequence[str] | None = None, device: str = "auto",
                    autoencoder: Autoencoder | None = None, scheduler: dict[str, Any] | None = None) -> TextToImage:
    """A new miniature with random weights; `words` is its vocabulary (None: the world's)."""
    tokenizer = build_word_tokenizer(sorted(WORDS) if words is None else words, max_length=config.words, enclosed=True)
    tower: nn.Module
    if config.text == "bag":
        tower = BagOfWords(len(tokenizer), config.text_width, tokenizer.pad_token_id)
    else:
        tower = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=config.text_width, intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers, num_attention_heads=config.text_width // 32,
            max_position_embeddings=config.words, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    if config.latent and autoencoder is None:
        autoencoder = build_autoencoder(config)
    channels = config.latent_channels if config.latent else 3
    network = PixArtTransformer2DModel(
        num_attention_heads=config.width // config.head_width, attention_head_dim=config.head_width,
        in_channels=channels, out_channels=channels, num_layers=config.layers, cross_attention_dim=config.width,
        sample_size=config.latent_size, patch_size=config.latent_size // config.tokens,
        caption_channels=config.text_width, attention_bias=True)
    use_plain_attention(network)
    return TextToImage(network, TextEncoder(tower, tokenizer, TextLimits(config.words)),
                       autoencoder if config.latent else None, scheduler or ZERO_SNR_V, config.image_size,
                       name="miniature", device=device)


def build_autoencoder(config: MiniatureConfig) -> Autoencoder:
    """The miniature's autoencoder: a small one of Stable Diffusion's class, without attention."""
    levels = len(config.autoencoder_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.autoencoder_widths, layers_per_block=1, latent_channels=config.latent_channels,
        norm_num_groups=8, sample_size=config.image_size, scaling_factor=1.0, mid_block_add_attention=False)


def use_plain_attention(network: Network) -> None:
    """Attention as plain matrix products: in bfloat16 on a CPU, 16 tokens train twice as fast (0.36 s a step of 64
    against 0.71 s, one Zen 4 core)."""
    network.set_attn_processor(AttnProcessor())


def _built(config: dict[str, Any], folder: Path, *, name: str, device: str) -> TextToImage:
    classes: dict[str, Any] = {"PixArtTransformer2DModel": PixArtTransformer2DModel,
                               "Transformer2DModel": Transformer2DModel, "UNet2DConditionModel": UNet2DConditionModel}
    network_config = dict(config["network"])
    network_class = classes[network_config.pop("_class_name")]
    network = network_class.from_config(network_config)
    if network_class is PixArtTransformer2DModel:
        use_plain_attention(network)
    text = dict(config["text"])
    kind = text.pop("kind")
    tower: nn.Module = BagOfWords(**text) if kind == "bag" else T5EncoderModel(T5Config(**text)) if kind == "t5" else \
        CLIPTextModel(CLIPTextConfig(**text))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    autoencoder: Autoencoder = AutoencoderKL.from_config(config["autoencoder"]) if config["autoencoder"] else None
    return TextToImage(network, TextEncoder(tower, tokenizer, TextLimits(**config["limits"])), autoencoder,
                       config["scheduler"], config["image_size"], name=name, device=device)


def _tower_config(tower: nn.Module) -> dict[str, Any]:
    if isinstance(tower, BagOfWords):
        return {"kind": "bag", "vocabulary": tower.embedding.num_embeddings, "width": tower.embedding.embedding_dim,
                "pad_id": tower.pad_id}
    if isinstance(tower, T5EncoderModel):
        return {"kind": "t5", **tower.config.to_diff_dict()}
    if not isinstance(tower, CLIPTextModel):
        raise InputError("A model with several text towers (Stable Diffusion 3) can be examined and drawn with here, "
                         "not saved in this layout. Keep its own folder.")
    return {"kind": "ordered", **tower.config.to_diff_dict()}


def _plain(config: Any) -> dict[str, Any]:
    """A diffusers config as JSON values, without what it notes about itself."""
    return json.loads(json.dumps({k: v for k, v in dict(config).items() if not k.startswith("_")}))
