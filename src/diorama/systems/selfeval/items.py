"""Examination items: one picture with options of which one is right, or two pictures with two captions.

`read_items` reads our JSONL and the files of ARO, CLEVR (as DiffusionITM ships it) and TIFA; `read_pairs` our JSONL and
Winoground's examples. Pictures are opened when an item is examined, not before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diorama.errors import InputError
from diorama.media.images import load_image
from diorama.media.resizing import resize

Picture = Path | np.ndarray
"""A file, or uint8 pixels (3, H, W)."""
CLEVR_TASKS = {
    "recognition_color": "color", "recognition_shape": "shape", "pair_binding_color": "attribute",
    "pair_binding_size": "attribute", "binding_color_shape": "attribute", "binding_shape_color": "attribute",
    "spatial": "spatial",
}
"""DiffusionITM's caption files (data/clevr/captions) -> the paper's task."""
TIFA_TASKS = {"attribute": "attribute", "color": "color", "counting": "count", "shape": "shape", "spatial": "spatial"}


@dataclass(frozen=True)
class Item:
    """A picture and captions of which `options[answer]` is right; `box` (x, y, width, height) is what is looked at."""

    image: Picture
    options: tuple[str, ...]
    answer: int
    task: str
    chance: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Pair:
    """Two pictures and two captions, captions[k] of images[k]; `tag` says what differs."""

    images: tuple[Picture, Picture]
    captions: tuple[str, str]
    tag: str = ""


def pixels_of(picture: Picture, size: int, box: tuple[float, float, float, float] | None = None) -> Tensor:
    """A picture as uint8 (3, size, size): cropped to the box if there is one, the whole of it scaled.

    A center crop would lose objects that captions speak of. Raises MediaError for files that cannot be read and
    InputError for boxes outside the picture.
    """
    if isinstance(picture, np.ndarray):
        pixels = torch.from_numpy(np.array(picture))
        return pixels if tuple(pixels.shape[1:]) == (size, size) else resize(pixels, size, size)
    image = load_image(picture)
    if box is not None:
        left, top, width, height = box
        image_box = (max(0, round(left)), max(0, round(top)), min(image.width, round(left + width)),
                     min(image.height, round(top + height)))
        if image_box[2] <= image_box[0] or image_box[3] <= image_box[1]:
            raise InputError(f"The box {list(box)} holds nothing of {picture.name} ({image.width} x {image.height}). "
                             "Pass x, y, width and height in pixels.")
        image = image.crop(image_box)
    if image.size != (size, size):
        image = resize(image, size, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


# ---- reading -----------------------------------------------------------------------------------------------------


def read_items(path: Path, images: Path | None = None) -> list[Item]:
    """The items of a file; pictures are looked for in `images`, else beside the file.

    Layouts, told by content: JSONL {"image", "options", "answer", "task", "chance"}; ARO's list of {"image_path",
    "true_caption", "false_caption", "bbox_x" ...} or {"image_path", "caption_options"} (the first is true); CLEVR's
    {image: [[true, false], ...]}, the task by the file's name; TIFA's question-answer list of {"id", "caption",
    "choices", "answer", "element_type", "coco_val_id"}; where that number is absent, the text inputs beside the file
    name the COCO pictures. Raises InputError naming the line or entry that cannot be used.
    """
    folder = images or path.parent
    content = _read(path)
    if isinstance(content, dict):
        found = list(_clevr(content, path, folder))
    elif content and "true_caption" in content[0]:
        found = [_aro(entry, path, number, folder) for number, entry in enumerate(content)]
    elif content and "caption_options" in content[0]:
        found = [_options(entry, number, path, folder) for number, entry in enumerate(content)]
    elif content and "element_type" in content[0]:
        pictures = _coco_pictures(path, content)
        found = [item for entry in content for item in _tifa(entry, folder, pictures)]
    else:
        found = [_own(entry, number, path, folder) for number, entry in enumerate(content)]
    if not found:
        raise InputError(f"{path} holds no item. Pass JSON lines with image, options and answer, or a file of ARO, "
                         "CLEVR or TIFA.")
    return found


def read_pairs(path: Path, images: Path | None = None) -> list[Pair]:
    """The pairs of a file: JSONL {"images": [a, b], "captions": [a, b]}, or Winoground's examples.jsonl."""
    folder = images or path.parent
    pairs = []
    for number, entry in enumerate(_read(path)):
        if "image_0" in entry:
            names = [str(entry["image_0"]), str(entry["image_1"])]
            captions = [str(entry["caption_0"]), str(entry["caption_1"])]
            tag = str(entry.get("collapsed_tag", ""))
        else:
            names, captions = entry.get("images", []), entry.get("captions", [])
            tag = str(entry.get("tag", ""))
        if len(names) != 2 or len(captions) != 2:
            raise InputError(f"Entry {number + 1} of {path} has {len(names)} pictures and {len(captions)} captions, "
                             "and a pair has two of each. Correct it.")
        first, second = (_file(folder, name) for name in names)
        pairs.append(Pair((first, second), (str(captions[0]), str(captions[1])), tag))
    return pairs


def is_pairs(path: Path) -> bool:
    """Whether a file holds pairs rather than items."""
    content = _read(path)
    return isinstance(content, list) and bool(content) and bool({"images", "image_0"} & set(content[0]))


def _read(path: Path) -> Any:
    """The JSON document of a file, or its lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text. Pass a .json or .jsonl file of items.") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return [_line(line, number, path) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    whole = isinstance(content, dict) and {"image", "images", "image_0"} & set(content)
    return [content] if whole else content


def _line(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"Line {number} of {path} is not valid JSON ({error.msg}). Correct or remove it.") from error
    if not isinstance(entry, dict):
        raise InputError(f"Line {number} of {path} is a {type(entry).__name__}, not an object. Correct it.")
    return entry


def _own(entry: dict[str, Any], number: int, path: Path, folder: Path) -> Item:
    where = f"Entry {number + 1} of {path}"
    missing = [name for name in ("image", "options", "answer") if name not in entry]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}. Give each item image, options and answer.")
    options = tuple(str(option) for option in entry["options"])
    answer = entry["answer"]
    if not isinstance(answer, int) or not 0 <= answer < len(options) or len(options) < 2:
        raise InputError(f"{where} has the answer {answer!r} among {len(options)} options. "
                         "Give at least two options and the number of the right one, from 0.")
    box = entry.get("box")
    return Item(_file(folder, entry["image"]), options, answer, str(entry.get("task", "items")),
                float(entry.get("chance", 1 / len(options))), tuple(box) if box else None)


def _aro(entry: dict[str, Any], path: Path, number: int, folder: Path) -> Item:
    """Visual Genome Relation and Attribution (arXiv 2210.01936): the picture is cropped to the box."""
    try:
        box = tuple(float(entry[f"bbox_{side}"]) for side in ("x", "y", "w", "h")) if "bbox_x" in entry else None
        options = (str(entry["true_caption"]), str(entry["false_caption"]))
        name = entry["image_path"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"Entry {number + 1} of {path} is no ARO entry ({error!r}). "
                         "Pass the file as published.") from error
    task = "spatial" if "relation" in path.stem else "attribute"
    return Item(_file(folder, name), options, 0, task, 0.5, box)  # type: ignore[arg-type]


def _options(entry: dict[str, Any], number: int, path: Path, folder: Path) -> Item:
    """ARO's order task with its perturbations written out; the first caption is the true one."""
    options = tuple(str(option) for option in entry["caption_options"])
    if len(options) < 2:
        raise InputError(f"Entry {number + 1} of {path} has {len(options)} caption, so there is nothing to choose. "
                         "Write the perturbed captions after the true one.")
    return Item(_file(folder, entry["image_path"]), options, 0, "corruption", 1 / len(options))


def _clevr(content: dict[str, Any], path: Path, folder: Path) -> Iterable[Item]:
    task = CLEVR_TASKS.get(path.stem)
    if task is None:
        raise InputError(f"{path.name} names no CLEVR task ({', '.join(CLEVR_TASKS)}). Keep the published file name.")
    for name, captions in content.items():
        for true, false in captions:
            yield Item(_file(folder, name), (true, false), 0, task, 0.5)


def _coco_pictures(path: Path, content: Sequence[dict[str, Any]]) -> dict[str, int]:
    """COCO's picture number of each TIFA caption, from the questions or the text inputs published beside them."""
    found = {str(entry["id"]): int(entry["coco_val_id"]) for entry in content if entry.get("coco_val_id")}
    for inputs in sorted(path.parent.glob("*text_inputs*.json")):
        found |= {str(entry["id"]): int(entry["coco_val_id"]) for entry in _read(inputs) if entry.get("coco_val_id")}
    if not found:
        raise InputError(f"{path} speaks of COCO's pictures by caption, and no text inputs lie beside it to say which. "
                         "Put tifa_v1.0_text_inputs.json into the same folder.")
    return found


def _tifa(entry: dict[str, Any], folder: Path, pictures: dict[str, int]) -> list[Item]:
    """A TIFA question as captions: each choice put where the right answer stands in the caption (paper, section 4).

    Questions of other kinds, without a COCO picture, or whose answer is no word of the caption give no item.
    """
    task, picture = TIFA_TASKS.get(str(entry.get("element_type"))), pictures.get(str(entry.get("id")))
    answer, caption = str(entry.get("answer", "")), str(entry.get("caption", ""))
    choices = [str(choice) for choice in entry.get("choices", [])]
    place = re.search(rf"\b{re.escape(answer)}\b", caption, re.IGNORECASE) if answer else None
    if task is None or picture is None or place is None or answer not in choices or len(choices) < 2:
        return []
    options = tuple(caption[: place.start()] + choice + caption[place.end():] for choice in choices)
    return [Item(_file(folder, f"{picture:012d}.jpg"), options, choices.index(answer), task, 1 / len(options))]


def _file(folder: Path, name: str) -> Path:
    """The picture of that name; ending and the prefix of COCO's old names may be missing."""
    for candidate in (name, f"{name}.png", f"{name}.jpg", f"COCO_val2014_{name}"):
        if (folder / candidate).is_file():
            return folder / candidate
    return folder / name


def by_task(items: Sequence[Item], tasks: Sequence[str]) -> list[Item]:
    """The items of some tasks; InputError for a task that no item has."""
    absent = [task for task in tasks if all(item.task != task for item in items)]
    if absent:
        raise InputError(f"No item is of the task {', '.join(absent)}; there are "
                         f"{', '.join(sorted({item.task for item in items}))}. Name some of these.")
    return [item for item in items if item.task in tasks]
