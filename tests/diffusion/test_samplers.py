"""Samplers: parity with diffusers step by step, exact Gaussian denoisers, and guidance with the fewest branches."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from diorama.diffusion import schedules
from diorama.diffusion.guidance import branch_weights, combine, rescaled
from diorama.diffusion.parametrisations import Denoised, Target, denoised
from diorama.diffusion.samplers import (
    Denoise,
    forward_variance,
    posterior,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver,
    sample_euler,
)
from diorama.diffusion.schedules import Schedule, zero_terminal_snr
from diorama.errors import InputError

STOCK = schedules.scaled_linear()
ZERO = zero_terminal_snr(STOCK)
SAMPLERS = [sample_ddim, sample_ddpm, sample_dpm_solver]


def answer_of(x: torch.Tensor, time: torch.Tensor | float) -> torch.Tensor:
    """A network's stand-in: smooth in both, of the size of noise."""
    return torch.tanh(x) * 0.7 + 0.1 * math.cos(float(time) / 300)


def network(schedule: Schedule, target: Target) -> Denoise:
    def denoise(x: torch.Tensor, index: torch.Tensor) -> Denoised:
        signal, noise = schedule.at(index, x)
        return denoised(answer_of(x, schedule.times[index[0]]), x, signal, noise, target)

    return denoise


def gaussian(schedule: Schedule, mean: float, deviation: float) -> Denoise:
    """The exact denoiser of clean values N(mean, deviation^2)."""

    def denoise(x: torch.Tensor, index: torch.Tensor) -> Denoised:
        signal, noise = schedule.at(index, x)
        total = signal**2 * deviation**2 + noise**2
        clean = (signal * deviation**2 * x + noise**2 * mean) / total
        return Denoised(clean, (x - signal * clean) / noise)

    return denoise


@pytest.mark.parametrize("target, name, schedule", [("v", "v_prediction", ZERO), ("eps", "epsilon", STOCK)])
def test_ddim_is_diffusers_ddim(target: Target, name: str, schedule: Schedule) -> None:
    theirs = DDIMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", clip_sample=False,
                           set_alpha_to_one=True, prediction_type=name, timestep_spacing="trailing",
                           rescale_betas_zero_snr=schedule is ZERO)
    theirs.set_timesteps(20)
    x = start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for time in theirs.timesteps:
        x = theirs.step(answer_of(x, time), time, x).prev_sample
    ours = sample_ddim(network(schedule, target), start, schedule, schedules.trailing(1000, 20))
    assert torch.allclose(ours, x, atol=2e-5)


@pytest.mark.parametrize("size, name", [("small", "fixed_small"), ("large", "fixed_large")])
def test_ancestral_steps_are_diffusers_ddpm(size, name: str) -> None:
    theirs = DDPMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", clip_sample=False,
                           variance_type=name)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for now in (1, 30, 500, 999):
        said = network(STOCK, "eps")(x, torch.full((2,), now))
        of_x, of_clean, small = posterior(STOCK, now, now - 1, x)
        spread = small if size == "small" else forward_variance(STOCK, now, now - 1, x)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        step = theirs.step(answer_of(x, now), now, x, generator=torch.Generator().manual_seed(5)).prev_sample
        assert torch.allclose(of_x * x + of_clean * said.clean + spread.sqrt() * noise, step, atol=1e-5)
        assert spread.item() == pytest.approx(theirs._get_variance(now).item(), rel=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpm_solver_is_diffusers_second_order_multistep() -> None:
    theirs = DPMSolverMultistepScheduler(
        beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", algorithm_type="dpmsolver++",
        solver_order=2, prediction_type="epsilon", timestep_spacing="trailing", final_sigmas_type="zero",
        lower_order_final=True)
    theirs.set_timesteps(10)
    x = start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for time in theirs.timesteps:
        x = theirs.step(answer_of(x, time), time, x).prev_sample
    ours = sample_dpm_solver(network(STOCK, "eps"), start, STOCK, theirs.timesteps.tolist())
    assert torch.allclose(ours, x, atol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", [ZERO, schedules.flow()], ids=["zero-snr", "flow"])
def test_samplers_draw_the_gaussian_that_the_denoiser_is_of(sampler, schedule: Schedule) -> None:
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    steps = schedules.trailing(1000, 250)
    extra = {"generator": torch.Generator().manual_seed(2)} if sampler is sample_ddpm else {}
    drawn = sampler(gaussian(schedule, 2.0, 0.5), noise, schedule, steps, **extra)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.03)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.03)


def test_noisy_ddim_draws_the_same_gaussian_and_never_nan_at_zero_snr() -> None:
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = sample_ddim(gaussian(ZERO, 2.0, 0.5), noise, ZERO, schedules.trailing(1000, 250), eta=1.0,
                        generator=torch.Generator().manual_seed(3))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.03) and drawn.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("schedule, steps, spacing, expected", [
    (STOCK, 25, schedules.trailing, 0.31), (STOCK, 250, schedules.trailing, 0.31),
    (ZERO, 25, schedules.trailing, 0.69), (ZERO, 50, schedules.trailing, 0.83), (ZERO, 250, schedules.trailing, 0.965),
    (ZERO, 25, schedules.dense_near_noise, 0.89), (schedules.flow(), 25, schedules.trailing, 0.45),
    (schedules.flow(), 50, schedules.trailing, 0.68),
])
def test_the_contrast_that_few_steps_and_a_leaky_end_cost(schedule: Schedule, steps: int, spacing, expected) -> None:
    """The mean of 8192 redundant values: its spread after sampling over the true one, as published for Emu Video."""
    deviation = math.sqrt(0.25 * 8192)
    start = torch.ones(1, 1, dtype=torch.float64)
    drawn = sample_ddim(gaussian(schedule, 0.0, deviation), start, schedule, spacing(1000, steps))
    assert drawn.item() / deviation == pytest.approx(expected, abs=0.012)


def test_euler_is_ddim_on_a_flow() -> None:
    straight = schedules.flow(1000, 2.0)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = schedules.trailing(1000, 12)
    euler = sample_euler(network(straight, "flow"), x, straight, steps)
    assert torch.allclose(euler, sample_ddim(network(straight, "flow"), x, straight, steps), atol=1e-5)
    with pytest.raises(InputError, match="bent"):
        sample_euler(network(STOCK, "eps"), x, STOCK, steps)


def test_the_posterior_is_bayes_rule() -> None:
    """q(after | now, clean) q(now | clean) = q(now | after) q(after | clean) at any point, on a flow too."""
    for schedule in (STOCK, schedules.flow()):
        now, after, clean = 700, 400, torch.tensor([[0.3]], dtype=torch.float64)
        x_now, x_after = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[-0.2]], dtype=torch.float64)
        of_x, of_clean, variance = posterior(schedule, now, after, clean)
        (s1, n1), (s0, n0) = schedule.at(now, clean), schedule.at(after, clean)

        def log(value: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
            return torch.distributions.Normal(mean, spread).log_prob(value)

        left = log(x_after, of_x * x_now + of_clean * clean, variance.sqrt()) + log(x_now, s1 * clean, n1)
        step = (n1**2 - (s1 / s0) ** 2 * n0**2).sqrt()
        right = log(x_now, s1 / s0 * x_after, step) + log(x_after, s0 * clean, n0)
        assert torch.allclose(left, right)


@pytest.mark.parametrize("steps", [[], [5, 5], [3, 7], [1000, 3], [3, -1]])
def test_steps_that_do_not_fall_are_refused(steps: list[int]) -> None:
    with pytest.raises(InputError, match="do not fall"):
        sample_ddim(network(STOCK, "eps"), torch.zeros(1, 1), STOCK, steps)


def test_nan_from_the_network_names_the_step() -> None:
    def broken(x: torch.Tensor, index: torch.Tensor) -> Denoised:
        return Denoised(x * (math.nan if index[0] < 500 else 1.0), x)

    with pytest.raises(InputError, match=r"Step 1 of the sampler \(time 499\)"):
        sample_ddim(broken, torch.ones(1, 1), STOCK, [999, 499, 99])


@pytest.mark.parametrize("scales, weights", [
    ((7.5,), [-6.5, 7.5]), ((1.0,), [0.0, 1.0]), ((1.0, 1.0), [0.0, 0.0, 1.0]), ((0.0, 0.0), [1.0, 0.0, 0.0]),
    ((1.0, 4.0), [0.0, -3.0, 4.0]), ((3.0, 3.0), [-2.0, 0.0, 3.0]), ((2.0, 7.5), [-1.0, -5.5, 7.5]),
])
def test_branches_of_weight_zero_need_no_call(scales: tuple[float, ...], weights: list[float]) -> None:
    assert branch_weights(scales) == weights


def test_guidance_is_the_papers_chain_and_commutes_with_conversion() -> None:
    nothing, image, both = torch.randn(3, 2, 3, 4, 4)
    guided = combine([nothing, image, both], branch_weights((2.0, 7.5)))
    assert torch.allclose(guided, nothing + 2 * (image - nothing) + 7.5 * (both - image), atol=1e-5)
    x = torch.randn(2, 3, 4, 4)
    signal, noise = ZERO.at(600, x)
    apart = combine([denoised(a, x, signal, noise, "v") for a in (nothing, image, both)], branch_weights((2.0, 7.5)))
    assert isinstance(apart, Denoised) and isinstance(guided, torch.Tensor)
    assert torch.allclose(apart.clean, denoised(guided, x, signal, noise, "v").clean, atol=1e-4)


def test_rescaled_guidance_has_the_conditional_spread() -> None:
    guided, conditional = torch.randn(2, 3, 8, 8) * 5, torch.randn(2, 3, 8, 8)
    assert torch.allclose(rescaled(guided, conditional, 1.0).std((1, 2, 3)), conditional.std((1, 2, 3)))
    assert torch.equal(rescaled(guided, conditional, 0.0), guided)
