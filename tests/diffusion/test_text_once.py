"""Captions looked at once: the same answers, each layer over text asked once a caption, and the network as it was."""

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

from diorama.diffusion.networks import predict
from diorama.diffusion.text import Condition
from diorama.diffusion.text_once import text_once


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


def deep_floyd() -> UNet2DConditionModel:
    """A U-Net that projects text itself and adds its keys to those of the picture."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=6, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=24, attention_head_dim=8, encoder_hid_dim=16, only_cross_attention=True,
        down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn")


def transformer() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=32, sample_size=8, patch_size=2, caption_channels=16)


@pytest.fixture(params=[unet, deep_floyd, transformer], ids=lambda make: make.__name__)
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made = request.param().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def test_answers_are_the_same_and_text_is_looked_at_once(network: torch.nn.Module) -> None:
    is_added = network.config.encoder_hid_dim if "encoder_hid_dim" in network.config else None
    told = Condition(torch.randn(4, 5, 16), None if is_added else torch.ones(4, 5))
    x, times = torch.randn(6, network.config.in_channels, 8, 8), torch.arange(6) * 100.0
    names = [name for name, _ in network.named_modules()]
    orders = ([0, 1, 1, 0, 2, 2], [2, 2, 0, 0, 1, 1], [3, 2, 3, 1, 3, 0])
    plain = [predict(network, x, times, told.rows(order)) for order in orders]
    rows = []
    with text_once(network) as memory:
        remembered = [module for module in network.modules() if type(module).__name__ == "Remembered"]
        assert len(remembered) >= 4
        remembered[-1].layer.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
        numbered = memory.of(told)
        once = [predict(network, x, times, numbered.rows(order)) for order in orders]
        assert rows == [3, 1], "three captions at first, then the one that was not seen yet"
        other = predict(network, x[:2], times[:2], told.rows([1, 0]))  # without numbers: as ever
        again = predict(network, x, times, memory.of(Condition(told.tokens.flip(0), told.mask)).rows(orders[0]))
    for a, b in zip(plain, once, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, predict(network, x[:2], times[:2], told.rows([1, 0])), rtol=1e-4, atol=1e-5)
    flipped = predict(network, x, times, Condition(told.tokens.flip(0), told.mask).rows(orders[0]))
    torch.testing.assert_close(again, flipped, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in network.named_modules()] == names
