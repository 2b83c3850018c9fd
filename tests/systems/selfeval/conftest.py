"""Small generators with random weights, enough to run every path."""

from dataclasses import replace

import pytest
import torch

from diorama.diffusion.text_to_image import MiniatureConfig, TextToImage, build_miniature

TINY = MiniatureConfig(image_size=16, latent_channels=4, autoencoder_widths=(8, 8), width=32, layers=2, tokens=4,
                       text_width=32, text_layers=1, words=16)


@pytest.fixture(scope="session")
def generator() -> TextToImage:
    torch.manual_seed(0)
    return build_miniature(TINY, device="cpu")


@pytest.fixture(scope="session")
def bag() -> TextToImage:
    torch.manual_seed(0)
    return build_miniature(replace(TINY, text="bag", latent=False), device="cpu")


@pytest.fixture(scope="session")
def checkpoint(generator, tmp_path_factory):
    return generator.save_pretrained(tmp_path_factory.mktemp("generator") / "model", card="made in a test")


@pytest.fixture(scope="session")
def tiny() -> MiniatureConfig:
    return TINY
