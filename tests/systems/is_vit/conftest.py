"""Vision transformers of a few thousand weights, float and quantised; weights far enough from zero to be quantised."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import calibrating, insert, round_weights

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
                         "image_size": 16, "patch_size": 8}
FAST = QuantiseConfig(iterations=6, batch=8, range_images=16, images=16)


def randomised(model: Any) -> Any:
    """The model with every parameter moved, so that norms and biases do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tiny_vit() -> Any:
    torch.manual_seed(0)
    return randomised(ViTForImageClassification(ViTConfig(**SIZES, num_labels=5)))


def tiny_deit() -> Any:
    torch.manual_seed(0)
    return randomised(DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES, num_labels=5)))


def tiny_plain_deit() -> Any:
    torch.manual_seed(0)
    return randomised(DeiTForImageClassification(DeiTConfig(**SIZES, num_labels=5)))


def tiny_swin(image_size: int = 16) -> Any:
    torch.manual_seed(0)
    values: dict[str, Any] = {"image_size": image_size, "patch_size": 2, "embed_dim": 16, "depths": [2, 1],
                              "num_heads": [2, 4], "window_size": 4, "num_labels": 5}
    return randomised(SwinForImageClassification(SwinConfig(**values)))


def tiny_clip() -> Any:
    torch.manual_seed(0)
    return randomised(CLIPVisionModel(CLIPVisionConfig(**SIZES)))


def answer_of(model: Any, pixels: Tensor) -> Tensor:
    """Logits, or a tower's last hidden state."""
    with torch.no_grad():
        found = model(pixels)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def calibrate(model: Any, pixels: Tensor, config: QuantiseConfig = FAST, norm: str | None = None) -> Any:
    """The model with all its quantisers fitted, weights rounded to nearest."""
    insert(model, config, norm=norm)
    with torch.no_grad(), calibrating(model):
        answer_of(model, pixels)
    round_weights(model)
    return model


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> dict[str, Callable[..., Any]]:
    """Makers of small models by name."""
    return {"vit": tiny_vit, "deit": tiny_plain_deit, "distilled deit": tiny_deit, "swin": tiny_swin,
            "clip": tiny_clip}


@pytest.fixture
def fast() -> QuantiseConfig:
    """Three bits, few steps."""
    return FAST


@pytest.fixture
def answer() -> Callable[[Any, Tensor], Tensor]:
    return answer_of


@pytest.fixture
def calibrated() -> Callable[..., Any]:
    return calibrate


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
