"""The shipped generator is what its card says: small and whole, and a fresh sample agrees with its numbers."""

import json

import pytest

from diorama.checkpoints import miniatures_folder
from diorama.diffusion.text_to_image import DEFAULT, TextToImage
from diorama.systems.selfeval.finish import GOALS, held_out
from diorama.systems.selfeval.generation import generation_credit
from diorama.systems.selfeval.pipeline import CALIBRATION, SelfEval
from diorama.systems.selfeval.world_items import world_items

FOLDER = miniatures_folder() / DEFAULT

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{DEFAULT} is not shipped yet")


@pytest.fixture(scope="module")
def model() -> TextToImage:
    return TextToImage.from_pretrained(DEFAULT, device="cpu")


@pytest.fixture(scope="module")
def found() -> dict:
    return json.loads((FOLDER / "measured.json").read_text())


def test_the_folder_is_whole_and_small(found):
    present = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "measured.json", "tokenizer.json", CALIBRATION} <= present
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25 * 1024 ** 2
    card = (FOLDER / "README.md").read_text()
    for name, interval in found["measured"].items():
        assert f"| {name} | {interval['mean']:.1%} (" in card


@pytest.mark.parametrize("name", sorted(GOALS))
def test_fresh_captions_are_drawn_as_well_as_the_card_says(model, found, name, agrees_with_card):
    captions = held_out(24, model.image_size, seed=900)[name]
    credit = generation_credit(model, captions, guidance=found["guidance"], seed=77)
    assert agrees_with_card(int(credit.sum()), len(credit), found["measured"][name]), f"{credit.mean():.2f}"


def test_fresh_items_are_answered_as_well_as_the_card_says(model, found, agrees_with_card):
    items = world_items(12, tasks=("color", "shape"), size=model.image_size, seed=901)
    verdicts = SelfEval(model, seed=1).examine(items)
    for task in ("color", "shape"):
        rights = [v.choice.credit(item.answer) for v, item in zip(verdicts, items, strict=True) if item.task == task]
        card = found["measured"][f"own likelihood, {task}"]
        assert agrees_with_card(round(sum(rights)), len(rights), card), f"{task}: {rights}"
