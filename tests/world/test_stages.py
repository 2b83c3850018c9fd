"""Stages and what is read with them: poses, light and camera, what moved how, and what stands on what."""

import math
from dataclasses import replace

import pytest
import torch

from diorama.world.detector import Candidate
from diorama.world.detector_training import truth_of
from diorama.world.explaining import explained
from diorama.world.inspection import inspected
from diorama.world.rendering import frame_times, render
from diorama.world.sampling import sample_scene
from diorama.world.scene import COLORS, RADIUS, SHAPES, Camera, Light, Motion, Scene, SceneObject
from diorama.world.stages import Look, Pose, Stage, around, ground_pose, lifted_pose
from diorama.world.tracks import tracks_of

CAMERA = Camera(elevation=36.0, distance=8.2)


def blind(scene, time, size=None):
    """What a network sees that takes everything to stand on the ground and to have one of the two sizes."""
    found = []
    for k, (there, u, v, shape, color, *_) in enumerate(truth_of(scene, time).tolist()):
        if there:
            radius = RADIUS[size or scene.objects[k].size]
            pose = ground_pose(scene.camera, SHAPES[int(shape)], u, v, radius)
            found.append(Candidate(
                score=0.9, shapes=tuple(0.95 if n == shape else 0.01 for n in range(len(SHAPES))),
                colors=tuple(0.93 if n == color else 0.01 for n in range(len(COLORS))), u=u, v=v,
                place=(pose.right, pose.away, 0.0), radius=radius, quarter_turn=10.0, visible=1.0))
    return found


def test_poses_project_back_to_where_they_are_seen():
    thing = SceneObject("cone", "red", "small", (0.7, -0.9, 1.1))
    _, u, v, *_ = truth_of(Scene((thing,), CAMERA), 0.0)[0].tolist()
    pose = ground_pose(CAMERA, "cone", u, v, RADIUS["small"], up=1.1)
    assert (pose.right, pose.away) == pytest.approx((0.7, -0.9), abs=1e-4)
    lifted = lifted_pose(CAMERA, "cone", v, Pose(0.7, -0.9, 0.0, RADIUS["small"]))
    assert lifted.up == pytest.approx(1.1, abs=1e-4)


def test_light_and_ground_are_found_and_the_true_pose_fits_best():
    scene = Scene((SceneObject("cube", "blue", "large", (0.4, 0.3, 0.0), yaw=30.0),), CAMERA,
                  Light(azimuth=240.0, elevation=63.0), 0.82)
    look = Look("cube", "blue", "large", RADIUS["large"])
    true = Pose(0.4, 0.3, 0.0, RADIUS["large"], 30.0)
    stage = Stage(render([scene]).rgb[0].float() / 255, CAMERA, [[(look, true)]])
    light, ground = stage.surroundings
    assert (light.azimuth, light.elevation) == (240.0, 63.0) and ground == pytest.approx(0.82, abs=0.02)
    spot = tuple(truth_of(scene, 0.0)[0, 1:3].tolist())
    right, aside = stage.misfits([(0, {}), (0, {0: (look, replace(true, right=0.9))})], around(spot))
    assert right < 3 < aside
    _, pose = stage.fitted(0, 0, spot, look, radii=list(RADIUS.values()))
    assert pose.radius == RADIUS["large"] and abs((pose.yaw - 30 + 45) % 90 - 45) <= 4


@pytest.mark.parametrize(("kind", "shape"), [
    ("up", "sphere"), ("down", "torus"), ("away", "sphere"), ("towards", "torus"), ("left", "cone"),
    ("grow", "cylinder"), ("shrink", "sphere"), ("spin", "cube"), ("spin", "pyramid")])
def test_what_moved_how_is_read_off_the_pixels(kind, shape):
    start = 1.2 if kind == "down" else 0.0
    thing = SceneObject(shape, "green", "small" if kind == "grow" else "large", (-0.4, 0.2, start), yaw=20.0,
                        motions=(Motion(kind, 0.5, 0.5 + (0.8 if kind in ("up", "down") else 1.1), "quickly"),))
    other = SceneObject("cube", "orange", "small", (1.5, 1.2, 0.0), yaw=10.0)
    scene = Scene((thing, other), CAMERA, Light(azimuth=200.0, elevation=58.0), 0.85, duration=2.0)
    times = frame_times(scene, 16)
    tracks = tracks_of([blind(scene, t, thing.size) for t in times], times)
    read = explained(tracks, render([scene], frames=16).rgb[0], times)
    by_color = {t.color: [m.motion.kind for m in t.motions] for t in read}
    assert by_color == {"green": [kind], "orange": []}


def test_a_still_clip_has_no_motion_in_its_pixels():
    scene = replace(sample_scene(3, objects=(3, 3)), duration=2.0)
    times = frame_times(scene, 8)
    tracks = tracks_of([blind(scene, t) for t in times], times)
    assert all(not t.motions for t in explained(tracks, render([scene], frames=8).rgb[0], times))


def test_a_second_look_finds_what_stands_on_top_the_true_shape_and_the_faint_object():
    objects = (SceneObject("cube", "blue", "large", (0.2, -0.3, 0.0), yaw=15.0),
               SceneObject("sphere", "red", "small", (0.2, -0.3, 1.2), on=0),
               SceneObject("cone", "yellow", "small", (-1.3, 0.4, 0.0)))
    scene = Scene(objects, CAMERA, Light(azimuth=100.0, elevation=55.0), 0.8)
    cube, sphere, cone = blind(scene, 0.0)
    unsure = replace(sphere, shapes=tuple(0.5 if s == "torus" else 0.1 for s in SHAPES))
    nothing = replace(cone, u=0.6, v=0.5, score=0.2)
    picture = render([scene]).rgb[0, 0].float() / 255
    read = {o.color: o for o in inspected(picture, [cube, unsure, replace(cone, score=0.3), nothing]).objects}
    assert len(read) == 3 and read["red"].shape == "sphere" and read["yellow"].shape == "cone"
    assert math.dist(read["red"].position, (0.2, -0.3, 1.2)) < 0.3
    assert inspected(torch.zeros(3, 64, 64), []).count == 0
