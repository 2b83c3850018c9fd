"""The shipped small ViTs: a sample of what their cards say is measured again, and 8 bits lose little."""

import json
from typing import Any

import pytest
import torch

from diorama.checkpoints import miniatures_folder
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.data import Labelled, named_set
from diorama.systems.is_vit.evaluate import accuracy, channel_spread, hits
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.sos import quantise

NAMES = ("digits", "world")


def subject(name: str) -> tuple[VisionTransformer, Labelled, dict[str, Any]]:
    if name == "digits":
        pytest.importorskip("sklearn")
    folder = miniatures_folder() / f"is-vit-{name}"
    vit = VisionTransformer.from_pretrained(f"is-vit-{name}", device="cpu")
    return vit, named_set(name, "test", 1000, vit.preprocessing.size), json.loads(
        (folder / "measured.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_what_is_shipped(name: str) -> None:
    vit, test, card = subject(name)
    found, told = accuracy(vit.model, vit.preprocessing, test), card["accuracy"]
    assert found.low <= told["mean"] <= found.high
    assert told["mean"] >= 0.7
    assert card["config"]["hidden_size"] == vit.model.config.hidden_size
    pixels = vit.preprocessing.normalise(test.images[:64])
    for spread in channel_spread(vit.model, pixels):
        assert spread.ratio == pytest.approx(card["spread"][spread.norm], rel=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_stay_within_half_a_point_and_sulq_within_one_and_a_half(name: str) -> None:
    """SULQ holds at most 11 levels at any bits, so its bound is wider."""
    vit, test, _ = subject(name)
    pixels = vit.preprocessing.normalise(named_set(name, "train", 64, vit.preprocessing.size).images[:64])
    exact = hits(vit.model, vit.preprocessing, test).mean()
    for softmax, bound in (("uniform", 0.005), ("sulq", 0.015)):
        config = QuantiseConfig(weight_bits=8, activation_bits=8, softmax=softmax, method="none")  # type: ignore[arg-type]
        small, _ = quantise(vit.model, pixels, config)
        assert abs(hits(small, vit.preprocessing, test).mean() - exact) <= bound + 1e-9
    with torch.no_grad():
        assert small(pixels).logits.shape[-1] == len(vit.labels)
