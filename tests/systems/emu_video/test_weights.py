"""Public layouts: parity with diffusers' own video classes, and key maps name by name on the meta device."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from diorama.checkpoints import read_config, write_tensors
from diorama.diffusion.networks import predict
from diorama.diffusion.text import Condition
from diorama.errors import CheckpointError
from diorama.language.word_tokenizer import build_word_tokenizer
from diorama.systems.emu_video.conditioning import given_frames
from diorama.systems.emu_video.config import EmuVideoConfig, TemporalConfig
from diorama.systems.emu_video.model import VideoModel, inflate
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling, import_checkpoint
from diorama.systems.emu_video.weights import (
    adapter_names,
    build_video,
    from_motion_adapter,
    from_unet3d,
    image_config_of_unet3d,
    motion_layers,
    motion_sites,
    read_modelscope,
    read_motion_adapter,
    to_motion_adapter,
    unet3d_layers,
    unet3d_name,
    unet3d_sites,
)

SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
"""Stable Diffusion 1.5's U-Net; everything else is the class's default."""
ADAPTER = {"block_out_channels": (32, 64), "motion_layers_per_block": 1, "motion_norm_num_groups": 8,
           "motion_num_attention_heads": 2, "motion_max_seq_length": 8}
UNET3D = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
          "cross_attention_dim": 16, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
          "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
          "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")}
EXACT = {"rtol": 1e-4, "atol": 1e-5}


def stirred(module: nn.Module) -> nn.Module:
    """The module with every weight moved, so that no zero hides a difference."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


# ---- AnimateDiff and PIA -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_motion_adapter_computes_what_diffusers_motion_unet_does(unet: UNet2DConditionModel, inputs) -> None:
    adapter = stirred(MotionAdapter(**ADAPTER))
    theirs = UNetMotionModel.from_unet2d(copy.deepcopy(unet), copy.deepcopy(adapter)).eval()
    theirs.mid_block.motion_modules.load_state_dict(adapter.mid_block.motion_modules.state_dict())
    video = from_motion_adapter(unet, ADAPTER, adapter.state_dict())
    same_text = Condition(inputs.text.tokens)
    found = video(inputs.sample, inputs.times, same_text)
    frames = inputs.text.tokens.repeat_interleave(5, 0)
    wanted = theirs(inputs.sample.transpose(1, 2), inputs.times, frames).sample.transpose(1, 2)
    torch.testing.assert_close(found, wanted, **EXACT)
    assert {k: v.shape for k, v in to_motion_adapter(video).items()} == {
        k: v.shape for k, v in adapter.state_dict().items()}


@torch.no_grad()
def test_pia_s_input_convolution_becomes_the_second_input(unet: UNet2DConditionModel, inputs) -> None:
    """Noise, mask, image: diffusers joins the base's four channels with the adapter's last five."""
    adapter = stirred(MotionAdapter(**ADAPTER, conv_in_channels=9))
    tensors = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    theirs = UNetMotionModel.from_unet2d(copy.deepcopy(unet), adapter).eval()
    theirs.mid_block.motion_modules.load_state_dict(
        {k.removeprefix("mid_block.motion_modules."): v for k, v in tensors.items() if k.startswith("mid_block")})
    given = given_frames(inputs.sample.flip(1), [0, 1, 2, 3, 4], 5)
    given[:, :, 0] *= torch.linspace(1, 0.2, 5)[None, :, None, None]                   # PIA's graded mask
    video = from_motion_adapter(unet, {**ADAPTER, "conv_in_channels": 9}, tensors)
    found = video(inputs.sample, inputs.times, Condition(inputs.text.tokens), given)
    wanted = theirs(torch.cat([inputs.sample, given], 2).transpose(1, 2), inputs.times,
                    inputs.text.tokens.repeat_interleave(5, 0)).sample.transpose(1, 2)
    torch.testing.assert_close(found, wanted, **EXACT)


def test_adapter_names_on_the_meta_device() -> None:
    """AnimateDiff 1.5's layout around Stable Diffusion 1.5's U-Net: every name, every shape, both ways."""
    with torch.device("meta"):
        unet, adapter = UNet2DConditionModel(**SD15), MotionAdapter()
        video = VideoModel(unet, motion_layers(unet, {}))
    names = adapter_names(video)
    theirs = adapter.state_dict()
    assert set(names.values()) == set(theirs)
    for ours, name in names.items():
        assert video.temporal.state_dict()[ours].shape == theirs[name].shape
    sites = motion_sites(unet)
    assert len(sites) == 21 and sites["mid_block.attentions.0"] == "mid_block.motion_modules.0"
    assert sites["down_blocks.3.resnets.1"] == "down_blocks.3.motion_modules.1", "the last block has no attention"
    assert sites["up_blocks.3.attentions.2"] == "up_blocks.3.motion_modules.2"


def test_an_adapter_of_another_family_is_refused(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    small = {**ADAPTER, "block_out_channels": (32,)}
    with pytest.raises(CheckpointError, match="same family"):
        from_motion_adapter(unet, small, MotionAdapter(**small).state_dict())
    tensors = MotionAdapter(**ADAPTER).state_dict()
    with pytest.raises(CheckpointError, match="no place of this U-Net takes"):
        from_motion_adapter(unet, ADAPTER, {**tensors, "down_blocks.0.motion_modules.7.norm.weight": torch.zeros(32)})
    lacking = {name: tensor for name, tensor in tensors.items() if not name.endswith("proj_out.weight")}
    with pytest.raises(CheckpointError, match="missing"):
        from_motion_adapter(unet, ADAPTER, lacking)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="not a MotionAdapter"):
        read_motion_adapter(tmp_path, None)  # type: ignore[arg-type]


# ---- ModelScope --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_3d_unet_comes_apart_and_computes_the_same(inputs) -> None:
    theirs = stirred(UNet3DConditionModel(**UNET3D))
    video = from_unet3d(UNET3D, theirs.state_dict()).eval()
    found = video(inputs.sample, inputs.times, Condition(inputs.text.tokens))
    wanted = theirs(inputs.sample.transpose(1, 2), inputs.times, inputs.text.tokens).sample.transpose(1, 2)
    torch.testing.assert_close(found, wanted, **EXACT)
    assert not any(p.requires_grad for p in video.image.parameters())
    image = video.images(inputs.image, inputs.times, Condition(inputs.text.tokens))
    assert torch.equal(image, predict(video.image, inputs.image, inputs.times, Condition(inputs.text.tokens)))


def test_3d_unet_names_on_the_meta_device() -> None:
    """ModelScope's 1.7B layout (the class's defaults): every tensor of the file has one place of its shape here."""
    with torch.device("meta"):
        theirs = UNet3DConditionModel(sample_size=32)
        config = dict(theirs.config)
        image = UNet2DConditionModel(**image_config_of_unet3d(config))
        video = VideoModel(image, unet3d_layers(image, config))
    sites = unet3d_sites(theirs.state_dict())
    ours = {unet3d_name(name, sites): tensor.shape for name, tensor in video.state_dict().items()}
    assert set(ours) - {None} == set(theirs.state_dict())
    assert all(ours[name] == tensor.shape for name, tensor in theirs.state_dict().items())
    assert sites["conv_in"] == "transformer_in"
    assert sites["mid_block.resnets.1"] == "mid_block.temp_convs.1"
    assert sites["up_blocks.3.attentions.2"] == "up_blocks.3.temp_attentions.2"


def test_a_3d_unet_with_other_tensors_is_refused() -> None:
    tensors = UNet3DConditionModel(**UNET3D).state_dict()
    with pytest.raises(CheckpointError, match="no layer takes"):
        from_unet3d(UNET3D, {**tensors, "surplus.weight": torch.zeros(1)})
    del tensors["conv_out.bias"]
    with pytest.raises(CheckpointError, match=r"conv_out\.bias"):
        from_unet3d(UNET3D, tensors)


# ---- the paper's layers around Stable Diffusion ------------------------------------------------------------------


def test_layers_around_stable_diffusion_on_the_meta_device() -> None:
    """The frozen base keeps every published name and weight; what is added is counted apart."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
        published = {name: tensor.shape for name, tensor in unet.state_dict().items()}
        video = inflate(unet, TemporalConfig())
    kept = {k.removeprefix("image."): v.shape for k, v in video.state_dict().items() if k.startswith("image.")}
    assert kept == published and len(published) == 686
    assert sum(p.numel() for p in video.image.parameters()) == 859_520_964
    assert video.given.weight.shape == (320, 5, 3, 3)
    attention = [k for k in video.temporal if k.endswith("transformer_blocks-0")]
    assert len(attention) == 16, "one behind each of the sixteen spatial transformer layers"
    assert video.temporal["conv_in"].weight.shape == (320, 320, 3)


def test_a_saved_config_builds_the_same_layers(unet: UNet2DConditionModel) -> None:
    for layout, config in (("motion-adapter", ADAPTER), ("unet3d", UNET3D)):
        described = EmuVideoConfig.from_dict(EmuVideoConfig(layout=layout, layout_config=dict(config)).to_dict())
        image = unet if layout == "motion-adapter" else UNet2DConditionModel(**image_config_of_unet3d(UNET3D))
        built = build_video(image, described)
        wanted = (motion_layers if layout == "motion-adapter" else unet3d_layers)(image, config)
        assert set(built.temporal) == {site.replace(".", "-") for site in wanted}


# ---- whole folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The parts that public folders share, tiny: text encoder, tokenizer, autoencoder, scheduler."""
    folder = tmp_path / "public"
    CLIPTextModel(CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                 num_attention_heads=2, max_position_embeddings=12, bos_token_id=1, eos_token_id=2,
                                 pad_token_id=0)).save_pretrained(folder / "text_encoder")
    build_word_tokenizer(["a", "red", "cube", "left"], max_length=12, enclosed=True).save_pretrained(
        folder / "tokenizer")
    AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                  up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
                  sample_size=16).save_pretrained(folder / "vae")
    DDIMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler")
    return folder


def drawn(folder: Path) -> torch.Tensor:
    emu = EmuVideo.from_pretrained(folder, device="cpu")
    assert not emu.takes_image and emu.mode.target == "eps" and emu.config.sampling.guidance_image == 1.0
    return emu.animate(None, ["a red cube"], Sampling(steps=2))


def test_modelscope_s_folder_is_imported_and_draws(parts: Path, tmp_path: Path) -> None:
    UNet3DConditionModel(**UNET3D).save_pretrained(parts / "unet")
    folder = import_checkpoint(str(parts), "modelscope", None, tmp_path / "ours", device="cpu")
    clip = drawn(folder)
    assert clip.shape == (1, 16, 3, 16, 16)
    base, video, config = read_modelscope(parts, device="cpu")
    again = EmuVideo(base, video, config).animate(None, ["a red cube"], Sampling(steps=2))
    assert torch.equal(clip, again), "saved and read back it is the same"
    (parts / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        read_modelscope(parts, device="cpu")


def test_a_motion_adapter_s_folder_goes_around_a_stable_diffusion_folder(
        parts: Path, unet: UNet2DConditionModel, tmp_path: Path) -> None:
    unet.save_pretrained(parts / "unet")
    (parts / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]}))
    stirred(MotionAdapter(**{**ADAPTER, "motion_max_seq_length": 32})).save_pretrained(tmp_path / "adapter")
    folder = import_checkpoint(str(tmp_path / "adapter"), "motion-adapter", str(parts), tmp_path / "ours", device="cpu")
    assert drawn(folder).shape == (1, 16, 3, 16, 16)
    config = read_config(folder)
    assert config["layout"] == "motion-adapter" and config["mode"]["schedule"] == "linear"
