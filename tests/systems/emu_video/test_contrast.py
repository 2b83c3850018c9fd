"""The closed form of the terminal SNR: an exact denoiser through the real sampler."""

import runpy
from pathlib import Path

import pytest

from diorama.diffusion import schedules
from diorama.systems.emu_video.contrast import contrast_kept, limit_kept, table

ROWS = {row.redundancy: row for row in table()}


@pytest.mark.parametrize("redundancy, limit", [(1024, 0.676), (8192, 0.308), (32768, 0.160)])
def test_the_stock_schedule_loses_contrast_however_many_steps_are_taken(redundancy: int, limit: float) -> None:
    row = ROWS[redundancy]
    assert row.limit == pytest.approx(limit, abs=5e-4)
    assert row.stock[250] == pytest.approx(row.limit, abs=0.01)


@pytest.mark.parametrize("redundancy, kept", [
    (1024, {25: 0.86, 50: 0.93, 100: 0.96, 250: 0.985}), (8192, {25: 0.69, 50: 0.83, 100: 0.91, 250: 0.965}),
    (32768, {50: 0.70, 250: 0.935}),
])
def test_zero_terminal_snr_keeps_it_as_steps_grow(redundancy: int, kept: dict[int, float]) -> None:
    for steps, share in kept.items():
        assert ROWS[redundancy].zero[steps] == pytest.approx(share, abs=0.012), steps


def test_steps_dense_near_noise_beat_twice_as_many_even_ones() -> None:
    """Pitfall 7."""
    row = ROWS[8192]
    assert row.dense == pytest.approx(0.89, abs=0.01)
    assert row.dense > row.zero[50] > row.zero[25]


def test_plain_flow_matching_with_even_steps_is_not_free_of_it() -> None:
    flow = schedules.flow()
    kept = [contrast_kept(flow, schedules.trailing(1000, steps), 8192) for steps in (25, 50, 250)]
    assert kept == pytest.approx([0.45, 0.68, 0.93], abs=0.02)


def test_the_figure_and_the_page_are_current() -> None:
    root = Path(__file__).resolve().parents[3]
    figure = runpy.run_path(str(root / "docs" / "figures" / "emu_video.py"))
    command = "type: .venv/bin/python docs/figures/emu_video.py"
    assert figure["draw"]() == figure["TARGET"].read_text(encoding="utf-8"), command
    page = figure["PAGE"].read_text(encoding="utf-8")
    assert figure["measured"](page) == page, command


def test_a_single_value_is_kept_by_either_schedule() -> None:
    stock = schedules.scaled_linear()
    assert contrast_kept(stock, schedules.trailing(1000, 250), 4) == pytest.approx(1.0, abs=0.02)
    assert limit_kept(schedules.zero_terminal_snr(stock), 10**6) == 1.0
