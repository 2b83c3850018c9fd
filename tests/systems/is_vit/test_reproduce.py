"""The arms of the claim on a network of no skill: all are run, compared on the same images, and none is made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diorama.systems.is_vit import reproduce as module
from diorama.systems.is_vit.arms import Sizes, folded
from diorama.systems.is_vit.data import WORLD_CLASSES, Labelled, Preprocessing
from diorama.systems.is_vit.pipeline import VisionTransformer
from diorama.systems.is_vit.quantised import QuantisedNorm
from diorama.systems.is_vit.reproduce import Found, accuracy, difference
from diorama.systems.is_vit.sos import quantise
from diorama.systems.is_vit.structure import find_structure

SMALLEST = Sizes(bits=("w3a3",), images=16, range_images=8, batch=8, iterations=1, examined=20, ablations=True)


@pytest.fixture
def subject(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vit = VisionTransformer(tiny["vit"](), Preprocessing(size=16), list("abcde"), name="tiny", device="cpu")
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> Labelled:
        images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
        return Labelled(images, torch.randint(0, 5, (count,), generator=generator), tuple("abcde"))

    parts = some(64), some(20)
    monkeypatch.setattr(module, "subjects", lambda *_: iter([("world", vit, *parts)]))


@pytest.mark.usefixtures("subject")
def test_every_arm_is_measured(tmp_path: Path) -> None:
    said: list[str] = []
    claim = module.reproduce(seeds=(0,), out=tmp_path, progress=said.append, sizes=SMALLEST)
    names = [arm.name for arm in claim.arms]
    for arm in ("fp32", "w3a3 uniform", "w3a3 log2 clamped", "w3a3 log2 masked", "w3a3 sulq",
                "w3a3 reparameterisation only", "w3a3 SOS 1", "w3a3 SOS 1+2", "w3a3 SOS 1+2+3", "w3a3 QDrop",
                "injected w3a3 SOS 1+2+3"):
        assert f"world {arm}" in names
    measured = [arm for arm in claim.arms if "accuracy" in arm.metrics]
    assert all(arm.seeds == 1 and arm.metrics["accuracy"].n == 20 for arm in measured)
    by_name = {arm.name: arm.metrics for arm in measured}
    assert by_name["world w3a3 uniform"]["MB"].mean < by_name["world fp32"]["MB"].mean / 2
    found = claim.to_json()
    assert found["holds"] == all(check["holds"] for check in found["checks"]) and found["mode"] == "full"
    assert len(said) == len(measured)
    again = module.reproduce(seeds=(0,), out=tmp_path, progress=said.append, sizes=SMALLEST)
    assert len(said) == len(measured)  # read from what is finished, not run again
    assert [check.to_json() for check in again.checks] == [check.to_json() for check in claim.checks]


@pytest.mark.usefixtures("subject")
def test_the_quick_claim_has_fewer_arms_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "QUICK", Sizes(bits=("w3a3",), images=16, range_images=8, batch=8, iterations=2,
                                               examined=20, ablations=False))
    claim = module.reproduce(quick=True, seeds=(0, 1), out=tmp_path, progress=lambda text: None)
    assert not list(tmp_path.iterdir())
    assert claim.mode == "quick" and len(claim.checks) == 6
    assert all(arm.seeds == 2 and arm.metrics["accuracy"].n == 20 for arm in claim.arms if "accuracy" in arm.metrics)
    assert not any("injected" in arm.name or "QDrop" in arm.name for arm in claim.arms)


def test_differences_pair_images_and_seeds() -> None:
    good, bad = Found(), Found()
    for seed in range(3):
        right = np.random.default_rng(seed).random(200) < 0.8
        good.right.append(right)
        bad.right.append(right & (np.arange(200) % 10 > 0))
    gap = difference(good, bad)
    assert gap.n == 200 and 0.04 < gap.low < gap.mean < gap.high < 0.13
    assert accuracy(good).mean - accuracy(bad).mean == pytest.approx(gap.mean)


def test_stage_2_after_stage_1_changes_no_code(tiny: dict[str, Any], fast: Any, pixels: torch.Tensor) -> None:
    """Only the rounding of the weights differs: with those switched off the two networks agree."""
    from dataclasses import replace

    first, _ = quantise(tiny["vit"](), pixels, replace(fast, stages=1))
    second = folded(first, find_structure(first))
    assert isinstance(second.vit.layers[0].layernorm_before, QuantisedNorm)
    assert not second.vit.layers[0].layernorm_before.output_quantiser.is_channelwise
    assert first.vit.layers[0].layernorm_before.output_quantiser.is_channelwise
    for model in (first, second):
        for name, part in model.named_modules():
            if name.endswith("weight_quantiser"):
                part.enabled = False
    with torch.no_grad():
        one, two = first(pixels).logits, second(pixels).logits
    assert ((one - two).abs() < 1e-3).float().mean() > 0.9  # a code at a tie may move an image's logits


def test_the_worlds_classes_leave_out_what_training_never_shows() -> None:
    assert len(WORLD_CLASSES) == len(set(WORLD_CLASSES)) == 42
