"""The four estimators: what changes nothing, the pitfalls of likelihoods, and what is refused."""

import math

import numpy as np
import pytest
import torch

from diorama.diffusion import schedules
from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.text import Condition
from diorama.errors import InputError
from diorama.systems.selfeval.choice import choose
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.estimators import examine, kept_times, score
from diorama.systems.selfeval.mixture_exam import Toy, toy_credit


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy.make(300, seed=1)


# ---- invariants --------------------------------------------------------------------------------------------------


def some(toy: Toy, estimator: Estimator, captions: list[int], **extra) -> torch.Tensor:
    told = toy.model.conditions(torch.tensor(captions * 6))
    items = [item for item in range(6) for _ in captions]
    found = score(toy.model.denoise, toy.clean[:6], toy.model.schedule, told, items, estimator, **extra)
    return found.totals.view(6, -1)


@pytest.mark.parametrize("method", ["chain", "path", "line", "mse"])
def test_order_batches_and_grouping_of_captions_change_nothing(toy: Toy, method) -> None:
    estimator = Estimator(method=method, times=4, draws=2)
    whole = some(toy, estimator, [0, 1, 2, 3])
    assert torch.allclose(some(toy, estimator, [3, 1, 0, 2]), whole[:, [3, 1, 0, 2]], rtol=1e-12)
    assert torch.allclose(some(toy, estimator, [2]), whole[:, [2]], rtol=1e-12)
    assert torch.allclose(some(toy, estimator, [0, 1, 2, 3], rows=3), whole, rtol=1e-12)
    twice = some(toy, estimator, [1, 1])
    assert torch.equal(twice[:, 0], twice[:, 1])
    assert not torch.allclose(some(toy, estimator, [0, 1, 2, 3], seed=1), whole)


def test_an_items_noise_hangs_on_its_number_and_the_seed_alone(toy: Toy) -> None:
    estimator = Estimator(method="mse", times=5)
    pair = examine(toy.clean[:2], toy.model.schedule, estimator, numbers=[7, 8])
    alone = examine(toy.clean[1:2], toy.model.schedule, estimator, numbers=[8])
    assert torch.equal(pair.states.eps[1], alone.states.eps[0])
    assert not torch.equal(pair.states.eps[0], pair.states.eps[1])


def test_what_is_missing_with_the_small_variance_is_one_step_and_is_zero(toy: Toy) -> None:
    told, items = toy.model.conditions(torch.tensor([0, 1])), [0, 0]
    for method in ("path", "line", "chain"):
        terms = score(toy.model.denoise, toy.clean[:1], toy.model.schedule, told, items,
                      Estimator(method=method, variance="small", times=5)).terms
        assert (terms[:, :, 0] == 0).all() and (terms[:, :, 1:] != 0).all()
        kept = score(toy.model.denoise, toy.clean[:1], toy.model.schedule, told, items,
                     Estimator(method=method, times=5)).terms
        assert (kept != 0).all() and torch.isfinite(kept).all()


def test_the_mean_of_logs_is_below_the_log_of_the_mean(toy: Toy) -> None:
    told = toy.model.conditions(torch.arange(4))
    found = score(toy.model.denoise, toy.clean[:1], toy.model.schedule, told, [0] * 4,
                  Estimator(method="path", times=10, draws=8))
    assert (found.totals < found.bounds).all()


def test_zero_terminal_snr_works_and_mse_leaves_pure_noise_out() -> None:
    schedule = schedules.zero_terminal_snr(schedules.scaled_linear())
    toy = Toy.make(300, seed=0, schedule=schedule)
    assert kept_times(schedule, Estimator(method="mse", times=10))[-1] == 998
    assert kept_times(schedule, Estimator(method="path", times=10))[-1] == 999
    for method in ("path", "mse"):
        assert toy_credit(toy, Estimator(method=method, times=10)).mean() > toy.bayes.mean() - 0.08


def test_a_flow_is_scored_as_its_discrete_twin() -> None:
    toy = Toy.make(300, seed=0, schedule=schedules.flow())
    assert toy_credit(toy, Estimator(method="path", times=25)).mean() > toy.bayes.mean() - 0.06
    assert toy_credit(toy, Estimator(method="mse", times=25)).mean() > toy.bayes.mean() - 0.08


@pytest.mark.parametrize("method", ["chain", "path", "line", "mse"])
def test_nan_stops_with_the_time_named(toy: Toy, method) -> None:
    def broken(x: torch.Tensor, index: torch.Tensor, condition: Condition) -> Denoised:
        said = toy.model.denoise(x, index, condition)
        bad = (index == 599).view(-1, 1)
        return Denoised(torch.where(bad, math.nan, said.clean), torch.where(bad, math.nan, said.eps))

    with pytest.raises(InputError, match="time 599"):
        score(broken, toy.clean[:1], toy.model.schedule, toy.model.conditions(torch.tensor([0, 1])), [0, 0],
              Estimator(method=method, times=5))
    with pytest.raises(InputError, match="picture has values that are NaN"):
        score(toy.model.denoise, toy.clean[:1] * math.nan, toy.model.schedule,
              toy.model.conditions(torch.tensor([0, 1])), [0, 0], Estimator(method=method, times=5))


def test_clips_are_scored_as_pictures_are() -> None:
    """A denoiser over (B, T, C, H, W): which of two motions was made, from frames alone."""
    schedule = schedules.scaled_linear()
    rise = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    means = torch.stack([rise, -rise])

    def denoise(x: torch.Tensor, index: torch.Tensor, condition: Condition) -> Denoised:
        signal, noise = schedule.at(index, x)
        mean = means[condition.tokens[:, 0, 0].long()]
        clean = mean + (signal * 0.04 / (signal**2 * 0.04 + noise**2)) * (x - signal * mean)
        return Denoised(clean, (x - signal * clean) / noise)

    generator = torch.Generator().manual_seed(0)
    answers = [0, 1, 1, 0]
    clean = means[answers] + 0.2 * torch.randn(4, 5, 1, 4, 4, generator=generator)
    told = Condition(torch.tensor([0.0, 1.0] * 4).view(8, 1, 1))
    for how in (Elimination(), Estimator(method="path", times=10)):
        found = choose(denoise, clean, schedule, told, [2] * 4, how)
        assert [choice.best for choice in found] == [(answer,) for answer in answers]


@pytest.mark.parametrize("make, words", [
    (lambda: Estimator(method="sum"), "no estimator 'sum'"), (lambda: Estimator(times=0), "0 times"),
    (lambda: Elimination(threshold=0.0), "p < 0"), (lambda: Elimination(least=1), "after 1 to 50"),
    (lambda: kept_times(schedules.scaled_linear(10), Estimator(times=11)), "11 times"),
])
def test_settings_that_cannot_work_are_refused(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_captions_need_an_item_each(toy: Toy) -> None:
    with pytest.raises(InputError, match="4 captions arrived for 3 rows"):
        score(toy.model.denoise, toy.clean[:1], toy.model.schedule, toy.model.conditions(torch.arange(4)), [0] * 3,
              Estimator())


def test_probabilities_are_a_softmax_at_a_temperature(toy: Toy) -> None:
    told = toy.model.conditions(torch.arange(4).repeat(3))
    found = choose(toy.model.denoise, toy.clean[:3], toy.model.schedule, told, [4] * 3, Estimator(times=5))
    for choice in found:
        hot, cold = choice.probabilities(1e6), choice.probabilities(1.0)
        assert sum(cold) == pytest.approx(1.0) and np.argmax(cold) == choice.best[0]
        assert hot == pytest.approx([0.25] * 4, abs=1e-3)
