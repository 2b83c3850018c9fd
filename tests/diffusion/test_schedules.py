"""Schedules: parity with diffusers' tables, zero terminal SNR, and the spacing of steps."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diorama.diffusion import schedules
from diorama.diffusion.schedules import Schedule
from diorama.errors import InputError


@pytest.mark.parametrize("ours, name, betas", [
    (schedules.scaled_linear(), "scaled_linear", (8.5e-4, 1.2e-2)), (schedules.linear(), "linear", (1e-4, 0.02)),
])
def test_discrete_schedules_are_diffusers_tables(ours: Schedule, name: str, betas: tuple[float, float]) -> None:
    theirs = DDPMScheduler(beta_start=betas[0], beta_end=betas[1], beta_schedule=name)
    assert torch.allclose(ours.alphas_cumprod.float(), theirs.alphas_cumprod, atol=1e-6)


def test_the_terminal_leak_of_the_stock_schedule_is_the_published_one() -> None:
    stock = schedules.scaled_linear()
    assert stock.signal[-1].item() == pytest.approx(0.0682649, abs=1e-6)
    assert stock.snr[-1].item() == pytest.approx(0.0046819, abs=1e-6)


def test_zero_terminal_snr_is_diffusers_rescaling_and_exactly_zero_at_the_end() -> None:
    stock, ours = schedules.scaled_linear(), schedules.zero_terminal_snr(schedules.scaled_linear())
    theirs = DDIMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear",
                           rescale_betas_zero_snr=True)
    assert torch.allclose(ours.alphas_cumprod[:-1].float(), theirs.alphas_cumprod[:-1], atol=1e-6)
    assert ours.signal[-1] == 0 and ours.has_zero_snr and not stock.has_zero_snr
    assert ours.signal[0] == stock.signal[0]
    assert (ours.alphas_cumprod.diff() < 0).all()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_have_diffusers_shifted_times(shift: float) -> None:
    ours = schedules.flow(1000, shift)
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    assert torch.allclose(ours.noise.flip(0).float(), theirs.sigmas[:1000], atol=1e-6)
    assert torch.allclose(ours.times.flip(0).float(), theirs.timesteps[:1000], atol=1e-3)
    assert ours.is_flow and ours.has_zero_snr


def test_a_respaced_schedule_takes_its_steps_from_the_kept_times() -> None:
    whole = schedules.scaled_linear()
    kept = schedules.evenly(1000, 11)
    few = whole.take(kept)
    assert torch.equal(few.alphas_cumprod, whole.alphas_cumprod[kept]) and few.times.tolist() == kept
    beta = 1 - few.alphas_cumprod[1:] / few.alphas_cumprod[:-1]
    assert (beta > 10 * (1 - whole.alphas_cumprod[kept[1:]] / whole.alphas_cumprod[[k - 1 for k in kept[1:]]])).all()


@pytest.mark.parametrize("length, steps", [(1000, 25), (1000, 1000), (1000, 1), (1000, 37), (10, 9), (7, 7)])
@pytest.mark.parametrize("spacing", [schedules.trailing, schedules.dense_near_noise])
def test_spacings_start_at_the_last_time_and_fall(spacing, length: int, steps: int) -> None:
    indices = spacing(length, steps)
    assert len(indices) == steps and indices[0] == length - 1 and indices[-1] >= 0
    assert all(after < now for now, after in pairwise(indices))


def test_trailing_is_diffusers_trailing_where_steps_divide() -> None:
    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(50)
    assert schedules.trailing(1000, 50) == theirs.timesteps.tolist()


def test_dense_steps_are_dense_near_noise() -> None:
    indices = schedules.dense_near_noise(1000, 25)
    assert indices[0] - indices[1] < 3 < 50 < indices[-2] - indices[-1]


@pytest.mark.parametrize("make, words", [
    (lambda: schedules.trailing(10, 11), "11 steps"), (lambda: schedules.evenly(10, 0), "0 steps"),
    (lambda: schedules.flow(10, 0.0), "shifted by 0.0"),
    (lambda: schedules.from_alphas_cumprod(torch.tensor([0.5, 0.9])), "lose signal"),
    (lambda: schedules.from_alphas_cumprod(torch.tensor([0.9, math.nan])), "lose signal"),
    (lambda: Schedule(torch.ones(2), torch.ones(3), torch.ones(2)), "three rows"),
])
def test_what_is_no_schedule_is_refused(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
