"""The verbs through the real command line: what they write, and one sentence with exit code 2 for bad input."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from diorama.cli import main
from diorama.media.images import save_image
from diorama.systems.is_vit.commands import Recipe
from diorama.systems.is_vit.config import PRESETS
from diorama.systems.is_vit.data import Preprocessing
from diorama.systems.is_vit.pipeline import VisionTransformer


@pytest.fixture
def model(tiny: dict[str, Any], tmp_path: Path) -> str:
    vit = VisionTransformer(tiny["vit"](), Preprocessing(size=16), list("abcde"), name="tiny", device="cpu")
    return str(vit.save_pretrained(tmp_path / "float"))


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(10):
        save_image(tmp_path / "images" / f"{index}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return str(tmp_path / "images")


def test_every_recipe_can_be_named() -> None:
    assert get_args(Recipe) == tuple(PRESETS)


QUICK = ["--batch", "4", "--images", "8", "--iterations", "3"]


def test_quantize_run_evaluate(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "small")
    assert main(["is-vit", "quantize", model, "--bits", "w4a4", "--calibration", images, "-o", out, *QUICK,
                 "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["images"] == 8 and result["bytes"] < result["float_bytes"] / 2
    assert "4/4 head" in told.err  # progress on stderr alone
    settings = json.loads((tmp_path / "small/config.json").read_text())["quantization_config"]["settings"]
    assert settings["learning_rate"] == pytest.approx(4e-5 * 1000 / 3)  # rate times steps as published
    assert main(["is-vit", "run", out, f"{images}/3.png", "--json", "--top", "2"]) == 0
    ranked = json.loads(capsys.readouterr().out)["images"][0]
    assert ranked["file"].endswith("3.png") and len(ranked["ranking"]) == 2
    for name in ("b", "d"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        save_image(tmp_path / "classes" / name / "a.png", np.zeros((16, 16, 3), dtype=np.uint8))
    assert main(["is-vit", "evaluate", out, "--data", str(tmp_path / "classes"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["accuracy"]["mean"] <= 1 and found["milliseconds"] > 0


def refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    code = main(line)
    told = capsys.readouterr()
    assert code == 2 and not told.out
    sentences = [text for text in told.err.splitlines() if text.startswith("diorama: ")]
    assert len(sentences) == 1 and "Traceback" not in told.err
    return sentences[0]


def test_bad_input_of_quantize(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "small")
    base = ["is-vit", "quantize", model, "-o", out, *QUICK]
    assert "holds no image" in refused([*base, "--calibration", str(tmp_path / "empty")], capsys)
    assert "is no folder" in refused([*base, "--calibration", str(tmp_path / "absent")], capsys)
    few = refused(["is-vit", "quantize", model, "-o", out, "--batch", "64", "--calibration", images], capsys)
    assert "holds 10 images, and a batch takes 64" in few and "--few" in few
    for bits in ("w1a3", "w3a9", "int4"):
        assert "--bits" in refused([*base, "--calibration", images, "--bits", bits], capsys)
    assert "iterations is 0" in refused(["is-vit", "quantize", model, "--iterations", "0", "--calibration", images],
                                        capsys)
    assert "4 stages" in refused([*base, "--stages", "4"], capsys)
    assert "is no folder" in refused(["is-vit", "quantize", "./nowhere"], capsys)
    assert not (tmp_path / "small").exists()


def test_few_images_when_asked_for(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["is-vit", "quantize", model, "-o", str(tmp_path / "small"), "--calibration", images, "--iterations", "2",
            "--batch", "16", "--few"]
    assert main(line) == 0
    assert "holds 10 images of the 1024 asked for" in capsys.readouterr().err


def test_bad_input_of_run_evaluate_train(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in refused(["is-vit", "run", model, str(tmp_path / "text.png")], capsys)
    assert "No image was named" in refused(["is-vit", "run", model], capsys)
    assert "--top is 0" in refused(["is-vit", "run", model, f"{images}/0.png", "--top", "0"], capsys)
    assert "each class needs one" in refused(["is-vit", "evaluate", model, "--data", images], capsys)
    assert "does not know" in refused(["is-vit", "evaluate", model, "--data", "world", "--images", "2"], capsys)
    assert "each class needs one" in refused(["is-vit", "train", images, "--out", str(tmp_path / "run")], capsys)
    assert "--seeds is 0" in refused(["is-vit", "reproduce", "--seeds", "0"], capsys)


def test_a_quantised_checkpoint_is_not_quantised_again(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "small")
    assert main(["is-vit", "quantize", model, "--recipe", "uniform", "--calibration", images, "-o", out, *QUICK]) == 0
    again = ["is-vit", "quantize", out, "--calibration", "./absent", "-o", str(tmp_path / "twice"), *QUICK]
    assert "quantised already" in refused(again, capsys)  # before any image is looked for


def test_a_folder_that_is_no_checkpoint_is_kept(
    model: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    line = ["is-vit", "quantize", model, "--recipe", "uniform", "--calibration", images, "-o",
            str(tmp_path / "mine"), *QUICK]
    assert "is no checkpoint" in refused(line, capsys)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_train_on_a_folder_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for shade, name in ((40, "dark"), (200, "light")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(4):
                noise = rng.integers(-20, 20, (32, 32, 3))
                save_image(tmp_path / "data" / part / name / f"{index}.png", (shade + noise).astype(np.uint8))
    out = tmp_path / "run"
    assert main(["is-vit", "train", str(tmp_path / "data"), "--steps", "2", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2 and result["accuracy"]["n"] == 8
    assert "seed 0, 2 steps" in (out / "model/README.md").read_text()
    assert VisionTransformer.from_pretrained(out / "model", device="cpu").labels == ("dark", "light")


def test_dry_runs_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[list[str]] = [["quantize", "is-vit-world"], ["run", "x", "a.png"], ["evaluate"], ["train", "digits"],
                              ["reproduce"], ["export", "x"]]
    for line in lines:
        assert main(["is-vit", *line, "--dry-run", "--out", str(tmp_path / "none")]) == 0
        assert "would" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
