"""Scenes as files that a person can open: pictures, clips, meshes, depth, normals, masks, and the truth as JSON."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from diorama.errors import InputError
from diorama.media.images import save_image
from diorama.media.meshes import save_mesh
from diorama.media.videos import write_video
from diorama.media.writing import written_whole
from diorama.world.captions import caption, paraphrases
from diorama.world.meshes import as_gltf, scene_mesh
from diorama.world.pool import seen_objects
from diorama.world.questions import questions
from diorama.world.rendering import Rendering, frame_times, render
from diorama.world.sampling import split_of
from diorama.world.scene import Scene, state_at, view_position


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block succeeds; an empty `out` may exist.

    Raises InputError where `out` is a file or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already, and nothing is overwritten. Pass another --out, or remove it.")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_scene(
    scene: Scene, out: Path, *, size: int = 256, samples: int = 2, frames: int = 1, fps: float = 8.0,
    truth: bool = False,
) -> list[str]:
    """Write one scene into the new folder `out`: scene.png or, with several frames, scene.mp4; scene.json; scene.glb.

    The GLB is the first moment, y up. With `truth` also depth.npy (T, H, W) in metres, normals.npy (T, 3, H, W) in
    world axes and mask.npy (T, H, W), and PNGs of the first moment: depth in millimetres (16 bits), normals mapped
    from -1..1 to 0..255, and mask with 0 for no object and k + 1 for object k. Returns the names of the files.
    """
    rendering = render([scene], size=size, frames=frames, samples=samples)
    pictures = rendering.rgb[0].permute(0, 2, 3, 1).contiguous().numpy()
    with fresh_folder(out) as folder:
        if frames == 1:
            save_image(folder / "scene.png", pictures[0])
        else:
            write_video(folder / "scene.mp4", pictures, fps)
        save_mesh(folder / "scene.glb", as_gltf(scene_mesh(scene)))
        if truth:
            _write_truth(folder, rendering)
        record = truth_of(scene, rendering, frames=frames, fps=fps)
        (folder / "scene.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return sorted(path.name for path in folder.iterdir())


def truth_of(scene: Scene, rendering: Rendering, *, frames: int, fps: float) -> dict[str, Any]:
    """Everything true of a rendered scene, as plain values: the scene, each object in each frame, language."""
    seen = seen_objects(rendering.visible.numpy())[0].tolist()[: len(scene.objects)]
    boxes, times = rendering.boxes()[0].tolist(), frame_times(scene, frames)
    objects = []
    for k, thing in enumerate(scene.objects):
        states = [state_at(scene, k, time) for time in times]
        objects.append({
            "name": thing.name,
            "visible": seen[k],
            "frames": [
                {
                    "time": round(time, 4),
                    "present": state.present,
                    "box": boxes[t][k] if boxes[t][k][0] >= 0 else None,
                    "visible_share": round(rendering.visible[0, t, k].item(), 4),
                    "position": [round(p, 4) for p in view_position(scene, state.position)],
                    "scale": round(state.scale, 4),
                    "yaw": round(state.yaw, 2),
                }
                for t, (time, state) in enumerate(zip(times, states, strict=True))
            ],
        })
    rng = Random(f"diorama truth {scene.digest()}")
    asked = questions(scene, rng, visible=seen)
    return {
        "scene": scene.to_dict(),
        "split": split_of(scene),
        "size": rendering.rgb.shape[-1],
        "fps": fps if frames > 1 else None,
        "units": "metres, seconds, degrees; box: x0, y0, x1, y1 in pixels, the last included; "
                 "position: the foot, metres to the right, away and up as the viewer sees it",
        "objects": objects,
        "captions": [caption(scene, rng, visible=seen), *paraphrases(scene, 2, rng, visible=seen)],
        "questions": [{"kind": q.kind, "question": q.question, "answer": q.answer, "choices": list(q.choices)}
                      for q in asked],
    }


def _write_truth(folder: Path, rendering: Rendering) -> None:
    depth, normals, mask = (part[0].numpy() for part in (rendering.depth, rendering.normals, rendering.mask))
    for name, values in (("depth", depth), ("normals", normals), ("mask", mask)):
        with written_whole(folder / f"{name}.npy") as temporary:
            np.save(temporary, values)
    millimetres = (np.nan_to_num(depth[0], posinf=65.535) * 1000).round().clip(0, 65535).astype(np.uint16)
    save_image(folder / "depth.png", Image.fromarray(millimetres))
    save_image(folder / "normals.png", ((normals[0].transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8))
    save_image(folder / "mask.png", (mask[0] + 1).astype(np.uint8))
