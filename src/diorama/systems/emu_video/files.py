"""Clips as users have them: folders of clips with text files, WebVid-style CSV, JSON lines, folders named for classes.

`read_clip_list` tells the layout from what it is given. Clips are decoded when a batch needs them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diorama.console import note
from diorama.errors import InputError, MediaError
from diorama.media.resizing import center_crop, resize_shortest
from diorama.media.videos import FrameSampler, read_video
from diorama.world.vocabulary import split_words

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
FRAME_SLACK = 0.01
"""Seconds that a window ends before the clip does, since containers round their times."""


@dataclass(frozen=True)
class ClipFile:
    """A clip on disk with its captions, and the part of it that is meant, in seconds."""

    path: Path
    captions: tuple[str, ...]
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class FileClips:
    """Clips on disk, read as T frames `fps` apart at S x S pixels."""

    files: tuple[ClipFile, ...]
    frames: int
    fps: float
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def words(self) -> list[str]:
        """Every word of the captions, sorted."""
        return sorted({word for file in self.files for one in file.captions for word in split_words(one)})

    def take(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Frames uint8 (B, T, 3, S, S) from a random moment of each clip, and one of its captions each."""
        chosen = [self.files[row] for row in rows]
        pixels = torch.stack([read_frames(file, self.frames, self.fps, self.size, rng) for file in chosen])
        return pixels, [str(rng.choice(file.captions)) for file in chosen]


def read_frames(file: ClipFile, frames: int, fps: float, size: int, rng: np.random.Generator | None = None) -> Tensor:
    """T frames of a clip, 1 / fps seconds apart, uint8 (T, 3, S, S): scaled on the shorter side, center-cropped.

    They begin at a moment drawn from `rng`, or at the start. Raises MediaError for what cannot be read, and InputError
    for a clip that is too short.
    """
    length = (frames - 1) / fps
    end = read_video(file.path, FrameSampler(frames=1)).duration if file.end is None else file.end
    latest = end - length - FRAME_SLACK
    if latest < file.start - 1e-6:
        raise InputError(f"{file.path.name} has {end - file.start:.2f} s, and {frames} frames at {fps:g} a second need "
                         f"{length:.2f} s. Leave it out, or train with fewer frames or more a second.")
    start = file.start if rng is None else float(rng.uniform(file.start, max(latest, file.start)))
    shown = read_video(file.path, FrameSampler(frames=frames, start=start, end=start + max(length, FRAME_SLACK)))
    pixels = torch.from_numpy(shown.frames).permute(0, 3, 1, 2)
    return center_crop(resize_shortest(pixels, size), size).contiguous()


def read_clip_list(data: Path, media: Path | None = None) -> list[ClipFile]:
    """The clips that a folder, a .csv or a .jsonl file names, those that are there; a note says how many are not.

    Folder: clips beside text files of their name, one caption a line; or one folder a class, whose name becomes the
    caption (UCF-101). CSV: columns videoid, page_dir, name (WebVid), files media/page_dir/videoid.mp4. JSON lines:
    {"video", "caption", "start", "end"}, paths relative to `media` (by default the file's folder).
    Raises InputError for another layout, missing fields and empty captions; MediaError when no clip is there.
    """
    if data.is_dir():
        found = _folder(data)
    elif data.suffix.lower() == ".csv":
        found = _webvid(data, media or data.parent)
    elif data.suffix.lower() in (".jsonl", ".json"):
        found = _json_lines(data, media or data.parent)
    else:
        what = "is neither a folder nor a .csv or .jsonl file" if data.exists() else "does not exist"
        raise InputError(f"{data} {what}, so no clips can be listed from it. Pass a folder of clips with text files, "
                         "a WebVid-style CSV, or JSON lines.")
    there = [file for file in found if file.path.is_file()]
    if not there:
        first = f"; the first looked for is {found[0].path}" if found else ""
        raise MediaError(f"None of the {len(found)} clips that {data} names is there{first}. "
                         "Pass --media with the folder that the paths start from.")
    if len(there) < len(found):
        missing = next(file.path for file in found if not file.path.is_file())
        note(f"{data.name}: {len(found) - len(there)} of {len(found)} clips are missing, such as {missing}")
    return there


def usable(files: Sequence[ClipFile], frames: int, fps: float) -> list[ClipFile]:
    """The clips that can be read and are long enough, with their ends known; a note says how many are not.

    Raises MediaError when none is left.
    """
    kept, problems = [], []
    for file in files:
        try:
            duration = read_video(file.path, FrameSampler(frames=1)).duration
        except MediaError as error:
            problems.append(str(error))
            continue
        end = duration if file.end is None else min(file.end, duration)
        if end - file.start < (frames - 1) / fps + FRAME_SLACK:
            problems.append(f"{file.path.name} has {end - file.start:.2f} s")
        else:
            kept.append(replace(file, end=end))
    if not kept:
        raise MediaError(f"None of the {len(files)} clips can be used for {frames} frames at {fps:g} a second; the "
                         f"first problem: {problems[0]}. Pass longer clips, fewer frames, or more a second.")
    if problems:
        note(f"{len(problems)} of {len(files)} clips are left out; the first: {problems[0]}")
    return kept


def _folder(folder: Path) -> list[ClipFile]:
    clips = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    told = [path for path in clips if path.with_suffix(".txt").is_file()]
    if told:
        return [ClipFile(path, _lines(path.with_suffix(".txt"))) for path in told]
    classes = [path for path in clips if path.parent != folder]
    if classes:
        return [ClipFile(path, (class_words(path.parent.name),)) for path in classes]
    raise InputError(f"{folder} holds {len(clips)} clips and no text file of the same name beside any. Put the "
                     "captions of clip.mp4 into clip.txt, one a line, or a class's clips into a folder of its name.")


def _lines(path: Path) -> tuple[str, ...]:
    told = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not told:
        raise InputError(f"{path} is empty, so its clip has no caption. Write one, or remove the file.")
    return told


def class_words(name: str) -> str:
    """A class's folder name as words: ApplyEyeMakeup becomes "apply eye makeup"."""
    return " ".join(re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)).lower() or name


def _webvid(path: Path, media: Path) -> list[ClipFile]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        absent = [column for column in WEBVID_COLUMNS if column not in (rows.fieldnames or ())]
        if absent:
            raise InputError(f"{path.name} lacks the column {', '.join(absent)}. A WebVid-style CSV has "
                             f"{', '.join(WEBVID_COLUMNS)}.")
        found = []
        for number, row in enumerate(rows, 2):
            if not all((row[column] or "").strip() for column in ("videoid", "name")):
                raise InputError(f"{path.name}, line {number} has no videoid or no name. Fill it in, or remove it.")
            file = media / (row["page_dir"] or "") / f"{row['videoid'].strip()}.mp4"
            found.append(ClipFile(file if file.is_file() else _beside(file, media), (row["name"].strip(),)))
    return found


def _beside(file: Path, media: Path) -> Path:
    """Some downloads drop the page folders."""
    flat = media / file.name
    return flat if flat.is_file() else file


def _json_lines(path: Path, media: Path) -> list[ClipFile]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions = [row["caption"]] if isinstance(row["caption"], str) else list(row["caption"])
            start, end = float(row.get("start") or 0.0), row.get("end")
            file = ClipFile(media / row["video"], tuple(captions), start, None if end is None else float(end))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path.name}, line {number} names no clip ({type(error).__name__}: {error}). Write "
                             '{"video": "a.mp4", "caption": "..."}, with start and end in seconds.') from error
        if not file.captions or not all(isinstance(c, str) and c.strip() for c in file.captions):
            raise InputError(f"{path.name}, line {number} has an empty caption. Write one, or remove the line.")
        found.append(file)
    return found
