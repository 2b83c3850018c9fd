import pytest
import torch

from diorama.checkpoints import read_tensors
from diorama.systems.video_llava.familiarity import (
    Familiarity,
    error_rates,
    threshold_between,
    token_statistics,
)


@pytest.fixture
def cloud():
    torch.manual_seed(0)
    mixing = torch.randn(12, 12)
    return lambda count: torch.randn(count, 12) @ mixing + 3


def test_the_familiar_lies_near_one_and_the_strange_far_off(cloud):
    known = Familiarity.fit(cloud(4000))
    inside, outside = known.distance(cloud(500)), known.distance(cloud(500) * 3)
    assert inside.mean() == pytest.approx(1.0, abs=0.2)
    assert outside.min() > inside.median()
    assert known.distance(known.mean[None]) == 0


def test_a_direction_that_is_never_used_counts_but_not_without_bound(cloud):
    flat = cloud(1000)
    flat[:, 0] = 1.0
    known = Familiarity.fit(flat)
    moved = known.mean.repeat(2, 1)
    moved[1, 0] += 5
    near, far = known.distance(moved).tolist()
    assert near == 0 and 0.5 < far < 1e3


def test_writing_and_reading_change_nothing(cloud, tmp_path):
    known = Familiarity.fit(cloud(200), threshold=1.7)
    known.write(tmp_path / "familiarity.safetensors")
    again = Familiarity.from_tensors(read_tensors(tmp_path / "familiarity.safetensors"))
    points = cloud(5)
    assert torch.equal(known.distance(points), again.distance(points))
    assert float(again.threshold) == pytest.approx(1.7)


def test_strangeness_is_the_median_over_frames_in_thresholds(llava, clips):
    tower, frames = llava.model.image_tower, clips.pixels([0])[0].transpose(0, 1)
    known = Familiarity.fit(torch.randn(300, 64), threshold=2.0)
    distances = known.distance(token_statistics(tower, frames)) / 2
    assert known.strangeness(tower, frames) == pytest.approx(float(distances.median()))


def test_noise_is_stranger_than_the_world(llava, stills):
    shown = [llava.familiarity.strangeness(llava.model.image_tower, stills.pixels([row])) for row in range(4)]
    noise = llava.familiarity.strangeness(llava.model.image_tower, 2 * torch.randn(1, 3, 32, 32))
    assert noise > max(shown)


def test_the_threshold_makes_the_fewest_errors():
    familiar, strange = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.9]), torch.tensor([1.2, 2.0, 3.0, 4.0])
    best = threshold_between(familiar, strange)
    assert 1.1 < best < 1.2
    assert error_rates(familiar.tolist(), strange.tolist(), best) == (pytest.approx(0.2), 0.0)
    for other in (0.85, 1.5, 2.5):
        assert sum(error_rates(familiar.tolist(), strange.tolist(), other)) > 0.2
