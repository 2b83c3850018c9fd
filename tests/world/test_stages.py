"""Stages and what is read with them: poses, light and camera, what moved how, and what stands on what."""

import math
from dataclasses import replace

import pytest
import torch

from diorama.world.detector import Candidate
from diorama.world.detector_training import truth_of
from diorama.world.explaining import explained
from diorama.world.fitting import fitted
from diorama.world.inspection import inspected
from diorama.world.rendering import frame_times, render
from diorama.world.sampling import sample_scene
from diorama.world.scene import COLORS, RADIUS, SHAPES, Camera, Light, Motion, Scene, SceneObject
from diorama.world.stages import Look, Pose, Setting, Stage, Try, calibrated, middle_of, pose_at, staged, window_of
from diorama.world.tracks import tracks_of

CAMERA = Camera(elevation=36.0, distance=8.2)
LIGHT = Light(azimuth=200.0, elevation=58.0)


def blind(scene, time):
    """What a network sees that believes half of every height and in no change of size or yaw."""
    found = []
    for k, (there, u, v, shape, color, _, _, _, up, *_) in enumerate(truth_of(scene, time).tolist()):
        if there:
            radius = RADIUS[scene.objects[k].size]
            pose = pose_at(scene.camera, SHAPES[int(shape)], (u, v), radius, up=up / 2)
            found.append(Candidate(
                score=0.9, shapes=tuple(0.95 if n == shape else 0.01 for n in range(len(SHAPES))),
                colors=tuple(0.93 if n == color else 0.01 for n in range(len(COLORS))), u=u, v=v,
                place=(pose.right, pose.away, up / 2), radius=radius, quarter_turn=10.0, visible=1.0))
    return found


def told(scene, frames=16):
    """The motions of each color, read off a clip with the blind network's help."""
    times = frame_times(scene, frames)
    tracks = tracks_of([blind(scene, t) for t in times], times)
    read = explained(tracks, render([scene], frames=frames).rgb[0], times)
    return {t.color: [m.motion.kind for m in t.motions] for t in read}


def test_the_nearest_numbers_are_found():
    grid = torch.linspace(-1, 1, 24)
    true = torch.tensor([[0.3, -0.2, 0.4], [-0.25, 0.1, 0.3]], dtype=torch.float64)

    def picture_of(numbers, rows):
        assert len(numbers) == len(rows)
        u, v, width = (numbers[:, i].float().view(-1, 1, 1) for i in range(3))
        bump = torch.exp(-((grid.view(1, 1, -1) - u) ** 2 + (grid.view(1, -1, 1) - v) ** 2) / width**2)
        return bump.unsqueeze(1).expand(-1, 3, -1, -1)

    start = true + torch.tensor([0.15, -0.1, 0.1])
    steps = torch.tensor([0.04, 0.04, 0.03], dtype=torch.float64)
    found = fitted(start, steps, picture_of, picture_of(true, [0, 1]), rounds=((2, 4), (1, 4)))
    torch.testing.assert_close(found, true, atol=0.01, rtol=0)


def test_poses_project_back_to_where_they_are_seen():
    thing = SceneObject("cone", "red", "small", (0.7, -0.9, 1.1))
    _, u, v, *_ = truth_of(Scene((thing,), CAMERA), 0.0)[0].tolist()
    pose = pose_at(CAMERA, "cone", (u, v), RADIUS["small"], up=1.1)
    assert (pose.right, pose.away) == pytest.approx((0.7, -0.9), abs=1e-4)
    assert middle_of(CAMERA, (Look("cone", "red", "small"), pose)) == pytest.approx((u, v), abs=1e-4)


def test_a_window_holds_the_object_and_its_shadow():
    thing = SceneObject("sphere", "red", "large", (0.2, 0.4, 1.0))
    scene = Scene((thing,), CAMERA, LIGHT)
    pose = Pose(0.2, 0.4, 1.0, RADIUS["large"])
    rows, columns = window_of(Setting(CAMERA, LIGHT, 0.75), [(Look("sphere", "red", "large"), pose)])
    changed = (render([scene]).rgb.int() - render([replace(scene, objects=())]).rgb.int())[0, 0].abs().amax(0) > 8
    inside = changed[rows, columns].sum()
    assert 200 < inside == changed.sum() and (rows.stop - rows.start) * (columns.stop - columns.start) < 64 * 64 / 2


def test_camera_light_and_pose_are_found_from_a_rough_start():
    things = (SceneObject("cube", "blue", "large", (0.4, 0.3, 0.0), yaw=30.0),
              SceneObject("sphere", "green", "small", (-1.2, -0.6, 0.0)))
    scene = Scene(things, CAMERA, Light(azimuth=247.0, elevation=60.0), 0.82)
    looks = [Look(o.shape, o.color, o.size) for o in things]
    rough = [Pose(0.47, 0.2, 0.0, RADIUS["large"], 38.0), Pose(-1.15, -0.68, 0.0, RADIUS["small"])]
    frames = render([scene]).rgb[0].float() / 255
    stage = calibrated(staged(frames, Camera(elevation=35.0, distance=8.35), [list(zip(looks, rough, strict=True))]))
    setting = stage.setting
    assert abs(setting.camera.elevation - 36) < 2 and abs(setting.camera.distance - 8.2) < 0.1
    assert abs(setting.light.azimuth - 247) < 6 and abs(setting.light.elevation - 60) < 4
    assert setting.ground == pytest.approx(0.82, abs=0.01)
    _, cube = stage.cast[0][0]
    assert math.dist((cube.right, cube.away), (0.4, 0.3)) < 0.06 and abs(cube.yaw - 30) < 4
    true = Stage(frames, Setting(CAMERA, scene.light, 0.82), [[(look, Pose(*o.position[:2], 0.0, RADIUS[o.size], o.yaw))
                                                              for look, o in zip(looks, things, strict=True)]])
    assert true.misfits([(0, {})])[0] < 0.1
    aside = true.misfits([(0, {0: (looks[0], Pose(0.9, 0.3, 0.0, RADIUS["large"], 30.0))}), (0, {0: None})])
    assert min(aside) > 30
    off = Try(0, 1, looks[1], Pose(-1.3, -0.5, 0.2, 0.55))
    error, pose = true.fitted([off], free=("u", "v", "up", "radius"))[0]
    assert error < 15 and math.dist((pose.right, pose.away, pose.up, pose.radius), (-1.2, -0.6, 0.0, 0.45)) < 0.2


@pytest.mark.parametrize(("kind", "shape"), [
    ("up", "sphere"), ("down", "torus"), ("away", "sphere"), ("left", "cone"), ("shrink", "cylinder"),
    ("spin", "pyramid")])
def test_what_moved_how_is_read_off_the_pixels(kind, shape):
    start = 1.2 if kind == "down" else 0.0
    thing = SceneObject(shape, "green", "small" if kind == "grow" else "large", (-0.4, 0.2, start), yaw=20.0,
                        motions=(Motion(kind, 0.5, 0.5 + (0.8 if kind in ("up", "down") else 1.1), "quickly"),))
    other = SceneObject("cube", "orange", "small", (1.5, 1.2, 0.0), yaw=10.0)
    scene = Scene((thing, other), CAMERA, LIGHT, 0.85, duration=2.0)
    assert told(scene, 12) == {"green": [kind], "orange": []}


@pytest.mark.parametrize(("first", "second"), [("away", "up"), ("grow", "spin")])
def test_what_happens_in_turn_is_told_apart(first, second):
    thing = SceneObject("cube", "green", "small", (-0.2, -0.4, 0.0), yaw=20.0,
                        motions=(Motion(first, 0.0, 1.0, "quickly"), Motion(second, 1.0, 2.0, "quickly")))
    assert told(Scene((thing,), CAMERA, LIGHT, 0.85, duration=2.0)) == {"green": [first, second]}


def test_a_track_that_no_pixel_supports_is_dropped():
    scene = replace(sample_scene(3, objects=(2, 2)), duration=2.0)
    times = frame_times(scene, 6)
    found = [blind(scene, t) for t in times]
    grey = tuple(float(c == "grey") for c in COLORS)
    ghost = replace(found[0][0], u=-0.7, v=0.7, place=(-1.8, -1.7, 0.0), colors=grey)
    tracks = tracks_of([[*f, ghost] if i < 2 else f for i, f in enumerate(found)], times)
    assert len(tracks) == 3 and len(explained(tracks, render([scene], frames=6).rgb[0], times)) == 2


def test_a_still_clip_has_no_motion_in_its_pixels():
    scene = replace(sample_scene(3, objects=(3, 3)), duration=2.0)
    assert set(map(tuple, told(scene, 8).values())) == {()}


def test_a_second_look_finds_what_stands_on_top_the_true_shape_and_the_faint_object():
    objects = (SceneObject("cube", "blue", "large", (0.2, -0.3, 0.0), yaw=15.0),
               SceneObject("sphere", "red", "small", (0.2, -0.3, 1.2), on=0),
               SceneObject("cone", "yellow", "small", (-1.3, 0.4, 0.0)))
    scene = Scene(objects, CAMERA, Light(azimuth=100.0, elevation=55.0), 0.8)
    cube, sphere, cone = blind(scene, 0.0)
    unsure = replace(sphere, shapes=tuple({"torus": 0.5, "sphere": 0.4}.get(s, 0.025) for s in SHAPES))
    nothing = replace(cone, u=0.6, v=0.5, score=0.2)
    picture = render([scene]).rgb[0, 0].float() / 255
    read = {o.color: o for o in inspected(picture, [cube, unsure, replace(cone, score=0.3), nothing]).objects}
    assert len(read) == 3 and read["red"].shape == "sphere" and read["yellow"].shape == "cone"
    assert math.dist(read["red"].position, (0.2, -0.3, 1.2)) < 0.3
    assert inspected(torch.zeros(3, 64, 64), []).count == 0
