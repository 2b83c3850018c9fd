"""Many scenes as data sets on disk: LLaVA-style JSON with media, captions as JSON lines, WebDataset shards.

Item i is a pure function of the settings, so a stopped run goes on where it ended: items are finished shard by shard,
and the annotations appear when all are there.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from diorama.errors import InputError
from diorama.media.images import save_image
from diorama.media.videos import write_video
from diorama.media.writing import written_whole
from diorama.world.captions import caption, paraphrases
from diorama.world.contrasts import contrasts
from diorama.world.pool import seen_objects
from diorama.world.questions import questions
from diorama.world.rendering import render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import Scene

Kind = Literal["image", "clip", "vqa", "caption"]
SHARD = 250
"""Items that are finished together, and members of one tar."""
DESCRIBE = {"image": "Describe the image.", "video": "Describe the video."}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What is sampled: `image` and `clip` are described, `vqa` has up to six turns of questions, `caption` has
    paraphrases and contrast captions; the last two take pictures and clips in turn."""

    n: int
    kind: Kind
    split: Split = "train"
    size: int = 64
    samples: int = 2
    frames: int = 8
    fps: float = 4.0
    objects: tuple[int, int] = (1, 5)
    seed: int = 0
    tars: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 1_000_000:
            raise InputError(f"n={self.n} items cannot be sampled; pass 1 to 1000000.")
        if self.kind not in get_args(Kind):
            raise InputError(f"There is no kind {self.kind!r}; the kinds are {', '.join(get_args(Kind))}.")
        if not 4 <= self.size <= 4096 or not 1 <= self.samples <= 8:
            raise InputError(f"size={self.size} with samples={self.samples} cannot be rendered; sizes are 4 to 4096 "
                             "pixels and samples 1 to 8.")
        if not 2 <= self.frames <= 256:
            raise InputError(f"frames={self.frames} makes no clip; pass 2 to 256.")

    def is_clip(self, item: int) -> bool:
        return self.kind == "clip" or (self.kind in ("vqa", "caption") and item % 2 == 1)


def write_samples(out: Path, config: SampleConfig, *, progress: Callable[[int], None] | None = None) -> list[str]:
    """Write the data set into `out`, or finish one that was stopped; `progress(done)` hears of items.

    `annotations.json` (LLaVA's list of {"id", "image" or "video", "conversations"}) or `captions.jsonl`, `scenes.jsonl`
    with the whole truth of each item, and `media/` or `shard-000000.tar` ... Returns the names in `out`.
    Raises InputError where `out` holds something else or a data set with other settings.
    """
    settings = json.loads(json.dumps(asdict(config)))
    parts = out / ".parts"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "settings.json").is_file())):
        raise InputError(f"{out} exists and is no data set of this world, so nothing is written there. "
                         "Pass another --out.")
    if (out / "settings.json").is_file():
        found = json.loads((out / "settings.json").read_text())
        if found != settings:
            differs = ", ".join(sorted(k for k in settings if found.get(k) != settings[k]))
            raise InputError(f"{out} holds a data set made with other settings ({differs}). Pass another --out, or the "
                             "same settings to finish it.")
        if not parts.exists() and (out / "scenes.jsonl").is_file():
            return _names(out)
    parts.mkdir(parents=True, exist_ok=True)
    _write(out / "settings.json", json.dumps(settings, indent=1) + "\n")
    for start in range(0, config.n, SHARD):
        end = min(start + SHARD, config.n)
        part = parts / f"{start // SHARD:06d}.json"
        if not part.is_file():
            _write_shard(out, config, start, end, part)
        if progress:
            progress(end)
    rows = [row for part in sorted(parts.glob("[0-9]*.json")) for row in json.loads(part.read_text())]
    records = [row["record"] for row in rows]
    if config.kind == "caption":
        _write(out / "captions.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    else:
        _write(out / "annotations.json", json.dumps(records, ensure_ascii=False, indent=1) + "\n")
    _write(out / "scenes.jsonl", "".join(json.dumps(row["truth"]) + "\n" for row in rows))
    shutil.rmtree(parts)
    return _names(out)


def _names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_shard(out: Path, config: SampleConfig, start: int, end: int, part: Path) -> None:
    """Media and annotations of the items `start` to `end`; the part file comes last and says that all is there."""
    rows: dict[int, dict[str, Any]] = {}
    media: dict[int, bytes] = {}
    for moving in (False, True):
        items = [i for i in range(start, end) if config.is_clip(i) == moving]
        for at in range(0, len(items), 32):
            some = items[at : at + 32]
            scenes = [sample_scene(config.seed * 1_000_000 + i, split=config.split, objects=config.objects,
                                   moving=moving) for i in some]
            shown = render(scenes, size=config.size, frames=config.frames if moving else 1, samples=config.samples)
            seen = seen_objects(shown.visible.numpy())
            for k, (item, scene) in enumerate(zip(some, scenes, strict=True)):
                frames = shown.rgb[k].permute(0, 2, 3, 1).contiguous().numpy()
                suffix = ".mp4" if moving else ".png"
                path = (part.parent if config.tars else out / "media") / f"{item:06d}{suffix}"
                if moving:
                    write_video(path, frames, config.fps)
                else:
                    save_image(path, frames[0])
                if config.tars:
                    media[item] = path.read_bytes()
                    path.unlink()
                rows[item] = _row(config, item, scene, seen[k].tolist()[: len(scene.objects)])
    if config.tars:
        _write_tar(out / f"shard-{start // SHARD:06d}.tar", [(rows[i], media[i]) for i in range(start, end)])
    _write(part, json.dumps([rows[i] for i in range(start, end)]))


def _row(config: SampleConfig, item: int, scene: Scene, seen: list[bool]) -> dict[str, Any]:
    """What is written about one item: its record for training, and the truth."""
    rng = Random(f"diorama sample {config.kind} {config.split} {config.seed} {item}")
    moving = config.is_clip(item)
    medium, suffix = ("video", ".mp4") if moving else ("image", ".png")
    record: dict[str, Any] = {"id": f"{item:06d}", medium: f"{'' if config.tars else 'media/'}{item:06d}{suffix}"}
    if config.kind == "caption":
        several = paraphrases(scene, 4, rng, visible=seen)
        record |= {
            "caption": several[0],
            "paraphrases": several[1:],
            "contrasts": [
                {"kind": c.kind, "caption": c.caption, "contrast": c.contrast_caption, "explanation": c.explanation}
                for c in contrasts(scene, rng, visible=seen)
            ],
        }
    else:
        turns = [(DESCRIBE[medium], caption(scene, rng, visible=seen))]
        if config.kind == "vqa":
            turns = [(q.question, q.answer) for q in questions(scene, rng, n=6, visible=seen)]
        said: list[dict[str, str]] = []
        for k, (asked, answer) in enumerate(turns):
            said += [{"from": "human", "value": f"<{medium}>\n{asked}" if k == 0 else asked},
                     {"from": "gpt", "value": answer}]
        record["conversations"] = said
    return {"record": record, "truth": {"id": record["id"], "visible": seen, "scene": scene.to_dict()}}


def _write_tar(path: Path, items: list[tuple[dict[str, Any], bytes]]) -> None:
    """One WebDataset shard: for each key its picture or clip, its record and its truth, with no date or owner."""
    with written_whole(path) as temporary, tarfile.open(temporary, "w") as tar:
        for row, medium in items:
            record = row["record"]
            suffix = Path(record.get("image") or record["video"]).suffix
            for name, data in ((suffix, medium), (".json", json.dumps(record).encode()),
                               (".scene.json", json.dumps(row["truth"]).encode())):
                member = tarfile.TarInfo(f"{record['id']}{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
