import pytest
import torch

from diorama.systems.video_llava.data import Interviewer, Mixture, with_media
from diorama.systems.video_llava.train import Learner


@pytest.fixture
def samples(llava, tokenizer, world_config, stills, clips, seen):
    ask = Interviewer(tokenizer, world_config, Mixture(images=2, clips=2, texts=1, questions=2), seed=0,
                      images=stills.facts, clips=clips.facts)
    return with_media(ask(0), seen)


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
