"""The transformers port at a few thousand weights, and our model with the same ones."""

from collections.abc import Callable

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaForConditionalGeneration
from transformers import VideoLlavaConfig as PortConfig

from diorama.systems.video_llava.config import LanguageConfig, TowerConfig, VideoLlavaConfig
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.weights import from_port

IMAGE_TOKEN, VIDEO_TOKEN = 100, 101

TINY = VideoLlavaConfig(
    tower=TowerConfig(image_size=28, patch_size=14, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64),
    language=LanguageConfig(vocab_size=120, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
                            max_positions=512))


def port_config(hidden_act: str = "gelu") -> PortConfig:
    return PortConfig(
        text_config=LlamaConfig(vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                intermediate_size=64, max_position_embeddings=512, rms_norm_eps=1e-5),
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, hidden_size=32, intermediate_size=64,
                                       num_hidden_layers=3, num_attention_heads=4, hidden_act=hidden_act),
        image_token_index=IMAGE_TOKEN, video_token_index=VIDEO_TOKEN, vision_feature_layer=-2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> VideoLlavaConfig:
    return TINY


@pytest.fixture
def tiny_model() -> VideoLlavaModel:
    torch.manual_seed(1)
    return VideoLlavaModel.from_config(TINY).eval()


@pytest.fixture
def port_pair() -> Callable[[str], tuple[VideoLlavaForConditionalGeneration, VideoLlavaModel]]:
    """A function: activation -> (port, our model with temporal attention off and the port's weights)."""
    from dataclasses import replace

    def build(hidden_act: str) -> tuple[VideoLlavaForConditionalGeneration, VideoLlavaModel]:
        torch.manual_seed(2)
        port = VideoLlavaForConditionalGeneration(port_config(hidden_act)).eval()
        with torch.no_grad():
            for parameter in port.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        config = replace(TINY, temporal_attention=False, tower=replace(TINY.tower, hidden_act=hidden_act))
        ours = VideoLlavaModel.from_config(config).eval()
        ours.load_state_dict(from_port(port.state_dict()), strict=True)
        return port, ours

    return build
