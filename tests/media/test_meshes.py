"""Meshes in and out: geometry, colors, scenes, and files that are none."""

import numpy as np
import pytest
import trimesh

from diorama.errors import InputError, MediaError
from diorama.media.meshes import SUFFIXES, load_mesh, mesh_summary, save_mesh


def colored_box(color=(255, 0, 0, 255), at=(0, 0, 0)) -> trimesh.Trimesh:
    box = trimesh.creation.box((1, 2, 3))
    box.apply_translation(at)
    box.visual.vertex_colors = np.tile(np.array(color, np.uint8), (8, 1))
    return box


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    save_mesh(tmp_path / f"box{suffix}", colored_box())
    mesh = load_mesh(tmp_path / f"box{suffix}")
    summary = mesh_summary(mesh)
    assert (summary.vertices, summary.faces, summary.watertight) == (8, 12, True)
    assert summary.extents == pytest.approx((1, 2, 3)) and mesh.volume == pytest.approx(6)
    if suffix in (".glb", ".obj", ".ply"):
        assert (mesh.visual.vertex_colors == (255, 0, 0, 255)).all()
    assert [path.name for path in tmp_path.iterdir()] == [f"box{suffix}"]


def test_different_colors_a_vertex(tmp_path):
    box = colored_box()
    box.visual.vertex_colors[:, 1] = np.arange(8) * 30
    for suffix in (".glb", ".ply", ".obj"):
        save_mesh(tmp_path / f"box{suffix}", box)
        mesh = load_mesh(tmp_path / f"box{suffix}")
        order = [int(np.linalg.norm(box.vertices - vertex, axis=1).argmin()) for vertex in mesh.vertices]
        assert np.abs(mesh.visual.vertex_colors[:, 1].astype(int) - np.array(order) * 30).max() <= 1, suffix


def test_scenes_are_flattened_on_request(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(colored_box(), node_name="red")
    scene.add_geometry(colored_box((0, 0, 255, 255)), node_name="blue",
                       transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    save_mesh(tmp_path / "two.glb", scene)
    whole = load_mesh(tmp_path / "two.glb", flatten=False)
    assert isinstance(whole, trimesh.Scene) and len(whole.geometry) == 2
    flat = load_mesh(tmp_path / "two.glb")
    assert isinstance(flat, trimesh.Trimesh) and mesh_summary(flat) == mesh_summary(whole)
    assert mesh_summary(flat).extents == pytest.approx((6, 2, 3))
    blue = flat.visual.vertex_colors[:, 2] == 255
    assert blue.sum() == 8 and flat.vertices[blue, 0].min() > 4
    save_mesh(tmp_path / "two.ply", scene)
    assert mesh_summary(load_mesh(tmp_path / "two.ply")).faces == 24


def test_an_open_mesh_is_not_watertight(tmp_path):
    box = colored_box()
    save_mesh(tmp_path / "open.ply", trimesh.Trimesh(box.vertices, box.faces[:-1], process=False))
    assert not mesh_summary(load_mesh(tmp_path / "open.ply")).watertight


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"a story about a cube\n", b"\0" * 200, b"\x89PNG\r\n\x1a\n" + b"\7" * 90])
def test_what_is_no_mesh(tmp_path, suffix, content):
    (tmp_path / f"notes{suffix}").write_bytes(content)
    with pytest.raises(MediaError, match="notes"):
        load_mesh(tmp_path / f"notes{suffix}")


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".stl", ".off"])
def test_truncated(tmp_path, suffix):
    save_mesh(tmp_path / f"whole{suffix}", colored_box())
    data = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[:len(data) // 2])
    with pytest.raises(MediaError, match="cut"):
        load_mesh(tmp_path / f"cut{suffix}")


def test_bad_indices_and_points_only(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    with pytest.raises(MediaError):
        load_mesh(tmp_path / "a.off")
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(MediaError):
        load_mesh(tmp_path / "a.obj")


def test_materials_outside_the_folder_are_not_read(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "red.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (tmp_path / "inside" / "a.obj").write_text("mtllib ../red.mtl\nusemtl red\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    mesh = load_mesh(tmp_path / "inside" / "a.obj")
    assert len(mesh.faces) == 1 and not (mesh.visual.vertex_colors[:, :3] == (255, 0, 0)).all()


def test_wrong_suffixes_and_empty_meshes(tmp_path):
    with pytest.raises(InputError, match=r"Use one of \.glb"):
        save_mesh(tmp_path / "a.fbx", colored_box())
    with pytest.raises(InputError, match="without triangles"):
        save_mesh(tmp_path / "a.ply", trimesh.Trimesh())
    with pytest.raises(MediaError, match="does not exist"):
        load_mesh(tmp_path / "none.ply")


@pytest.mark.parametrize(("name", "volume"), [
    ("trimesh/unit_cube.STL", 1.0), ("trimesh/unit_sphere.STL", 4.15274), ("trimesh/torus.STL", 4.91755),
    ("trimesh/cylinder.stl", 25.09239), ("common/spot.obj", 0.718259), ("common/fandisk.obj", 20.24337)])
def test_real_meshes_have_their_known_volumes(shared_data, name, volume):
    mesh = load_mesh(shared_data / "meshes" / name)
    assert mesh_summary(mesh).watertight and mesh.volume == pytest.approx(volume, rel=1e-5)


def test_real_textures_become_colors(shared_data):
    duck = load_mesh(shared_data / "meshes" / "trimesh" / "Duck.glb")
    red, green, blue = np.median(duck.visual.vertex_colors[:, :3], axis=0)
    assert red > 180 and green > 150 and blue < 100
