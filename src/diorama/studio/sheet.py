"""The contact sheet: the frames that the model saw, with their index and second, and what was asked and answered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH = 1080
MARGIN = 24
GAP = 12
COLUMNS = 4
BODY, TITLE, SMALL = 20, 26, 16
INK, PALE, PAPER, MARK = "#1b1f24", "#59636e", "#ffffff", "#1a7f37"
MAX_LINES = 12
"""Lines that one text may take; the rest is in answer.json."""


@dataclass(frozen=True)
class Line:
    """A text on the sheet, wrapped to its width."""

    text: str
    size: int = BODY
    color: str = INK


def contact_sheet(request: str, files: Sequence[Any], answers: Sequence[tuple[str, str]], notes: Sequence[str],
                  spans: Sequence[tuple[int, float, float]] = ()) -> Image.Image:
    """An RGB picture WIDTH pixels wide.

    files: what the model looked at (name, kind, frames, indices, timestamps). answers: (question, answer) pairs.
    notes: small print. spans: (file, start, end) in seconds; frames within one get a green frame.
    """
    blocks: list[tuple[int, Line | Image.Image]] = []

    def add(item: Line | Image.Image, before: int = GAP) -> None:
        blocks.append((before, item))

    add(Line(request, TITLE), 0)
    for index, file in enumerate(files):
        add(Line(_title(file), SMALL, PALE), 2 * GAP)
        add(_thumbnails(file, [(start, end) for which, start, end in spans if which == index]))
    for question, answer in answers:
        add(Line(question, BODY, PALE), 2 * GAP)
        add(Line(answer, TITLE), 4)
    for note in notes:
        add(Line(note, SMALL, PALE), 2 * GAP if note is notes[0] else 4)
    drawn = [(before, _text(item) if isinstance(item, Line) else item) for before, item in blocks]
    sheet = Image.new("RGB", (WIDTH, sum(before + image.height for before, image in drawn) + 2 * MARGIN), PAPER)
    y = MARGIN
    for before, image in drawn:
        y += before
        sheet.paste(image, (MARGIN, y))
        y += image.height
    return sheet


def wrap(text: str, font: Any, width: int) -> list[str]:
    """The text in lines no wider than `width` pixels; words longer than a line are cut."""
    lines = [""]
    for word in text.split():
        while word and len(lines) <= MAX_LINES:
            joined = f"{lines[-1]} {word}".strip()
            if font.getlength(joined) <= width:
                lines[-1], word = joined, ""
            elif lines[-1]:
                lines.append("")
            else:
                start = word[:width]                                   # no letter is narrower than a pixel
                fitting = max(1, bisect_right(range(1, len(start) + 1), width, key=lambda n: font.getlength(start[:n])))
                lines[-1], word = word[:fitting], word[fitting:]
                lines += [""] if word else []
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES - 1], "... (the rest is in answer.json)"]
    return lines


def _text(line: Line) -> Image.Image:
    font = ImageFont.load_default(size=line.size)
    lines = wrap(line.text, font, WIDTH - 2 * MARGIN)
    step = round(line.size * 1.35)
    image = Image.new("RGB", (WIDTH - 2 * MARGIN, step * len(lines)), PAPER)
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(lines):
        draw.text((0, row * step), text, fill=line.color, font=font)
    return image


def _title(file: Any) -> str:
    height, width = file.frames.shape[1:3]
    if file.kind == "image":
        return f"{file.name}: image, {width} x {height}"
    return (f"{file.name}: clip, {width} x {height}, {file.duration:.2f} s, {file.total_frames} frames at "
            f"{file.fps:.4g} a second; the model saw {len(file.indices)}")


def _thumbnails(file: Any, spans: Sequence[tuple[float, float]]) -> Image.Image:
    """The sampled frames in rows of COLUMNS; an image alone is shown larger."""
    count = len(file.frames)
    columns = COLUMNS if count > 1 else 2
    cell = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    height, width = file.frames.shape[1:3]
    scale = cell / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    label = round(SMALL * 1.6) if file.indices else 0
    rows = -(-count // columns)
    sheet = Image.new("RGB", (WIDTH - 2 * MARGIN, rows * (size[1] + label + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=SMALL)
    for position, frame in enumerate(file.frames):
        x, y = position % columns * (cell + GAP), position // columns * (size[1] + label + GAP)
        resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        sheet.paste(Image.fromarray(frame).resize(size, resampling), (x, y))
        if file.indices:
            second = file.timestamps[position]
            inside = any(start <= second <= end for start, end in spans)
            if inside:
                draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=MARK, width=4)
            draw.text((x, y + size[1] + 3), f"frame {file.indices[position]}   {second:.2f} s",
                      fill=MARK if inside else INK, font=font)
    return sheet
