"""Meshes: GLB, OBJ, PLY, STL and OFF in and out, with a color a vertex, through trimesh."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual.color import ColorVisuals
from trimesh.visual.texture import TextureVisuals

from diorama.errors import InputError, MediaError
from diorama.media.content import describe_content, existing_file
from diorama.media.writing import written_whole

SUFFIXES = (".glb", ".obj", ".ply", ".stl", ".off")


@dataclass(frozen=True)
class MeshSummary:
    """What a mesh is at a glance; `extents` are the sides of its axis-aligned box, in the file's own unit."""

    vertices: int
    faces: int
    watertight: bool
    extents: tuple[float, float, float]


def load_mesh(path: Path | str, *, flatten: bool = True) -> trimesh.Trimesh | trimesh.Scene:
    """The triangle mesh in a .glb, .obj, .ply, .stl or .off file.

    With `flatten` the parts of a scene become one mesh, moved to their places, with one color a vertex (materials
    and textures are looked up at the vertices); otherwise a file of several parts comes back as a trimesh.Scene.
    Polygons are split into triangles. Files named inside the mesh (materials, textures) are read from its folder.

    Raises InputError for another suffix, MediaError for a file that is absent, empty, damaged or without triangles.
    """
    path = existing_file(path, "a mesh")
    suffix = _known_suffix(path)
    try:
        if suffix == ".obj":
            scene = trimesh.load_scene(path)
        else:
            scene = trimesh.load_scene(BytesIO(path.read_bytes()), file_type=suffix[1:])
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        sound = all(np.isfinite(part.vertices).all() and part.faces.max() < len(part.vertices) and part.faces.min() >= 0
                    for part in parts)
    except Exception as error:                         # each format's reader fails in its own way
        raise MediaError(f"{path.name} cannot be read as {suffix[1:].upper()}: it is damaged, or holds "
                         f"{describe_content(path)} of another kind. Export it again.") from error
    if not parts or not sound:
        reason = "coordinates or indices that are out of range" if parts else "no triangles"
        raise MediaError(f"{path.name} holds {reason} ({describe_content(path)}), so it is no surface. "
                         "Export it as a triangle mesh.")
    if not flatten and len(scene.geometry) > 1:
        return scene
    parts = [_with_vertex_colors(part) for part in parts]
    return _joined(parts)


def save_mesh(path: Path | str, mesh: trimesh.Trimesh | trimesh.Scene) -> None:
    """Write a mesh or scene; the suffix is .glb, .obj, .ply, .stl or .off.

    Colors a vertex are kept in GLB, OBJ and PLY; STL and OFF hold shape alone. A scene stays one in GLB and is
    flattened elsewhere. The file appears whole or not at all, and is one file: textures are turned into colors a
    vertex except in GLB, which embeds them.

    Raises InputError for another suffix or a mesh without triangles, MediaError where the place cannot be written.
    """
    path = Path(path)
    suffix = _known_suffix(path)
    meshes = mesh.dump() if isinstance(mesh, trimesh.Scene) else [mesh]
    parts = [part for part in meshes if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise InputError(f"{path.name} was to be written from a mesh without triangles. Pass one with faces.")
    if suffix == ".glb":
        data = mesh.export(file_obj=None, file_type="glb")
    else:
        flat = _joined([_with_vertex_colors(part) for part in parts])
        if suffix == ".obj":
            data = trimesh.exchange.obj.export_obj(flat, include_texture=False)
        else:
            data = flat.export(file_obj=None, file_type=suffix[1:])
    with written_whole(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else bytes(data))


def mesh_summary(mesh: trimesh.Trimesh | trimesh.Scene) -> MeshSummary:
    """Counts, closedness and extents. Vertices at the same place are welded before the question whether the surface
    is closed, because formats with normals or colors a vertex store a corner several times; the counts are unwelded."""
    flat = mesh.to_mesh() if isinstance(mesh, trimesh.Scene) else mesh
    welded = trimesh.Trimesh(flat.vertices, flat.faces, process=True)
    width, height, depth = (float(side) for side in flat.extents)
    return MeshSummary(len(flat.vertices), len(flat.faces), bool(welded.is_watertight), (width, height, depth))


def _with_vertex_colors(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with colors a vertex in place of materials and textures; one without colors stays without."""
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        visual = visual.to_color()
    colors = None
    if isinstance(visual, ColorVisuals) and visual.kind is not None:
        colors = np.asarray(visual.vertex_colors)
    if colors is not None and colors.shape != (len(mesh.vertices), 4):
        colors = np.tile(colors.reshape(-1, 4)[:1], (len(mesh.vertices), 1))
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)


def _joined(parts: list[trimesh.Trimesh]) -> trimesh.Trimesh:
    """The parts as one mesh; where only some have colors, the others become trimesh's grey."""
    if len(parts) == 1:
        return parts[0]
    joined = trimesh.util.concatenate(parts)
    assert isinstance(joined, trimesh.Trimesh)
    return joined


def _known_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path.name} has the suffix {path.suffix!r}, which is no mesh format known here. "
                         f"Use one of {', '.join(SUFFIXES)}.")
    return suffix
