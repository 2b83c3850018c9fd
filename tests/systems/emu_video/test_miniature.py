"""The shipped video model is what its card says: its base is the shipped one, and a fresh sample agrees."""

import json

import pytest
import torch

from diorama.checkpoints import miniatures_folder
from diorama.diffusion.text_to_image import DEFAULT as IMAGE_BASE
from diorama.diffusion.text_to_image import TextToImage
from diorama.systems.emu_video.evaluate import GOALS, judged, make_clips
from diorama.systems.emu_video.pipeline import DEFAULT, EmuVideo, Sampling

FOLDER = miniatures_folder() / DEFAULT

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{DEFAULT} is not shipped yet")


@pytest.fixture(scope="module")
def emu() -> EmuVideo:
    return EmuVideo.from_pretrained(DEFAULT, device="cpu")


@pytest.fixture(scope="module")
def measured() -> dict:
    return json.loads((FOLDER / "measured.json").read_text())["measured"]


def test_the_image_base_is_the_shipped_one_and_is_not_stored_twice(emu):
    assert not (FOLDER / "image").exists() and emu.config.image_base == IMAGE_BASE
    alone = TextToImage.from_pretrained(IMAGE_BASE, device="cpu").network.state_dict()
    assert all(torch.equal(tensor, alone[name]) for name, tensor in emu.base.network.state_dict().items())


def test_the_card_carries_what_was_measured(measured):
    card = (FOLDER / "README.md").read_text()
    for name in GOALS:
        assert f"{measured[name]['mean']:.1%} ({measured[name]['low']:.1%}" in card
    assert {"motion score", "frame consistency"} <= set(measured), "consistency never stands alone"


def test_fresh_clips_are_as_good_as_the_card_says(emu, measured, agrees_with_card):
    fresh = judged(make_clips(emu, 8, "test", sampling=Sampling(seed=5), seed=52_000_000), emu.config.fps)
    for name, interval in fresh.items():
        right = round(interval.mean * interval.n)
        assert agrees_with_card(right, interval.n, measured[name]), f"{name}: card {measured[name]}, fresh {interval}"
