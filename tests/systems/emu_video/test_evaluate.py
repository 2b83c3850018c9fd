"""Examination: what counts as right, intervals, goals; captions are of scenes that training never saw."""

import pytest
import torch

from diorama.diffusion.text_to_image import MiniatureConfig, build_miniature
from diorama.errors import InputError
from diorama.systems.emu_video import evaluate
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.evaluate import Examined, clip_features, judged, make_clips, moved, table
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling
from diorama.world.readings import ImageReading, ReadMotion, ReadObject, Track, VideoReading
from diorama.world.sampling import split_of
from diorama.world.scene import Motion, Scene, SceneObject


def thing(shape: str, color: str) -> ReadObject:
    return ReadObject(shape, color, "large", (0, 0, 0), 0, 0, 0.75, 0, 1.0, 1.0, 1.0, 1.0, 1.0)


def track(shape: str, color: str, kind: str | None, kept: int = 4) -> Track:
    """Four frames, of which the first `kept` show the attributes."""
    frames = tuple(thing(shape, color) if k < kept else thing(shape, "grey") for k in range(4))
    motions = (ReadMotion(Motion(kind, 0.0, 1.0), 2.0),) if kind else ()
    return Track(shape, color, "large", frames, motions, 1.0, 1.0, 1.0)


SCENE = Scene((SceneObject("cube", "red", "large", motions=(Motion("left", 0.0, 1.0),)),
               SceneObject("cone", "blue", "small")), duration=2.0)


@pytest.mark.parametrize("objects, tracks, right", [
    ([thing("cube", "red"), thing("cone", "blue")], [track("cube", "red", "left"), track("cone", "blue", None)],
     (1.0, 1.0, 1.0, 1.0)),
    ([thing("cube", "blue"), thing("cone", "red")], [track("cube", "red", "right")], (0.0, 0.0, 1.0, 0.0)),
    ([thing("cube", "red")], [track("cube", "red", "left", kept=2)], (0.5, 0.0, 0.0, 1.0)),
    ([], [], (0.0, 0.0, 0.0, 0.0)),
])
def test_verdicts(monkeypatch: pytest.MonkeyPatch, objects: list, tracks: list, right: tuple[float, ...]) -> None:
    monkeypatch.setattr(evaluate, "read_image", lambda image: ImageReading(tuple(objects)))
    monkeypatch.setattr(evaluate, "read_video", lambda clip, fps: VideoReading(tuple(tracks), (), (0.0, 0.25)))
    blank = torch.zeros(3, 8, 8, dtype=torch.uint8)
    found = judged([Examined(SCENE, "a red cube moves left", blank, blank.expand(4, 3, 8, 8))], fps=4.0)
    names = ("image: color and shape", "image: two bound", "clip: attributes held", "clip: motion word")
    assert tuple(found[name].mean for name in names) == right
    assert found["image: color and shape"].n == 2 and found["clip: motion word"].n == 1


def test_an_unsure_oracle_counts_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = ReadObject("cube", "red", "large", (0, 0, 0), 0, 0, 0.75, 0, 1.0, 0.3, 1.0, 1.0, 1.0)
    monkeypatch.setattr(evaluate, "read_image", lambda image: ImageReading((unsure,)))
    monkeypatch.setattr(evaluate, "read_video", lambda clip, fps: VideoReading((), (), (0.0, 0.25)))
    blank = torch.zeros(3, 8, 8, dtype=torch.uint8)
    found = judged([Examined(SCENE, "", blank, blank.expand(4, 3, 8, 8))], fps=4.0)
    assert found["image: color and shape"].mean == 0.0


def test_captions_are_of_unseen_scenes_and_rows_have_their_own_seeds() -> None:
    smallest = MiniatureConfig(image_size=16, latent=False, width=32, layers=1, text_layers=1)
    emu = EmuVideo.new(build_miniature(smallest, device="cpu"), EmuVideoConfig(
        temporal=TemporalConfig(frames=2, head_dim=32), sampling=SamplingConfig(steps=1)))
    made = make_clips(emu, 10, "novel", sampling=Sampling(seed=4))
    assert len(made) == 10 and {split_of(one.scene) for one in made if one.scene.objects[0].motions} <= {"novel"}
    assert all(one.clip.shape == (2, 3, 16, 16) and one.image.shape == (3, 16, 16) for one in made)
    alone = make_clips(emu, 9, "novel", sampling=Sampling(seed=4))
    assert [one.caption for one in alone] == [one.caption for one in made[:9]]
    assert torch.equal(alone[8].image, made[8].image)


def test_motion_stands_beside_consistency_and_goals_beside_what_missed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = moved([torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.zeros(4, 3, 16, 16).byte()])
    assert list(found) == ["frame consistency", "image consistency", "motion score", "still clips"]
    assert found["still clips"].mean == 0.5
    text = table({**found, "clip: motion word": found["still clips"]})
    assert "goal 75%, not reached" in text and len(text.splitlines()) == 5


def test_an_encoder_that_is_none_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read as CLIP"):
        clip_features(str(tmp_path))
