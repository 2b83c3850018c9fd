"""The benchmark at the size of the tests: both sides agree, and the object has its shape."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[3] / "benchmarks" / "video_llava.py"
    spec = importlib.util.spec_from_file_location("video_llava_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module                             # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(world_config):
    language = replace(world_config.language, vocab_size=world_config.language.vocab_size + 2)
    return replace(world_config, language=language)


def test_both_sides_do_the_same_work_and_rows_are_whole(benchmark, small, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SIZES", {"tiny": small})
    monkeypatch.setattr(benchmark, "MINIATURE", small)
    monkeypatch.setattr(benchmark, "in_turn", lambda sides, repeats: [side() is None or 2.0 for side in sides])
    monkeypatch.setattr(benchmark, "memory_row", lambda name, count: benchmark.Row(
        f"peak memory of {count}, {name}", 1.0, 2.0, "MB", 2.0, None, benchmark.PORT))
    assert benchmark.main(["--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"system", "rows", "machine", "versions"} and found["system"] == "video_llava"
    assert all(set(row) == {"what", "ours", "theirs", "unit", "ratio", "goal", "peer"} for row in found["rows"])
    assert [row["goal"] for row in found["rows"][:3]] == [1.0, 3.0, None]
    assert benchmark.main(["--attention", "--quick"]) == 0
    assert "eager attention" in capsys.readouterr().out


def test_sides_that_disagree_are_not_timed(benchmark, small):
    work, ours = benchmark.Work.make(small), benchmark.build_ours(small)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        benchmark.check_agreement(ours, benchmark.build_theirs(small), work)
