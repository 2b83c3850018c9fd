"""The towers of the shipped Video-LLaVA, quantised by the same command; its own command then runs the result."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama import loading
from diorama.cli import main
from diorama.media.images import save_image

MODEL = "video-llava-mini"


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("towers") / "small"
    assert main(["is-vit", "quantize", MODEL, "--bits", "w4a8", "--recipe", "repq", "--calibration", "world",
                 "--images", "8", "--batch", "4", "-o", str(out)]) == 0
    return out


def test_the_result_is_a_checkpoint_of_its_own_system(
    quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(tmp_path / "a.png", np.full((64, 64, 3), 120, dtype=np.uint8))
    capsys.readouterr()
    assert main(["video-llava", "run", str(tmp_path / "a.png"), "--weights", str(quantised), "--question",
                 "what color is the cube?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["answer"]


def test_both_towers_lie_on_their_lattices_and_nothing_else_moved(quantised: Path) -> None:
    before, after = (loading.load(name, device="cpu").model for name in (MODEL, quantised))
    record = json.loads((quantised / "quantised_towers.json").read_text())["towers"]
    assert set(record) == {"image_tower", "video_tower"}
    for name, row in record.items():
        tower = after.get_submodule(name)
        for layer in (tower.encoder.layers[0].self_attn.q_proj, tower.encoder.layers[-1].mlp.fc2):
            assert max(len(values.unique()) for values in layer.weight) <= 16
        assert row["bytes"] < row["float_bytes"] / 5 and row["images"] == 8
    video = after.video_tower.encoder.layers[0]
    assert max(len(values.unique()) for values in video.temporal_attn.q_proj.weight) <= 16
    for name, tensor in before.language_model.state_dict().items():
        assert torch.equal(tensor, after.language_model.state_dict()[name])


def test_the_towers_still_see_what_they_saw(quantised: Path) -> None:
    before, after = (loading.load(name, device="cpu").model for name in (MODEL, quantised))
    pixels = torch.randn(2, 3, before.config.tower.image_size, before.config.tower.image_size)
    with torch.no_grad():
        old, new = before.image_tower.hidden_state(pixels), after.image_tower.hidden_state(pixels)
    assert torch.nn.functional.cosine_similarity(old, new, dim=-1).mean() > 0.9


def test_towers_are_not_quantised_twice(
    quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["is-vit", "quantize", str(quantised), "--calibration", "world", "-o", str(tmp_path / "twice")]) == 2
    assert "quantised already" in capsys.readouterr().err


def test_a_system_without_towers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    assert main(["is-vit", "quantize", "agent_monitor", "--calibration", str(tmp_path / "images"),
                 "-o", str(tmp_path / "out")]) == 2
    assert "Pass one of" in capsys.readouterr().err
