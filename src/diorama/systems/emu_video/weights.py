"""Public video layouts around the same frozen image model: AnimateDiff's motion adapters, PIA's, ModelScope's U-Net.

Each layout is a table of sites: which module of the image U-Net is followed by which layer over time. The layers are
diffusers' own classes, so public weights load by name; Stable Diffusion itself is read by
`diorama.diffusion.text_to_image`, and the paper's own layers go around it with `model.inflate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel

from diorama.checkpoints import load_into, read_config, read_tensors
from diorama.diffusion.networks import read_scheduler
from diorama.diffusion.text import TextEncoder, TextLimits
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError
from diorama.systems.emu_video.config import EmuVideoConfig, ModeConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.model import VideoModel, inflate

MOTION_KINDS = ("attentions", "resnets")
"""A motion module follows the attention of its layer, or the resnet where the block has no attention."""
ANIMATEDIFF_MODE = ModeConfig(target="eps", zero_snr=False, schedule="linear", first=8.5e-4, last=1.2e-2)
"""Motion adapters were trained on linear betas, whatever the schedule of the image model (diffusers' pipeline page)."""


def build_video(image: nn.Module, config: EmuVideoConfig) -> VideoModel:
    """The video model that a config describes: the paper's layers, or a public layout's."""
    if config.layout == "emu":
        return inflate(image, config.temporal)
    assert config.layout_config is not None
    layers = (motion_layers if config.layout == "motion-adapter" else unet3d_layers)(image, config.layout_config)
    return VideoModel(image, layers)


# ---- AnimateDiff and PIA -----------------------------------------------------------------------------------------


def motion_sites(image: nn.Module) -> dict[str, str]:
    """Module of a U-Net -> the name that a motion adapter gives to what follows it."""
    sites: dict[str, str] = {}
    for side in ("down_blocks", "up_blocks"):
        for number, block in enumerate(image.get_submodule(side).children()):
            kind = MOTION_KINDS[0] if hasattr(block, MOTION_KINDS[0]) else MOTION_KINDS[1]
            layers = len(list(block.get_submodule(kind).children()))
            sites |= {f"{side}.{number}.{kind}.{k}": f"{side}.{number}.motion_modules.{k}" for k in range(layers)}
    attentions = len(list(image.get_submodule("mid_block.attentions").children()))
    return sites | {f"mid_block.attentions.{k}": f"mid_block.motion_modules.{k}" for k in range(attentions)}


def motion_layers(image: nn.Module, config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """An adapter's layers by the module they follow; CheckpointError where it is of another U-Net."""
    adapter: Any = MotionAdapter(**_arguments(config))
    names = {name for name, _ in adapter.named_modules()}
    sites = motion_sites(image)
    if not config.get("use_motion_mid_block", True):
        sites = {site: name for site, name in sites.items() if not name.startswith("mid_block")}
    absent = sorted(set(sites.values()) - names)
    if absent:
        raise CheckpointError(f"The motion adapter lacks {absent[0]} and {len(absent) - 1} more places of this U-Net. "
                              "Use the adapter of the same family as the image model (1.5 with 1.5, XL with XL).")
    return {site: adapter.get_submodule(name) for site, name in sites.items()}


def from_motion_adapter(image: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VideoModel:
    """A video model of a U-Net and an adapter's weights; PIA's input convolution becomes the second input here.

    PIA widens the first convolution to noise, mask and image; its last channels are exactly our `given`. Raises
    CheckpointError for tensors that are absent, unexpected or of another shape.
    """
    video = VideoModel(image, motion_layers(image, config))
    load_into(video.temporal, {ours: tensors[theirs] for ours, theirs in adapter_names(video).items()
                               if theirs in tensors})
    known = {*adapter_names(video).values(), "conv_in.weight", "conv_in.bias"}
    unknown = sorted(set(tensors) - known)
    if unknown:
        raise CheckpointError(f"The motion adapter has {len(unknown)} tensors that no place of this U-Net takes, such "
                              f"as {unknown[0]}. Use the adapter of the same family as the image model.")
    if "conv_in.weight" in tensors:
        load_into(video.given, {"weight": tensors["conv_in.weight"][:, video.channels:]})
    return video


def adapter_names(video: VideoModel) -> dict[str, str]:
    """Name of each tensor in `video.temporal` -> its name in a motion adapter's file."""
    sites = {site.replace(".", "-"): theirs for site, theirs in motion_sites(video.image).items()}
    return {name: f"{sites[name.partition('.')[0]]}.{name.partition('.')[2]}" for name in video.temporal.state_dict()}


def to_motion_adapter(video: VideoModel) -> dict[str, Tensor]:
    """The layers of a video model in the adapter layout, as a motion adapter's file holds them."""
    tensors = video.temporal.state_dict()
    return {theirs: tensors[ours] for ours, theirs in adapter_names(video).items()}


# ---- ModelScope --------------------------------------------------------------------------------------------------


def unet3d_sites(names: Iterable[str]) -> dict[str, str]:
    """Module of the image U-Net -> the layer of a `UNet3DConditionModel` that follows it, from its tensors' names."""
    sites = {}
    for name in names:
        parts = name.split(".")
        if parts[0] == "transformer_in":
            sites["conv_in"] = "transformer_in"
        for place, (theirs, ours) in ((parts.index(old), (old, new)) for old, new in
                                      (("temp_convs", "resnets"), ("temp_attentions", "attentions")) if old in parts):
            site = [*parts[:place], ours, parts[place + 1]]
            sites[".".join(site)] = ".".join([*parts[:place], theirs, parts[place + 1]])
    return sites


def image_config_of_unet3d(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `UNet2DConditionModel` that is left of a `UNet3DConditionModel` without its layers over time."""
    kept = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block",
            "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps",
            "cross_attention_dim")
    head = config.get("attention_head_dim", 64)
    widths = config["block_out_channels"]
    heads = [head] * len(widths) if isinstance(head, int) else list(head)
    return {
        **{name: config[name] for name in kept if name in config},
        "down_block_types": tuple(kind.replace("3D", "2D") for kind in config["down_block_types"]),
        "up_block_types": tuple(kind.replace("3D", "2D") for kind in config["up_block_types"]),
        "mid_block_type": "UNetMidBlock2DCrossAttn", "use_linear_projection": True,
        # diffusers' 2D argument of this name is the number of heads, its 3D one the width of a head.
        "attention_head_dim": tuple(width // each for width, each in zip(widths, heads, strict=True)),
    }


def unet3d_layers(image: nn.Module, config: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The layers over time of a `UNet3DConditionModel` by the module they follow, on the meta device until loaded."""
    with torch.device("meta"):
        whole: Any = UNet3DConditionModel(**_arguments(config))
    return {site: whole.get_submodule(name) for site, name in unet3d_sites(whole.state_dict()).items()}


def unet3d_name(ours: str, sites: Mapping[str, str]) -> str | None:
    """The name in a `UNet3DConditionModel`'s file of a tensor of our video model; None for what it lacks."""
    part, _, rest = ours.partition(".")
    if part == "image":
        return rest
    if part != "temporal":
        return None
    key, _, rest = rest.partition(".")
    return f"{sites[key.replace('-', '.')]}.{rest}"


def from_unet3d(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VideoModel:
    """A `UNet3DConditionModel` as a frozen image U-Net with its layers over time around it.

    Raises CheckpointError for tensors that are absent, unexpected or of another shape.
    """
    with torch.device("meta"):
        image: Any = UNet2DConditionModel(**image_config_of_unet3d(config))
    video = VideoModel(image, unet3d_layers(image, config))
    sites = unet3d_sites(tensors)
    places = {name: unet3d_name(name, sites) for name in video.state_dict()}
    unknown = sorted(set(tensors) - set(places.values()))
    if unknown:
        raise CheckpointError(f"The checkpoint has {len(unknown)} tensors that no layer takes, such as {unknown[0]}. "
                              "Pass the unet folder of a UNet3DConditionModel.")
    renamed = {ours: tensors[theirs] for ours, theirs in places.items() if theirs is not None and theirs in tensors}
    given = torch.zeros(video.given.weight.shape, dtype=next(iter(tensors.values())).dtype)
    load_into(video, {**renamed, "given.weight": given})
    video.image.requires_grad_(False)
    return video


# ---- whole checkpoints -------------------------------------------------------------------------------------------


def read_motion_adapter(folder: Path, base: TextToImage) -> tuple[VideoModel, EmuVideoConfig]:
    """An adapter's folder (AnimateDiff, PIA) around an image base, and the config that says how it is used."""
    config = read_config(folder)
    if config.get("_class_name") != "MotionAdapter":
        raise CheckpointError(f"{folder} holds a {config.get('_class_name', 'checkpoint of unknown kind')}, not a "
                              "MotionAdapter. Pass the folder with the adapter's config.json.")
    video = from_motion_adapter(base.network, config, read_tensors(folder))
    described = EmuVideoConfig(
        temporal=TemporalConfig(frames=16), mode=ANIMATEDIFF_MODE, sampling=SamplingConfig(guidance_image=1.0), fps=8.0,
        pixels=base.image_size, layout="motion-adapter", layout_config=_arguments(config), image_base=base.name or None)
    return video, described


def read_modelscope(folder: Path, *, device: str = "auto") -> tuple[TextToImage, VideoModel, EmuVideoConfig]:
    """The text-to-video folder of ModelScope in diffusers' layout: its image part as a base, and the layers over time.

    Raises CheckpointError for parts that are absent or of other classes.
    """
    config = read_config(folder / "unet")
    if config.get("_class_name") != "UNet3DConditionModel":
        raise CheckpointError(f"{folder} has a {config.get('_class_name', 'unet of unknown kind')}, not a "
                              "UNet3DConditionModel. Pass a folder such as ali-vilab/text-to-video-ms-1.7b.")
    video = from_unet3d(config, read_tensors(folder / "unet"))
    try:
        tower: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        autoencoder: Any = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0][:200]}). "
                              "Download it again.") from error
    limits = TextLimits(tower.config.max_position_embeddings, to_full=True, masked=False)
    side = config["sample_size"] * 2 ** (len(autoencoder.config.block_out_channels) - 1)
    base = TextToImage(video.image, TextEncoder(tower, tokenizer, limits), autoencoder, scheduler, side,
                       name=str(folder), device=device)
    schedule, target = read_scheduler(scheduler)
    if target != "eps" or schedule.has_zero_snr:
        raise CheckpointError(f"{folder} was trained to predict {target}, and this layout is known with eps on the "
                              "stock schedule. Check scheduler_config.json.")
    is_linear = scheduler.get("beta_schedule", "linear") == "linear"
    mode = ModeConfig(target="eps", zero_snr=False, schedule="linear" if is_linear else "scaled_linear",
                      times=len(schedule),
                      first=float(scheduler.get("beta_start", 8.5e-4)), last=float(scheduler.get("beta_end", 1.2e-2)))
    described = EmuVideoConfig(temporal=TemporalConfig(frames=16), mode=mode, pixels=side, fps=8.0,
                               sampling=SamplingConfig(guidance_image=1.0, guidance_text=9.0), layout="unet3d",
                               layout_config=_arguments(config))
    return base, video, described


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config without what it notes about itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
