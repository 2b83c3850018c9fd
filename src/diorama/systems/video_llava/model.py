"""Video-LLaVA (arXiv 2311.10122): two aligned towers, one shared projector, one language model.

The backbones are transformers' CLIP and LLaMA classes; what is here is what the paper (and LanguageBind, which it
builds on) adds. Start at `VideoLlavaModel.forward`; the temporal block is `TemporalBlock.forward`.
Legend: B = clips or images, T = frames, N = tokens a frame (CLS first), D = width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer

from diorama.errors import InputError
from diorama.systems.video_llava.config import LanguageConfig, TextTowerConfig, TowerConfig, VideoLlavaConfig
from diorama.systems.video_llava.splice import IGNORE, Media, Padding, Sample, Spliced, splice


def clip_vision_config(config: TowerConfig) -> CLIPVisionConfig:
    """The transformers config of a tower."""
    return CLIPVisionConfig(
        image_size=config.image_size, patch_size=config.patch_size, hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size, hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps)


def llama_config(config: LanguageConfig) -> LlamaConfig:
    """The transformers config of the language model."""
    return LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions, rms_norm_eps=config.rms_norm_eps,
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)


class ImageTower(nn.Module):
    """CLIP's vision transformer under the tensor names of CLIPVisionModel; LanguageBind_Image is one."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        clip = CLIPVisionModel(clip_vision_config(config))
        self.embeddings = clip.embeddings
        self.pre_layrnorm = clip.pre_layrnorm
        self.encoder = clip.encoder
        self.post_layernorm = clip.post_layernorm

    def hidden_state(self, pixels: Tensor, layer: int = -2, *, patches: Tensor | None = None) -> Tensor:
        """hidden_states[layer] of (B, 3, H, W) as (B, N, D); layers past it are not run.

        patches: (B, K) numbers of the patches that are looked at, a training option; None takes all, N = 1 + P.
        """
        x = self._embed(pixels)
        x = self.pre_layrnorm(x if patches is None else keep_patches(x, patches))
        for block in self.encoder.layers[:depth_of(layer, self.config.num_layers)]:
            x = block(x, None)
        return x

    def pooled(self, pixels: Tensor, *, patch_dropout: float = 0.0) -> Tensor:
        """post_layernorm(CLS) after all layers, (B, D), for contrastive training.

        patch_dropout: share of patches, drawn anew for each image, that is left out (a training option).
        """
        x = self._embed(pixels)
        x = self.pre_layrnorm(drop_patches(x, patch_dropout))
        for block in self.encoder.layers:
            x = block(x, None)
        return self.post_layernorm(x[:, 0])

    def pool(self, hidden: Tensor) -> Tensor:
        """hidden_states[-2] (B, N, D) the rest of the way to post_layernorm(CLS) (B, D)."""
        return self.post_layernorm(self.encoder.layers[-1](hidden, None)[:, 0])

    def _embed(self, pixels: Tensor) -> Tensor:
        _check_pixels(pixels, self.config.image_size, "An image", "(B, 3, H, W)", 4)
        return self.embeddings(pixels)


class TemporalBlock(CLIPEncoderLayer):
    """A CLIP layer preceded by attention over time (LanguageBind's video tower; no temporal MLP, no gate)."""

    def __init__(self, config: CLIPVisionConfig, frames: int):
        super().__init__(config)
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, config.hidden_size))
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = CLIPAttention(config)

    def forward(self, hidden_states: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """((B T), N, D) with T = `frames` to the same shape: attention over time, then over space, then the MLP.

        Every position, CLS included, attends over time to its own place in the other frames. The temporal embedding
        joins the residual; a single frame has no place in time and skips it.
        """
        if frames > 1:
            x = rearrange(hidden_states, "(b t) n d -> b t n d", t=frames)
            x = x + self.temporal_embedding[:, :frames, None]
            hidden_states = rearrange(x, "b t n d -> (b t) n d")
        tokens = hidden_states.shape[1]
        x = rearrange(self.temporal_layer_norm1(hidden_states), "(b t) n d -> (b n) t d", t=frames)
        x = self.temporal_attn(x)[0]
        hidden_states = hidden_states + rearrange(x, "(b n) t d -> (b t) n d", n=tokens)
        return super().forward(hidden_states, attention_mask=None)  # type: ignore[arg-type]

    @torch.no_grad()
    def init_temporal_from_spatial(self) -> None:
        """temporal_attn and its norm copy the spatial ones; the embedding is drawn from N(0, D^-0.5)."""
        self.temporal_attn.load_state_dict(self.self_attn.state_dict())
        self.temporal_layer_norm1.load_state_dict(self.layer_norm1.state_dict())
        self.temporal_embedding.normal_(std=self.temporal_embedding.shape[-1] ** -0.5)

    @torch.no_grad()
    def silence_temporal(self) -> None:
        """Make the temporal part add nothing: the block is then CLIP's, frame by frame."""
        self.temporal_embedding.zero_()
        self.temporal_attn.out_proj.weight.zero_()
        self.temporal_attn.out_proj.bias.zero_()


class VideoTower(nn.Module):
    """The image tower with a temporal block in every layer (LanguageBind_Video_merge is one).

    T comes from the input, never from the config: 1 to `config.frames` frames.
    """

    def __init__(self, config: TowerConfig, *, temporal_attention: bool = True):
        super().__init__()
        self.config = config
        self.temporal_attention = temporal_attention
        clip = CLIPVisionModel(clip_vision_config(config))
        self.embeddings = clip.embeddings
        self.pre_layrnorm = clip.pre_layrnorm
        self.encoder = clip.encoder
        self.post_layernorm = clip.post_layernorm
        if temporal_attention:
            spatial = clip.encoder.layers
            self.encoder.layers = nn.ModuleList(TemporalBlock(clip.config, config.frames) for _ in spatial)
            for block, source in zip(self.encoder.layers, spatial, strict=True):
                block.load_state_dict(source.state_dict(), strict=False)
            self.init_temporal_from_spatial()

    def init_temporal_from_spatial(self) -> None:
        """Start the temporal part as LanguageBind does (model/process_clip.py); not an identity."""
        for block in self.encoder.layers:
            assert isinstance(block, TemporalBlock)
            block.init_temporal_from_spatial()

    def quiet_temporal(self) -> None:
        """Start every temporal attention at zero (its output projection), so that learning begins from what the image
        tower sees; LanguageBind starts it as a copy of the spatial one."""
        for block in self.encoder.layers:
            assert isinstance(block, TemporalBlock)
            nn.init.zeros_(block.temporal_attn.out_proj.weight)
            nn.init.zeros_(block.temporal_attn.out_proj.bias)

    def silence_temporal(self) -> None:
        """Make every temporal part add nothing: clips are then seen as separate images, as the port sees them."""
        for block in self.encoder.layers:
            assert isinstance(block, TemporalBlock)
            block.silence_temporal()

    def copy_spatial(self, image_tower: ImageTower) -> None:
        """Take over the image tower's weights and start the temporal part from them."""
        self.load_state_dict(image_tower.state_dict(), strict=False)
        if self.temporal_attention:
            self.init_temporal_from_spatial()

    def temporal_parameters(self) -> list[nn.Parameter]:
        """The parameters that the image tower does not have."""
        return [value for name, value in self.named_parameters() if "temporal_" in name]

    def hidden_state(self, pixels: Tensor, layer: int = -2, *, patches: Tensor | None = None) -> Tensor:
        """hidden_states[layer] of (B, 3, T, H, W) as (B, T, N, D); layers past it are not run.

        patches: (B, K) numbers of the patches that are looked at in every frame, a training option; None takes all.
        """
        frames = self._check(pixels)
        x = self.embeddings(rearrange(pixels, "b c t h w -> (b t) c h w"))
        x = self.pre_layrnorm(x if patches is None else keep_patches(x, patches, frames=frames))
        x = self._run(x, frames, depth_of(layer, self.config.num_layers))
        return rearrange(x, "(b t) n d -> b t n d", t=frames)

    def pooled(self, pixels: Tensor, *, patch_dropout: float = 0.0) -> Tensor:
        """Mean over T of post_layernorm(CLS), (B, D), for contrastive training and retrieval.

        patch_dropout: share of patches left out, the same ones in all frames of a clip (LanguageBind trains with 0.3).
        """
        frames = self._check(pixels)
        x = self.embeddings(rearrange(pixels, "b c t h w -> (b t) c h w"))
        x = self.pre_layrnorm(drop_patches(x, patch_dropout, frames=frames))
        x = self._run(x, frames, self.config.num_layers)
        return rearrange(self.post_layernorm(x[:, 0]), "(b t) d -> b t d", t=frames).mean(dim=1)

    def pool(self, hidden: Tensor) -> Tensor:
        """hidden_states[-2] (B, T, N, D) the rest of the way to the mean over T of post_layernorm(CLS), (B, D)."""
        frames = hidden.shape[1]
        x = self.encoder.layers[-1](hidden.flatten(0, 1), frames if self.temporal_attention else None)
        return rearrange(self.post_layernorm(x[:, 0]), "(b t) d -> b t d", t=frames).mean(dim=1)

    def _run(self, x: Tensor, frames: int, depth: int) -> Tensor:
        for block in self.encoder.layers[:depth]:
            x = block(x, frames if self.temporal_attention else None)
        return x

    def _check(self, pixels: Tensor) -> int:
        _check_pixels(pixels, self.config.image_size, "A clip", "(B, 3, T, H, W)", 5)
        frames = pixels.shape[2]
        if self.temporal_attention and not 1 <= frames <= self.config.frames:
            raise InputError(f"A clip of {frames} frames arrived; this video tower has temporal embeddings for "
                             f"{self.config.frames}. Sample 1 to {self.config.frames} frames.")
        return frames


def depth_of(layer: int, num_layers: int) -> int:
    """How many layers must run to reach hidden_states[layer], which has num_layers + 1 entries."""
    depth = layer if layer >= 0 else num_layers + 1 + layer
    if not 0 <= depth <= num_layers:
        raise InputError(f"hidden_states[{layer}] does not exist in a tower of {num_layers} layers. "
                         f"Choose select_layer from {-num_layers - 1} to {num_layers}.")
    return depth


def drop_patches(x: Tensor, share: float, *, frames: int = 1) -> Tensor:
    """Leave out a random share of the patches of ((B T), 1 + P, D), the same in all T frames; CLS stays."""
    if not share:
        return x
    kept = max(1, round((x.shape[1] - 1) * (1 - share)))
    order = torch.rand(x.shape[0] // frames, x.shape[1] - 1, device=x.device).argsort(dim=1)
    return keep_patches(x, order[:, :kept], frames=frames)


def keep_patches(x: Tensor, patches: Tensor, *, frames: int = 1) -> Tensor:
    """Keep CLS and the patches numbered in (B, K) of ((B T), 1 + P, D), the same in all T frames."""
    chosen = patches.repeat_interleave(frames, dim=0)
    return torch.cat([x[:, :1], x[:, 1:].take_along_dim(chosen[:, :, None], dim=1)], dim=1)


def _check_pixels(pixels: Tensor, size: int, what: str, form: str, dims: int) -> None:
    if pixels.ndim != dims or pixels.shape[1] != 3 or tuple(pixels.shape[-2:]) != (size, size):
        raise InputError(f"{what} batch of shape {tuple(pixels.shape)} arrived; this tower reads {form} with "
                         f"H = W = {size}. Prepare it with processing.preprocess_image or preprocess_video.")


class LanguageBindAligner(nn.Module):
    """One tower and a text tower trained to agree, before any projector exists ("alignment before projection").

    Tensor names are those of the LanguageBind hub files: vision_model.*, text_model.*, visual_projection.weight,
    text_projection.weight, logit_scale.
    """

    def __init__(self, tower: ImageTower | VideoTower, text: TextTowerConfig):
        super().__init__()
        self.text_config = text
        self.vision_model = tower
        self.text_model = CLIPTextModel(CLIPTextConfig(
            vocab_size=text.vocab_size, hidden_size=text.hidden_size, num_hidden_layers=text.num_layers,
            num_attention_heads=text.num_heads, intermediate_size=text.intermediate_size,
            max_position_embeddings=text.max_positions, hidden_act=text.hidden_act,
            projection_dim=text.projection_dim, bos_token_id=text.bos_token_id,
            eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id))
        self.visual_projection = nn.Linear(tower.config.hidden_size, text.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, text.projection_dim, bias=False)
        nn.init.normal_(self.visual_projection.weight, std=tower.config.hidden_size ** -0.5)
        nn.init.normal_(self.text_projection.weight, std=text.hidden_size ** -0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / text.temperature)))

    def embed_vision(self, pixels: Tensor, *, patch_dropout: float = 0.0) -> Tensor:
        """Unit vectors (B, E) of images (B, 3, H, W) or clips (B, 3, T, H, W), whichever the tower reads."""
        return F.normalize(self.visual_projection(self.vision_model.pooled(pixels, patch_dropout=patch_dropout)),
                           dim=-1)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Unit vectors (B, E) of captions (B, L), right padded, each with at least one end token."""
        ends = input_ids == self.text_config.eos_token_id
        if not ends.any(dim=1).all():
            raise InputError("A caption arrived without an end token, at which its feature is read. "
                             "Append the end token, also after cutting a long caption.")
        states = self.text_model(input_ids=input_ids).last_hidden_state
        at_end = states[torch.arange(len(states), device=states.device), ends.int().argmax(dim=1)]
        return F.normalize(self.text_projection(at_end), dim=-1)

    def forward(self, pixels: Tensor, input_ids: Tensor, *, patch_dropout: float = 0.0) -> Tensor:
        """The symmetric contrastive loss, a scalar; equal captions in the batch share the target."""
        same = (input_ids[:, None] == input_ids[None]).all(dim=-1)
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        return contrastive_loss(self.embed_vision(pixels, patch_dropout=patch_dropout), self.embed_text(input_ids),
                                scale, same)


def contrastive_loss(vision: Tensor, text: Tensor, scale: Tensor | float, same: Tensor) -> Tensor:
    """CLIP's loss, a scalar, with the target spread evenly over equal captions.

    vision, text: unit vectors (B, E). scale: inverse temperature. same: (B, B) bool, true where two captions are equal.
    """
    logits = scale * vision @ text.T
    target = same.to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class SharedProjector(nn.Sequential):
    """`mlp2x_gelu`: (..., D_tower) to (..., D_language). One for both modalities is the paper's point."""

    def __init__(self, tower_width: int, language_width: int):
        super().__init__(nn.Linear(tower_width, language_width), nn.GELU(), nn.Linear(language_width, language_width))


@dataclass(frozen=True)
class VideoLlavaOutput:
    """loss: sum of the answer tokens' negative log likelihoods. tokens: how many there are (divide by the sum over
    the whole step). logits: (B, L, V) if asked for. spliced: the batch as the language model saw it."""

    loss: Tensor
    tokens: Tensor
    logits: Tensor | None
    spliced: Spliced


class VideoLlavaModel(nn.Module):
    """Towers (frozen), projector and language model.

    config: choices of layer and CLS, and the shape `from_config` builds. video_projector: only for the ablation
    with separate projectors; None means images and clips share `projector`.
    """

    def __init__(self, config: VideoLlavaConfig, image_tower: ImageTower, video_tower: VideoTower,
                 projector: SharedProjector, language_model: LlamaForCausalLM, *,
                 video_projector: SharedProjector | None = None):
        super().__init__()
        self.config = config
        self.image_tower = image_tower
        self.video_tower = video_tower
        self.projector = projector
        self.video_projector = video_projector
        self.language_model = language_model
        self.image_tower.requires_grad_(False)
        self.video_tower.requires_grad_(False)

    @classmethod
    def from_config(cls, config: VideoLlavaConfig) -> "VideoLlavaModel":
        """A model of the config's shape with random weights."""
        widths = config.tower.hidden_size, config.language.hidden_size
        return cls(config, ImageTower(config.tower),
                   VideoTower(config.tower, temporal_attention=config.temporal_attention),
                   SharedProjector(*widths), LlamaForCausalLM(llama_config(config.language)),
                   video_projector=SharedProjector(*widths) if config.separate_projectors else None)

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) to frozen tower features (n, N, D_tower), CLS dropped."""
        x = self.image_tower.hidden_state(pixels, self.config.select_layer)
        return x if self.config.image_keeps_cls else x[:, 1:]

    @torch.no_grad()
    def video_features(self, pixels: Tensor) -> Tensor:
        """(m, 3, T, H, W) to frozen tower features (m, T, N + 1, D_tower), CLS kept in every frame."""
        x = self.video_tower.hidden_state(pixels, self.config.select_layer)
        return x if self.config.video_keeps_cls else x[:, :, 1:]

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) to tokens for the language model (n, N, D)."""
        return self.projector(self.image_features(pixels))

    def encode_videos(self, pixels: Tensor) -> Tensor:
        """(m, 3, T, H, W) to tokens for the language model (m, T, N + 1, D)."""
        return self._video_projector()(self.video_features(pixels))

    def tower_features(self, media: Sequence[Media]) -> list[Tensor]:
        """Tower features of every item in its order: (N, D_tower) an image, (T, N + 1, D_tower) a clip.

        Images go through their tower in one call, clips in one call a number of frames; items that already hold
        features are passed through, so caching these tensors skips the towers.
        """
        device = next(self.projector.parameters()).device
        out = [None if item.features is None else item.features.to(device) for item in media]
        groups: dict[tuple[str, int], list[int]] = {}
        for i, item in enumerate(media):
            if item.pixels is not None:
                groups.setdefault((item.kind, item.pixels.shape[1] if item.kind == "video" else 1), []).append(i)
        for (kind, _), members in groups.items():
            pixels = torch.stack([p for i in members if (p := media[i].pixels) is not None]).to(device)
            features = self.image_features(pixels) if kind == "image" else self.video_features(pixels)
            for i, value in zip(members, features, strict=True):
                out[i] = value
        return [value for value in out if value is not None]

    def media_tokens(self, media: Sequence[Media]) -> list[Tensor]:
        """Projected tokens of every item in its order, each (n_i, D); a clip's frames follow one another."""
        features = [value.flatten(0, -2) for value in self.tower_features(media)]
        out: list[Tensor] = [torch.empty(0)] * len(features)
        for projector, kinds in ((self.projector, ("image",)), (self._video_projector(), ("video",))):
            members = [i for i, item in enumerate(media) if item.kind in kinds]
            if not members:
                continue
            width = next(projector.parameters()).dtype
            joined = projector(torch.cat([features[i] for i in members]).to(width))
            for i, tokens in zip(members, joined.split([len(features[i]) for i in members]), strict=True):
                out[i] = tokens
        return out

    def splice(self, samples: Sequence[Sample], *, padding: Padding = "right",
               media_tokens: Sequence[Tensor] | None = None) -> Spliced:
        """Encode all media of the batch and put their tokens where the markers are, on the model's device.

        media_tokens: (n_i, D) of every item in its order, if they are known already.
        """
        if media_tokens is None:
            media_tokens = self.media_tokens([item for sample in samples for item in sample.media])
        tokens = iter(media_tokens)
        blocks = [[next(tokens) for _ in sample.media] for sample in samples]
        embed = self.language_model.model.embed_tokens
        device = next(embed.parameters()).device
        return splice([sample.to(device) for sample in samples], blocks, embed, padding=padding,
                      max_length=self.config.language.max_positions)

    def forward(self, samples: Sequence[Sample], *, padding: Padding = "right", with_logits: bool = False,
                media_tokens: Sequence[Tensor] | None = None) -> VideoLlavaOutput:
        """Summed loss and token count of a batch that may mix images, clips, text and packed questions.

        Only answer positions go through the output layer unless `with_logits` asks for all of them. media_tokens: as
        for `splice`.
        """
        batch = self.splice(samples, padding=padding, media_tokens=media_tokens)
        hidden = self.language_model.model(
            inputs_embeds=batch.embeddings, attention_mask=batch.attention_mask,
            position_ids=None if batch.attention_mask is None else batch.position_ids,
            use_cache=False).last_hidden_state
        scored = (batch.labels != IGNORE) & (batch.previous >= 0)
        row, _ = scored.nonzero(as_tuple=True)
        answer_logits = self.language_model.lm_head(hidden[row, batch.previous[scored]]).float()
        loss = F.cross_entropy(answer_logits, batch.labels[scored], reduction="sum")
        return VideoLlavaOutput(loss, scored.sum(), self.language_model.lm_head(hidden) if with_logits else None,
                                batch)

    def set_stage(self, stage: Literal["project", "instruct"]) -> None:
        """Choose what learns: "project" = the projector alone, "instruct" = the projector and the language model.

        The towers learn in neither; they are trained before, by LanguageBindAligner.
        """
        self.language_model.requires_grad_(stage == "instruct")

    def train(self, mode: bool = True) -> "VideoLlavaModel":
        """Towers stay in evaluation mode: they are frozen in both stages."""
        super().train(mode)
        self.image_tower.eval()
        self.video_tower.eval()
        return self

    def _video_projector(self) -> SharedProjector:
        return self.projector if self.video_projector is None else self.video_projector
