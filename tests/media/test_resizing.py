"""Pictures and tensors go through the same sizes, and to nearly the same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import InputError
from diorama.media.images import to_tensor
from diorama.media.resizing import center_crop, pad_square, resize, resize_shortest

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8))


def bytes_of(image: Image.Image) -> torch.Tensor:
    return (to_tensor(image) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 24), (80, 90)])
def test_tensors_are_resized_as_pillow_does(interpolation, size):
    ours = resize(bytes_of(NOISE), *size, interpolation=interpolation)
    theirs = bytes_of(resize(NOISE, *size, interpolation=interpolation))
    assert ours.dtype == torch.uint8 and (ours.int() - theirs.int()).abs().max() <= 2


def test_nearest_agrees_with_pillow():
    assert (resize(bytes_of(NOISE), 20, 20, interpolation="nearest")
            == bytes_of(resize(NOISE, 20, 20, interpolation="nearest"))).all()


def test_floats_without_a_filter_match_plain_interpolation():
    floats = to_tensor(NOISE)
    expected = torch.nn.functional.interpolate(floats[None], (16, 16), mode="bicubic", align_corners=False)[0]
    assert (resize(floats, 16, 16, antialias=False) == expected).all()
    assert not torch.allclose(resize(floats, 16, 16), expected)


def test_shortest_side_follows_clip():
    assert resize_shortest(NOISE, 24).size == (24 * 61 // 37, 24)
    clip = torch.zeros(2, 5, 3, 61, 37, dtype=torch.uint8)
    assert resize_shortest(clip, 24).shape == (2, 5, 3, 24 * 61 // 37, 24)


def test_shortest_side_matches_the_clip_image_processor():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24},
                                      do_rescale=False, do_normalize=False)
    theirs = np.asarray(processor(NOISE)["pixel_values"][0])
    ours = bytes_of(center_crop(resize_shortest(NOISE, 24), 24)).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_center_crop():
    cropped = center_crop(NOISE, 20)
    assert (bytes_of(cropped) == center_crop(bytes_of(NOISE), 20)).all()
    assert (bytes_of(cropped) == bytes_of(NOISE)[:, 8:28, 20:40]).all()
    with pytest.raises(InputError, match="do not hold it"):
        center_crop(NOISE, 38)


def test_pad_square():
    padded = pad_square(NOISE, (1, 2, 3))
    assert padded.size == (61, 61) and padded.getpixel((0, 0)) == (1, 2, 3)
    assert (bytes_of(padded) == pad_square(bytes_of(NOISE), (1, 2, 3))).all()
    assert torch.allclose(to_tensor(padded), pad_square(to_tensor(NOISE), (1, 2, 3)))
    assert (bytes_of(padded)[:, 12:49] == bytes_of(NOISE)).all()


@pytest.mark.parametrize("bad", [torch.zeros(4, 4), torch.zeros(3, 0, 4), torch.zeros(3, 4, 4, dtype=torch.int64)])
def test_tensors_that_are_no_pixels(bad):
    with pytest.raises(InputError, match="uint8 or float"):
        resize(bad, 2, 2)
    with pytest.raises(InputError, match="at least 1"):
        resize(NOISE, 0, 2)
