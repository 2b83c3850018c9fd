"""The world's solids as triangle meshes, with the proportions that the renderer uses.

Flat-sided shapes are exact. Round ones have their vertices on the true surface and are fine enough that no outline
moves by more than half a percent of the object's radius.
"""

from __future__ import annotations

import math

import numpy as np
import trimesh

from diorama.world.rendering import RGB
from diorama.world.scene import PROPORTIONS, RADIUS, TORUS_TUBE, Color, Scene, Shape, state_at

SECTIONS = 64
"""Corners of a round shape's circles."""
GROUND_HALF_WIDTH = 4.0


def shape_mesh(shape: Shape, color: Color = "grey") -> trimesh.Trimesh:
    """A closed mesh of the shape for a radius of one metre: the middle of its foot at the origin, z up."""
    body = PROPORTIONS[shape]
    width, height = body.half_width, body.height
    if shape == "sphere":
        mesh = trimesh.creation.icosphere(subdivisions=4, radius=width)
        mesh.apply_translation((0, 0, width))
    elif shape == "cube":
        mesh = trimesh.creation.box((2 * width, 2 * width, height))
        mesh.apply_translation((0, 0, height / 2))
    elif shape == "cylinder":
        mesh = trimesh.creation.cylinder(radius=width, height=height, sections=SECTIONS)
        mesh.apply_translation((0, 0, height / 2))
    elif shape == "cone":
        mesh = trimesh.creation.cone(radius=width, height=height, sections=SECTIONS)
    elif shape == "torus":
        mesh = trimesh.creation.torus(width - TORUS_TUBE, TORUS_TUBE, major_sections=SECTIONS, minor_sections=32)
        mesh.apply_translation((0, 0, TORUS_TUBE))
    else:
        corners = [(-width, -width, 0), (width, -width, 0), (width, width, 0), (-width, width, 0), (0, 0, height)]
        sides = [(0, 2, 1), (0, 3, 2), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
        mesh = trimesh.Trimesh(np.array(corners, dtype=float), np.array(sides), process=False)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=_paint(RGB[color], len(mesh.vertices)))
    return mesh


def object_mesh(scene: Scene, index: int, time: float = 0.0) -> trimesh.Trimesh | None:
    """The mesh of one object in world axes (metres, z up) at `time` seconds, or None while it is not there."""
    thing, state = scene.objects[index], state_at(scene, index, time)
    if not state.present:
        return None
    mesh = shape_mesh(thing.shape, thing.color)
    mesh.apply_scale(RADIUS[thing.size] * state.scale)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(math.radians(state.yaw), (0, 0, 1)))
    mesh.apply_translation(state.position)
    return mesh


def scene_mesh(scene: Scene, time: float = 0.0, *, ground: bool = True) -> trimesh.Scene:
    """Everything in the scene at `time` seconds as named meshes in world axes (metres, z up).

    The names are `0 large red cube` and so on; with `ground` a square of 8 metres in the background's shade is added.
    """
    parts = trimesh.Scene()
    for index, thing in enumerate(scene.objects):
        mesh = object_mesh(scene, index, time)
        if mesh is not None:
            name = f"{index} {thing.name}"
            parts.add_geometry(mesh, node_name=name, geom_name=name)
    if ground:
        w = GROUND_HALF_WIDTH
        corners = np.array([(-w, -w, 0.0), (w, -w, 0.0), (w, w, 0.0), (-w, w, 0.0)])
        plane = trimesh.Trimesh(corners, np.array([(0, 1, 2), (0, 2, 3)]), process=False)
        plane.visual = trimesh.visual.ColorVisuals(plane, vertex_colors=_paint((scene.background,) * 3, 4))
        parts.add_geometry(plane, node_name="ground", geom_name="ground")
    return parts


def as_gltf(scene: trimesh.Scene) -> trimesh.Scene:
    """The meshes with y up and z towards the viewer's side, the axes of glTF; in world axes z is up."""
    turned = scene.copy()
    turned.apply_transform(trimesh.transformations.rotation_matrix(-math.pi / 2, (1, 0, 0)))
    return turned


def _paint(color: tuple[float, float, float], count: int) -> np.ndarray:
    return np.tile(np.array([*(round(255 * c) for c in color), 255], dtype=np.uint8), (count, 1))
