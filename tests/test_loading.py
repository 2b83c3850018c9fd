import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diorama import loading
from diorama.checkpoints import write_checkpoint
from diorama.errors import CheckpointError


class Toy:
    @classmethod
    def from_pretrained(cls, folder, *, device, dtype, strict):
        toy = cls()
        toy.given = folder, device, dtype, strict
        return toy


@pytest.fixture
def toy_system(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_pipeline", SimpleNamespace(Toy=Toy))
    monkeypatch.setitem(loading.SYSTEMS, "toy", "toy_pipeline:Toy")


@pytest.mark.parametrize("config", [{"system": "toy", "model_type": "clip"}, {"model_type": "toy"}])
def test_the_config_decides_the_class(tmp_path, toy_system, config):
    folder = write_checkpoint(tmp_path / "x", config, {"a": torch.zeros(1)}, "")
    loaded = loading.load(folder, device="cpu", dtype="float16", strict=False)
    assert isinstance(loaded, Toy) and loaded.given == (folder, "cpu", "float16", False)


@pytest.mark.parametrize("config", [{"system": "unheard-of"}, {}])
def test_an_unknown_system_is_named(tmp_path, config):
    folder = write_checkpoint(tmp_path / "x", config, {"a": torch.zeros(1)}, "")
    with pytest.raises(CheckpointError, match=r"no system here \(.*video_llava"):
        loading.load(folder)


def test_loading_imports_no_torch_until_called():
    code = "import sys, diorama.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
