"""Clips: choose frames, read them upright with their times, write H.264 or GIF.

`FrameSampler` is the one place where frames are chosen, for demo, training and evaluation alike.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diorama.errors import InputError, MediaError
from diorama.media import animations, decoding
from diorama.media.content import describe_content, existing_file
from diorama.media.images import FORMATS, open_image
from diorama.media.timeline import Timeline
from diorama.media.writing import written_whole

MAX_FRAME_BYTES = 4 * 1024 ** 3
END_SLACK = 0.1
"""Seconds by which an end may pass the clip's: players round 9.97 s to 10."""


@dataclass(frozen=True, kw_only=True)
class FrameSampler:
    """Which frames of a clip are looked at.

    `mode` "ends" takes linspace(0, N - 1, frames) cut to whole numbers, first and last frame included (Video-LLaVA,
    the official code); "intervals" takes the starts of `frames` equal intervals, arange(0, N, N / frames), never the
    last frame (the transformers port and its documentation). `start` and `end`, in seconds since the first frame,
    narrow the clip to the frames on screen between them before the rule is applied.

    Raises InputError for fewer than one frame, a negative or unordered range, or another mode.
    """

    frames: int = 8
    start: float | None = None
    end: float | None = None
    mode: Literal["ends", "intervals"] = "ends"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InputError(f"{self.frames} frames were asked for, and at least one must be looked at. "
                             "Pass a positive number, such as 8.")
        if self.mode not in ("ends", "intervals"):
            raise InputError(f"The sampling mode {self.mode!r} is not known. Use 'ends' or 'intervals'.")
        for name, second in (("start", self.start), ("end", self.end)):
            if second is not None and not (isfinite(second) and second >= 0):
                raise InputError(f"The {name} is {second:g} s, which no clip has. Pass seconds from its first frame.")
        if self.end is not None and (self.start or 0) >= self.end:
            raise InputError(f"The range runs from {self.start or 0:g} s to {self.end:g} s and holds no time. "
                             "Pass a start before the end.")

    def indices(self, total: int) -> list[int]:
        """The sampled indices among `total` frames: sorted, in range, with repeats when total < frames."""
        if total < 1:
            raise InputError(f"Frames were to be sampled from {total}. Pass a clip of at least one frame.")
        if self.mode == "ends":
            return np.linspace(0, total - 1, self.frames).astype(int).tolist()
        starts = np.arange(0, total, total / self.frames).astype(int)
        return starts[:self.frames].tolist()           # rounding may add one more start

    def select(self, timeline: Timeline) -> list[int]:
        """The sampled indices of a clip, from its frame times, within `start` and `end`.

        Raises InputError when the range reaches outside the clip (an end up to 0.1 s late is taken as the end).
        """
        duration = timeline.duration
        start, end = self.start or 0.0, duration if self.end is None else self.end
        if start >= duration or end > duration + END_SLACK:
            raise InputError(f"The range {start:g} s to {end:g} s was asked for and the clip is {duration:.2f} s "
                             f"long. Pass a start and an end within it.")
        window = timeline.between(start, end)
        return [window.start + index for index in self.indices(len(window))]


@dataclass(frozen=True)
class SampledVideo:
    """Frames of a clip, uint8 RGB (T, H, W, 3), with where they come from.

    `indices` count frames from 0, `timestamps` are seconds since the first frame, one each a sampled frame; `fps`
    (average), `total_frames` and `duration` (seconds) describe the whole clip.
    """

    frames: NDArray[np.uint8]
    indices: list[int]
    timestamps: list[float]
    fps: float
    total_frames: int
    duration: float


def read_video(path: Path | str, sampler: FrameSampler | None = None) -> SampledVideo:
    """Sample frames of a clip: MP4, MOV, WebM, MKV, AVI ..., GIF, animated PNG or WebP; a still is a clip of one.

    Times come from the file's own stamps, so a variable frame rate is right; rotation flags are applied; sound is
    ignored. Only what is needed is decoded. Pixels that are not square are left as stored.

    A file that breaks off is read only when every sampled frame is intact: the indices are those of the whole clip
    that the header promises, never of the part that happens to be left. Where no promise survives (a live
    recording), the part that is left is the clip.

    Raises MediaError for a file that cannot be read, InputError for a range outside the clip.
    """
    sampler = sampler or FrameSampler()
    path = existing_file(path, "a video")
    if _is_picture(path):
        timeline = animations.scan(path)
        indices = _select(path, timeline, sampler)
        frames = animations.decode(path, indices)
    else:
        packets = decoding.scan(path)
        timeline = packets.timeline
        indices = _select(path, timeline, sampler)
        frames = decoding.decode(path, packets, indices)
    lost = sorted(set(indices) - set(frames))
    if lost:
        raise MediaError(f"{path.name} is damaged: {len(set(indices)) - len(lost)} of the {len(set(indices))} frames "
                         f"asked for can be decoded, but not frame {lost[0]} at {timeline.times[lost[0]]:.2f} s. "
                         "Choose another range or download the file again.")
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        raise MediaError(f"{path.name} changes its picture size on the way, so its frames do not form one clip. "
                         "Convert it to one size, or choose a range with one size.")
    return SampledVideo(np.stack([frames[index] for index in indices]), indices,
                        [timeline.times[index] for index in indices], timeline.fps, len(timeline.times),
                        timeline.duration)


def _select(path: Path, timeline: Timeline, sampler: FrameSampler) -> list[int]:
    """Indices to decode, once they are known to be intact and to fit in memory."""
    indices = sampler.select(timeline)
    total, readable = len(timeline.times), timeline.readable
    if indices[-1] >= readable:
        raise MediaError(f"{path.name} breaks off: {readable} of its {total} frames (up to "
                         f"{timeline.times[readable - 1]:.2f} of {timeline.duration:.2f} s) can be decoded, and "
                         f"frame {indices[-1]} was asked for. Pass an earlier end or get the whole file.")
    bytes_needed = len(set(indices)) * timeline.width * timeline.height * 3
    if bytes_needed > MAX_FRAME_BYTES:
        raise InputError(f"{len(set(indices))} frames of {timeline.width} x {timeline.height} pixels need "
                         f"{bytes_needed / 1024 ** 3:.1f} GiB, more than the {MAX_FRAME_BYTES // 1024 ** 3} GiB that "
                         "one clip may take. Ask for fewer frames.")
    return indices


def kind_of(path: Path | str) -> Literal["image", "video"]:
    """What a file is by its content: animations (GIF, PNG, WebP, AVIF of several frames) are videos.

    Raises MediaError when it is neither.
    """
    path = existing_file(path, "a picture or video")
    if _is_picture(path):
        with open_image(path) as image:
            return "video" if animations.is_animation(image) else "image"
    with decoding.opened(path):
        return "video"


def _is_picture(path: Path) -> bool:
    """Whether Pillow should read the file: its signature says so (a damaged picture is still no video)."""
    words = describe_content(path)
    if words in ("a PNG picture", "a JPEG picture", "a GIF", "a WebP picture"):
        return True
    try:
        with open_image(path) as image:
            return image.format in FORMATS
    except MediaError:
        return False


def write_video(path: Path | str, frames: Iterable[NDArray[np.uint8] | Tensor], fps: float, *,
                crf: int = 18) -> None:
    """Write frames, each uint8 RGB (H, W, 3), as a clip that browsers play; the suffix is .mp4, .mov or .gif.

    `frames` is an array or tensor (T, H, W, 3), or any iterable, which is then streamed. MP4 and MOV hold H.264,
    yuv420p, BT.709, index first; `crf` runs from 0 (exact but for color subsampling) to 51. An odd width or height
    grows by one by repeating the last column or row, so nothing is stretched. GIFs: see `animations.write_gif`.

    Raises InputError for no frames, frames of unequal shape or other type, or fps or crf out of range; MediaError
    where the place cannot be written. The file appears whole or not at all.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".mov", ".gif"):
        raise InputError(f"{path.name} has the suffix {path.suffix!r}, to which no clip is written. "
                         "Use .mp4, .mov or .gif.")
    if not (isfinite(fps) and 0 < fps <= 1000):
        raise InputError(f"{fps:g} frames a second cannot be shown. Pass fps above 0 and up to 1000, such as 8.")
    if not 0 <= crf <= 51:
        raise InputError(f"crf is {crf}, and H.264 knows 0 (best) to 51 (smallest). Pass 18 for near-perfect frames.")
    checked = _checked_frames(frames)
    first = next(checked, None)
    if first is None:
        raise InputError(f"{path.name} was to be written from no frames. Pass at least one.")
    checked = chain([first], checked)
    if suffix == ".gif":
        animations.write_gif(path, checked, fps)
    else:
        with written_whole(path) as temporary:
            _write_h264(temporary, checked, first.shape, fps, crf)


def _checked_frames(frames: Iterable[NDArray[np.uint8] | Tensor]) -> Iterator[NDArray[np.uint8]]:
    shape = None
    for index, frame in enumerate(frames):
        pixels = np.asarray(frame.cpu() if isinstance(frame, Tensor) else frame)
        shape = shape or pixels.shape
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise InputError(f"Frame {index} has shape {pixels.shape} and type {pixels.dtype}. "
                             "Pass uint8 RGB frames (height, width, 3).")
        if pixels.shape != shape:
            raise InputError(f"Frame {index} is {pixels.shape[:2]} and frame 0 is {shape[:2]}; a clip has one size. "
                             "Resize them first.")
        yield np.ascontiguousarray(pixels)


def _write_h264(path: Path, frames: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], fps: float,
                crf: int) -> None:
    height, width = shape[:2]
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1       # BT.709
        context.color_range = 1                                                    # 16-235, as players expect
        for pixels in frames:
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
