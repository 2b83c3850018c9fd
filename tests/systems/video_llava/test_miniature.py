"""The shipped miniature is what its card says: its parts are there, and a fresh sample agrees with its numbers."""

import json

import pytest

from diorama.checkpoints import miniatures_folder
from diorama.systems.video_llava.data import prepare, see
from diorama.systems.video_llava.evaluate import by_kind, examination, examine
from diorama.systems.video_llava.familiarity import FAMILIARITY
from diorama.systems.video_llava.pipeline import DEFAULT, VideoLlava

FOLDER = miniatures_folder() / DEFAULT
SCENES = {"image": 30, "clip": 30}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{DEFAULT} is not shipped yet")


@pytest.fixture(scope="module")
def miniature() -> VideoLlava:
    return VideoLlava.from_pretrained(DEFAULT, device="cpu")


@pytest.fixture(scope="module")
def measured() -> dict:
    return json.loads((FOLDER / "measured.json").read_text())


def test_the_folder_is_whole_and_small():
    present = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "measured.json", "tokenizer.json", "tokenizer_config.json",
            FAMILIARITY} <= present
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 12 * 1024 ** 2


def test_the_card_names_its_command_and_carries_the_measured_numbers(measured):
    card = (FOLDER / "README.md").read_text()
    assert measured["command"] in card
    for medium, rows in measured["accuracy"].items():
        for kind, interval in rows.items():
            assert f"| {medium} | {kind} | {interval['mean']:.1%} |" in card
            assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1 and interval["n"] > 0


@pytest.mark.parametrize("medium", ["image", "clip"])
def test_a_fresh_sample_agrees_with_the_card(miniature, measured, medium, agrees_with_card):
    """Scenes of other seeds than the card's: for every kind the two intervals overlap."""
    pool = examination("test", scenes=SCENES[medium], moving=medium == "clip",
                       frames=miniature.config.tower.frames, seed=31_000_000)
    found = examine(miniature, see(miniature.model, prepare(pool, miniature.config)), questions_each=6, seed=1)
    card = measured["accuracy"][medium]
    for kind, fresh in by_kind(found).items():
        if kind not in card:
            continue
        right = round(fresh.mean * fresh.n)
        assert agrees_with_card(right, fresh.n, card[kind]), f"{medium} {kind}: card {card[kind]}, fresh {fresh}"
    assert {kind for kind in card if card[kind]["n"] >= 300} <= set(by_kind(found))


def test_the_miniature_takes_its_own_world_for_familiar(miniature):
    pool = examination("test", scenes=20, moving=False, frames=1, seed=32_000_000)
    pixels = prepare(pool, miniature.config).pixels(range(20))
    strange = [miniature.familiarity.strangeness(miniature.model.image_tower, pixels[row:row + 1]) for row in range(20)]
    assert sum(value > 1 for value in strange) <= 2
