"""Every kind of picture people have, each made here; and every broken one gets one sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media.images import load_image, save_image, to_image, to_tensor

RAMP = np.stack([np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)] * 3, -1)
RAMP[:, :, 1] = RAMP[::-1, ::-1, 1]


def array(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_png_is_exact(tmp_path):
    save_image(tmp_path / "ramp.png", RAMP)
    assert (array(tmp_path / "ramp.png") == RAMP).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path, orientation):
    stored = Image.fromarray(RAMP)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    turns = {1: RAMP, 2: RAMP[:, ::-1], 3: RAMP[::-1, ::-1], 4: RAMP[::-1], 5: RAMP.swapaxes(0, 1),
             6: np.rot90(RAMP, -1), 7: np.rot90(RAMP, 2).swapaxes(0, 1), 8: np.rot90(RAMP)}
    assert (array(tmp_path / "turned.png") == turns[orientation]).all()
    assert np.abs(array(tmp_path / "turned.jpg").astype(int) - turns[orientation]).mean() < 3


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red, green, blue = array(tmp_path / "red.jpg").mean((0, 1))
    assert red > 250 and green < 5 and blue < 5


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    grey = array(tmp_path / "grey.png")[:, :, 0]
    assert (grey == np.round(levels / 257)).all() and grey.min() == 0 and grey.max() == 255


def test_sixteen_bit_color(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 256) * 4 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                    for kind, data in chunks)
    (tmp_path / "color.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert array(tmp_path / "color.png")[0, 0].tolist() == [255, 128, 1]


def test_float_pictures_run_from_0_to_1(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "half.tiff")
    assert array(tmp_path / "half.tiff")[0, 0].tolist() == [128, 128, 128]
    Image.fromarray(np.full((4, 4), 7.0, np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(MediaError, match="no agreed black and white"):
        load_image(tmp_path / "depth.tiff")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    layers = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    layers.putpixel((1, 2), (0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.putpixel((1, 2), 1)
        image.save(tmp_path / "a.png", transparency=0)
    else:
        layers.convert(mode).save(tmp_path / "a.png")
    pixels = array(tmp_path / "a.png")
    assert pixels[2, 1].tolist() == [0, 0, 0] and pixels[0, 0].tolist() == [255, 255, 255]


def test_half_transparency_mixes(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "pink.png")
    assert array(tmp_path / "pink.png")[0, 0].tolist() == [255, 127, 127]


def test_palette_and_bilevel(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "p.png")
    assert array(tmp_path / "p.png")[0, 0].tolist() == [10, 200, 30]
    Image.new("1", (4, 4), 1).save(tmp_path / "one.png")
    assert array(tmp_path / "one.png").min() == 255


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(array(tmp_path / f"a{suffix}")[0, 0].astype(int) - (255, 0, 0)).max() < 5


def test_content_decides_and_not_the_suffix(tmp_path):
    save_image(tmp_path / "ramp.png", RAMP)
    (tmp_path / "ramp.png").rename(tmp_path / "ramp.jpg")
    assert (array(tmp_path / "ramp.jpg") == RAMP).all()


def test_a_wide_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (20_000, 8)).save(tmp_path / "wide.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("pixels were decoded"))
    with pytest.raises(MediaError, match="20000 x 8 pixels; at most 16384"):
        load_image(tmp_path / "wide.png")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_too_many_pixels(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(MediaError, match="pixels"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save_image(tmp_path / f"whole{suffix}", noise)
    data = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[:max(int(len(data) * share), 12)])
    with pytest.raises(MediaError, match="cut"):
        load_image(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"a story about a cube\n", "it holds text"), (b"\0" * 99, "nothing but zeros"),
    (b"<!DOCTYPE html><html>404</html>", "a web page"), (b"%PDF-1.7 ...", "a PDF"), (b"\x93\x01\xfe" * 9, "bytes of")])
def test_what_is_no_picture_is_named(tmp_path, content, words):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(MediaError, match=f"notes.png .*{words}"):
        load_image(tmp_path / "notes.png")


def test_absent_files_and_folders(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(MediaError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp"])
def test_saving_and_loading(tmp_path, suffix):
    save_image(tmp_path / "new" / f"a{suffix}", Image.fromarray(RAMP))
    assert np.abs(array(tmp_path / "new" / f"a{suffix}").astype(int) - RAMP).mean() < 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"a{suffix}"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", RAMP)

    def half_written(image, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(MediaError, match="No space left"):
        save_image(tmp_path / "a.png", RAMP[:8])
    assert (array(tmp_path / "a.png") == RAMP).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_alpha_survives_png_and_turns_white_in_jpeg(tmp_path):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    save_image(tmp_path / "a.png", clear)
    save_image(tmp_path / "a.jpg", clear)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "RGBA"
    assert array(tmp_path / "a.jpg").min() > 250


@pytest.mark.parametrize("bad", [RAMP.astype(np.float32), RAMP[None], RAMP[:, :, :2], RAMP[:0]])
def test_arrays_that_are_no_picture(tmp_path, bad):
    with pytest.raises(InputError, match="is not a picture"):
        save_image(tmp_path / "a.png", bad)
    with pytest.raises(InputError, match=r"Use one of \.png"):
        save_image(tmp_path / "a.xyz", RAMP)
    assert not list(tmp_path.iterdir())


def test_tensor_round_trip():
    tensor = to_tensor(Image.fromarray(RAMP))
    assert tensor.shape == (3, 16, 24) and tensor.dtype == torch.float32 and tensor.max() == 1
    assert (np.asarray(to_image(tensor)) == RAMP).all()
    assert (np.asarray(to_image((tensor * 255).round().to(torch.uint8))) == RAMP).all()
    with pytest.raises(InputError, match="not one RGB picture"):
        to_image(tensor[None])
