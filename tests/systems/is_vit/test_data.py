"""Image sets and calibration images: what they hold, and what is said when there are too few."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media.images import save_image
from diorama.systems.is_vit.data import (
    WORLD_CLASSES,
    Preprocessing,
    calibration_pixels,
    digits,
    image_files,
    labelled_folder,
    named_set,
    world,
)

SMALL = Preprocessing(size=16)


def folder_of(tmp_path: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for index in range(count):
        save_image(tmp_path / f"{index:03}.png", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    return tmp_path


def test_the_world_shows_one_object_from_close() -> None:
    found = world("train", 6)
    assert found.images.shape == (6, 3, 32, 32) and found.images.dtype == torch.uint8
    assert len(WORLD_CLASSES) == 42 and found.classes == WORLD_CLASSES
    again = world("train", 6)
    assert torch.equal(found.images, again.images) and torch.equal(found.labels, again.labels)
    assert not torch.equal(found.images, world("test", 6).images)


def test_digits_are_split_without_overlap() -> None:
    pytest.importorskip("sklearn")
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1297, 500) and train.images.shape[1:] == (3, 32, 32)
    assert sorted(train.labels.unique().tolist()) == list(range(10))
    seen = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in seen for image in test.images) < 5


def test_preprocessing_resizes_or_crops() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    assert SMALL([image]).shape == (1, 3, 16, 16)
    cropped = Preprocessing(size=16, resize_to=18)([image])
    assert cropped.shape == (1, 3, 16, 16) and cropped[0, 0].unique().tolist() == [1.0]


def test_a_folder_is_read_in_a_seeded_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 9)
    one, two, other = (calibration_pixels(str(folder), SMALL, 9, batch=4, seed=seed) for seed in (1, 1, 2))
    assert one.shape == (9, 3, 16, 16) and torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(one.sum((1, 2, 3)).sort().values, other.sum((1, 2, 3)).sort().values)


def test_fewer_images_than_asked_for_are_all_taken_and_it_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    folder = folder_of(tmp_path, 5)
    found = calibration_pixels(str(folder), SMALL, 100, batch=4, told=said.append)
    assert len(found) == 5 and "5 images of the 100" in said[0]


def test_fewer_images_than_a_batch_are_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    with pytest.raises(InputError, match=r"holds 3 images, and a batch takes 4.*--few"):
        calibration_pixels(str(folder), SMALL, 100, batch=4)
    assert len(calibration_pixels(str(folder), SMALL, 100, batch=4, few=True, told=lambda text: None)) == 3


def _empty(folder: Path) -> str:
    return str(folder)


def _absent(folder: Path) -> str:
    return str(folder / "nowhere")


def _file(folder: Path) -> str:
    (folder / "a.txt").write_text("x")
    return str(folder / "a.txt")


@pytest.mark.parametrize(("make", "sentence"), [(_empty, "holds no image"), (_absent, "is no folder"),
                                                (_file, "is no folder")])
def test_folders_without_images(make: Callable[[Path], str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        calibration_pixels(make(tmp_path), SMALL, 4, batch=2)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    (folder / "000.png").write_bytes((folder / "000.png").read_bytes()[:60])
    with pytest.raises(MediaError, match=r"000\.png"):
        calibration_pixels(str(folder), SMALL, 3, batch=2)


def test_labelled_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        folder_of(tmp_path / name, 3)
    found = labelled_folder(tmp_path, 16, most=2)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1]
    assert len(image_files(tmp_path)) == 6
    mapped = named_set(str(tmp_path), "test", 2, 16, ("bird", "dog", "cat"))
    assert mapped.labels.tolist() == [2, 2, 1, 1] and mapped.classes == ("bird", "dog", "cat")
    with pytest.raises(InputError, match=r"class cat, which the model does not know"):
        named_set(str(tmp_path), "test", 2, 16, ("bird", "dog"))
    with pytest.raises(InputError, match="each class needs one"):
        labelled_folder(tmp_path / "cat", 16)
