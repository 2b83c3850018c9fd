from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diorama.systems.video_llava.align import (
    DOINGS,
    NAMES,
    BothWriters,
    CaptionWriter,
    RegionAligner,
    align_images,
    align_videos,
    doing_index,
    name_index,
    pairs_of,
    phrase_ids,
    video_aligner,
)
from diorama.systems.video_llava.data import IGNORED_PATCH
from diorama.systems.video_llava.model import ImageTower, LanguageBindAligner
from diorama.training import Run, RunConfig
from diorama.world.sampling import sample_scene
from diorama.world.scene import COLORS, SHAPES, SIZES, Motion, Scene, SceneObject


@pytest.fixture
def images(world_config, tokenizer) -> RegionAligner:
    aligner = LanguageBindAligner(ImageTower(world_config.tower), world_config.text_tower)
    return RegionAligner(aligner, world_config, phrase_ids(tokenizer, world_config))


@pytest.fixture
def writers(world_config, tokenizer, stills, clips) -> BothWriters:
    return BothWriters(CaptionWriter(clips.facts, tokenizer, world_config, 4, 0),
                       CaptionWriter(stills.facts, tokenizer, world_config, 4, 0))


def test_every_object_has_its_own_place_among_the_names():
    assert len(set(NAMES)) == len(NAMES) == len(SIZES) * len(COLORS) * len(SHAPES) + 1
    for seed in range(20):
        scene = sample_scene(seed)
        for index, thing in enumerate(scene.objects):
            assert NAMES[name_index(scene, index)] == thing.name


def test_what_an_object_does_depends_on_the_moment():
    motions = (Motion("left", 0.5, 1.0), Motion("spin", 2.0, 3.0))
    scene = Scene((SceneObject("cube", "red", "small", motions=motions), SceneObject("cone", "blue", "small")),
                  duration=3.0)
    said = [DOINGS[doing_index(scene, 0, time, 0.5)] for time in (0.0, 0.25, 0.75, 1.25, 1.5, 1.75, 3.0)]
    assert said == ["stays still", "moves left", "moves left", "moves left", "stays still", "spins", "spins"]
    assert all(DOINGS[doing_index(scene, 1, time, 0.5)] == "stays still" for time in (0.0, 1.0, 3.0))


def test_batches_are_whole_families_and_repeat(writers, clips):
    words, again, other = writers.clips(2), writers.clips(2), writers.clips(3)
    assert words.rows == again.rows and torch.equal(words.captions, again.captions)
    assert not torch.equal(words.captions, other.captions[:, : words.captions.shape[1]])
    families = clips.facts.family[words.rows]
    assert (np.diff(families) != 0).sum() == len(set(families)) - 1
    scene = clips.facts.scenes[words.rows[0]]
    assert words.names[0, : len(scene.objects)].tolist() == [name_index(scene, k) for k in range(len(scene.objects))]
    spacing = scene.duration / 2
    assert words.doings[0, 1, 0] == doing_index(scene, 0, spacing, spacing)


def test_regions_are_scored_against_what_the_masks_show(images, clips, writers):
    """Tokens that are the very text features of what they show are all named right, and shifted ones are not."""
    pairs = pairs_of(clips, writers.clips(0))
    with torch.no_grad():
        for projection in (images.name_projection, images.doing_projection):
            projection.weight.copy_(torch.eye(32))
        phrases = images.aligner.embed_text(images.phrases)
        seat = pairs.owners.clamp(min=0)
        named = pairs.worded.names[:, None].expand(-1, 3, -1).gather(2, seat)
        named[pairs.owners < 0] = len(NAMES) - 1
        done = len(NAMES) + pairs.worded.doings.gather(2, seat)
        naming, _, right = images.region_losses(phrases[named], pairs)
        worse, _, wrong = images.region_losses(phrases[(named + 1) % len(NAMES)], pairs)
        assert right == 1 and wrong == 0 and naming < worse
        _, doing, _ = images.region_losses(phrases[done], pairs)
        _, shifted, _ = images.region_losses(phrases[len(NAMES) + (done - len(NAMES) + 1) % len(DOINGS)], pairs)
        assert doing < shifted
        disturbed = phrases[named].clone()
        disturbed[pairs.owners == IGNORED_PATCH] = torch.randn(32)
        assert images.region_losses(disturbed, pairs)[0] == naming


def test_the_image_half_learns_four_scenes(images, stills, writers, tmp_path):
    first = images(pairs_of(stills, writers.images(0)))[1]
    run = Run(tmp_path, images, RunConfig(steps=100, learning_rate=4e-3, save_every=100), device="cpu",
              progress="silent")
    for worded in run.batches(writers.images):
        loss, numbers = run.model(pairs_of(stills, worded))
        run.step(loss, len(worded.rows), numbers)
    last = images(pairs_of(stills, writers.images(0)))[1]
    assert last["naming"] < 0.5 * first["naming"]
    assert last["contrastive"] < first["contrastive"]
    assert last["named"] > 0.7 > first["named"]


def test_the_video_half_trains_time_alone(images, world_config, stills, clips, writers, tmp_path):
    model = video_aligner(world_config, images)
    video, image = model.video.aligner, model.image
    for name, value in image.state_dict().items():
        assert torch.equal(video.state_dict()[name], value), name
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model(pairs_of(clips, writers.clips(0)), pairs_of(stills, writers.images(0)))[1]
    run = Run(tmp_path, model, RunConfig(steps=30, learning_rate=3e-3, save_every=30), device="cpu",
              progress="silent")
    align_videos(run, clips, stills, writers)
    last = model(pairs_of(clips, writers.clips(0)), pairs_of(stills, writers.images(0)))[1]
    assert last["doing"] < 0.9 * first["doing"]
    assert last["image_contrastive"] <= first["image_contrastive"] + 0.05
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    in_tower = {name for name in moved if ".vision_model." in name}
    assert in_tower and all("temporal_" in name for name in in_tower)
    assert any("text_model" in name for name in moved) and not any(name.startswith("image.") for name in moved)


def test_the_loop_of_the_stage_reads_from_another_process(images, stills, writers, tmp_path):
    run = Run(tmp_path, images, RunConfig(steps=2, save_every=2), device="cpu", progress="silent")
    align_images(run, stills, writers.images)
    rows = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"naming"' in line]
    assert run.step_number == 2 and rows


def test_without_temporal_attention_only_heads_and_text_learn(images, world_config):
    model = video_aligner(replace(world_config, temporal_attention=False), images)
    assert not any(p.requires_grad for p in model.video.aligner.vision_model.parameters())
    assert model.video.doing_projection.weight.requires_grad


def test_ground_is_named_nothing_and_not_counted_as_right(images, stills, writers):
    pairs = pairs_of(stills, writers.images(1))
    with torch.no_grad():
        images.name_projection.weight.copy_(torch.eye(32))
        nothing = F.normalize(images.aligner.embed_text(images.phrases)[len(NAMES) - 1], dim=-1)
        tokens = nothing.expand(*pairs.owners.shape, 32)
        _, doing, named = images.region_losses(tokens, pairs)
    assert named == 0 and doing == 0                            # stills have no doings
