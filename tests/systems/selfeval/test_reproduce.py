"""The claims at the size of tests: what they compute, and that they can fail."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diorama.cli import main
from diorama.diffusion.image_training import Recipe
from diorama.systems.selfeval import generation, reproduce
from diorama.systems.selfeval.config import Elimination
from diorama.systems.selfeval.evaluate import PairResult, Result
from diorama.systems.selfeval.reproduce import Examined, Sizes, generator_claims, pooled_rank_correlation
from diorama.training import RunConfig
from diorama.world.options import TASKS
from diorama.world.readings import ImageReading

ITEMS = 40


def examined(name: str, level: float, drawn: float, *, latent: bool = True, ordered: bool = True,
             share: float = 1.0, tied: tuple[str, ...] = ()) -> Examined:
    """A made-up checkpoint whose accuracy is `level` in every task and whose pictures are right at `drawn`."""
    rng = np.random.default_rng(0)
    order = {task: rng.permutation(ITEMS) for task in TASKS}
    results = [Result(k, task, 0.5 if task in tied else 0.25, 0.5 if task in tied
                      else float(order[task][k] < level * ITEMS), 0.5, 9.0, task in tied, True, ("a", "b"))
               for task in TASKS for k in range(ITEMS)]
    generated = {task: (order[task] < drawn * ITEMS).astype(float) for task in TASKS}
    pairs = (PairResult(np.ones(30, bool), np.zeros(30, bool)), PairResult(np.ones(30, bool), np.ones(30, bool)))
    return Examined(name, Path("nowhere"), latent, ordered, share, results, generated, pairs)


def eight(agree: bool) -> list[Examined]:
    levels = [0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.95]
    drawn = levels if agree else levels[::-1]
    kinds = [(latent, ordered, share) for share in (0.25, 1.0) for latent in (False, True) for ordered in (False, True)]
    return [examined(f"{k}", level, shown, latent=kind[0], ordered=kind[1], share=kind[2],
                     tied=() if kind[1] else ("attribute", "corruption"))
            for k, (level, shown, kind) in enumerate(zip(levels, drawn, kinds, strict=True))]


def test_ranks_that_agree_correlate_and_ranks_that_do_not_fail() -> None:
    assert pooled_rank_correlation([replace(e, results=examined("x", 0.3 + 0.08 * k, 0).results)
                                    for k, e in enumerate(eight(True))]).low > 0.9
    arms, checks = generator_claims(eight(False), seed=0)
    assert not checks[0].holds and len(arms) == 8
    assert all(np.isfinite(i.mean) for arm in arms for i in arm.metrics.values())


def test_ties_put_a_bag_of_words_at_chance_and_order_above_it() -> None:
    checks = {check.says: check for check in generator_claims(eight(True), seed=0)[1]}
    assert checks["the bag of words is at chance on attribute, by ties (seed 0)"].holds
    assert checks["the bag of words is at chance on corruption, by ties (seed 0)"].holds
    assert checks["order-aware text beats the bag of words on attribute (seed 0)"].holds
    assert next(c for says, c in checks.items() if says.startswith("PMI gains")).holds


def test_quick_runs_from_the_closed_form_alone_and_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "miniature_names", lambda: [])
    said: list[str] = []
    claim = reproduce.reproduce(quick=True, out=tmp_path, progress=said.append, sizes=Sizes(toy=150))
    found = json.loads(json.dumps(claim.to_json()))
    assert found["system"] == "selfeval" and found["mode"] == "quick" and len(found["checks"]) == 6
    assert "no generator is shipped" in said[0] and "diorama selfeval train" in said[0] and "--weights" in said[0]
    assert "leave --quick out" in said[1]
    assert (tmp_path / "accuracy.svg").read_text().startswith("<svg")


def test_quick_examines_a_generator_s_folder_and_refuses_one_that_is_not_there(
        tmp_path: Path, monkeypatch, checkpoint, capsys) -> None:
    few = reproduce.toy_claims
    monkeypatch.setattr(reproduce, "toy_claims", lambda count, calls: few(60, calls))
    code = main(["selfeval", "reproduce", "--quick", "--weights", str(checkpoint), "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    own = [check for check in found["checks"] if str(checkpoint) in check["says"]]
    assert len(own) == 1 and code == (0 if found["holds"] else 1)
    arm = next(arm for arm in found["arms"] if str(checkpoint) in arm["name"])
    assert set(TASKS) | {"calls"} == set(arm["metrics"]) and arm["metrics"]["calls"]["mean"] >= 4
    assert main(["selfeval", "reproduce", "--quick", "--weights", "gone", "--out", str(tmp_path)]) == 2
    assert "gone" in capsys.readouterr().err


def test_full_trains_and_examines_eight_checkpoints(tmp_path: Path, monkeypatch, tiny) -> None:
    monkeypatch.setattr(generation, "at_first_sight", lambda pixels: [ImageReading(()) for _ in pixels])
    run = RunConfig(steps=4, learning_rate=1e-3, ema=0.9, save_every=4)
    recipe = Recipe(miniature=tiny, autoencoder=replace(run, ema=None), network=run, autoencoder_batch=4, batch=4)
    sizes = Sizes(pictures=16, autoencoder_steps=2, steps=4, items=2, pairs=2, drawn=1, drawing_steps=2, chain_items=2,
                  estimator_items=6, calls=(2, 3, 4, 5), elimination=Elimination(least=2, most=4), recipe=recipe)
    monkeypatch.setattr(reproduce, "miniature_names", lambda: [])
    monkeypatch.setattr(reproduce, "toy_claims", lambda count, calls: ([reproduce.Arm("mixture, exact Bayes", {
        "accuracy": reproduce.bootstrap([1.0, 0.0])})], []))
    claim = reproduce.reproduce(out=tmp_path, progress=lambda line: None, sizes=sizes)
    names = [arm.name for arm in claim.arms]
    assert {f"{space}, {text}, {share} (seed 0)" for space in ("latent", "pixel") for text in ("bag", "ordered")
            for share in ("25%", "100%")} <= set(names)
    assert len(claim.checks) >= 12 and claim.mode == "full"
    assert not claim.checks[0].holds, "pictures in which the oracle sees nothing rank no generator"


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[3] / "benchmarks" / "selfeval.py"
    spec = importlib.util.spec_from_file_location("selfeval_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmarks_peer_makes_the_same_choice_on_the_same_noise_and_rows_are_whole(benchmark, tiny, monkeypatch,
                                                                                        capsys) -> None:
    monkeypatch.setattr(benchmark, "MiniatureConfig", lambda: tiny)
    monkeypatch.setattr(benchmark, "in_turn", lambda ours, theirs, repeats: (ours(), theirs(), (1.0, 2.0))[2])
    monkeypatch.setattr(benchmark, "mixture_works", lambda count, make=benchmark.mixture_works: make(6)[:2])
    assert benchmark.main(["--quick", "--json", "--weights", "none"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"system", "rows", "machine", "versions"} and found["system"] == "selfeval"
    assert all(set(row) == {"what", "ours", "theirs", "unit", "ratio", "goal", "peer"} for row in found["rows"])
    assert [row["goal"] for row in found["rows"]] == [None, None, 10.0, None, 10.0, 8.0]


def test_the_peers_stages_keep_fewer_and_fewer_captions(benchmark) -> None:
    work = benchmark.mixture_works(60)[0]
    index, noise = benchmark.shared_draws(work, 20)
    chosen, calls = benchmark.peer_choose(work, [(5, 2), (20, 1)], index, noise)
    assert len(chosen) == 10 and calls == [pytest.approx((4 * 5 + 2 * 15) / 4)] * 10
