"""A mode keeps schedule and target together, and refuses the pair that divides by zero."""

import pytest
import torch
from diffusers import DDIMScheduler

from diorama.diffusion import schedules
from diorama.errors import InputError
from diorama.systems.emu_video.config import (
    IMAGE_MODE,
    PAPER_STAGES,
    VIDEO_MODE,
    EmuVideoConfig,
    ModeConfig,
    TemporalConfig,
)
from diorama.systems.emu_video.modes import Mode


def test_zero_snr_with_eps_is_refused_wherever_it_is_put_together() -> None:
    with pytest.raises(InputError, match="division by zero"):
        ModeConfig(target="eps", zero_snr=True)
    with pytest.raises(InputError, match="division by zero"):
        Mode(schedules.zero_terminal_snr(schedules.scaled_linear()), "eps")
    with pytest.raises(InputError, match="flow"):
        ModeConfig(target="v", schedule="flow")
    with pytest.raises(InputError, match="flow"):
        ModeConfig(target="flow")


def test_each_pass_has_its_own_mode() -> None:
    """Pitfall 1: the image pass stays eps on the stock schedule while the video pass is v with zero SNR."""
    image, video = Mode.of(IMAGE_MODE), Mode.of(VIDEO_MODE)
    assert (image.target, image.schedule.has_zero_snr) == ("eps", False)
    assert (video.target, video.schedule.has_zero_snr) == ("v", True)
    assert image.schedule.signal[0] == pytest.approx(float(video.schedule.signal[0]), abs=1e-12)


def test_the_video_mode_is_diffusers_rescaled_schedule() -> None:
    theirs = DDIMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear",
                           rescale_betas_zero_snr=True)
    share = Mode.of(VIDEO_MODE).schedule.alphas_cumprod
    torch.testing.assert_close(share.float()[:-1], theirs.alphas_cumprod[:-1], rtol=0, atol=1e-5)
    assert share[-1] == 0.0


@pytest.mark.parametrize("config", [VIDEO_MODE, IMAGE_MODE, ModeConfig(target="x0"),
                                    ModeConfig(target="flow", schedule="flow", zero_snr=False)])
def test_answers_come_back_as_what_they_were_made_of(config: ModeConfig) -> None:
    mode = Mode.of(config)
    clean, eps = torch.randn(3, 2, 4, 5, 5).double(), torch.randn(3, 2, 4, 5, 5).double()
    index = torch.tensor([0, 500, 900])
    found = mode.denoised(mode.wanted(clean, eps, index), mode.noised(clean, eps, index), index)
    torch.testing.assert_close(found.clean, clean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.eps, eps, rtol=0, atol=1e-8)


def test_at_pure_noise_v_tells_the_clean_clip_exactly() -> None:
    mode, index = Mode.of(VIDEO_MODE), torch.tensor([999])
    clean, eps = torch.randn(1, 2, 4, 5, 5), torch.randn(1, 2, 4, 5, 5)
    assert torch.equal(mode.noised(clean, eps, index), eps)
    assert torch.equal(mode.denoised(mode.wanted(clean, eps, index), eps, index).clean, clean)


def test_config_round_trip_and_the_paper_stages() -> None:
    config = EmuVideoConfig(temporal=TemporalConfig(frames=4), mode=ModeConfig(target="x0"), role="interpolator")
    assert EmuVideoConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="unknown field colour"):
        EmuVideoConfig.from_dict({**config.to_dict(), "colour": 1})
    with pytest.raises(InputError, match="selfeval"):
        EmuVideoConfig.from_dict({"system": "selfeval"})
    assert PAPER_STAGES["low"].mode.target == "eps" and PAPER_STAGES["high"].mode.zero_snr
    assert PAPER_STAGES["interpolate"].frames == 37
