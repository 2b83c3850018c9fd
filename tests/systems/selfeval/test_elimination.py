"""Elimination: against a plain reading of Clark & Jaini's algorithm, and what it must never do."""

import math

import numpy as np
import pytest
import torch

from diorama.diffusion.text import Condition
from diorama.errors import InputError
from diorama.systems.selfeval.choice import Choice, grouped
from diorama.systems.selfeval.confidence import Calibration, calibrate, calibration_error, fit_temperature
from diorama.systems.selfeval.config import CLARK_JAINI, Elimination
from diorama.systems.selfeval.elimination import eliminate, tail


def matrix(items: int, captions: int, most: int, gap: float, seed: int = 0) -> np.ndarray:
    """Scores (I, K, M) whose noise is mostly shared across captions; caption 1 is the best by `gap`."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(items, 1, most)) * 5 + rng.normal(size=(items, captions, most))
    scores[:, 1] += gap
    return scores


def asker(scores: np.ndarray, asked: list | None = None):
    def ask(rows: np.ndarray) -> np.ndarray:
        if asked is not None:
            asked.append(rows)
        return scores[rows[:, 0], rows[:, 1], rows[:, 2]]

    return ask


def by_hand(scores: np.ndarray, rule: Elimination) -> tuple[int, list[int]]:
    """Algorithm 1 of 2303.15233 on one item (K, M), written as it reads."""
    alive, calls = list(range(len(scores))), [0] * len(scores)
    for done in range(rule.least, rule.most + 1):
        for caption in alive:
            calls[caption] = done
        best = max(alive, key=lambda k: scores[k, :done].mean())
        kept = []
        for caption in alive:
            gap = scores[best, :done] - scores[caption, :done]
            t = gap.mean() / (gap.std(ddof=1) / math.sqrt(done)) if caption != best else 0.0
            if caption == best or student(t, done - 1) >= rule.threshold:
                kept.append(caption)
        alive = kept
        if len(alive) == 1:
            break
    return max(alive, key=lambda k: scores[k, : max(calls)].mean()), calls


def student(t: float, degrees: int) -> float:
    """Two-sided p of Student's t by integrating its density."""
    grid = torch.linspace(-abs(t), abs(t), 20001, dtype=torch.float64)
    log = (math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
           - (degrees + 1) / 2 * torch.log1p(grid**2 / degrees))
    return 1 - torch.trapezoid(log.exp(), grid).item()


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 19, 20, 99])
@pytest.mark.parametrize("t", [0.0, 0.7, 2.1, 4.0])
def test_students_tail_is_the_integral_of_its_density(degrees: int, t: float) -> None:
    assert tail(np.array([t, -t]), degrees).tolist() == pytest.approx([student(t, degrees)] * 2, abs=1e-6)
    assert tail(np.array([1.644854, -1.644854]), None).tolist() == pytest.approx([0.05, 0.95], abs=1e-6)


@pytest.mark.parametrize("rule", [Elimination(threshold=0.02, least=5, most=40, test="t"),
                                  Elimination(threshold=CLARK_JAINI.threshold, least=20, most=60, test="t")])
def test_it_is_clark_and_jainis_algorithm_item_by_item(rule: Elimination) -> None:
    scores = matrix(20, 4, rule.most, gap=0.6)
    found = eliminate(asker(scores), [4] * 20, rule)
    for item in range(20):
        best, calls = by_hand(scores[item], rule)
        assert found.best[item] == best and found.calls[item].tolist() == calls


def test_a_dropped_caption_is_neither_asked_again_nor_returned() -> None:
    scores, asked = matrix(30, 5, 60, gap=1.0), []
    scores[:, 0, :4] -= 50  # looks hopeless at first, and would win in the end
    scores[:, 0, 4:] += 500
    found = eliminate(asker(scores, asked), [5] * 30, Elimination(least=4, most=60))
    dropped = ~found.alive
    assert dropped[:, 0].all() and not dropped[np.arange(30), found.best].any()
    assert (found.calls[:, 0] == 4).all()
    assert max(rows[rows[:, 1] == 0][:, 2].max(initial=0) for rows in asked) == 3
    assert found.calls.mean() < 60


def test_with_all_calls_at_once_it_is_the_fixed_budget() -> None:
    scores = matrix(40, 4, 30, gap=0.2)
    found = eliminate(asker(scores), [4] * 40, Elimination(threshold=1e-300, least=30, most=30))
    assert np.array_equal(found.best, scores.mean(2).argmax(1)) and (found.calls == 30).all()


def test_items_with_fewer_captions_have_no_ghosts() -> None:
    found = eliminate(asker(matrix(3, 4, 20, gap=3.0)), [2, 4, 3], Elimination(most=20))
    assert found.best.tolist() == [1, 1, 1]
    assert found.calls[0, 2:].tolist() == [0, 0]
    assert np.isneginf(found.differences()[0, 2:]).all() and (found.differences().max(1) == 0).all()


def test_equal_scores_are_never_parted_and_stay_undecided() -> None:
    scores = matrix(5, 2, 20, gap=0.0)
    scores[:, 1] = scores[:, 0]
    found = eliminate(asker(scores), [2] * 5, Elimination(most=20))
    assert found.alive.all() and not found.decided.any() and (found.calls == 20).all()


# ---- ties and confidence -----------------------------------------------------------------------------------------


def test_identical_encodings_are_one_group() -> None:
    tokens = torch.tensor([1.0, 2.0, 1.0, 5.0, 5.0]).view(5, 1, 1)
    found = grouped(Condition(tokens), [3, 2])
    assert found.groups == [[[0, 2], [1]], [[0, 1]]] and found.rows == [0, 1, 3] and found.items == [0, 0, 1]
    with pytest.raises(InputError, match="a choice needs two"):
        grouped(Condition(tokens), [1, 4])


def choices(count: int, scale: float, seed: int = 0) -> tuple[list[Choice], list[int]]:
    """Margins that are nats of a true posterior, times `scale`."""
    rng = np.random.default_rng(seed)
    made, answers = [], []
    for _ in range(count):
        logits = rng.normal(size=3) * 1.5
        chances = np.exp(logits) / np.exp(logits).sum()
        answers.append(int(rng.choice(3, p=chances)))
        margins = (logits - logits.max()) * scale
        made.append(Choice(tuple(margins), (1, 1, 1), (int(logits.argmax()),), True))
    return made, answers


@pytest.mark.parametrize("scale", [0.1, 1.0, 200.0])
def test_the_fitted_temperature_undoes_the_scale_and_makes_confidence_true(scale: float) -> None:
    made, answers = choices(3000, scale)
    temperature, _ = fit_temperature(made, answers)
    assert temperature == pytest.approx(scale, rel=0.1)
    fitted = calibrate(made, answers, "test")
    assert fitted.calibration_error < 0.04 and fitted.items == 1500
    if scale == 200.0:
        assert calibration_error(made, answers, 1.0) > 0.2, "summed nats are overconfident"


def test_a_calibration_is_kept_in_a_file(tmp_path) -> None:
    kept = Calibration("mse", 2.5, 10, 0.3, 0.02)
    kept.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == kept
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="no calibration"):
        Calibration.load(tmp_path / "other.json")


def test_ties_share_the_credit() -> None:
    tied = Choice((0.0, 0.0, -2.0), (4, 4, 4), (0, 1), False, ((0, 1),))
    assert [tied.credit(k) for k in range(3)] == [0.5, 0.5, 0.0]
