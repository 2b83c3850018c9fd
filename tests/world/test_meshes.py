"""Meshes against the renderer: the same outline, the same depth, closed and outward."""

import math

import numpy as np
import pytest
import torch

from diorama.media.meshes import load_mesh, mesh_summary, save_mesh
from diorama.world.meshes import as_gltf, object_mesh, scene_mesh, shape_mesh
from diorama.world.rendering import RGB, render
from diorama.world.sampling import sample_scene
from diorama.world.scene import PROPORTIONS, SHAPES, Camera, Motion, Scene, SceneObject


def cast(mesh, starts, rays):
    """Distance along each ray to a mesh's first triangle, infinite for a miss: all rays leave one point, so a ray
    hits a triangle where it has the same sign against its three edge planes."""
    corners = mesh.triangles - starts[0]
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    edges = [rays @ np.cross(p, q).T for p, q in ((a, b), (b, c), (c, a))]  # (rays, triangles) each
    inside = np.all([e >= 0 for e in edges], axis=0) | np.all([e <= 0 for e in edges], axis=0)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (normal * a).sum(1) / (rays @ normal.T)
    return np.where(inside & (along > 0), along, np.inf).min(1)


def rays_of(camera, size):
    """Starts and directions of one ray a pixel, one unit along the optical axis each."""
    tilt, turn = math.radians(camera.elevation), math.radians(camera.azimuth)
    right = np.array([math.cos(turn), math.sin(turn), 0])
    ahead = np.array([-math.sin(turn) * math.cos(tilt), math.cos(turn) * math.cos(tilt), -math.sin(tilt)])
    up = np.cross(right, ahead)
    grid = ((np.arange(size) + 0.5) * 2 / size - 1) * math.tan(math.radians(camera.field_of_view / 2))
    x, y = np.meshgrid(grid, -grid)
    rays = ahead + x.reshape(-1, 1) * right + y.reshape(-1, 1) * up
    eye = np.array([0, 0, 0.4]) - camera.distance * ahead
    return np.broadcast_to(eye, rays.shape), rays


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_outward_and_of_the_stated_proportions(shape):
    mesh = shape_mesh(shape, "red")
    body = PROPORTIONS[shape]
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    low, high = mesh.bounds
    np.testing.assert_allclose(low[2], 0, atol=1e-9)
    np.testing.assert_allclose(high[2], body.height, atol=2e-3)
    np.testing.assert_allclose(high[0], body.half_width, atol=2e-3)
    np.testing.assert_array_equal(mesh.visual.vertex_colors[0, :3], [round(255 * c) for c in RGB["red"]])


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_and_depth_are_the_renderers(shape):
    camera = Camera(azimuth=33.0, elevation=38.0, distance=7.5)
    scene = Scene((SceneObject(shape, "blue", "large", (0.4, -0.3, 0.2), yaw=21.0),), camera)
    truth = render([scene], size=28)
    seen = cast(object_mesh(scene, 0), *rays_of(camera, 28)).reshape(28, 28)
    mask = truth.mask[0, 0].numpy() == 0
    both = mask & np.isfinite(seen)
    assert both.sum() > 20
    assert (mask ^ np.isfinite(seen)).sum() <= 2          # facets may lose a ray that grazes a round side
    gap = np.abs(truth.depth[0, 0].numpy() - seen)[both]
    assert np.median(gap) < 2e-3 and np.quantile(gap, 0.9) < 0.03


def test_meshes_follow_the_motions():
    ball = SceneObject("sphere", "red", "small", (0, 0, 0), motions=(
        Motion("right", 0.0, 1.0, "quickly"), Motion("grow", 1.0, 2.0, "slowly"), Motion("vanish", 2.5, 2.5)))
    scene = Scene((ball,), Camera(azimuth=0), duration=3.0)
    assert object_mesh(scene, 0, 1.0).centroid[0] == pytest.approx(1.5, abs=1e-6)
    assert object_mesh(scene, 0, 2.0).extents[0] == pytest.approx(0.9 * 1.35, rel=1e-3)
    assert object_mesh(scene, 0, 2.6) is None


def test_a_scene_as_a_file(tmp_path):
    scene = sample_scene(7, objects=(3, 3))
    whole = scene_mesh(scene)
    assert set(whole.geometry) == {"ground", *(f"{i} {o.name}" for i, o in enumerate(scene.objects))}
    save_mesh(tmp_path / "scene.glb", as_gltf(whole))
    back = load_mesh(tmp_path / "scene.glb")
    tallest = max(object_mesh(scene, i).bounds[1][2] for i in range(3))
    assert back.bounds[1][1] == pytest.approx(tallest, abs=1e-4)       # y is up in glTF
    assert mesh_summary(back).faces == sum(len(g.faces) for g in whole.geometry.values())


def test_meshes_at_the_pixels_of_the_whole_scene():
    scene = sample_scene(11, objects=(4, 4))
    truth = render([scene], size=20)
    starts, rays = rays_of(scene.camera, 20)
    depths = np.stack([cast(object_mesh(scene, i), starts, rays) for i in range(4)])
    who = np.where(np.isfinite(depths.min(0)), depths.argmin(0), -1).reshape(20, 20)
    assert (who != truth.mask[0, 0].numpy()).mean() < 0.01
    assert torch.isfinite(truth.depth).all()
