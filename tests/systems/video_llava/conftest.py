"""The transformers port at a few thousand weights, and our model with the same ones."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaForConditionalGeneration,
)
from transformers import VideoLlavaConfig as PortConfig

from diorama.systems.video_llava.config import LanguageConfig, TextTowerConfig, TowerConfig, VideoLlavaConfig
from diorama.systems.video_llava.data import Prepared, Seen, prepare, see
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.processing import build_word_tokenizer
from diorama.systems.video_llava.recipe import configured, familiar_with
from diorama.systems.video_llava.splice import Kind
from diorama.systems.video_llava.weights import from_port
from diorama.world.pool import PoolConfig, draw_pool
from diorama.world.vocabulary import WORDS

IMAGE_TOKEN, VIDEO_TOKEN = 100, 101

TINY = VideoLlavaConfig(
    tower=TowerConfig(image_size=28, patch_size=14, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64),
    language=LanguageConfig(vocab_size=120, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
                            max_positions=512))


WORLD = VideoLlavaConfig(
    tower=TowerConfig(image_size=32, patch_size=8, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64,
                      frames=3),
    text_tower=TextTowerConfig(hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64, max_positions=96,
                               projection_dim=32),
    language=LanguageConfig(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=1024),
    pixels="port", pad_square=False)
"""Small enough for tests, with the world's vocabulary once `configured`."""
STILLS = PoolConfig(families=2, members=2, size=32, samples=1)
CLIPS = PoolConfig(families=2, members=2, frames=3, size=32, samples=1, seed=1_000_000)


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


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_word_tokenizer(WORDS)


@pytest.fixture(scope="session")
def world_config(tokenizer: PreTrainedTokenizerFast) -> VideoLlavaConfig:
    return configured(WORLD, tokenizer)


@pytest.fixture(scope="session")
def stills(world_config: VideoLlavaConfig) -> Prepared:
    return prepare(draw_pool(STILLS), world_config)


@pytest.fixture(scope="session")
def clips(world_config: VideoLlavaConfig) -> Prepared:
    return prepare(draw_pool(CLIPS), world_config)


@pytest.fixture
def llava(world_config: VideoLlavaConfig, tokenizer: PreTrainedTokenizerFast, stills: Prepared) -> VideoLlava:
    """Random weights, spread enough for answers to differ from question to question."""
    torch.manual_seed(3)
    model = VideoLlavaModel.from_config(world_config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.3 if "language_model" in name else 0.1) * torch.randn_like(parameter))
    return VideoLlava(model, tokenizer, name="random", familiarity=familiar_with(model, stills), device="cpu")


@pytest.fixture
def seen(llava: VideoLlava, stills: Prepared, clips: Prepared) -> dict[Kind, Seen]:
    return {"image": see(llava.model, stills), "video": see(llava.model, clips)}
