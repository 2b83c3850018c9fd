"""The world oracle's network, quantised by the same command; it is then loaded as the oracle's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diorama.cli import main
from diorama.media.images import save_image
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.detectors import FIRST, holds_detector, quantise
from diorama.systems.is_vit.quantised import QuantisedConv, activation_quantisers, weight_layers
from diorama.world.detector import Detector, DetectorConfig, load_detector
from diorama.world.oracle import read_images
from diorama.world.pool import PoolConfig, draw_pool

MODEL = "world-oracle"


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.from_numpy(draw_pool(PoolConfig(families=24, split="test", seed=7_000_000)).pixels[:, 0])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("oracle") / "small"
    assert main(["is-vit", "quantize", MODEL, "--bits", "w8a8", "--recipe", "uniform", "--calibration", "world",
                 "--images", "16", "--batch", "8", "-o", str(out)]) == 0
    return out


def test_the_oracle_reads_with_eight_bits_what_it_read_before(small: Path, pictures: Tensor) -> None:
    def things(detector: Detector) -> list[list[tuple[str, str]]]:
        return [sorted((one.color, one.shape) for one in reading.objects)
                for reading in read_images(pictures, closely=False, detector=detector)]

    before, after = things(load_detector(MODEL)), things(load_detector(small))
    assert sum(map(len, before)) > 24
    assert sum(one == other for one, other in zip(before, after, strict=True)) >= 23


def test_its_weights_lie_on_the_lattice_and_its_record_says_so(small: Path) -> None:
    layers = [layer for layer in load_detector(small).modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 14
    assert all(max(len(row.unique()) for row in layer.weight) <= 256 for layer in layers)
    row = json.loads((small / "quantised_detector.json").read_text())["network"]
    assert row["images"] == 16 and row["bytes"] < row["float_bytes"] / 3


@pytest.mark.parametrize("method", ["none", "sos", "one_stage", "brecq", "qdrop"])
def test_every_method_tunes_it(method: str) -> None:
    torch.manual_seed(0)
    model = Detector(DetectorConfig(channels=(8, 8, 8))).eval()
    config = QuantiseConfig(weight_bits=4, activation_bits=6, method=method, images=8, range_images=4,  # type: ignore[arg-type]
                            batch=4, iterations=4, learning_rate=1e-3)
    pixels = torch.rand(8, 3, 64, 64)
    made, tuned = quantise(model, pixels, config)
    assert [one.stage for one in tuned] == {"none": [], "sos": ["stage 1", "stage 3"], "one_stage": ["stage one"],
                                            "brecq": ["brecq"], "qdrop": ["qdrop"]}[method]
    assert len(list(weight_layers(made))) == 14
    assert len(list(activation_quantisers(made))) == 13 and all(one.enabled for one in activation_quantisers(made))
    first = made.get_submodule(FIRST)
    assert isinstance(first, QuantisedConv) and first.input_quantiser is None  # the image is 8 bit as it is
    for layer in weight_layers(made):
        assert max(len(row.unique()) for row in layer.weight_quantiser(layer.weight)) <= 16


def test_it_is_not_quantised_twice(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["is-vit", "quantize", str(small), "--calibration", "world", "-o", str(tmp_path / "twice")]) == 2
    assert "quantised already" in capsys.readouterr().err and not (tmp_path / "twice").exists()


def test_a_folder_of_pictures_is_cut_to_squares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    line = ["is-vit", "quantize", MODEL, "--bits", "w8a8", "--recipe", "uniform", "--calibration",
            str(tmp_path / "images"), "--batch", "2", "-o", str(tmp_path / "out")]
    assert main(line) == 2 and "holds no image" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    for index in range(3):
        save_image(tmp_path / "images" / f"{index}.png", rng.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    assert main([*line[:-4], "--batch", "4", "-o", str(tmp_path / "out")]) == 2
    assert "a batch takes 4" in capsys.readouterr().err
    assert main(line) == 0 and "3 images" in capsys.readouterr().out


def test_only_the_oracles_network_is_taken_for_one() -> None:
    assert holds_detector(MODEL)
    assert not holds_detector("is-vit-world") and not holds_detector("video-llava-mini")
