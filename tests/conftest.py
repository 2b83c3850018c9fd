"""Shared fixtures: where the real data is, and no way to reach the network."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("DIORAMA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data is not here ({folder}); set DIORAMA_DATA to its folder")
    return folder
