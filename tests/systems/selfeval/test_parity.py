"""Diffusion Classifier's procedure (arXiv 2303.16203) on a U-Net with random weights: errors and staged choice."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from diorama.diffusion.likelihood import balanced_order
from diorama.diffusion.networks import Denoiser, predict, read_scheduler
from diorama.diffusion.text import Condition
from diorama.diffusion.text_once import text_once
from diorama.errors import InputError
from diorama.systems.selfeval.choice import choose
from diorama.systems.selfeval.config import Estimator, Stages
from diorama.systems.selfeval.elimination import in_stages
from diorama.systems.selfeval.estimators import examine, score

SCHEDULER = DDPMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear", clip_sample=False)
LOSSES = {"l2": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss,
          "huber": torch.nn.functional.huber_loss}


@pytest.fixture(scope="module")
def network() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")).eval()


@pytest.fixture(scope="module")
def denoiser(network: UNet2DConditionModel) -> Denoiser:
    schedule, target = read_scheduler(dict(SCHEDULER.config))
    return Denoiser(lambda x, times, condition: predict(network, x, times, condition), schedule, target)


@torch.no_grad()
def their_errors(network: UNet2DConditionModel, latent: torch.Tensor, prompts: torch.Tensor, times: torch.Tensor,
                 noise: torch.Tensor, loss: str) -> np.ndarray:
    """Its error of each prompt at each time, by diffusers' own scheduler: the mean over the latent's values."""
    found = np.zeros((len(prompts), len(times)))
    for trial, time in enumerate(times):
        noised = SCHEDULER.add_noise(latent, noise[trial : trial + 1], time.view(1))
        for prompt in range(len(prompts)):
            said = network(noised, time.view(1), encoder_hidden_states=prompts[prompt : prompt + 1]).sample
            found[prompt, trial] = LOSSES[loss](said, noise[trial : trial + 1], reduction="none").mean().item()
    return found


@pytest.mark.parametrize("loss", list(LOSSES))
def test_mse_is_its_error_matrix(network: UNet2DConditionModel, denoiser: Denoiser, loss: str) -> None:
    latent, prompts = torch.randn(1, 4, 8, 8), torch.randn(3, 6, 16)
    estimator = Estimator(method="mse", times=10, loss=loss)
    with text_once(network) as memory:
        ours = score(denoiser, latent, denoiser.schedule, memory.of(Condition(prompts)), [0, 0, 0], estimator)
    assert ours.terms.dtype == torch.float64
    shared = examine(latent, denoiser.schedule, estimator)
    theirs = their_errors(network, latent, prompts, shared.kept, shared.states.eps[0], loss)
    np.testing.assert_allclose(-ours.terms[:, 0].numpy() / latent.numel(), theirs, atol=1e-5)


@pytest.mark.parametrize("stages", [Stages(calls=(3, 6, 12), keep=(4, 2, 1)), Stages(calls=(5, 10), keep=(2, 1))])
def test_stages_choose_as_it_does(network: UNet2DConditionModel, denoiser: Denoiser, stages: Stages) -> None:
    latents, prompts = torch.randn(3, 4, 8, 8), torch.randn(3, 6, 5, 16)
    found = choose(denoiser, latents, denoiser.schedule, Condition(prompts.flatten(0, 1)), [6] * 3, stages)
    for item in range(3):
        most = stages.calls[-1]
        shared = examine(latents[item : item + 1], denoiser.schedule, Estimator(method="mse", times=most),
                         numbers=[item])
        order = balanced_order(most)
        errors = their_errors(network, latents[item : item + 1], prompts[item], shared.kept[order],
                              shared.states.eps[0][order], "l2")
        left, calls, done = list(range(6)), [0] * 6, 0
        for until, keep in zip(stages.calls, stages.keep, strict=True):
            for prompt in left:
                calls[prompt] = until
            left = sorted(left, key=lambda prompt: errors[prompt, :until].mean())[:keep]
            done = until
        assert done == most and found[item].best == (left[0],) and found[item].calls == tuple(calls)


def test_stages_never_return_what_they_dropped_and_bad_ones_are_refused() -> None:
    scores = np.zeros((1, 3, 10))
    scores[0, 0, :4], scores[0, 0, 4:] = -5, 100
    found = in_stages(lambda rows: scores[rows[:, 0], rows[:, 1], rows[:, 2]], [3], Stages(calls=(4, 10), keep=(2, 1)))
    assert found.best[0] != 0 and found.calls.tolist() == [[4, 10, 10]]
    for calls, keep in (((5, 3), (2, 1)), ((3, 5), (1, 2)), ((3,), (2, 1)), ((), ()), ((0, 5), (2, 1))):
        with pytest.raises(InputError, match="cannot work"):
            Stages(calls=calls, keep=keep)


def test_scaling_all_weights_of_the_terms_changes_no_choice(denoiser: Denoiser) -> None:
    latent, prompts = torch.randn(1, 4, 8, 8), Condition(torch.randn(4, 6, 16))
    terms = score(denoiser, latent, denoiser.schedule, prompts, [0] * 4, Estimator(method="mse", times=8)).terms
    assert (3.7 * terms).sum((1, 2)).argmax() == terms.sum((1, 2)).argmax()
