"""Likelihood pieces: parity with diffusers' steps and torch's densities, and states that lie where they should."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from diorama.diffusion import schedules
from diorama.diffusion.likelihood import (
    balanced_order,
    first_step,
    independent_states,
    line_states,
    log_density,
    path_states,
    prior_log_density,
    residual,
    residual_weights,
    reverse_steps,
)
from diorama.diffusion.parametrisations import Denoised
from diorama.errors import InputError

STOCK = schedules.scaled_linear()


def test_reverse_steps_are_diffusers_mean_and_variances() -> None:
    steps = {name: reverse_steps(STOCK, name) for name in ("large", "small")}
    x, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind, name in (("large", "fixed_large"), ("small", "fixed_small")):
        theirs = DDPMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", clip_sample=False,
                               variance_type=name)
        for time in (1, 77, 999):
            assert steps[kind].variance[time].item() == pytest.approx(theirs._get_variance(time).item(), rel=1e-3)
    for time in (0, 1, 77, 999):
        signal, noise = STOCK.at(time, x)
        said = Denoised((x - noise * eps) / signal, eps)
        theirs = DDPMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", clip_sample=False)
        theirs._get_variance = lambda *_, **__: torch.tensor(0.0)
        mean = theirs.step(eps, time, x, generator=torch.Generator().manual_seed(0)).prev_sample
        assert torch.allclose(steps["large"].mean(x, said, torch.full((2,), time)), mean, atol=1e-5)


def test_the_last_step_has_a_density_with_the_large_variance_only() -> None:
    assert reverse_steps(STOCK, "large").variance[0].item() == pytest.approx(8.5e-4)
    assert reverse_steps(STOCK, "small").variance[0] == 0
    assert (first_step("large"), first_step("small")) == (0, 1)


def test_steps_of_a_respaced_schedule_come_from_the_kept_times() -> None:
    few = STOCK.take([199, 399, 599, 799, 999])
    betas = 1 - few.alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), few.alphas_cumprod[:-1]])
    assert torch.allclose(reverse_steps(few).variance, betas)
    assert (betas > 20 * reverse_steps(STOCK).variance[[199, 399, 599, 799, 999]]).all()


def test_log_density_is_torchs_normal() -> None:
    x, mean = torch.randn(2, 3, 4, 2, 2)
    variance = torch.tensor([0.1, 1.0, 3.0])
    expected = torch.distributions.Normal(mean.double(), variance.sqrt().double().view(3, 1, 1, 1)).log_prob(x.double())
    assert torch.allclose(log_density(x, mean, variance), expected.flatten(1).sum(1))
    assert prior_log_density(x, STOCK)[0].item() == pytest.approx(
        torch.distributions.Normal(0.0, 1.0).log_prob(x[0].double()).sum().item(), abs=1e-4)


@pytest.mark.parametrize("schedule", [STOCK, schedules.flow()], ids=["discrete", "flow"])
def test_path_states_have_the_forward_process_marginals_and_steps(schedule: schedules.Schedule) -> None:
    few = schedule.take([199, 599, 999])
    clean = torch.full((4000, 1), 1.5, dtype=torch.float64)
    noise = torch.randn(4000, 3, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = path_states(clean, few, noise)
    for t in range(3):
        assert found.states[:, t].mean().item() == pytest.approx(1.5 * few.signal[t].item(), abs=0.06)
        assert found.states[:, t].std().item() == pytest.approx(few.noise[t].item(), abs=0.04)
    assert torch.equal(found.before[:, 0], clean) and torch.equal(found.before[:, 1:], found.states[:, :-1])
    rebuilt = few.signal.view(1, 3, 1) * clean.unsqueeze(1) + few.noise.view(1, 3, 1) * found.eps
    assert torch.allclose(rebuilt, found.states)


def test_line_states_share_one_noise_and_independent_ones_do_not() -> None:
    few = STOCK.take([199, 599, 999])
    clean, noise = torch.randn(2, 5, 4)
    line = line_states(clean, few, noise)
    assert all(torch.equal(line.eps[:, t], noise) for t in range(3))
    apart = independent_states(clean, few, torch.randn(5, 3, 4))
    assert not torch.equal(apart.eps[:, 0], apart.eps[:, 1])
    assert torch.allclose(line.states[:, 1], few.at(1, clean)[0] * clean + few.at(1, clean)[1] * noise)


@pytest.mark.parametrize("loss, theirs", [
    ("l2", torch.nn.functional.mse_loss), ("l1", torch.nn.functional.l1_loss),
    ("huber", torch.nn.functional.huber_loss),
])
def test_residuals_are_torchs_losses_summed(loss, theirs) -> None:
    eps, said = torch.randn(2, 4, 3, 5, 5)
    expected = theirs(said, eps, reduction="none").flatten(1).sum(1)
    assert torch.allclose(residual(eps, said, loss).float(), expected, rtol=1e-5)
    with pytest.raises(InputError, match="unknown"):
        residual(eps, said, "l3")


def test_the_log_of_the_error_is_a_gaussians_likelihood_and_the_same_for_any_target() -> None:
    """Minus log N(gap; 0, s^2) at the best s, but for a constant; errors of noise and of clean value differ by one too,
    the same for all captions, so what a network predicts does not matter."""
    eps, said, other = torch.randn(3, 1, 40, dtype=torch.float64)
    width = (eps - said).pow(2).mean().sqrt()
    best = -torch.distributions.Normal(0.0, width).log_prob(eps - said).sum()
    constant = 0.5 * 40 * (1 + math.log(2 * math.pi))
    assert residual(eps, said, "log").item() == pytest.approx(best.item() - constant)
    signal, noise = STOCK.at(300, eps)
    clean = torch.randn(1, 40, dtype=torch.float64)
    x = signal * clean + noise * eps
    of_noise = residual(eps, said, "log") - residual(eps, other, "log")
    of_clean = [residual(clean, (x - noise * guess) / signal, "log") for guess in (said, other)]
    assert of_noise.item() == pytest.approx((of_clean[0] - of_clean[1]).item())
    assert math.isfinite(residual(eps, eps, "log").item())


def test_a_path_step_is_the_divergence_of_the_bound_on_average() -> None:
    """DiT's bound (arXiv 2212.09748's code, `q_posterior_mean_variance`): KL of q(x_{t-1} | x_t, x_0) from the model's
    step. The mean over draws of x_{t-1} of log q - log p is that divergence."""
    generator = torch.Generator().manual_seed(0)
    few = STOCK.take([199, 399, 599, 799, 999])
    betas = 1 - few.alphas_cumprod[2] / few.alphas_cumprod[1]
    before, now = few.alphas_cumprod[1], few.alphas_cumprod[2]
    clean, eps, guessed = torch.randn(3, 1, 6, generator=generator, dtype=torch.float64)
    x = now.sqrt() * clean + (1 - now).sqrt() * eps
    mean = before.sqrt() * betas / (1 - now) * clean + (1 - betas).sqrt() * (1 - before) / (1 - now) * x
    variance = betas * (1 - before) / (1 - now)
    steps = reverse_steps(few)
    said = steps.mean(x, Denoised(guessed, x), torch.tensor([2]))
    spread = steps.variance[2]
    divergence = 0.5 * (-1 + spread.log() - variance.log() + variance / spread + (mean - said) ** 2 / spread).sum()
    drawn = mean + variance.sqrt() * torch.randn(40_000, 6, generator=generator, dtype=torch.float64)
    gap = log_density(drawn, mean.expand_as(drawn), variance.expand(40_000)) - log_density(
        drawn, said.expand_as(drawn), spread.expand(40_000))
    assert gap.mean().item() == pytest.approx(divergence.item(), rel=0.02)


def test_vlb_weights_are_the_published_ones_and_make_a_step_of_the_bound() -> None:
    betas = 1 - STOCK.alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), STOCK.alphas_cumprod[:-1]])
    expected = betas**2 / (2 * betas * (1 - betas) * (1 - STOCK.alphas_cumprod))
    assert torch.allclose(residual_weights(STOCK, "vlb"), expected)


def test_exponential_weights_fall_on_the_clean_values_error() -> None:
    clean, said, eps = torch.randn(3, 1, 8, dtype=torch.float64)
    for time in (100, 500, 900):
        signal, noise = STOCK.at(time, clean)
        x = signal * clean + noise * eps
        guessed = (x - signal * said) / noise
        weighted = residual_weights(STOCK, "exponential")[time] * residual(eps, guessed)
        assert weighted.item() == pytest.approx(math.exp(-7 * time / 999) * (clean - said).pow(2).sum().item())


@pytest.mark.parametrize("count", [1, 2, 5, 25, 100])
def test_every_beginning_of_the_balanced_order_is_spread(count: int) -> None:
    order = balanced_order(count)
    assert sorted(order) == list(range(count))
    if count == 100:
        assert all(abs(sum(order[:n]) / n - 49.5) < 26 for n in (4, 8, 16, 32))
        assert max(order[:8]) > 80 and min(order[:8]) < 20
