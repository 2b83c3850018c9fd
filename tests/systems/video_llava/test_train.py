import pytest
import torch

from diorama.systems.video_llava.data import Interviewer, Mixture
from diorama.systems.video_llava.naming import UNSAID, WORDS_OF, words_of
from diorama.systems.video_llava.told import Teller, tell
from diorama.systems.video_llava.train import Learner, Projecting, Reader, with_media


@pytest.fixture
def samples(llava, tokenizer, world_config, stills, clips, seen):
    return with_media(drafts(tokenizer, world_config, stills, clips), seen)


def drafts(tokenizer, world_config, stills, clips):
    ask = Interviewer(tokenizer, world_config, Mixture(images=2, clips=2, questions=2), seed=0,
                      images=stills.facts, clips=clips.facts)
    return ask(0)


@pytest.fixture
def told(tokenizer, stills, clips):
    return {"image": tell(stills, tokenizer), "video": tell(clips, tokenizer)}


@pytest.mark.parametrize(("stage", "learns"), [
    ("read", {"language_model"}), ("project", {"projector"}), ("instruct", {"projector", "language_model"})])
def test_each_stage_trains_its_own_parts(llava, samples, stage, learns):
    learner = Learner(llava.model, stage)
    loss, tokens = learner(samples)
    (loss / tokens).backward()
    reached = {name.split(".")[1] for name, p in learner.named_parameters() if p.grad is not None and p.grad.any()}
    free = {name.split(".")[1] for name, p in learner.named_parameters() if p.requires_grad}
    assert free == learns
    assert reached == learns


def test_stages_can_follow_one_another_on_one_model(llava):
    for stage, expected in (("read", False), ("project", True), ("read", False), ("instruct", True)):
        Learner(llava.model, stage)
        assert all(p.requires_grad is expected for p in llava.model.projector.parameters())


def test_grouping_by_media_changes_nothing(llava, samples):
    with torch.no_grad():
        loss, tokens = Learner(llava.model, "instruct")(samples)
        whole = llava.model(samples)
    assert tokens == whole.tokens
    assert float(loss) == pytest.approx(float(whole.loss), rel=1e-4)


def test_a_told_scene_names_every_patch(told, tokenizer, world_config, stills, clips):
    words = told["video"].of(1)
    owners, scene = clips.owners[1], clips.facts.scenes[1]
    vocabulary, patches = world_config.language.vocab_size, world_config.tower.num_patches
    assert words.shape == (3, 1 + patches, vocabulary + patches + world_config.tower.frames)
    assert not words[:, 0, : vocabulary + patches].any()
    for t in range(3):
        for p in range(patches):
            said = tokenizer.convert_ids_to_tokens(words[t, 1 + p, :vocabulary].nonzero().flatten().tolist())
            owner = owners[t, p]
            name = set(scene.objects[owner].name.split()) if owner >= 0 else set()
            assert name <= set(said) and (len(said) > 3) == (owner >= 0)
            places = words[t, 1 + p, vocabulary:].nonzero().flatten().tolist()
            assert places == [p, patches + t]
    still = told["image"].of(0)
    assert still.shape == (patches, words.shape[-1])
    assert (still[:, :vocabulary].sum(1) > 3).tolist() == (stills.owners[0, 0] >= 0).tolist()
    assert not still[stills.owners[0, 0] < 0, :vocabulary].any()


def test_objects_say_where_they_are_what_they_do_and_when(told, tokenizer, clips):
    """In every patch of an object stand the words that hold for it at that frame's moment, and no others."""
    seen = set()
    for row, scene in enumerate(clips.facts.scenes):
        names = words_of(scene, 3)
        for frame, patch in zip(*(clips.owners[row] >= 0).nonzero(), strict=True):
            words = told["video"].of(row)[frame, 1 + patch, : len(tokenizer)]
            said = tokenizer.convert_ids_to_tokens(
                [token for token, count in enumerate(words.tolist()) for _ in range(count)])
            expected = [word for name, among in zip(names[frame, clips.owners[row][frame, patch]], WORDS_OF.values(),
                                                    strict=True) if name != UNSAID for word in among[name].split()[:2]]
            assert sorted(said) == sorted(expected)
            seen |= set(said)
    assert seen >= {"left", "middle", "right", "front", "first", "last", "still"}


def test_reading_trains_the_language_model_and_the_places(llava, told, tokenizer, world_config, stills, clips):
    reader = Reader(llava.model, Teller(world_config))
    loss, tokens = reader(with_media(drafts(tokenizer, world_config, stills, clips), told))
    (loss / tokens).backward()
    reached = {name.split(".")[0] + "." + name.split(".")[1] for name, p in reader.named_parameters()
               if p.grad is not None and p.grad.any()}
    assert reached == {"model.language_model", "teller.places"}


def test_projecting_pulls_patches_to_their_words(llava, samples, told, tokenizer, world_config, stills, clips):
    asked = drafts(tokenizer, world_config, stills, clips)
    words = [told[draft.kind].of(draft.row) for draft in asked]
    learner = Projecting(llava.model, Teller(world_config))
    optimizer = torch.optim.Adam(llava.model.projector.parameters(), lr=1e-2)
    values = []
    for _ in range(40):
        loss, tokens, regions = learner(samples, words)
        optimizer.zero_grad()
        (loss / tokens).backward()
        optimizer.step()
        values.append(regions.item())
    assert values[-1] < 0.5 * values[0]
    learning = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert all(name.startswith("model.projector.") for name in learning)
