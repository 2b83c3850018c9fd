"""Scenes as JSON files that people write: read with one clear sentence for whatever is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diorama.errors import InputError
from diorama.world.scene import Camera, Light, Motion, Scene, SceneObject

MOST_OBJECTS = 5
LIMITS = {"elevation": (5.0, 85.0), "distance": (3.0, 30.0), "field_of_view": (10.0, 100.0), "background": (0.0, 1.0),
          "ambient": (0.0, 1.0), "duration": (0.0, 60.0)}
"""Ranges that a scene file may use, wider than what is sampled."""


def read_scene(path: Path | str) -> Scene:
    """The scene in a JSON file: `Scene.to_dict()` or the truth file that `diorama world render` writes.

    Camera, light, background, duration and everything of an object but shape, color and size may be left out.
    Raises InputError, with the place in the file, for anything that is no such scene.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no scene file {path}. Pass a JSON file, for example one that "
                         "`diorama world render` wrote.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not JSON ({error}). "
                         "Pass a scene as `diorama world render` writes it.") from error
    if isinstance(values, dict) and isinstance(values.get("scene"), dict):
        values = values["scene"]
    if not isinstance(values, dict) or "objects" not in values:
        raise InputError(f"{path.name} holds no scene: the key 'objects' is missing. Start from the scene.json that "
                         "`diorama world render` writes.")
    _known_keys(values, path.name)
    try:
        scene = TypeAdapter(Scene).validate_python(_with_tuples(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path.name}: {place} is {first['input']!r}, which cannot be: {first['msg']}.") from error
    _check(scene, path.name)
    return scene


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _known_keys(values: dict[str, Any], name: str) -> None:
    """Refuse misspelled keys, which would otherwise be ignored."""
    objects = values["objects"] if isinstance(values["objects"], list) else []
    parts: list[tuple[str, type, Any]] = [("", Scene, values), ("camera", Camera, values.get("camera")),
                                          ("light", Light, values.get("light"))]
    for i, thing in enumerate(objects):
        parts.append((f"objects.{i}", SceneObject, thing))
        motions = thing.get("motions") if isinstance(thing, dict) else None
        parts += [(f"objects.{i}.motions.{j}", Motion, m) for j, m in enumerate(motions or ())]
    for place, kind, part in parts:
        assert is_dataclass(kind)
        known = [field.name for field in fields(kind)]
        unknown = [key for key in part if key not in known] if isinstance(part, dict) else []
        if unknown:
            where = f"{place}.{unknown[0]}" if place else unknown[0]
            raise InputError(f"{name}: {where} is no part of a scene. Known here: {', '.join(known)}.")


def _check(scene: Scene, name: str) -> None:
    """What types cannot say: counts, ranges, finite numbers, motions within the clip."""
    if not 1 <= len(scene.objects) <= MOST_OBJECTS:
        raise InputError(f"{name} holds {len(scene.objects)} objects; a scene has 1 to {MOST_OBJECTS}. "
                         "Add or remove some.")
    for part in (scene, scene.camera):
        for key, (low, high) in LIMITS.items():
            value = getattr(part, key, low)
            if not low <= value <= high:
                raise InputError(f"{name}: {key} is {value:g}, outside {low:g} to {high:g}. Choose one inside.")
    if not math.isfinite(scene.camera.azimuth + scene.light.azimuth + scene.light.elevation + scene.light.ambient):
        raise InputError(f"{name}: an angle of camera or light is not a finite number. Give it in degrees.")
    for i, thing in enumerate(scene.objects):
        if not all(math.isfinite(p) and abs(p) <= 20 for p in (*thing.position, thing.yaw / 360)):
            raise InputError(f"{name}: objects.{i} stands at {thing.position} with yaw {thing.yaw}; positions are "
                             "metres within 20 of the middle. Move it there.")
        if thing.on is not None and (thing.on == i or not 0 <= thing.on < len(scene.objects)):
            raise InputError(f"{name}: objects.{i}.on is {thing.on}, which is no other object. Use an index from 0 to "
                             f"{len(scene.objects) - 1}, or null.")
        for j, motion in enumerate(thing.motions):
            if not 0 <= motion.start <= motion.end <= scene.duration:
                raise InputError(f"{name}: objects.{i}.motions.{j} runs from {motion.start:g} to {motion.end:g} s, not "
                                 f"within the clip's {scene.duration:g} s. Change the times or the duration.")
