from dataclasses import replace

import pytest
import torch

from diorama.errors import InputError
from diorama.systems.video_llava import recipe as recipes
from diorama.systems.video_llava.data import Mixture, Seen
from diorama.systems.video_llava.finish import stage_folders
from diorama.systems.video_llava.model import SharedProjector
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.recipe import STAGES, Recipe, World, adjusted, load_aligners, train_stage
from diorama.training import RunConfig
from diorama.world.pool import PoolConfig

FEW = RunConfig(steps=2, save_every=1, log_every=1, precision="bf16", learning_rate=1e-3)
SPOKEN = replace(FEW, trainable_only=True)


@pytest.fixture(scope="module")
def recipe(world_config) -> Recipe:
    return Recipe(
        config=world_config, images=PoolConfig(families=3, members=2, size=32, samples=1),
        clips=PoolConfig(families=2, members=2, frames=3, size=32, samples=1, seed=1_000_000), captioned_images=2,
        named_images=2, captioned_clips=2, named_clips=1, kept_images=2, shown_images=6, align_images=FEW,
        align_clips=FEW, read=SPOKEN, project=SPOKEN, instruct=SPOKEN,
        described=Mixture(images=2, clips=1, questions=2), mixture=Mixture(images=2, clips=1, questions=2))


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """All four stages one after the other; stage -> its folder."""
    out = tmp_path_factory.mktemp("recipe")
    heard = []
    world = World.open(out / "pools", recipe, lambda *said: heard.append(said))
    assert {said[0] for said in heard} == {"images", "clips"}
    folders, model = {"world": world, "out": out}, None
    for stage in STAGES:
        model = train_stage(stage, recipe, world, out / stage, init=model, device="cpu")
        folders[stage] = model
    return folders


def parts(folder) -> dict[str, torch.Tensor]:
    return VideoLlava.from_pretrained(folder, device="cpu").model.state_dict()


def changed(before, after) -> set[str]:
    first, second = parts(before), parts(after)
    return {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}


def test_each_stage_changes_its_own_parts_and_nothing_else(trained):
    assert changed(trained["read"], trained["align"]) == {"image_tower", "video_tower"}
    assert changed(trained["align"], trained["project"]) == {"projector"}
    assert changed(trained["project"], trained["instruct"]) == {"projector", "language_model"}


def test_every_folder_answers_and_knows_what_is_familiar(trained):
    for stage in STAGES:
        llava = VideoLlava.from_pretrained(trained[stage], device="cpu")
        assert (llava.familiarity is None) == (stage == "read")
        assert len(llava.show([]).ask("what color is the cube?")) == 1
        assert stage in (trained[stage] / "README.md").read_text()


def test_the_towers_of_both_halves_agree_in_space(trained):
    tensors = parts(trained["align"])
    for name, value in tensors.items():
        if name.startswith("image_tower."):
            assert torch.equal(value, tensors[name.replace("image_tower", "video_tower")]), name


def test_what_the_alignment_left_beside_the_model_loads(trained):
    llava = VideoLlava.from_pretrained(trained["align"], device="cpu")
    image, video = load_aligners(trained["align"], llava)
    pixels = trained["world"].clips.pixels([0, 1])
    assert image.vision_model is llava.model.image_tower
    assert video.embed_vision(pixels).shape == (2, 32)
    assert torch.allclose(image.embed_vision(pixels[:, :, 0]).norm(dim=-1), torch.ones(2))
    fresh = [p for a in (image, video) for p in a.text_model.parameters()]
    assert all(p.isfinite().all() for p in fresh)


def test_a_stage_goes_on_where_it_stopped(trained, recipe):
    longer = adjusted(recipe, "instruct", 3, None)
    out = trained["out"] / "instruct"
    before = parts(trained["instruct"])
    train_stage("instruct", longer, trained["world"], out, init=trained["project"], device="cpu")
    steps = [line for line in (out / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == 3
    assert any(not torch.equal(before[name], value) for name, value in parts(out / "model").items())


def test_pools_are_read_again_not_rendered(trained, recipe):
    heard = []
    again = World.open(trained["out"] / "pools", recipe, lambda *said: heard.append(said))
    assert not heard and (again.images.small == trained["world"].images.small).all()


def test_later_stages_need_a_model(trained, recipe, tmp_path):
    with pytest.raises(InputError, match="'align' left"):
        train_stage("project", recipe, trained["world"], tmp_path)


def test_steps_and_rate_belong_to_one_stage():
    assert adjusted(Recipe(), "all", None, None) == Recipe()
    aligned = adjusted(Recipe(), "align", 7, 0.1)
    assert (aligned.align_images.steps, aligned.align_clips.steps, aligned.read.steps) == (7, 7, Recipe().read.steps)
    for stage in ("read", "project", "instruct"):
        run = getattr(adjusted(Recipe(), stage, 5, None), stage)
        assert run.steps == 5 and run.learning_rate == getattr(Recipe(), stage).learning_rate
    with pytest.raises(InputError, match="Name a --stage"):
        adjusted(Recipe(), "all", 5, None)
    with pytest.raises(InputError, match="steps is 0"):
        adjusted(Recipe(), "read", 0, None)


def test_the_words_of_the_world_fit_the_text_tower(recipe):
    assert recipe.config.text_tower.vocab_size == recipe.config.language.vocab_size
    assert recipes.MINIATURE.text_tower.max_positions == recipe.config.text_tower.max_positions


def test_the_card_lists_every_run_and_the_one_that_went_before(tmp_path):
    folders = ["read-before", "read", "align/images", "align/clips-before", "align/clips", "project", "instruct"]
    for name in folders[1:]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("{}\n")
    assert stage_folders(tmp_path) == folders[1:]
    (tmp_path / "read-before").mkdir()
    with pytest.raises(InputError, match="lacks the log of read-before"):
        stage_folders(tmp_path)
    (tmp_path / "read-before" / "metrics.jsonl").write_text("{}\n")
    assert stage_folders(tmp_path) == folders


def test_a_fresh_projector_sees_every_channel_around_zero_with_deviation_one(trained, recipe):
    """Feature layer -2 has no norm behind it, so channels lie far from zero."""
    torch.manual_seed(0)
    projector = SharedProjector(recipe.config.tower.hidden_size, 12)
    plain = projector[0].weight.clone(), projector[0].bias.clone()
    images = trained["world"].images
    features = torch.randn(len(images), 4, recipe.config.tower.hidden_size) * 7 + 30
    recipes.standardise(projector, [Seen(images, features)])
    scaled = (features.flatten(0, 1) - features.flatten(0, 1).mean(0)) / features.flatten(0, 1).std(0)
    torch.testing.assert_close(projector[0](features).flatten(0, 1), scaled @ plain[0].T + plain[1],
                               atol=1e-3, rtol=1e-3)
