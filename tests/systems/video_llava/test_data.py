import numpy as np
import pytest
import torch
from PIL import Image

from diorama.systems.video_llava.data import (
    DESCRIBE,
    Interviewer,
    Mixture,
    owners_of,
    prepare,
    see,
)
from diorama.systems.video_llava.processing import preprocess_image, preprocess_video
from diorama.systems.video_llava.splice import IGNORE, Sample
from diorama.systems.video_llava.train import with_media
from diorama.world.patches import GROUND, OUTLINE, OWNED_SHARE
from diorama.world.pool import PoolConfig, draw_pool
from diorama.world.rendering import render

MIXTURE = Mixture(images=3, clips=2, questions=3)


def separate(sample: Sample) -> list[Sample]:
    """The samples that a packed sample was made of."""
    parts = [sample.segments == 0 for _ in range(int(sample.segments.max()))]
    keeps = [prefix | (sample.segments == number) for number, prefix in enumerate(parts, 1)]
    return [Sample(sample.input_ids[keep], sample.labels[keep], sample.media) for keep in keeps]


def interviewer(tokenizer, config, stills, clips, **changes) -> Interviewer:
    return Interviewer(tokenizer, config, changes.pop("mixture", MIXTURE), seed=changes.pop("seed", 0),
                       images=stills.facts, clips=clips.facts, **changes)


def text_of(sample: Sample, tokenizer) -> str:
    return tokenizer.decode([token for token in sample.input_ids.tolist() if token >= 0], skip_special_tokens=True)


@pytest.mark.parametrize("frames", [1, 3])
def test_prepared_pixels_are_those_of_the_demo(world_config, frames):
    pool = draw_pool(PoolConfig(families=2, frames=frames, size=48, samples=1))
    ready = prepare(pool, world_config).pixels([1, 0])
    pictures = pool.pixels.transpose(0, 1, 3, 4, 2)
    if frames == 1:
        wanted = [preprocess_image(Image.fromarray(np.ascontiguousarray(pictures[row, 0])), world_config)
                  for row in (1, 0)]
    else:
        wanted = [preprocess_video(np.ascontiguousarray(pictures[row]), world_config) for row in (1, 0)]
    assert torch.equal(ready, torch.stack(wanted))


def test_a_patch_belongs_to_the_object_that_covers_most_of_it(world_config):
    mask = np.full((1, 1, 32, 32), -1, np.int8)
    mask[0, 0, :8, :8] = 2                                      # all of patch 0
    mask[0, 0, :8, 8:13] = 1                                    # five eighths of patch 1 ...
    mask[0, 0, :8, 13:16] = 3                                   # ... against three
    mask[0, 0, 0, 16:20] = 4                                    # a sixteenth of patch 2: neither object nor ground
    mask[0, 0, 0, 24] = 0                                       # one pixel of patch 3: still ground
    assert owners_of(mask, world_config)[0, 0].tolist() == [2, 1, OUTLINE, GROUND, *[-1] * 12]


def test_owners_of_rendered_patches_are_seen_there(world_config):
    pool = draw_pool(PoolConfig(families=3, frames=3, size=32, samples=1, seed=5))
    owners = prepare(pool, world_config).owners
    tiles = pool.mask.reshape(3, 3, 4, 8, 4, 8).swapaxes(3, 4).reshape(3, 3, 16, 64)
    for owner, tile in zip(owners.ravel(), tiles.reshape(-1, 64), strict=True):
        if owner >= 0:
            assert (tile == owner).mean() >= OWNED_SHARE
    assert (owners >= 0).any() and (owners == -1).any()


def test_a_step_asks_the_same_each_time_and_other_steps_ask_otherwise(tokenizer, world_config, stills, clips):
    ask = interviewer(tokenizer, world_config, stills, clips)
    first, again, later = ask(4), interviewer(tokenizer, world_config, stills, clips)(4), ask(5)
    assert [d.kind for d in first] == ["image", "image", "video", "image", "video"]
    for draft, other in zip(first, again, strict=True):
        assert draft.row == other.row and torch.equal(draft.sample.input_ids, other.sample.input_ids)
    assert [text_of(d.sample, tokenizer) for d in first] != [text_of(d.sample, tokenizer) for d in later]
    reseeded = interviewer(tokenizer, world_config, stills, clips, seed=1)(4)
    assert [text_of(d.sample, tokenizer) for d in first] != [text_of(d.sample, tokenizer) for d in reseeded]


def test_every_packed_question_ends_in_a_scored_answer(tokenizer, world_config, stills, clips):
    for draft in interviewer(tokenizer, world_config, stills, clips)(0):
        parts = separate(draft.sample)
        assert 1 <= len(parts) <= MIXTURE.questions + 1
        for part in parts:
            scored = part.labels != IGNORE
            assert scored.any() and part.labels[-1] == tokenizer.eos_token_id
            assert torch.equal(part.labels[scored], part.input_ids[scored])


def test_the_first_stage_only_describes(tokenizer, world_config, stills, clips):
    drafts = interviewer(tokenizer, world_config, stills, clips, task="project")(0)
    for draft in drafts:
        (only,) = separate(draft.sample)
        ids = " ".join(map(str, only.input_ids.tolist()))
        requests = [tokenizer(request, add_special_tokens=False).input_ids for request in DESCRIBE[draft.kind]]
        assert any(" ".join(map(str, request)) in ids for request in requests)


def test_packed_samples_equal_separate_ones(llava, tokenizer, world_config, stills, clips, seen):
    samples = with_media(interviewer(tokenizer, world_config, stills, clips)(1), seen)
    with torch.no_grad():
        packed = llava.model(samples)
        alone = llava.model([part for sample in samples for part in separate(sample)])
    assert packed.tokens == alone.tokens > 0
    assert float(packed.loss) == pytest.approx(float(alone.loss), rel=1e-4)


def test_cached_features_are_the_towers(llava, stills, clips):
    for pool, encode in ((stills, llava.model.image_features), (clips, llava.model.video_features)):
        cached = see(llava.model, pool, batch_size=3).features
        assert cached.dtype == torch.bfloat16
        whole = encode(pool.pixels(range(len(pool))))
        assert (cached.float() - whole).abs().max() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("which", ["stills", "clips"])
def test_mirrored_scenes_look_like_mirrored_pictures(which, request, world_config):
    pool = request.getfixturevalue(which)
    both = pool.with_mirrored()
    assert len(pool) < len(both) <= 2 * len(pool)
    assert (both.small[: len(pool)] == pool.small).all() and (both.owners[: len(pool)] == pool.owners).all()
    assert len(both.facts.visible) == len(both.facts.family) == len(both)
    flipped = both.small[len(pool) :][..., ::-1]
    sources = [next(r for r in range(len(pool)) if (pool.small[r] == picture).all()) for picture in flipped]
    for row, source in zip(range(len(pool), len(both)), sources, strict=True):
        drawn = draw_mirror(both, row, pool.small.shape[1])
        spins = any(m.kind == "spin" for o in both.facts.scenes[row].objects for m in o.motions)
        assert spins or (drawn != both.owners[row]).mean() < 0.05
        assert both.facts.scenes[row].objects[0].color == pool.facts.scenes[source].objects[0].color


def draw_mirror(pool, row, frames):
    """The owners of a mirrored scene that is really rendered."""
    drawn = render([pool.facts.scenes[row]], size=32, frames=frames)
    return owners_of(drawn.mask.numpy(), pool.config)[0]


def test_practised_kinds_are_asked_more_and_no_question_twice(tokenizer, world_config, stills, clips):
    def texts(practised: int) -> list[str]:
        mixture = Mixture(images=4, clips=0, questions=3, practised=practised, describe=0.0)
        drafts = [one for step in range(3)
                  for one in interviewer(tokenizer, world_config, stills, clips, mixture=mixture)(step)]
        return [text_of(part, tokenizer) for draft in drafts for part in separate(draft.sample)]

    few, many = texts(0), texts(9)
    assert len(few) == 36 and len(many) > 1.5 * len(few)
    hard = ("how many", "what shape", "front of", "left of", "right of", "behind", "on top of")
    extra = sum(any(word in one for word in hard) for one in many) - sum(any(word in one for word in hard)
                                                                        for one in few)
    assert extra >= 0.8 * (len(many) - len(few))
