"""Shared fixtures: where the real data is, and no way to reach the network."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SURE = 0.999
"""Level of the intervals that must overlap, so that an honest card fails about once in a thousand numbers."""

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("DIORAMA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data is not here ({folder}); set DIORAMA_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def agrees_with_card() -> Callable[[int, int, Mapping[str, float]], bool]:
    """Whether `right` of `asked` in a fresh sample fit a share that a card gives with mean and n."""
    from diorama.metrics import proportion

    def agrees(right: int, asked: int, card: Mapping[str, float]) -> bool:
        now = proportion(right, asked, level=SURE)
        then = proportion(round(card["mean"] * card["n"]), int(card["n"]), level=SURE)
        return now.low <= then.high and then.low <= now.high

    return agrees
