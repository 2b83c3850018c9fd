"""What networks predict: round trips between targets, diffusers' formulas, and the pairs that cannot work."""

import math
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler

from diorama.diffusion import schedules
from diorama.diffusion.parametrisations import (
    Target,
    add_noise,
    check_target,
    denoised,
    refuse_nan,
    training_target,
    without_variance,
)
from diorama.errors import InputError

TARGETS = get_args(Target)


def noisy(schedule: schedules.Schedule, index: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(index)
    clean, eps = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    signal, noise = schedule.at(index, clean)
    return clean, eps, signal, noise, add_noise(clean, eps, signal, noise)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("index", [0, 500, 998])
def test_every_target_gives_back_the_clean_value_and_the_noise(target: Target, index: int) -> None:
    schedule = schedules.flow() if target == "flow" else schedules.zero_terminal_snr(schedules.scaled_linear())
    clean, eps, signal, noise, x = noisy(schedule, index)
    said = denoised(training_target(clean, eps, signal, noise, target), x, signal, noise, target)
    assert torch.allclose(said.clean, clean, atol=1e-8) and torch.allclose(said.eps, eps, atol=1e-8)


@pytest.mark.parametrize("target", ["v", "x0", "flow"])
def test_pure_noise_has_a_clean_estimate_for_all_but_eps(target: Target) -> None:
    schedule = schedules.flow() if target == "flow" else schedules.zero_terminal_snr(schedules.scaled_linear())
    clean, eps, signal, noise, x = noisy(schedule, 999)
    said = denoised(training_target(clean, eps, signal, noise, target), x, signal, noise, target)
    assert torch.allclose(said.clean, clean) and torch.allclose(said.eps, eps)
    check_target(schedule, target)


def test_noise_and_velocity_are_diffusers() -> None:
    theirs = DDPMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear")
    clean, eps = torch.randn(2, 4, 3, 5, 5)
    index = torch.tensor([0, 10, 500, 999])
    signal, noise = schedules.scaled_linear().at(index, clean)
    assert torch.allclose(add_noise(clean, eps, signal, noise), theirs.add_noise(clean, eps, index), atol=1e-5)
    velocity = training_target(clean, eps, signal, noise, "v")
    assert torch.allclose(velocity, theirs.get_velocity(clean, eps, index), atol=1e-5)


def test_the_published_conversions_of_v_and_flow_to_eps() -> None:
    """eps = sqrt(abar) v + sqrt(1 - abar) x_t, and eps = x_t + (1 - t) v."""
    schedule = schedules.scaled_linear()
    _, eps, signal, noise, x = noisy(schedule, 300)
    answer = torch.randn_like(eps)
    said = denoised(answer, x, signal, noise, "v")
    assert torch.allclose(said.eps, signal * answer + noise * x)
    straight = schedules.flow()
    _, eps, signal, noise, x = noisy(straight, 300)
    assert torch.allclose(denoised(answer, x, signal, noise, "flow").eps, x + (1 - noise) * answer)


@pytest.mark.parametrize("schedule, target, words", [
    (schedules.zero_terminal_snr(schedules.scaled_linear()), "eps", "pure noise"),
    (schedules.flow(), "eps", "pure noise"),
    (schedules.scaled_linear(), "flow", "bent"),
    (schedules.scaled_linear(), "noise", "unknown"),
])
def test_pairs_that_cannot_work_are_refused(schedule: schedules.Schedule, target: Target, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_target(schedule, target)


def test_a_learned_variance_is_split_off_and_not_taken_for_noise() -> None:
    answer = torch.randn(2, 6, 4, 4)
    prediction, variance = without_variance(answer, 3)
    assert torch.equal(prediction, answer[:, :3]) and variance is not None and torch.equal(variance, answer[:, 3:])
    assert without_variance(answer, 6)[1] is None
    with pytest.raises(InputError, match="6 channels for an input of 4"):
        without_variance(answer, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stops_with_the_step_named(bad: float) -> None:
    with pytest.raises(InputError, match="Step 3 has values that are NaN"):
        refuse_nan(torch.tensor([1.0, bad]), "Step 3")
