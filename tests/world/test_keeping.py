from dataclasses import dataclass
from pathlib import Path

import pytest

from diorama.errors import InputError
from diorama.world.keeping import keep


@dataclass(frozen=True)
class Settings:
    count: int
    sides: tuple[int, int] = (1, 2)


def made(new: Path) -> None:
    (new / "data.txt").write_text(f"{len(list(new.parent.iterdir()))}")


def test_a_set_is_made_once_and_opened_afterwards(tmp_path):
    keep(tmp_path / "set", Settings(3), "numbers", made)
    keep(tmp_path / "set", Settings(3), "numbers", lambda new: pytest.fail("made twice"))
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["config.json", "data.txt"]


def test_what_was_left_half_made_is_made_anew(tmp_path):
    def broken(new: Path) -> None:
        (new / "half.txt").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        keep(tmp_path / "set", Settings(3), "numbers", broken)
    assert not (tmp_path / "set").exists()
    keep(tmp_path / "set", Settings(3), "numbers", made)
    assert not (tmp_path / "set" / "half.txt").exists()


def test_other_settings_and_other_folders_are_refused(tmp_path):
    keep(tmp_path / "set", Settings(3), "numbers", made)
    with pytest.raises(InputError, match=r"holds numbers made with other settings \(count differ\)"):
        keep(tmp_path / "set", Settings(4), "numbers", made)
    with pytest.raises(InputError, match="exists and holds no numbers"):
        keep(tmp_path, Settings(3), "numbers", made)
