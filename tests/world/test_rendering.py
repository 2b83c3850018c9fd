"""The renderer against geometry: depth, normals, masks, boxes, and a stored picture."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import InputError
from diorama.world.rendering import frame_times, render
from diorama.world.sampling import sample_scene
from diorama.world.scene import PROPORTIONS, RADIUS, SHAPES, TORUS_TUBE, Camera, Motion, Scene, SceneObject, state_at

GOLDEN = Path(__file__).parent / "golden_scenes.png"
"""Four test scenes of seeds 0..3 at 64 x 64, side by side, two still and two at the last moment of a clip."""


def axes_of(camera):
    tilt, turn = math.radians(camera.elevation), math.radians(camera.azimuth)
    right = np.array([math.cos(turn), math.sin(turn), 0])
    ahead = np.array([-math.sin(turn) * math.cos(tilt), math.cos(turn) * math.cos(tilt), -math.sin(tilt)])
    return right, np.cross(right, ahead), ahead


def points_of(scene, depth):
    """World points (H, W, 3) at which the rays of a depth map end."""
    right, up, ahead = axes_of(scene.camera)
    size = depth.shape[-1]
    grid = ((np.arange(size) + 0.5) * 2 / size - 1) * math.tan(math.radians(scene.camera.field_of_view / 2))
    rays = ahead + grid[None, :, None] * right - grid[:, None, None] * up
    eye = np.array([0, 0, 0.4]) - scene.camera.distance * ahead
    return eye + depth[..., None] * rays, rays


def surface(shape, p):
    """Zero on the surface of a shape in its own axes (points (N, 3)), about the distance from it nearby."""
    body, (x, y, z) = PROPORTIONS[shape], p.T
    w, h = body.half_width, body.height
    around = np.hypot(x, y)
    if shape == "sphere":
        return np.sqrt(around**2 + (z - 1) ** 2) - 1
    if shape == "torus":
        return np.hypot(around - (w - TORUS_TUBE), z - TORUS_TUBE) - TORUS_TUBE
    if shape == "cube":
        return np.maximum.reduce([np.abs(x) - w, np.abs(y) - w, z - h, -z])
    if shape == "cylinder":
        return np.maximum.reduce([around - w, z - h, -z])
    if shape == "cone":
        return np.maximum(around - w * (1 - z / h), -z)
    return np.maximum.reduce([np.abs(x) - w * (1 - z / h), np.abs(y) - w * (1 - z / h), -z])


def golden_frames():
    still = [sample_scene(seed, split="test", objects=(3, 5)) for seed in (0, 1)]
    clips = [sample_scene(seed, split="test", objects=(3, 5), moving=True) for seed in (2, 3)]
    frames = [render(still, size=64).rgb[:, 0], render(clips, size=64, frames=2).rgb[:, 1]]
    return torch.cat(frames).permute(2, 0, 3, 1).reshape(64, 256, 3).numpy()


def test_golden_picture():
    stored = np.asarray(Image.open(GOLDEN).convert("RGB")).astype(int)
    apart = np.abs(golden_frames().astype(int) - stored)
    assert apart.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_unprojected_depth_lies_on_the_surface(shape):
    thing = SceneObject(shape, "cyan", "large", (0.3, -0.5, 0.25), yaw=28.0)
    scene = Scene((thing,), Camera(azimuth=70.0, elevation=31.0, distance=7.6))
    truth = render([scene], size=96)
    mask = truth.mask[0, 0].numpy() == 0
    points, rays = points_of(scene, truth.depth[0, 0].double().numpy())
    turn = math.radians(thing.yaw)
    unturn = np.array([[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    local = (points[mask] - np.array(thing.position)) @ unturn.T / RADIUS["large"]
    assert mask.sum() > 100
    assert np.abs(surface(shape, local)).max() < 1e-5
    normals = truth.normals[0, 0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    assert (np.einsum("ij,ij->i", normals[mask], rays[mask]) < 1e-6).all()      # they face the viewer
    step = 1e-4
    sides = [(local + step * axis, local - step * axis) for axis in np.eye(3)]
    slope = np.stack([surface(shape, ahead) - surface(shape, back) for ahead, back in sides], 1)
    slope = (slope / np.linalg.norm(slope, axis=1, keepdims=True)) @ unturn
    smooth = np.einsum("ij,ij->i", slope, normals[mask])
    assert np.quantile(smooth, 0.03) > 0.999                                    # edges have no gradient


def test_ground_depth_and_normals():
    scene = sample_scene(3, split="test")
    truth = render([scene], size=64)
    ground = truth.mask[0, 0].numpy() < 0
    points, _ = points_of(scene, truth.depth[0, 0].double().numpy())
    assert np.abs(points[ground][:, 2]).max() < 1e-5
    assert (truth.normals[0, 0].permute(1, 2, 0).numpy()[ground] == [0, 0, 1]).all()


def test_depth_of_a_sphere_is_the_closed_formula():
    camera = Camera(azimuth=0.0, elevation=40.0, distance=8.0)
    radius = RADIUS["small"]
    scene = Scene((SceneObject("sphere", "red", "small", (0.0, 0.0, 0.4 - radius)),), camera)  # its middle is looked at
    truth = render([scene], size=65)
    assert truth.depth[0, 0, 32, 32].item() == pytest.approx(8.0 - radius, abs=1e-6)
    tangent = math.tan(math.radians(20)) * 2 / 65 * 3                              # the ray three pixels to the right
    a, b, c = 1 + tangent**2, 8.0, 64 - radius**2
    assert truth.depth[0, 0, 32, 35].item() == pytest.approx((b - math.sqrt(b * b - a * c)) / a, abs=1e-6)


def test_boxes_are_tight_and_masks_agree_with_visible():
    scenes = [sample_scene(seed, objects=(3, 5)) for seed in range(6)]
    truth = render(scenes, size=64)
    boxes = truth.boxes()
    for b, scene in enumerate(scenes):
        for k in range(boxes.shape[2]):
            rows, columns = np.nonzero(truth.mask[b, 0].numpy() == k)
            if k >= len(scene.objects) or not len(rows):
                assert (boxes[b, 0, k] == -1).all() and truth.visible[b, 0, k] == 0
            else:
                assert boxes[b, 0, k].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
                assert 0 < truth.visible[b, 0, k] <= 1


def test_visible_is_the_share_left_by_what_is_in_front():
    camera = Camera(azimuth=0.0, elevation=35.0, distance=8.0)
    behind = SceneObject("cube", "red", "large", (0.0, 1.0, 0.0))
    front = SceneObject("sphere", "blue", "large", (0.2, -0.6, 0.0))
    both, alone = Scene((behind, front), camera), Scene((behind,), camera)
    hidden, free = render([both], size=96), render([alone], size=96)
    share = (hidden.mask == 0).sum() / (free.mask == 0).sum()
    assert 0.2 < share < 0.95
    assert hidden.visible[0, 0, 0].item() == pytest.approx(share.item(), abs=1e-5)
    assert hidden.visible[0, 0, 1] == 1


def test_many_at_once_are_the_same_as_one_by_one():
    scenes = [sample_scene(seed, moving=True) for seed in range(5)]
    together = render(scenes, size=48, frames=3)
    for index, scene in enumerate(scenes):
        alone = render([scene], size=48, frames=3)
        count = len(scene.objects)
        assert torch.equal(together.rgb[index], alone.rgb[0])
        assert torch.equal(together.mask[index], alone.mask[0])
        assert torch.equal(together.depth[index], alone.depth[0])
        assert torch.equal(together.visible[index, :, :count], alone.visible[0])


def test_order_of_objects_changes_only_the_numbers_in_the_mask():
    scene = sample_scene(8, objects=(4, 4))
    scene = replace(scene, objects=tuple(replace(o, on=None) for o in scene.objects))
    a, b = render([scene]), render([replace(scene, objects=scene.objects[::-1])])
    assert (a.rgb.int() - b.rgb.int()).abs().max() <= 1
    assert torch.equal(torch.where(a.mask >= 0, 3 - a.mask, -1).to(torch.int8), b.mask)


def test_more_rays_a_pixel_are_the_mean_of_a_larger_picture():
    scene = sample_scene(4, objects=(3, 3))
    fine, coarse = render([scene], size=128), render([scene], size=64, samples=2)
    mean = torch.nn.functional.avg_pool2d(fine.rgb[0].float(), 2)
    assert (mean - coarse.rgb[0].float()).abs().max() <= 1.01
    assert torch.equal(fine.mask[..., 1::2, 1::2], coarse.mask)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_window_is_cut_out_of_the_picture(samples):
    scenes = [sample_scene(s, objects=(4, 5)) for s in range(4)]
    whole = render(scenes, samples=samples)
    part = render(scenes, samples=samples, window=(slice(10, 36), slice(30, 70)))
    for name in ("rgb", "depth", "normals", "mask"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[..., 10:36, 30:64]), name
    with pytest.raises(InputError, match="window"):
        render(scenes, window=(slice(64, 70), slice(0, 4)))


def test_sizes_show_the_same_scene():
    scene = sample_scene(4, objects=(3, 3))
    shares = [[(render([scene], size=s).mask == k).float().mean().item() for k in range(3)] for s in (64, 160)]
    np.testing.assert_allclose(shares[0], shares[1], rtol=0.12)


def test_turning_camera_and_scene_together_changes_nothing():
    scene = sample_scene(6, objects=(3, 3))
    turn = math.radians(50)

    def moved(thing):
        x, y, z = thing.position
        x, y = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
        return replace(thing, position=(x, y, z), yaw=thing.yaw + 50)

    turned = replace(scene, objects=tuple(moved(o) for o in scene.objects),
                     camera=replace(scene.camera, azimuth=scene.camera.azimuth + 50))
    apart = (render([scene]).rgb.int() - render([turned]).rgb.int()).abs().amax(2)
    assert (apart > 1).float().mean() < 0.002


def test_frames_are_the_moments_they_say():
    scene = sample_scene(9, moving=True)
    clip, times = render([scene], frames=5), frame_times(scene, 5)
    assert times[0] == 0 and times[-1] == scene.duration
    assert torch.equal(clip.rgb[0], render([scene], times=times).rgb[0])
    assert torch.equal(clip.rgb[:, 2], render([scene], times=[times[2]]).rgb[:, 0])


def test_an_absent_object_leaves_no_pixel():
    thing = SceneObject("cone", "red", "large", motions=(Motion("vanish", 1.0, 1.0),))
    truth = render([Scene((thing,), duration=2.0)], frames=3)
    assert [(truth.mask[0, t] == 0).any().item() for t in range(3)] == [True, False, False]
    assert truth.visible[0, :, 0].tolist() == [1, 0, 0]
    assert not state_at(Scene((thing,), duration=2.0), 0, 1.0).present


def test_pixels_are_the_same_every_time():
    scene = sample_scene(2, objects=(5, 5))
    digests = {hashlib.sha256(render([scene], samples=2).rgb.numpy().tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1


@pytest.mark.parametrize("wrong", [{"size": 2}, {"size": 5000}, {"samples": 0}, {"frames": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        render([sample_scene(0)], **wrong)
    with pytest.raises(InputError, match="at least one"):
        render([])
