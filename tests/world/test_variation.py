"""Minimal pairs: exactly one fact changes, and the family stays in its split."""

from dataclasses import asdict
from random import Random

import pytest
import torch

from diorama.world.rendering import render
from diorama.world.sampling import is_clear, sample_scene, split_of
from diorama.world.variation import MOVING_CHANGES, STILL_CHANGES, family, mirrored, vary

CHANGED_FIELDS = {
    "shape": {"shape"}, "color": {"color"}, "size": {"size"}, "place": {"position"}, "swap": {"position"},
    "reverse": {"motions", "position"}, "mover": {"motions"}, "order": {"motions"}, "motion": {"motions"},
}
CHANGED_OBJECTS = {"swap": 2, "mover": 2, "order": 2}


@pytest.mark.parametrize("change", sorted({*STILL_CHANGES, *MOVING_CHANGES}))
def test_exactly_one_fact_changes(change):
    made = 0
    for seed in range(60):
        scene = sample_scene(seed, objects=(3, 5), moving=change in MOVING_CHANGES and change not in STILL_CHANGES,
                             movers=(2, 2), stacking=0.0)
        other = vary(scene, change, Random(seed))
        if other is None or other == scene:
            continue
        made += 1
        assert (other.camera, other.light, other.background, other.duration) == (
            scene.camera, scene.light, scene.background, scene.duration)
        pairs = list(zip(scene.objects, other.objects, strict=True))
        changed = [(a, b) for a, b in pairs if a != b]
        assert 1 <= len(changed) <= CHANGED_OBJECTS.get(change, 1)
        for a, b in changed:
            left, right = asdict(a), asdict(b)
            assert {key for key in left if left[key] != right[key]} <= CHANGED_FIELDS[change]
    assert made > 10


@pytest.mark.parametrize("moving", [False, True])
def test_families_are_sound_distinct_and_of_one_split(moving):
    sizes = []
    for seed in range(12):
        scene = sample_scene(seed, split="train", objects=(2, 4), moving=moving)
        members = family(scene, 4, "train", Random(seed))
        assert members[0] == scene and len({m.digest() for m in members}) == len(members)
        assert all(split_of(m) == "train" and is_clear(m) for m in members)
        sizes.append(len(members))
    assert sum(sizes) / len(sizes) > 2.5


def test_the_same_generator_makes_the_same_family():
    scene = sample_scene(1, objects=(2, 4))
    assert family(scene, 4, "train", Random(3)) == family(scene, 4, "train", Random(3))


@pytest.mark.parametrize("moving", [False, True])
def test_a_mirrored_scene_is_drawn_as_the_flipped_picture(moving):
    scenes = [s for s in (sample_scene(seed, moving=moving) for seed in range(40))
              if not any(m.kind == "spin" for o in s.objects for m in o.motions)][:16]
    plain, flipped = (render(some, frames=3 if moving else 1) for some in (scenes, [mirrored(s) for s in scenes]))
    apart = (plain.rgb.flip(-1).int() - flipped.rgb.int()).abs()
    assert (apart > 1).float().mean() < 1e-4
    torch.testing.assert_close(plain.visible, flipped.visible, atol=0.02, rtol=0)


def test_mirroring_swaps_left_and_right_only():
    scene = sample_scene(4, moving=True, movers=(2, 2))
    kinds = [m.kind for o in scene.objects for m in o.motions]
    seen = [m.kind for o in mirrored(scene).objects for m in o.motions]
    assert seen == [{"left": "right", "right": "left"}.get(k, k) for k in kinds]
