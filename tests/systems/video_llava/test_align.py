from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diorama.systems.video_llava.align import (
    BothWriters,
    CaptionWriter,
    RegionAligner,
    align_images,
    align_videos,
    busy_patches,
    pairs_of,
    phrase_ids,
    regions_of,
    video_aligner,
)
from diorama.systems.video_llava.model import ImageTower, LanguageBindAligner
from diorama.systems.video_llava.naming import NOTHING, UNSAID, WORDS_OF, words_of
from diorama.training import Run, RunConfig
from diorama.world.patches import OUTLINE


@pytest.fixture
def images(world_config, tokenizer) -> RegionAligner:
    aligner = LanguageBindAligner(ImageTower(world_config.tower), world_config.text_tower)
    return RegionAligner(aligner, world_config, phrase_ids(tokenizer, world_config))


@pytest.fixture
def writers(world_config, tokenizer, stills, clips) -> BothWriters:
    return BothWriters(CaptionWriter(clips.facts, tokenizer, world_config, 3, 0, named=1),
                       CaptionWriter(stills.facts, tokenizer, world_config, 2, 0, named=2))


def test_batches_are_whole_families_and_repeat(writers, clips):
    words, again, other = writers.clips(2), writers.clips(2), writers.clips(3)
    assert words.rows == again.rows and torch.equal(words.captions, again.captions)
    assert not torch.equal(words.captions, other.captions[:, : words.captions.shape[1]])
    assert len(words.captions) == 3 and len(words.rows) == len(words.names) == 4
    families = clips.facts.family[words.rows[:3]]
    assert (np.diff(families) != 0).sum() == len(set(families)) - 1
    for names, row in zip(words.names, words.rows, strict=True):
        assert (names.numpy() == words_of(clips.facts.scenes[row], 3)).all()


def test_regions_are_scored_against_what_the_masks_show(images, clips, writers):
    """Tokens that are the very text features of what they show are all named right, and shifted ones are not."""
    pairs = pairs_of(clips, writers.clips(0))
    owners = pairs.owners
    names = pairs.worded.names.gather(2, owners.clamp(min=0)[..., None].expand(-1, -1, -1, len(WORDS_OF)))
    with torch.no_grad():
        for projection in images.projections.values():
            projection.weight.copy_(torch.eye(32))
        phrases = images.aligner.embed_text(images.phrases).split([*map(len, WORDS_OF.values())])
        for place, ((name, words), among) in enumerate(zip(WORDS_OF.items(), phrases, strict=True)):
            apart = F.normalize(among - among.mean(0), dim=-1)
            named = names[..., place]
            assert ((named != UNSAID) & (owners >= 0)).any(), name
            named[owners < 0] = words.index(NOTHING) if NOTHING in words else UNSAID
            loss, right = images.region_loss(regions_of(seeing(apart[named]), pairs, slice(None)))
            others = apart[(named + 1) % len(words)]
            worse, wrong = images.region_loss(regions_of(seeing(others), pairs, slice(None)))
            assert right[name] == 1 and wrong[name] == 0 and loss < worse
            disturbed = apart[named].clone()
            disturbed[owners == OUTLINE] = torch.randn(32)
            assert images.region_loss(regions_of(seeing(disturbed), pairs, slice(None)))[0] == loss


def seeing(patches: torch.Tensor) -> torch.Tensor:
    """Hidden states whose patch tokens are the given ones."""
    return torch.cat([torch.zeros_like(patches[:, :, :1]), patches], dim=2)


def test_the_patches_that_are_kept_are_the_busy_ones(clips):
    owners = torch.from_numpy(clips.owners).long()
    kept = busy_patches(owners, 0.5)
    assert kept.shape == (len(owners), owners.shape[2] // 2)
    for row, patches in zip(owners, kept, strict=True):
        busy = (row != -1).float().mean(0)
        left_out = [p for p in range(len(busy)) if p not in patches.tolist()]
        assert busy[patches].min() >= busy[left_out].max() - 0.11
        assert len(set(patches.tolist())) == len(patches)


def test_kept_patches_carry_their_owners(clips, writers, images):
    pairs = pairs_of(clips, writers.clips(0))
    kept = busy_patches(pairs.owners, 0.5)
    numbered = torch.arange(pairs.owners.shape[2]).float()[kept][:, None, :, None].expand(-1, 3, -1, 2)
    found = regions_of(torch.cat([numbered[:, :, :1], numbered], dim=2), pairs, slice(None), kept)
    whole = torch.arange(pairs.owners.shape[2]).float()[None, None].expand_as(pairs.owners)
    for part, mask in ((found.objects, pairs.owners >= 0), (found.ground, pairs.owners == -1)):
        kept_there = torch.zeros_like(mask).scatter_(2, kept[:, None].expand(-1, 3, -1), True)
        assert part[:, 0].sum() == whole[mask & kept_there].sum()


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
    assert last["shape"] > 0.7 > first["shape"]


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
    assert last["naming"] < 0.9 * first["naming"]
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
    assert model.video.projections["doing"].weight.requires_grad


def test_ground_is_named_nothing_and_not_counted_as_right(images, stills, writers):
    pairs = pairs_of(stills, writers.images(1))
    with torch.no_grad():
        images.projections["shape"].weight.copy_(torch.eye(32))
        shapes = images.aligner.embed_text(images.phrases)[12 : 12 + len(WORDS_OF["shape"])]
        nothing = F.normalize(shapes - shapes.mean(0), dim=-1)[-1]
        tokens = nothing.expand(*pairs.owners.shape, 32)
        _, right = images.region_loss(regions_of(seeing(tokens), pairs, slice(None)))
    assert right["shape"] == 0
    assert "doing" not in right and "when" not in right         # nothing is done in a still
