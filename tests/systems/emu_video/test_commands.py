"""The commands: what they write and say, and the one sentence for what cannot work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama.cli import main
from diorama.diffusion.text_to_image import TextToImage
from diorama.media.images import save_image
from diorama.media.videos import FrameSampler, read_video, write_video
from diorama.systems.emu_video import pipeline
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.data import WorldClipsConfig, draw_clips
from diorama.systems.emu_video.pipeline import EmuVideo

CONFIG = EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=16), pixels=16, fps=4.0,
                        sampling=SamplingConfig(steps=2))


@pytest.fixture(scope="module")
def weights(base: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A video model whose second input does something, its interpolator, its image base, and one never trained."""
    folder = tmp_path_factory.mktemp("weights")
    emu = EmuVideo.new(base, CONFIG)
    emu.save_pretrained(folder / "untrained", card="# tiny")
    with torch.no_grad():
        emu.video.given.weight.normal_(std=0.1)
    emu.save_pretrained(folder / "video", card="# tiny")
    between = EmuVideo(base, emu.video, EmuVideoConfig.from_dict({**CONFIG.to_dict(), "role": "interpolator"}))
    between.save_pretrained(folder / "between", card="# tiny")
    base.save_pretrained(folder / "base", card="# tiny")
    return {path.name: str(path) for path in folder.iterdir()}


def refused(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    """The one sentence with which a line is refused; notes may stand before it."""
    assert main(["emu-video", *line]) == 2
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err
    sentences = [line for line in said.err.splitlines() if line.startswith("diorama: ")]
    assert len(sentences) == 1 and sentences[0] == said.err.splitlines()[-1]
    return sentences[0]


# ---- run ---------------------------------------------------------------------------------------------------------


def test_run_writes_a_clip_and_says_what_moves(capsys, weights, tmp_path: Path) -> None:
    out = tmp_path / "clips" / "a.mp4"
    line = ["emu-video", "run", "a red cube moves left", "-o", str(out), "--weights", weights["video"], "--json"]
    assert main(line) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["frames"], said["fps"], said["seed"]) == (4, 4.0, 0) and said["motion score"] >= 0
    clip = read_video(out, FrameSampler(frames=4))
    assert clip.total_frames == 4 and clip.frames.shape == (4, 16, 16, 3)
    assert main([*line[:-1], "--fps", "8", "--frames", "2", "--seed", "3"]) == 0
    assert "2 frames at 8 a second" in capsys.readouterr().out


def test_run_animates_a_picture_and_notes_that_it_is_scaled(capsys, weights, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    save_image(picture, np.full((40, 60, 3), 200, dtype=np.uint8))
    assert main(["emu-video", "run", "a red cube", "-o", str(tmp_path / "a.mp4"), "--image", str(picture), "--weights",
                 weights["video"], "--guidance-image", "1", "--guidance-text", "2", "--steps", "3"]) == 0
    assert "p.png is 60 x 40 and the model draws 16 x 16" in capsys.readouterr().err


def test_run_interpolates_and_chooses_among_candidates(capsys, weights, tmp_path: Path) -> None:
    assert main(["emu-video", "run", "a red cube", "-o", str(tmp_path / "a.gif"), "--interpolate", "--interpolator",
                 weights["between"], "--weights", weights["video"], "--candidates", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["frames"], said["fps"]) == (21, 16.0)
    gains = [one["text gain"] for one in said["candidates"]]
    assert len(gains) == 2 and gains[0] == max(gains) and said["seed"] == said["candidates"][0]["seed"]


def test_a_model_that_takes_no_image_draws_from_text_alone(capsys, weights, tmp_path: Path) -> None:
    assert main(["emu-video", "run", "a red cube", "-o", str(tmp_path / "a.mp4"), "--weights",
                 weights["untrained"]]) == 0
    assert capsys.readouterr().out
    save_image(tmp_path / "p.png", np.zeros((16, 16, 3), dtype=np.uint8))
    assert "never trained to begin with a given image" in refused(
        capsys, "run", "a red cube", "--image", str(tmp_path / "p.png"), "--weights", weights["untrained"])


def test_unknown_words_are_named(capsys, weights, tmp_path: Path) -> None:
    assert main(["emu-video", "run", "a red zebra moves left", "-o", str(tmp_path / "a.mp4"), "--weights",
                 weights["video"]]) == 0
    assert "does not know the words zebra" in capsys.readouterr().err
    assert main(["emu-video", "run", "a red cube " * 12, "-o", str(tmp_path / "a.mp4"), "--weights",
                 weights["video"]]) == 0
    assert "longer than the 16 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["run", "a red cube"], ["evaluate"]])
def test_without_shipped_weights_one_sentence_says_what_to_train(
        capsys, monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    monkeypatch.setattr(pipeline, "miniature_names", lambda: [])
    sentence = refused(capsys, *line)
    assert "No weights are shipped as emu-video-mini yet" in sentence
    assert "diorama emu-video train --stage video" in sentence and "--weights" in sentence


def test_runs_that_cannot_work_are_refused(capsys, weights, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    given = ["--weights", weights["video"], "-o", str(out)]
    assert "prompt is empty" in refused(capsys, "run", " ", *given)
    assert "--candidates is 0" in refused(capsys, "run", "a cube", "--candidates", "0", *given)
    assert "know no other length. Pass 1 to 4, or train with --frames 9" in refused(
        capsys, "run", "a cube", "--frames", "9", *given)
    assert "2000 steps cannot be taken" in refused(capsys, "run", "a cube", "--steps", "2000", *given)
    assert "not of Emu Video" in refused(capsys, "run", "a cube", "--weights", weights["base"])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "broken.png" in refused(capsys, "run", "a cube", "--image", str(tmp_path / "broken.png"), *given)
    assert "is a video model" in refused(capsys, "run", "a cube", "--interpolate", "--interpolator", weights["video"],
                                         *given)
    assert not out.exists(), "nothing half-written"


# ---- train -------------------------------------------------------------------------------------------------------


def clip_folder(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    clips = draw_clips(WorldClipsConfig(clips=count, frames=8, size=16, samples=1, still=0.0))
    for number in range(count):
        frames = np.repeat(clips.pixels[number].transpose(0, 2, 3, 1), 8, axis=0)
        write_video(folder / f"{number}.mp4", frames, 16, crf=4)
        (folder / f"{number}.txt").write_text(clips.captions[number][0])
    return folder


def test_the_stages_in_turn_on_a_folder_of_clips(capsys, weights, tmp_path: Path) -> None:
    data = clip_folder(tmp_path / "clips")
    common = ["--data", str(data), "--frames", "4", "--batch", "2", "--steps", "2", "--device", "cpu"]
    init = weights["base"]
    for stage in ("video", "hq", "interpolate"):
        line = ["emu-video", "train", "--stage", stage, "--init", init, "--out", str(tmp_path / stage), *common]
        assert main(line) == 0
        if stage != "interpolate":
            init = str(tmp_path / stage / "model")
    assert "does not know" in capsys.readouterr().err
    card = (tmp_path / "interpolate" / "model" / "README.md").read_text()
    assert "--stage interpolate" in card and "2 steps" in card
    loaded = EmuVideo.from_pretrained(tmp_path / "video" / "model", device="cpu",
                                      interpolator=tmp_path / "interpolate" / "model")
    assert loaded.interpolator is not None and loaded.interpolator.config.role == "interpolator"
    assert loaded.config.temporal.text_width == loaded.interpolator.config.temporal.text_width == 32


def test_only_the_frozen_layers_read_where_that_is_asked_for(capsys, weights, tmp_path: Path) -> None:
    line = ["emu-video", "train", "--stage", "video", "--init", weights["base"], "--clips", "2", "--frames", "4",
            "--batch", "2", "--steps", "1", "--out", str(tmp_path / "run"), "--device", "cpu", "--no-read-captions"]
    assert main(line) == 0
    assert EmuVideo.from_pretrained(tmp_path / "run" / "model", device="cpu").config.temporal.text_width == 0


def test_low_steps_come_first_and_the_same_line_resumes(capsys, weights, tmp_path: Path) -> None:
    line = ["emu-video", "train", "--stage", "video", "--init", weights["base"], "--clips", "4", "--frames", "4",
            "--batch", "2", "--steps", "2", "--low-steps", "1", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(line) == 0
    low = (tmp_path / "run" / "low" / "metrics.jsonl").read_text()
    assert low.count("\n") == 1 and (tmp_path / "run" / "clips-8").is_dir() and (tmp_path / "run" / "clips-16").is_dir()
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert main(line) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before, "nothing was left to do"


def test_the_image_stage_on_a_folder_of_pictures(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autoencoder, then text and network; what it leaves is an image base for the stage video."""
    from diorama.diffusion.image_training import Recipe
    from diorama.diffusion.text_to_image import MiniatureConfig
    from diorama.systems.emu_video import recipe
    from diorama.training import RunConfig

    run = RunConfig(steps=2, learning_rate=1e-3, ema=0.9, save_every=2)
    tiny = MiniatureConfig(image_size=16, autoencoder_widths=(8, 8), tokens=4, width=32, layers=1, head_width=16,
                           text_width=32, text_layers=1, words=16)
    monkeypatch.setattr(recipe, "Recipe", lambda: Recipe(miniature=tiny, autoencoder=run, network=run, batch=2,
                                                         autoencoder_batch=2))
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        save_image(tmp_path / "pictures" / f"{number}.png", np.full((16, 16, 3), 80 * number, dtype=np.uint8))
        (tmp_path / "pictures" / f"{number}.txt").write_text("a grey picture")
    line = ["emu-video", "train", "--stage", "image", "--data", str(tmp_path / "pictures"), "--out",
            str(tmp_path / "image"), "--steps", "2", "--batch", "2", "--device", "cpu"]
    assert main(line) == 0
    before = (tmp_path / "image" / "metrics.jsonl").read_text()
    assert main(line) == 0, "the same line goes on, here with nothing left to do"
    assert (tmp_path / "image" / "metrics.jsonl").read_text() == before
    data = clip_folder(tmp_path / "clips", 2)
    assert main(["emu-video", "train", "--stage", "video", "--init", str(tmp_path / "image" / "model"), "--data",
                 str(data), "--frames", "4", "--batch", "2", "--steps", "1", "--out", str(tmp_path / "video"),
                 "--device", "cpu"]) == 0
    assert EmuVideo.from_pretrained(tmp_path / "video" / "model", device="cpu").takes_image


def test_stages_without_what_they_go_on_from_are_refused(capsys, weights, tmp_path: Path) -> None:
    assert "goes on from a model, and none was given" in refused(capsys, "train", "--stage", "video")
    assert "Run --stage video first" in refused(capsys, "train", "--stage", "hq", "--init", weights["base"])
    assert "does not exist" in refused(capsys, "train", "--stage", "video", "--init", weights["base"], "--data",
                                       str(tmp_path / "nowhere"))


def test_dry_runs_do_nothing(capsys, tmp_path: Path) -> None:
    for line in (["run", "a cube"], ["train", "--stage", "video"], ["evaluate"], ["reproduce"],
                 ["import", "a/b", "--layout", "modelscope"]):
        assert main(["emu-video", *line, "--dry-run", "--out", str(tmp_path / "o")]) == 0
        assert capsys.readouterr().out.startswith("would ")
    assert not (tmp_path / "o").exists()


# ---- evaluate, import, juice -------------------------------------------------------------------------------------


def test_evaluate_animates_files_and_never_tells_consistency_alone(capsys, weights, tmp_path: Path) -> None:
    data = clip_folder(tmp_path / "clips", 2)
    assert main(["emu-video", "evaluate", "--weights", weights["video"], "--data", str(data), "--prompts", "2",
                 "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert set(measured) == {"frame consistency", "image consistency", "motion score", "still clips"}
    assert measured["motion score"]["n"] == 2
    assert "--prompts is 0" in refused(capsys, "evaluate", "--prompts", "0")


def test_import_asks_for_the_image_model_of_an_adapter(capsys) -> None:
    assert "Pass --base" in refused(capsys, "import", "guoyww/animatediff-motion-adapter-v1-5-2", "--layout",
                                    "motion-adapter")


def test_juice_sums_up_a_file(capsys, tmp_path: Path) -> None:
    votes = [{"rater": str(r), "choice": "left" if r < 4 else "right", "reasons": ["amount of motion"]}
             for r in range(5)]
    rows = [{"prompt": f"p{n}", "question": "quality", "left": "a", "right": "b", "votes": votes} for n in range(4)]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["emu-video", "juice", str(tmp_path / "v.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"]["win rate"]["a"]["mean"] == 1.0 and set(found["quality"]["agreement"]) == {"4|1"}
    (tmp_path / "v.jsonl").write_text("{}")
    assert "line 1 is no record" in refused(capsys, "juice", str(tmp_path / "v.jsonl"))
