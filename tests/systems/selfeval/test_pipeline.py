"""SelfEval on real network classes: ties, notes, parity with Diffusion Classifier, commands."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama.cli import main
from diorama.diffusion import text_to_image
from diorama.diffusion.parametrisations import add_noise
from diorama.errors import CheckpointError, InputError
from diorama.media.images import save_image
from diorama.systems.selfeval import generation
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.estimators import examine, score
from diorama.systems.selfeval.evaluate import (
    Result,
    accuracy,
    compare,
    pair_result,
    read_results,
    sign_test,
    summary,
    write_results,
)
from diorama.systems.selfeval.finish import finish
from diorama.systems.selfeval.items import Item, Pair
from diorama.systems.selfeval.pipeline import SelfEval
from diorama.systems.selfeval.world_items import world_items
from diorama.world.readings import ImageReading

CAPTIONS = ["a red cube and a blue sphere", "a blue cube and a red sphere", "a small cone"]
FEW = Elimination(least=3, most=6)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    save_image(tmp_path / "picture.png", pixels)
    return tmp_path / "picture.png"


def test_a_verdict_says_what_it_rests_on(generator, picture: Path) -> None:
    verdict = SelfEval(generator, FEW).score(picture, [*CAPTIONS, "a red dog"])
    assert sum(verdict.probabilities) == pytest.approx(1.0) and len(verdict.calls) == 4
    assert all(3 <= calls <= 6 for calls in verdict.calls) and not verdict.calibrated
    assert verdict.best == (verdict.captions[int(np.argmax(verdict.probabilities))],)
    assert any("dog" in note for note in verdict.notes)
    assert any("32 x 24 pixels was resized to 16 x 16, its sides scaled apart" in note for note in verdict.notes)
    assert json.loads(json.dumps(verdict.to_json()))["calls"] == list(verdict.calls)


def test_a_bag_of_words_ties_on_word_order_exactly_whatever_the_order_of_options(bag, picture: Path) -> None:
    shuffled = [CAPTIONS[0], "blue a sphere red cube and a", CAPTIONS[1]]
    for how in (FEW, Estimator(method="path", times=4)):
        verdict = SelfEval(bag, how).score(picture, shuffled)
        assert verdict.choice.best == (0, 1, 2) and verdict.best == tuple(shuffled)
        assert len(set(verdict.probabilities)) == 1 and verdict.confidence == pytest.approx(1.0)
        assert any("cannot tell apart" in note for note in verdict.notes)
        assert verdict.choice.credit(0) == pytest.approx(1 / 3)
    other = SelfEval(bag, FEW).score(picture, [CAPTIONS[2], *shuffled])
    assert other.choice.ties == ((1, 2, 3),)
    assert len({round(m, 12) for m in other.choice.margins[1:]}) == 1


def test_captions_cut_to_the_same_words_are_ties(generator, picture: Path) -> None:
    long = "a red cube " * 6
    verdict = SelfEval(generator, FEW).score(picture, [long + "left", long + "right"])
    assert verdict.choice.best == (0, 1) and any("longer than the 16 tokens" in note for note in verdict.notes)


def test_options_in_another_order_get_the_same_probabilities(generator, picture: Path) -> None:
    exam = SelfEval(generator, FEW)
    first, second = exam.score(picture, CAPTIONS), exam.score(picture, CAPTIONS[::-1])
    assert first.probabilities == pytest.approx(second.probabilities[::-1], rel=1e-4)
    assert first.best == second.best


def test_one_caption_is_no_choice(generator, picture: Path) -> None:
    with pytest.raises(InputError, match="a choice needs two"):
        SelfEval(generator, FEW).score(picture, CAPTIONS[:1])


def test_batches_change_nothing(generator) -> None:
    items = world_items(1, size=16)
    by_size = [SelfEval(generator, FEW, rows=rows).examine(items) for rows in (5, 64)]
    for small, large in zip(*by_size, strict=True):
        assert small.choice.margins == pytest.approx(large.choice.margins, abs=1e-2, rel=1e-3)
        assert small.calls == large.calls and small.best == large.best


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_mse_is_diffusion_classifiers_error_matrix(generator, loss) -> None:
    """Its error: one noise and one time a trial, shared by all prompts; the loss averaged over the latent's values."""
    items = world_items(1, tasks=("color",), size=16)
    clean = generator.to_latents(torch.from_numpy(items[0].image).unsqueeze(0))
    estimator = Estimator(method="mse", times=5, loss=loss)
    condition = generator.encode_text(items[0].options)
    ours = score(generator.denoiser, clean, generator.schedule, condition, [0] * 4, estimator).terms[:, 0]
    shared = examine(clean, generator.schedule, estimator)
    criterion = {"l2": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss,
                 "huber": torch.nn.functional.huber_loss}[loss]
    for trial in range(5):
        index, eps = shared.kept[trial], shared.states.eps[:, trial]
        signal, noise = generator.schedule.at(index, clean)
        noised = add_noise(clean, eps, signal, noise)
        for prompt in range(4):
            said = generator.denoiser(noised, index.view(1), condition.rows([prompt]))
            error = criterion(eps, said.eps, reduction="none").mean()
            assert -ours[prompt, trial].item() / clean[0].numel() == pytest.approx(error.item(), abs=1e-5)


def test_guidance_plays_no_part_and_the_null_prompt_is_the_empty_caption(generator) -> None:
    item = world_items(1, tasks=("attribute",), size=16)[0]
    exam = SelfEval(generator, Estimator(method="path", times=3))
    assert exam.choose_picture([item.image, item.image], "") == [0.0, 0.0]
    same = exam.choose_picture([item.image, item.image], CAPTIONS[0])
    assert same[0] == same[1] != 0.0


def test_pairs_are_scored_raw_and_less_the_image(generator) -> None:
    items = world_items(2, tasks=("color",), size=16)
    pair = Pair((items[0].image, items[1].image), (CAPTIONS[0], CAPTIONS[1]))
    raw, normalised = SelfEval(generator).pair_scores([pair], Estimator(method="mse", times=4))
    assert raw.shape == normalised.shape == (1, 2, 2)
    offset = raw - normalised
    assert torch.allclose(offset[:, :, 0], offset[:, :, 1], atol=1e-9), "log p(image) has no caption"


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_winograds_rules_on_a_table_of_four_scores() -> None:
    scores = torch.tensor([
        [[2.0, 1.0], [0.0, 3.0]],   # all right
        [[9.0, 8.0], [1.0, 2.0]],   # text right, image 0 wins both captions
        [[2.0, 3.0], [1.0, 4.0]],   # image right, text 0 wrong
        [[1.0, 1.0], [1.0, 1.0]],   # ties are wrong
    ])
    found = pair_result(scores)
    assert found.text.tolist() == [True, True, False, False]
    assert found.image.tolist() == [True, False, True, False]
    assert found.group.tolist() == [True, False, False, False]


def result(number: int, credit: float, task: str = "color") -> Result:
    return Result(number, task, 0.25, credit, 0.5, 9.0, credit == 0.5, True, ("a", str(number)))


def test_accuracy_has_intervals_chance_and_ties(tmp_path: Path) -> None:
    found = [result(k, float(k % 2)) for k in range(40)] + [result(k, 0.5, "attribute") for k in range(10)]
    rows = summary(found)
    assert rows["color"]["accuracy"] == 0.5 and rows["color"]["low"] < 0.5 < rows["color"]["high"]
    assert rows["attribute"]["ties"] == 10 and rows["attribute"]["accuracy"] == 0.5
    write_results(tmp_path / "results.jsonl", found)
    assert read_results(tmp_path / "results.jsonl") == found
    assert list(accuracy(found)) == ["color", "attribute"]


def test_two_checkpoints_are_compared_item_by_item() -> None:
    strong, weak = [result(k, 1.0) for k in range(30)], [result(k, float(k >= 20)) for k in range(30)]
    rows = compare(strong, weak)
    assert rows["all"]["difference"] == pytest.approx(2 / 3) and rows["all"]["low"] > 0.4
    assert rows["color"]["p"] == pytest.approx(2 / 2**20)
    assert sign_test([1.0, 0.0], [1.0, 0.0]) == 1.0 and sign_test([1, 0, 1], [0, 1, 1]) == 1.0
    with pytest.raises(InputError, match="different items"):
        compare(strong, weak[:-1])


def test_generated_pictures_are_credited_only_where_the_oracle_is_sure(generator) -> None:
    shown = []

    def read(pixels: torch.Tensor) -> list[ImageReading]:
        shown.append(pixels)
        return [ImageReading(()) for _ in pixels]

    credit = generation.generation_credit(generator, ["a red cube", "two cubes"], steps=2, read=read)
    assert credit.tolist() == [0.0, 0.0] and shown[0].shape == (2, 3, 16, 16) and shown[0].dtype == torch.uint8


def test_finishing_measures_and_writes_a_card_that_a_miniature_needs(checkpoint, tmp_path: Path) -> None:
    lines: list[str] = []
    found = finish(checkpoint, tmp_path / "mini", each=2, device="cpu", progress=lines.append,
                   read=lambda pixels: [ImageReading(()) for _ in pixels])
    assert found["measured"]["two objects, both bound"]["mean"] == 0.0 and len(found["measured"]) == 8
    card = (tmp_path / "mini" / "README.md").read_text()
    assert "made in a test" in card and "| one object, color and shape right | 0.0%" in card and "| 90% |" in card
    exam = SelfEval.from_pretrained(tmp_path / "mini", device="cpu")
    assert exam.calibration is not None and exam.calibration.temperature == found["calibration"]["temperature"]
    assert SelfEval.from_pretrained(tmp_path / "mini", Estimator(), device="cpu").calibration is None
    (tmp_path / "mini" / "README.md").unlink()
    with pytest.raises(CheckpointError, match="how it was trained is not known"):
        finish(tmp_path / "mini", tmp_path / "again")


# ---- commands ----------------------------------------------------------------------------------------------------


def test_score_prints_probabilities_calls_and_confidence(checkpoint, picture, capsys) -> None:
    line = ["selfeval", "score", str(picture), *CAPTIONS, "--model", str(checkpoint), "--most", "6"]
    assert main([*line, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert sum(found["probabilities"]) == pytest.approx(1.0) and len(found["calls"]) == 3 and "resized" in err
    assert main(line) == 0
    assert "confidence" in capsys.readouterr().out


def test_evaluate_writes_results_and_a_calibration_that_score_and_compare_read(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["selfeval", "evaluate", "--model", str(checkpoint), "--tasks", "color,count", "--each", "4", "--most",
                 "5", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["tasks"]) == {"color", "count"} and found["tasks"]["color"]["chance"] == 0.25
    assert found["tasks"]["color"]["n"] == 4 and 4 <= found["tasks"]["color"]["calls"] <= 5
    results = str(out / "results.jsonl")
    assert main(["selfeval", "compare", results, results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["all"]["difference"] == 0
    assert main(["selfeval", "score", str(picture), *CAPTIONS, "--model", str(checkpoint), "--most", "5",
                 "--calibration", str(out / "calibration.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibrated"] is True
    assert main(["selfeval", "evaluate", "--model", str(checkpoint), "--tasks", "pairs", "--each", "2", "--method",
                 "mse", "--times", "2"]) == 0
    assert "less log p(image)" in capsys.readouterr().out


def test_evaluate_reads_a_file_of_items(checkpoint, picture, tmp_path, capsys) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"image": "picture.png", "options": CAPTIONS[:2], "answer": 0, "task": "attribute"}))
    assert main(["selfeval", "evaluate", "--model", str(checkpoint), "--items", str(file), "--most", "5"]) == 0
    assert "attribute" in capsys.readouterr().out


@pytest.mark.parametrize("line, words", [
    (["score", "picture.png", "one caption"], "a choice needs two"),
    (["score", "gone.png", "a", "b"], "gone.png"),
    (["score", "picture.png", "a", "b", "--times", "5"], "elimination decides it itself"),
    (["score", "picture.png", "a", "b", "--model", "nowhere/"], "nowhere"),
    (["score", "picture.png", "a", "b", "--model", "text-to-image-mini"], "selfeval train"),
    (["evaluate", "--items", "gone.jsonl"], "no file gone.jsonl"),
    (["evaluate", "--tasks", "smell"], "no task smell"),
    (["compare", "gone.jsonl", "gone.jsonl"], "no results"),
    (["reproduce", "--seeds", "0"], "needs at least one"),
])
def test_wrong_use_is_one_sentence(line: list[str], words: str, checkpoint, picture, monkeypatch, capsys) -> None:
    monkeypatch.chdir(picture.parent)
    monkeypatch.setattr(text_to_image, "miniature_names", lambda: [])
    if "--model" not in line and line[0] in ("score", "evaluate"):
        line = [*line, "--model", str(checkpoint)]
    assert main(["selfeval", *line]) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_a_model_that_answers_nan_stops_with_the_time_named(generator, picture: Path) -> None:
    broken = replace(Estimator(method="mse", times=3))
    exam = SelfEval(generator, broken)
    kept = generator.denoiser.predict
    generator.denoiser.predict = lambda x, times, condition: torch.full_like(x, math.nan)
    try:
        with pytest.raises(InputError, match=r"estimate at time \d+ of the schedule has values that are NaN"):
            exam.score(picture, CAPTIONS)
    finally:
        generator.denoiser.predict = kept


def test_items_know_their_answer() -> None:
    item = Item(np.zeros((3, 4, 4), dtype=np.uint8), ("a", "b"), 1, "color", 0.5)
    assert item.options[item.answer] == "b"
