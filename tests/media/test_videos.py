"""Every kind of clip people have, each made here with PyAV or Pillow; frames carry their number as a grey level."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media import decoding
from diorama.media.images import save_image
from diorama.media.videos import FrameSampler, kind_of, read_video, write_video

EVERY = FrameSampler(frames=12)


def numbered(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose grey level is 10 + 8 times their number, with a white top left corner."""
    frames = np.repeat((10 + 8 * np.arange(count, dtype=np.uint8))[:, None], height * width * 3, 1)
    frames = frames.reshape(count, height, width, 3)
    frames[:, :height // 4, :width // 4] = 255
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    return [round((float(frame[12:-12, 16:-16].mean()) - 10) / 8) for frame in frames]


def encode(path: Path, frames: np.ndarray, *, codec: str = "libx264", times: list[int] | None = None, tick: int = 100,
           rotation: tuple[float, bool, bool] | None = None, sound: bool = False,
           options: dict[str, str] | None = None) -> Path:
    """A clip straight from PyAV, with frame times in units of 1/`tick` s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=tick, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, tick)
        if rotation:
            stream.set_display_rotation(*rotation)
        tone = container.add_stream("aac" if codec == "libx264" else "libopus", rate=48000) if sound else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")
            frame.pts = times[index] if times else index * tick // 10
            frame.time_base = Fraction(1, tick)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone:
            for index in range(100):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), format="flt", layout="stereo")
                silence.sample_rate, silence.pts, silence.time_base = 48000, 960 * index, Fraction(1, 48000)
                container.mux(tone.encode(silence))
            container.mux(tone.encode())
    return path


# --- choosing frames

@pytest.mark.parametrize("total", [1, 2, 5, 7, 8, 9, 49, 100, 1000])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 32, 49])
@pytest.mark.parametrize("mode", ["ends", "intervals"])
def test_indices(total, frames, mode):
    indices = FrameSampler(frames=frames, mode=mode).indices(total)
    assert len(indices) == frames and indices == sorted(indices)
    assert indices[0] == 0 and indices[-1] <= total - 1
    if mode == "ends" and frames > 1:
        assert indices[-1] == total - 1
    if mode == "intervals" and frames > 1 and total > frames:
        assert indices[-1] < total - 1


def test_both_rules_are_the_published_ones():
    assert FrameSampler().indices(100) == [0, 14, 28, 42, 56, 70, 84, 99]
    assert FrameSampler(mode="intervals").indices(100) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert FrameSampler(frames=4).indices(2) == [0, 0, 0, 1]


@pytest.mark.parametrize("arguments", [
    {"frames": 0}, {"frames": -3}, {"start": 2.0, "end": 1.0}, {"start": 1.0, "end": 1.0}, {"start": -1.0},
    {"end": 0.0}, {"end": float("nan")}, {"mode": "random"}])
def test_samplers_that_cannot_work(arguments):
    with pytest.raises(InputError):
        FrameSampler(**arguments)


def test_no_frames_to_sample_from():
    with pytest.raises(InputError):
        FrameSampler().indices(0)


# --- reading

def test_round_trip_is_close_and_timed(tmp_path):
    frames = numbered(24)
    write_video(tmp_path / "a.mp4", frames, fps=12)
    video = read_video(tmp_path / "a.mp4", FrameSampler(frames=24))
    assert video.frames.shape == frames.shape and video.frames.dtype == np.uint8
    assert np.abs(video.frames.astype(int) - frames).mean() < 3
    assert video.indices == list(range(24)) and video.total_frames == 24
    assert video.timestamps == pytest.approx(np.arange(24) / 12)
    assert (video.fps, video.duration) == pytest.approx((12, 2))
    assert kind_of(tmp_path / "a.mp4") == "video"


def test_colors_survive(tmp_path):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
    frames = np.stack([np.full((32, 32, 3), color, np.uint8) for color in colors])
    write_video(tmp_path / "a.mp4", frames, fps=2)
    video = read_video(tmp_path / "a.mp4", FrameSampler(frames=7))
    assert np.abs(video.frames.astype(int) - frames).max() <= 6


@pytest.mark.parametrize("options", [{"bf": "0", "g": "4"}, {"bf": "3", "g": "5"}, {"bf": "3", "g": "250"},
                                     {"bf": "2", "g": "6", "x264-params": "open-gop=1"}])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts"])
def test_seeking_finds_the_same_frames_as_decoding_all(tmp_path, suffix, options):
    path = encode(tmp_path / f"a{suffix}", numbered(28), options=options, tick=10)
    video = read_video(path, FrameSampler(frames=28))
    assert numbers(video.frames) == list(range(28)) and video.total_frames == 28
    for start, end in ((0.0, 0.3), (1.1, 1.4), (2.5, 2.7)):
        part = read_video(path, FrameSampler(frames=2, start=start, end=end))
        assert numbers(part.frames) == part.indices
        assert part.timestamps == pytest.approx([start, end], abs=1e-3)


def test_seeking_saves_decoding(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", numbered(28), options={"g": "4", "bf": "0"}, tick=10)
    monkeypatch.setattr(decoding, "_frames_in_order", lambda path: pytest.fail("the whole file was decoded"))
    assert numbers(read_video(path, FrameSampler(frames=3)).frames) == [0, 13, 27]


def test_variable_frame_rate(tmp_path):
    times = [0, 10, 20, 30, 100, 150, 151, 152, 200, 290]
    path = encode(tmp_path / "vfr.mp4", numbered(10), times=times)
    video = read_video(path, FrameSampler(frames=10))
    assert video.timestamps == pytest.approx([time / 100 for time in times])
    assert numbers(video.frames) == list(range(10))
    assert read_video(path, FrameSampler(frames=4, start=1.0, end=1.6)).indices == [4, 5, 6, 7]
    assert read_video(path, FrameSampler(frames=1, start=2.5, end=2.6)).indices == [8]
    assert video.fps == pytest.approx(10 / video.duration)


@pytest.mark.parametrize(("degrees", "hflip", "vflip"), [
    (90, False, False), (180, False, False), (270, False, False), (0, True, False), (0, False, True)])
def test_rotation_flags(tmp_path, degrees, hflip, vflip):
    path = encode(tmp_path / "turned.mp4", numbered(2), rotation=(degrees, hflip, vflip))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
        angle = stored.rotation                    # counterclockwise, as libavutil states it
    expected = numbered(2)[0]
    if degrees:
        expected = np.rot90(expected, angle // 90)
    expected = expected[::-1] if vflip else expected
    expected = expected[:, ::-1] if hflip else expected
    frame = read_video(path, FrameSampler(frames=1)).frames[0]
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("height,width", [(33, 47), (32, 47), (33, 48)])
def test_odd_sizes(tmp_path, height, width):
    frames = numbered(4, height, width)
    read = read_video(encode(tmp_path / "odd.webm", frames, codec="libvpx-vp9"), FrameSampler(frames=4)).frames
    assert read.shape == frames.shape and numbers(read) == [0, 1, 2, 3]
    write_video(tmp_path / "even.mp4", frames, fps=4)
    padded = read_video(tmp_path / "even.mp4", FrameSampler(frames=4)).frames
    assert padded.shape == (4, height + height % 2, width + width % 2, 3)
    assert np.abs(padded[:, :height, :width].astype(int) - frames).mean() < 3
    assert np.abs(padded[:, -1].astype(int) - padded[:, height - 1]).mean() < 6


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("sound", [False, True])
def test_webm(tmp_path, codec, sound):
    options = {"auto-alt-ref": "1", "lag-in-frames": "8", "crf": "10", "b": "1M"}
    path = encode(tmp_path / "a.webm", numbered(20), codec=codec, sound=sound, options=options, tick=10)
    video = read_video(path, FrameSampler(frames=20))
    assert video.total_frames == 20 and numbers(video.frames) == list(range(20))
    assert video.timestamps == pytest.approx(np.arange(20) / 10, abs=2e-3)
    assert kind_of(path) == "video"


def test_sound_is_ignored(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(12), sound=True, tick=10)
    video = read_video(path, EVERY)
    assert numbers(video.frames) == list(range(12)) and video.duration == pytest.approx(1.2)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        tone = container.add_stream("aac", rate=48000)
        for index in range(20):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), format="flt", layout="stereo")
            silence.sample_rate, silence.pts = 48000, 960 * index
            container.mux(tone.encode(silence))
        container.mux(tone.encode())
    for read in (read_video, kind_of):
        with pytest.raises(MediaError, match="no video in it"):
            read(tmp_path / "a.mp4")


def test_one_frame(tmp_path):
    write_video(tmp_path / "one.mp4", numbered(1), fps=8)
    video = read_video(tmp_path / "one.mp4")
    assert video.indices == [0] * 8 and video.total_frames == 1
    assert video.duration == pytest.approx(1 / 8) and video.fps == pytest.approx(8)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations(tmp_path, suffix):
    pictures = [Image.fromarray(frame) for frame in numbered(6)]
    delays = [100, 200, 100, 400, 100, 100]
    pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:], duration=delays)
    video = read_video(tmp_path / f"a{suffix}", FrameSampler(frames=6))
    assert numbers(video.frames) == list(range(6)) and video.total_frames == 6
    assert video.timestamps == pytest.approx([0, 0.1, 0.3, 0.4, 0.8, 0.9]) and video.duration == pytest.approx(1)
    assert read_video(tmp_path / f"a{suffix}", FrameSampler(frames=1, start=0.5, end=0.6)).indices == [3]
    assert kind_of(tmp_path / f"a{suffix}") == "video"


def test_transparent_animations_are_laid_on_white(tmp_path):
    pictures = [Image.new("RGBA", (8, 8), (0, 0, 0, alpha)) for alpha in (0, 255)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=100, disposal=1, blend=0)
    video = read_video(tmp_path / "a.png", FrameSampler(frames=2))
    assert video.frames[0].min() == 255 and video.frames[1].max() == 0


def test_a_still_picture_is_a_clip_of_one(tmp_path):
    save_image(tmp_path / "a.png", numbered(1)[0])
    assert kind_of(tmp_path / "a.png") == "image"
    video = read_video(tmp_path / "a.png", FrameSampler(frames=2))
    assert video.indices == [0, 0] and (video.frames == numbered(1)).all()


def test_content_decides_and_not_the_suffix(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(4), fps=4)
    (tmp_path / "a.mp4").rename(tmp_path / "a.png")
    assert kind_of(tmp_path / "a.png") == "video"
    assert numbers(read_video(tmp_path / "a.png", FrameSampler(frames=4)).frames) == [0, 1, 2, 3]
    save_image(tmp_path / "b.jpg", numbered(1)[0])
    (tmp_path / "b.jpg").rename(tmp_path / "b.mp4")
    assert kind_of(tmp_path / "b.mp4") == "image"


@pytest.mark.parametrize("span", [(2.0, None), (5.0, 6.0), (None, 3.0)])
def test_ranges_outside_the_clip(tmp_path, span):
    write_video(tmp_path / "a.mp4", numbered(16), fps=8)
    with pytest.raises(InputError, match=r"the clip is 2\.00 s"):
        read_video(tmp_path / "a.mp4", FrameSampler(start=span[0], end=span[1]))
    assert read_video(tmp_path / "a.mp4", FrameSampler(end=2.05)).indices[-1] == 15


# --- files that are broken, or no clips

@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"a story about a cube\n" * 40, "is text and not a video"), (b"\0" * 4096, "nothing but zeros"),
    (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "is text and not a video"),
    (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "is text and not a video"),
    (b"\x89PNG\r\n\x1a\n" + b"\x05" * 50, "damaged|cannot be read")])
def test_what_is_no_video_is_named(tmp_path, content, words):
    (tmp_path / "notes.mp4").write_bytes(content)
    for read in (read_video, kind_of):
        with pytest.raises(MediaError, match=words):
            read(tmp_path / "notes.mp4")


def test_absent_files_and_folders(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        kind_of(tmp_path)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95])
def test_truncated(tmp_path, suffix, share):
    if suffix == ".mp4":
        write_video(tmp_path / "whole.mp4", noise(24), fps=10)
    else:
        encode(tmp_path / f"whole{suffix}", noise(24), codec="libvpx-vp9" if suffix == ".webm" else "libx264", tick=10)
    whole = read_video(tmp_path / f"whole{suffix}", FrameSampler(frames=24))
    data = (tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(MediaError, match="cut"):
        read_video(cut)
    if share == 0.95:
        part = read_video(cut, FrameSampler(frames=4, end=0.5))
        assert part.indices == [0, 1, 3, 5] and (part.frames == whole.frames[part.indices]).all()
        with pytest.raises(MediaError, match=r"of its 24 frames .* can be decoded, and frame 23 was asked for"):
            read_video(cut)


def test_mp4_without_its_index(tmp_path):
    path = encode(tmp_path / "late.mp4", noise(24))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(MediaError, match="breaks off"):
        read_video(path)


def test_a_damaged_middle_is_refused_and_the_rest_is_read(tmp_path):
    path = encode(tmp_path / "a.mp4", noise(30), tick=10, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        position, size = packets[12].pos, packets[12].size
    data = bytearray(path.read_bytes())
    data[position:position + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"damaged: 22 of the 30 frames .* not frame 12 at 1\.20 s"):
        read_video(path, FrameSampler(frames=30))
    assert read_video(path, FrameSampler(frames=3, start=2.0)).indices == [20, 24, 29]


def test_a_damaged_middle_where_frames_are_counted(tmp_path):
    path = encode(tmp_path / "a.avi", noise(30), tick=10, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        position, size = packets[12].pos + 8, packets[12].size
    data = bytearray(path.read_bytes())
    data[position:position + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"1\d of its 30 frames"):
        read_video(path, FrameSampler(frames=30))
    assert read_video(path, FrameSampler(frames=3, end=0.4)).indices == [0, 2, 4]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_gif(tmp_path, share):
    write_video(tmp_path / "whole.gif", noise(12), fps=10)
    data = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[:int(len(data) * share)])
    with pytest.raises(MediaError, match=r"cut\.gif"):
        read_video(tmp_path / "cut.gif", EVERY)


def test_wide_frames_are_refused(tmp_path):
    Image.new("L", (20_000, 4)).save(tmp_path / "wide.gif")
    with pytest.raises(MediaError, match="20000 x 4 pixels"):
        read_video(tmp_path / "wide.gif")


# --- writing

def test_mp4_is_what_browsers_play(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(8), fps=29.97)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.colorspace) == ("h264", "yuv420p", 1)
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_may_be_a_tensor_or_a_stream(tmp_path):
    frames = numbered(6)
    write_video(tmp_path / "array.mp4", frames, fps=6)
    write_video(tmp_path / "tensor.mp4", torch.from_numpy(frames), fps=6)
    write_video(tmp_path / "stream.mp4", (frame for frame in frames), fps=6)
    read = [read_video(tmp_path / f"{name}.mp4").frames for name in ("array", "tensor", "stream")]
    assert (read[0] == read[1]).all() and (read[0] == read[2]).all()


def test_gif_keeps_the_average_rate_and_merges_equal_frames(tmp_path):
    write_video(tmp_path / "a.gif", numbered(24), fps=24)
    video = read_video(tmp_path / "a.gif", FrameSampler(frames=24))
    assert numbers(video.frames) == list(range(24)) and video.duration == pytest.approx(1)
    write_video(tmp_path / "still.gif", numbered(1).repeat(8, 0), fps=8)
    still = read_video(tmp_path / "still.gif")
    assert still.total_frames == 1 and still.duration == pytest.approx(1)


@pytest.mark.parametrize(("name", "frames", "fps"), [
    ("a.xyz", numbered(2), 8), ("a.mp4", numbered(2)[:0], 8), ("a.mp4", numbered(2), 0), ("a.mp4", numbered(2), -1),
    ("a.mp4", numbered(2), float("nan")), ("a.mp4", numbered(2).astype(np.float32), 8),
    ("a.mp4", numbered(2)[..., 0], 8),
    ("a.mp4", [numbered(1)[0], numbered(1, 16)[0]], 8), ("a.gif", numbered(2), 60), ("a.gif", [], 8)])
def test_what_cannot_be_written(tmp_path, name, frames, fps):
    with pytest.raises(InputError):
        write_video(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(4), fps=4)
    before = (tmp_path / "a.mp4").read_bytes()

    def interrupted():
        yield from numbered(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", interrupted(), fps=4)
    assert (tmp_path / "a.mp4").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- real clips

def test_real_clips(shared_data):
    folder = shared_data / "videos"
    suffixes = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")
    clips = [path for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    assert len(clips) >= 20
    for path in clips:
        if path.name == "corrupted.mp4":
            with pytest.raises(MediaError, match=r"damaged|breaks off"):
                read_video(path)
            continue
        video = read_video(path, FrameSampler(frames=3))
        assert kind_of(path) == "video" and video.frames.shape[0] == 3 and video.frames.std() > 5
        assert video.indices == FrameSampler(frames=3).indices(video.total_frames)
        assert 1 <= video.fps <= 120 and video.timestamps[-1] < video.duration


def test_real_rotation_flags(shared_data):
    for angle in (0, 90, 180, 270):
        path = shared_data / "videos" / f"rotation_{angle}.mov"
        with av.open(str(path)) as container:
            stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
        shown = read_video(path, FrameSampler(frames=1)).frames[0]
        assert (shown == np.rot90(stored, -angle // 90)).all()      # the flag counts clockwise
