"""Frames out of video containers with PyAV: first a look at every packet's time, then only the frames asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from diorama.errors import MediaError
from diorama.media.content import check_size, describe_content, promised_bytes
from diorama.media.timeline import Timeline

# Containers that hold their own pixels. Playlists and concatenation scripts, which name other files, are left out.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,h264,hevc,m4v,y4m,yuv4mpegpipe"
# VP8 has packets that show no frame of their own, and AVI states only when a packet is decoded, so the stamps of
# their packets say nothing about frames: they are decoded and counted.
COUNTED_CODECS = ("vp8",)
COUNTED_CONTAINERS = ("avi",)


class _Stamp(NamedTuple):
    """When one packet's frame is shown, when it is decoded and how long it lasts, in units of the time base."""

    shown: int
    decoded: int
    length: int
    is_key: bool


@dataclass(frozen=True)
class Scan:
    """A timeline with what seeking needs: the presentation stamp of each readable frame, and the key frames.

    `stamps` is None where packets carry no usable stamps; frames are then found by counting from the start.
    """

    timeline: Timeline
    stamps: tuple[int, ...] | None
    keys: tuple[_Stamp, ...] = ()                      # in the order they are shown


def scan(path: Path) -> Scan:
    """Timeline of the first video stream of `path`, from packet stamps where they can be trusted.

    Raises MediaError for a file with no video stream, no decodable frame, or frames too large to decode.
    """
    with opened(path) as (container, stream):
        check_size(stream.width, stream.height, path.name)
        size = (stream.width, stream.height)
        tick = float(stream.time_base or 1)
        rate = stream.average_rate or stream.guessed_rate
        step = 1 / float(rate) if rate else 0.1
        promised_length = promised_bytes(path)
        cut_off = promised_length is not None and promised_length > path.stat().st_size
        promised = stream.frames or round((container.duration or 0) / av.time_base / step)
        packets = _stamps(container, stream, cut_off)
    if packets:
        if cut_off:
            # What is missing would be decoded after every packet that is here, and is shown after that moment.
            packets = [packet for packet in packets if packet.shown <= packets[-1].decoded] or packets[:1]
        lengths = {packet.shown: packet.length for packet in packets}
        stamps = tuple(sorted(lengths))
        times = tuple((stamp - stamps[0]) * tick for stamp in stamps)
        keys = tuple(sorted(packet for packet in packets if packet.is_key))
        last = lengths[stamps[-1]] * tick
        return Scan(_timeline(times, last, step, promised if cut_off else 0, size), stamps, keys)
    return Scan(_count(path, tick, step, promised, cut_off, size), None)


def _count(path: Path, tick: float, step: float, promised: int, cut_off: bool, size: tuple[int, int]) -> Timeline:
    """A timeline from decoding every frame up to the end or the first damage, which hides the number of the rest."""
    stamps: list[int | None] = []
    damaged = False
    for frame in _counted(path):
        damaged = frame is None
        if frame is not None:
            stamps.append(frame.pts)
    if not stamps:
        state = "breaks off before its first frame is whole" if cut_off else "holds no frame that can be decoded"
        raise MediaError(f"{path.name} is {describe_content(path)} that {state}. Download or export it again.")
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(later > earlier for earlier, later in pairwise(known)):
        times = tuple((stamp - known[0]) * tick for stamp in known)
    else:
        times = tuple(index * step for index in range(len(stamps)))
    absent = max(promised, len(times) + 1) if damaged else promised if cut_off else 0
    return _timeline(times, 0.0, step, absent, size)


def _stamps(container: InputContainer, stream: VideoStream, cut_off: bool) -> list[_Stamp]:
    """The stamps of all packets that show a frame, in the order of the file; none where one lacks its stamp."""
    counted = stream.codec_context.name in COUNTED_CODECS or container.format.name in COUNTED_CONTAINERS
    if counted or stream.time_base is None:
        return []
    stamps = []
    for packet in _packets(container, stream):
        if not packet.size or packet.is_discard or (packet.is_corrupt and cut_off):
            continue
        if packet.pts is None:
            return []
        decoded = packet.pts if packet.dts is None else min(packet.dts, packet.pts)
        stamps.append(_Stamp(packet.pts, decoded, packet.duration or 0, packet.is_keyframe))
    return stamps


def _timeline(times: tuple[float, ...], last: float, step: float, promised: int, size: tuple[int, int]) -> Timeline:
    """A timeline whose last frame lasts `last` seconds (0: unknown), with absent frames up to `promised`."""
    if last <= 0:
        gaps = [later - earlier for earlier, later in pairwise(times)]
        last = median(gaps) if gaps else step
    absent = max(promised - len(times), 0)
    whole = times + tuple(times[-1] + step * (index + 1) for index in range(absent))
    return Timeline(whole, whole[-1] + (step if absent else last), len(times), *size)


def decode(path: Path, packets: Scan, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Upright RGB frames (H, W, 3) at `indices`, each decoded once; a frame that fails to decode is left out.

    Seeks to the key frame before each wanted frame where stamps allow it. When the decoder then misses a frame,
    the whole file is decoded in order, so that a faulty index costs time and not a wrong frame.
    """
    if packets.stamps is None:
        return _decode_by_counting(path, indices)
    wanted = {packets.stamps[index]: index for index in indices}
    frames = _decode_by_seeking(path, packets, sorted(wanted))
    if len(frames) < len(wanted):
        frames |= {frame.pts: upright(frame) for frame in _frames_in_order(path)
                   if frame.pts in wanted and frame.pts not in frames and not frame.is_corrupt}
    return {wanted[stamp]: pixels for stamp, pixels in frames.items()}


def _decode_by_seeking(path: Path, packets: Scan, stamps: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    frames: dict[int, NDArray[np.uint8]] = {}
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        decoded = _decoded(container, stream)
        position = packets.stamps[0] - 1 if packets.stamps else 0
        for stamp in stamps:
            before = [key for key in packets.keys if key.shown <= stamp]
            if before and before[-1].shown > position and before[-1] != packets.keys[0]:
                try:
                    container.seek(before[-1].decoded, stream=stream)
                except av.FFmpegError:
                    return frames
                decoded = _decoded(container, stream)
            for frame in decoded:
                position = frame.pts if frame.pts is not None else position
                if position == stamp and not frame.is_corrupt:
                    frames[stamp] = upright(frame)
                if position >= stamp:
                    break
    return frames


def _decode_by_counting(path: Path, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    frames = {}
    last = max(indices)
    for index, frame in enumerate(_counted(path)):
        if index in indices and frame is not None and not frame.is_corrupt:
            frames[index] = upright(frame)
        if index == last:
            break
    return frames


def _counted(path: Path) -> Iterator[VideoFrame | None]:
    """All frames in order; at a packet that does not decode a None, and the end."""
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        for packet in _packets(container, stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                yield None
                return


def _frames_in_order(path: Path) -> Iterator[VideoFrame]:
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        yield from _decoded(container, stream)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames from where the container stands; after a packet that does not decode, those from the next key frame,
    because the ones before may be predicted from what was lost."""
    spoiled = False
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            spoiled = True
            continue
        for frame in frames:
            spoiled = spoiled and not frame.key_frame
            if not spoiled:
                yield frame


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets up to the end of the file, or to where it stops making sense."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container at `path` and its first video stream that is no cover picture; MediaError without one."""
    try:
        container = av.open(f"file:{path.resolve()}", "r",
                            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except av.FFmpegError as error:
        words = describe_content(path)
        broken = words.endswith(("file", "video")) and "sound" not in words
        reason = "that breaks off or is damaged before its frames can be found" if broken else "and not a video"
        raise MediaError(f"{path.name} is {words} {reason}. "
                         "Download it again, or pass an MP4, WebM, MOV, AVI, MKV or GIF file.") from error
    with container:
        for stream in container.streams.video:
            if not stream.disposition & stream.disposition.attached_pic and stream.codec_context is not None:
                yield container, stream
                return
        if (promised_bytes(path) or 0) > path.stat().st_size:
            raise MediaError(f"{path.name} is {describe_content(path)} that breaks off before its frames can be found. "
                             "Download it again.")
        raise MediaError(f"{path.name} has no video in it ({container.format.long_name}). "
                         "Pass a file that has pictures as well as sound.")


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """A decoded frame as RGB (H, W, 3), turned and mirrored by quarter turns as its display matrix says.

    Pixels that are not square are not stretched, and angles between quarter turns are not applied.
    """
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    matrix = cast(SideDataContainer, frame.side_data).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]     # shown x = a x + c y, shown y = b x + d y
    if abs(int(b)) > abs(int(a)):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[::-1 if d < 0 else 1, ::-1 if a < 0 else 1])
