"""Scenes as values: round trips, digests, and states in closed form."""

import json

import pytest

from diorama.world.sampling import sample_scene
from diorama.world.scene import RATE, SPEED, TURN, Camera, Motion, Scene, SceneObject, state_at, view_position


def moving(kind, pace="slowly", **fields):
    thing = SceneObject("cube", "red", "small", motions=(Motion(kind, 0.5, 1.5, pace),), **fields)
    return Scene((thing,), Camera(azimuth=90.0), duration=2.0)


@pytest.mark.parametrize("moves", [False, True])
def test_json_round_trip_keeps_every_value(moves):
    scene = sample_scene(5, moving=moves)
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_digest_ignores_the_seed_and_nothing_else():
    scene = sample_scene(5)
    values = scene.to_dict()
    assert Scene.from_dict({**values, "seed": 999}).digest() == scene.digest()
    assert Scene.from_dict({**values, "background": 0.5}).digest() != scene.digest()


@pytest.mark.parametrize(("kind", "axis", "sign"), [
    ("left", 0, -1), ("right", 0, 1), ("towards", 1, -1), ("away", 1, 1), ("up", 2, 1), ("down", 2, -1)])
def test_slides_go_the_viewers_way(kind, axis, sign):
    scene = moving(kind, "quickly")
    for time, share in ((0.2, 0.0), (1.0, 0.5), (1.9, 1.0)):
        place = view_position(scene, state_at(scene, 0, time).position)
        expected = [0.0, 0.0, 0.0]
        expected[axis] = sign * share * SPEED["quickly"]
        assert place == pytest.approx(expected, abs=1e-9)


def test_spin_and_size():
    assert state_at(moving("spin", yaw=10.0), 0, 2.0).yaw == pytest.approx(10 + TURN["slowly"])
    assert state_at(moving("grow"), 0, 2.0).scale == pytest.approx(RATE["slowly"])
    assert state_at(moving("shrink", "quickly"), 0, 1.0).scale == pytest.approx(RATE["quickly"] ** -0.5)


def test_appear_and_vanish_switch_at_their_moment():
    thing = SceneObject("cube", "red", "small", motions=(Motion("appear", 0.5, 0.5), Motion("vanish", 1.5, 1.5)))
    scene = Scene((thing,), duration=2.0)
    assert [state_at(scene, 0, t).present for t in (0.4, 0.5, 1.4, 1.5)] == [False, True, True, False]
