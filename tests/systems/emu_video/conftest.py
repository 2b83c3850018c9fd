"""Tiny networks of diffusers' classes, and the quiet single thread that all tests here run on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from diorama.diffusion.text import Condition
from diorama.diffusion.text_to_image import MiniatureConfig, TextToImage, build_miniature
from diorama.systems.emu_video.data import Clips


def tiny_unet(in_channels: int = 4) -> UNet2DConditionModel:
    """The U-Net of the paper page's parity checks."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=16,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), in_channels=in_channels, out_channels=in_channels).eval()


def tiny_transformer() -> PixArtTransformer2DModel:
    """A token backbone with patches of two pixels and a learned variance."""
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=32, sample_size=8, patch_size=2, caption_channels=16).eval()


BACKBONES: dict[str, Callable[[], nn.Module]] = {"unet": tiny_unet, "transformer": tiny_transformer}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return BACKBONES[request.param]()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return tiny_unet()


class Inputs:
    """Noisy clips with times and text, (B, T, C, H, W)."""

    def __init__(self, clips: int = 2, frames: int = 5, channels: int = 4, side: int = 8):
        generator = torch.Generator().manual_seed(1)
        self.sample = torch.randn(clips, frames, channels, side, side, generator=generator)
        self.times = torch.arange(clips) * 300 + 10
        mask = torch.arange(7).expand(clips, 7) < torch.tensor([[4], [7]])[:clips]
        self.text = Condition(torch.randn(clips, 7, 16, generator=generator), mask)
        self.image = torch.randn(clips, channels, side, side, generator=generator)

    @property
    def of_model(self) -> tuple[Tensor, Tensor, Condition]:
        return self.sample, self.times, self.text

    @property
    def of_image(self) -> tuple[Tensor, Tensor, Condition]:
        return self.image, self.times, self.text


@pytest.fixture
def inputs() -> Inputs:
    return Inputs()


WORDS = ("a", "red", "blue", "cube", "sphere", "moves", "left", "right", "stays", "still")


def tiny_base(size: int = 16) -> TextToImage:
    """A text-to-image model of pixels with random weights, in which every part matters."""
    torch.manual_seed(0)
    config = MiniatureConfig(image_size=size, latent=False, tokens=4, width=32, layers=2, head_width=16, text_width=32,
                             text_layers=1, words=16)
    base = build_miniature(config, words=WORDS, device="cpu")
    with torch.no_grad():
        base.network.proj_out.weight.normal_(std=0.2)
    return base


@pytest.fixture(scope="session")
def base() -> TextToImage:
    return tiny_base()


@pytest.fixture(scope="session")
def clips() -> Clips:
    """Eight noisy clips of four frames, 16 x 16."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 4, 3, 16, 16), dtype=np.uint8)
    return Clips(pixels, [["a red cube moves left", "a red cube"]] * 4 + [["a blue sphere stays still"]] * 4, 4.0)
