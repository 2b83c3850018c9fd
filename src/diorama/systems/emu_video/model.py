"""Emu Video's network: an image model left as it is, layers over time behind its spatial ones, and a second input.

Start at `inflate`. The temporal layers follow the image model's modules as forward hooks that are silent outside
`VideoModel.forward`, so the image model itself is the very object it was before, whatever has been trained around it.

B = clips, T = frames, N = B * T frames (frame t of clip b is row b * T + t), C = channels, P = positions in a frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from diorama.diffusion.networks import predict
from diorama.diffusion.text import Condition
from diorama.errors import InputError
from diorama.systems.emu_video.config import TemporalConfig

INPUT_NAMES = ("conv_in", "pos_embed.proj")
"""Where the first convolution is: U-Nets, and transformers on patches (PixArt, DiT)."""


# ---- layers over time --------------------------------------------------------------------------------------------


class TemporalConv(nn.Module):
    """A convolution over the frames at each position (paper, section 3.1, after Make-A-Video); starts as the identity.

    Zero padding over T tells the layer where a clip ends, so the number of frames belongs to the trained weights.
    """

    def __init__(self, channels: int, kernel: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.dirac_(self.weight)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden (N, C, H, W) or (N, P, C) -> the same shape."""
        clip = by_position(hidden, num_frames).permute(0, 3, 1, 2)                     # (B, C, T, P), channels last
        mixed = F.conv2d(clip, self.weight.unsqueeze(-1), self.bias, padding=(self.weight.shape[-1] // 2, 0))
        return as_before(mixed.permute(0, 2, 3, 1), hidden)


class TemporalAttention(nn.Module):
    """Self-attention over the frames at each position, then an MLP whose last layer starts at zero (section 3.1).

    out = x + MLP(norm(x + attention(norm(x) + position))). Only the last layer is zero, so the branch learns from the
    first step. Positions are sinusoidal over T; norms are per token, so that no result depends on other positions.
    """

    def __init__(self, channels: int, head_dim: int = 64, mlp_ratio: int = 4):
        super().__init__()
        if channels % head_dim or channels % 2:
            raise InputError(f"A width of {channels} does not divide into temporal heads of {head_dim}. "
                             "Choose a head_dim that divides every width of the image model.")
        self.head_dim = head_dim
        self.attention_norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, mlp_ratio * channels)
        self.narrow = nn.Linear(mlp_ratio * channels, channels)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden (N, C, H, W) or (N, P, C) -> the same shape."""
        x = by_position(hidden, num_frames)                                            # (B, T, P, C)
        position = positions(num_frames, x.shape[-1]).to(x)[:, None]
        attended = x + self.attend(self.attention_norm(x) + position)
        return as_before(x + self.narrow(F.gelu(self.widen(self.mlp_norm(attended)))), hidden)

    def attend(self, x: Tensor) -> Tensor:
        """(B, T, P, C) -> (B, T, P, C). Positions and heads are one axis of one fused call; nothing is copied."""
        clips, frames, places, channels = x.shape
        heads = places * channels // self.head_dim
        q, k, v = (part.reshape(clips, frames, heads, self.head_dim).transpose(1, 2)
                   for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.reshape(clips, frames, places, channels))


class CaptionReader(nn.Module):
    """A transformer layer over the tokens of a caption as the frozen text tower left them; what `CaptionAttention`
    looks at. Every token sees all the others, so that a verb is known where its noun is."""

    def __init__(self, width: int, head_dim: int = 32):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, max(1, width // head_dim), 4 * width, dropout=0.0,
                                                activation="gelu", batch_first=True, norm_first=True)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and which of them are words (B, L), bool."""
        tokens = condition.tokens.to(self.layer.linear1.weight.dtype)
        words = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if condition.mask is None else \
            condition.mask.bool()
        return self.layer(tokens, src_key_padding_mask=~words), words


class CaptionAttention(nn.Module):
    """Attention from every position of every frame to the words of the caption; its last layer starts at zero.

    Not in the paper, whose image model read verbs of hundreds of millions of captions. A base of stills has learned
    that verbs show nothing, and its frozen text layers pass nothing of them on.
    """

    def __init__(self, channels: int, text_width: int, head_dim: int = 64):
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(channels)
        self.text_norm = nn.LayerNorm(text_width)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(text_width, channels, bias=False)
        self.value = nn.Linear(text_width, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, num_frames: int, tokens: Tensor, words: Tensor) -> Tensor:
        """hidden (N, C, H, W) or (N, P, C), tokens (B, L, D), words (B, L) bool -> the shape of hidden."""
        x = by_position(hidden, num_frames)                                            # (B, T, P, C)
        told = self.text_norm(tokens)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for part in (self.query(self.norm(x)).flatten(1, 2), self.key(told), self.value(told)))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=words[:, None, None])
        return as_before(x + self.out(mixed.transpose(1, 2).flatten(2)).view_as(x), hidden)


def positions(frames: int, channels: int) -> Tensor:
    """Sinusoidal position code (Vaswani et al. 2017, section 3.5) of T frames; (T, C)."""
    rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
    angles = torch.arange(frames)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def by_position(hidden: Tensor, frames: int) -> Tensor:
    """(N, C, H, W) or (N, P, C) as (B, T, P, C); a view where channels lie last in memory."""
    tokens = hidden.permute(0, 2, 3, 1).flatten(1, 2) if hidden.ndim == 4 else hidden
    return tokens.unflatten(0, (-1, frames))


def as_before(tokens: Tensor, hidden: Tensor) -> Tensor:
    """(B, T, P, C) in the shape and memory layout of `hidden`, the inverse of `by_position`."""
    flat = tokens.flatten(0, 1)
    if hidden.ndim == 3:
        return flat
    places = flat.unflatten(1, hidden.shape[-2:]).permute(0, 3, 1, 2)
    return places.contiguous() if hidden.is_contiguous() else places


# ---- the network -------------------------------------------------------------------------------------------------


class VideoModel(nn.Module):
    """An image model and what makes it a video model: layers over time and the convolution of the given frames.

    image: a diffusers U-Net or transformer; it is frozen here and never changed. temporal: for names of its modules,
    the layer that follows there, called as layer(hidden, num_frames=T). Two video models may share one image model:
    each one's layers are silent while the other runs. reader and reading: where the video pass reads captions itself,
    the layer over their tokens and, for some sites of `temporal`, the attention to them that comes first there.
    """

    def __init__(self, image: nn.Module, temporal: Mapping[str, nn.Module], *, reader: CaptionReader | None = None,
                 reading: Mapping[str, CaptionAttention] | None = None):
        super().__init__()
        self.image = image.requires_grad_(False)
        entry = input_convolution(image)
        self.given = second_input(entry)
        self.temporal = nn.ModuleDict({site.replace(".", "-"): layer for site, layer in temporal.items()})
        self.reader = reader
        self.reading = nn.ModuleDict({site.replace(".", "-"): layer for site, layer in (reading or {}).items()})
        self._frames: int | None = None
        self._given: Tensor | None = None
        self._told: tuple[Tensor, Tensor] | None = None
        entry.register_forward_hook(self._add_given)
        for site in temporal:
            image.get_submodule(site).register_forward_hook(partial(self._follow, site.replace(".", "-")))

    @property
    def channels(self) -> int:
        """Channels of a (latent) frame."""
        return self.given.in_channels - 1

    def forward(self, sample: Tensor, times: Tensor, condition: Condition, given: Tensor | None = None) -> Tensor:
        """The network's answer for noisy clips: (B, T, C, H, W), float32, learned variances cut off.

        sample (B, T, C, H, W); times (B,); condition: B captions. given (B, T, 1 + C, H, W): the mask and the frames
        that are known, as `conditioning.given_frames` makes them; None is the same as zeros. Raises InputError for
        shapes that do not fit.
        """
        clips, frames = self._check(sample, times, condition, given)
        rows = torch.arange(clips).repeat_interleave(frames)
        flat = sample.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        self._frames = frames
        self._given = given.flatten(0, 1) if given is not None else None
        try:
            self._told = self.reader(condition) if self.reader is not None else None
            answer = predict(self.image, flat, times[rows.to(times.device)], condition.rows(rows))
        finally:
            self._frames = self._given = self._told = None
        return answer.unflatten(0, (clips, frames))

    def images(self, sample: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The image model's answer for noisy images (B, C, H, W), temporal layers off and nothing given."""
        return predict(self.image, sample, times, condition)

    def added(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that video training learns: everything but the image model's."""
        return ((name, p) for name, p in self.named_parameters() if not name.startswith("image."))

    def _check(self, sample: Tensor, times: Tensor, condition: Condition, given: Tensor | None) -> tuple[int, int]:
        if sample.ndim != 5 or sample.shape[2] != self.channels:
            raise InputError(f"A noisy clip of shape {tuple(sample.shape)} arrived. "
                             f"Pass (clips, frames, {self.channels}, height, width).")
        clips, frames = sample.shape[:2]
        wanted = (clips, frames, 1 + self.channels, *sample.shape[3:])
        if given is not None and given.shape != wanted:
            raise InputError(f"The given frames have the shape {tuple(given.shape)}, and this clip needs {wanted}. "
                             "Make them with conditioning.given_frames.")
        if times.shape != (clips,) or len(condition) != clips:
            raise InputError(f"{clips} clips came with times {tuple(times.shape)} and {len(condition)} captions. "
                             "Pass one time and one caption a clip.")
        return clips, frames

    def _add_given(self, entry: nn.Module, arguments: Any, hidden: Tensor) -> Tensor | None:
        return None if self._given is None else hidden + self.given(self._given.to(self.given.weight.dtype))

    def _follow(self, key: str, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Let the temporal layer work on what a module of the image model puts out, whichever way it is wrapped."""
        if self._frames is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if key in self.reading:
            assert self._told is not None
            hidden = self.reading[key](hidden, self._frames, *self._told)
        followed = self.temporal[key](hidden, num_frames=self._frames)
        followed = followed if isinstance(followed, Tensor) else followed[0]
        return (followed, *output[1:]) if isinstance(output, tuple) else followed


def inflate(image: nn.Module, config: TemporalConfig) -> VideoModel:
    """A video model around a diffusers U-Net or transformer: the paper's layers at `emu_sites`, all identities yet."""
    entry = input_convolution(image)
    layers: dict[str, nn.Module] = {}
    reading: dict[str, CaptionAttention] = {}
    for site, kinds, channels in emu_sites(image):
        if config.text_width and "attention" in kinds:
            reading[site] = CaptionAttention(channels, config.text_width, min(config.head_dim, channels))
        made = [TemporalConv(channels, config.kernel) if kind == "convolution" else
                TemporalAttention(channels, min(config.head_dim, channels), config.mlp_ratio) for kind in kinds]
        layers[site] = made[0] if len(made) == 1 else InTurn(made)
    reader = CaptionReader(config.text_width) if reading else None
    video = VideoModel(image, layers, reader=reader, reading=reading)
    for added in (video.temporal, video.reading, reader):
        if added is not None:
            added.to(entry.weight.device, entry.weight.dtype)
    return video


class InTurn(nn.ModuleList):
    """Several layers over time, one after another."""

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        for layer in self:
            hidden = layer(hidden, num_frames)
        return hidden


def emu_sites(image: nn.Module) -> list[tuple[str, tuple[str, ...], int]]:
    """Where temporal layers go: (module, kinds of layer, channels), in the order of the modules.

    A convolution behind every spatial convolution (kernels of one pixel are no spatial ones), attention behind every
    spatial attention layer. A transformer on tokens has no convolutions, so both follow each of its blocks.
    """
    convolves = any(is_spatial_convolution(module) for module in image.modules())
    kinds = ("attention",) if convolves else ("convolution", "attention")
    found: list[tuple[str, tuple[str, ...], int]] = []
    inside = None
    for name, module in image.named_modules():
        if is_spatial_convolution(module):
            found.append((name, ("convolution",), module.out_channels))
        elif isinstance(module, BasicTransformerBlock):
            inside = f"{name}."
            found.append((name, kinds, module.dim))
        elif isinstance(module, Attention) and not (inside and name.startswith(inside)):
            found.append((name, kinds, module.out_dim))
    if not any(kind == "attention" for _, sites, _ in found for kind in sites):
        raise InputError(f"A {type(image).__name__} has no attention layer of diffusers' kinds to put temporal layers "
                         "behind. Pass a UNet2DConditionModel or a PixArt-class transformer.")
    return found


def is_spatial_convolution(module: nn.Module) -> bool:
    """Whether the module is a convolution that looks at neighboring pixels; one of whole patches is not."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and module.kernel_size != module.stride


def input_convolution(image: nn.Module) -> nn.Conv2d:
    """The convolution through which (latent) pixels enter; InputError for a network that has none where diffusers'
    U-Nets and patch transformers have theirs."""
    for name in INPUT_NAMES:
        try:
            entry = image.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(entry, nn.Conv2d):
            return entry
    raise InputError(f"A {type(image).__name__} has no input convolution at {' or '.join(INPUT_NAMES)}. "
                     "Pass a UNet2DConditionModel or a PixArt-class transformer.")


def second_input(entry: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the mask and a given frame that adds to what `entry` puts out: without bias, and zero so far."""
    assert isinstance(entry.padding, tuple)
    (height, width), (down, across), (above, beside) = entry.kernel_size, entry.stride, entry.padding
    second = nn.Conv2d(1 + entry.in_channels, entry.out_channels, (height, width), (down, across), (above, beside),
                       bias=False, device=entry.weight.device, dtype=entry.weight.dtype)
    nn.init.zeros_(second.weight)
    return second
