"""The benchmark at the size of the tests: sides agree before they are timed, and the object has its shape."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig

from diorama.nn.int8 import has_int8_kernels
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.quantised import calibrating, insert
from diorama.systems.is_vit.units import units_of

SMALL = ViTConfig(hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=32, image_size=32,
                  patch_size=8, num_labels=5)
needs_vnni = pytest.mark.skipif(not has_int8_kernels(), reason="this CPU has no VNNI instructions")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parents[3] / "benchmarks" / "is_vit.py"
    spec = importlib.util.spec_from_file_location("is_vit_benchmark", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VIT_S", SMALL)
    monkeypatch.setattr(module, "torchao_network", lambda model: None)
    return module


@needs_vnni
def test_rows_are_whole_and_threads_are_said(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert benchmark.main(["--quick", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"system", "rows", "machine", "versions"} and found["system"] == "is_vit"
    assert found["machine"]["threads"] == 1 and found["machine"]["clock"] == "processor time"
    assert all(set(row) == {"what", "ours", "theirs", "unit", "ratio", "goal", "peer"} for row in found["rows"])
    assert [(row["peer"], row["goal"]) for row in found["rows"][:-2]] == [
        ("fp32", 1.5), ("fp32", 1.5), ("bf16", None), ("bf16", None), (benchmark.PUBLISHED, 1.0)]
    assert [row["unit"] for row in found["rows"][-2:]] == ["MB", "MB"]
    assert found["rows"][-1]["ours"] <= 36
    assert all(row["ratio"] == pytest.approx(row["theirs"] / row["ours"]) for row in found["rows"])


def test_the_loop_computes_what_the_quantised_block_does(benchmark: Any) -> None:
    config = QuantiseConfig(images=4, range_images=4, batch=2, iterations=2)
    model = benchmark.random_vit(4)
    student = benchmark.copy.deepcopy(model)
    insert(student, config)
    hidden = torch.randn(4, 17, 24)
    block = benchmark.LoopBlock(model.vit.layers[3], config)
    unit = units_of(student)[4]
    with torch.no_grad():
        block.searching = True
        block(hidden)
        block.searching = False
        with calibrating(student):
            unit.run(hidden)
        off = (block(hidden) - unit.run(hidden)).abs() > 1e-3
    assert off.float().mean() < 0.05


def test_sides_that_begin_unlike_are_not_timed(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "published", lambda *arguments: [1e9])
    with pytest.raises(RuntimeError, match="nothing was timed"):
        benchmark.calibration_rows(4, 2, 2, 1)
