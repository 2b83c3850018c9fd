import json

import numpy as np
import pytest

from diorama.cli import main
from diorama.media.images import save_image
from diorama.media.videos import write_video


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    picture, clip = folder / "picture.png", folder / "clip.mp4"
    save_image(picture, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    write_video(clip, rng.integers(0, 255, (10, 48, 64, 3), dtype=np.uint8), fps=5)
    return [str(picture), str(clip)]


@pytest.fixture
def weights(llava, tmp_path) -> str:
    return str(llava.save_pretrained(tmp_path / "model", card="# random"))


def refused(capsys, *line: str) -> str:
    """The one sentence with which a line is refused; notes may stand before it."""
    assert main(["video-llava", *line]) == 2
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err
    sentences = [line for line in said.err.splitlines() if line.startswith("diorama: ")]
    assert len(sentences) == 1 and sentences[0] == said.err.splitlines()[-1]
    return sentences[0]


def test_run_prints_an_answer_a_question(capsys, files, weights):
    line = ["video-llava", "run", *files, "--weights", weights, "--max-tokens", "4", "-q", "what color is the cube?"]
    assert main(line) == 0
    streamed = capsys.readouterr().out
    assert main([*line, "--no-stream"]) == 0
    assert capsys.readouterr().out == streamed
    assert main([*line, "-q", "how many cones are there?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"what color is the cube?  {streamed.strip()}" and len(lines) == 2


def test_json_says_what_was_seen_and_answered(capsys, files, weights):
    assert main(["video-llava", "run", *files, "--weights", weights, "--max-tokens", "4", "--frames", "2",
                 "--start", "0.4", "--end", "1.2", "--json", "-q", "what color is the zebra?"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    picture, clip = found["media"]
    assert (picture["kind"], picture["indices"], clip["kind"]) == ("image", [], "video")
    assert len(clip["indices"]) == 2 and all(0.399 <= second <= 1.201 for second in clip["timestamps"])
    assert {"fps", "total_frames", "duration", "strangeness"} <= set(clip)
    (answer,) = found["answers"]
    assert answer["question"] == "what color is the zebra?" and answer["unknown_words"] == ["zebra"]
    assert "zebra" in said.err


def test_stderr_holds_nothing_but_our_notes(capsys, stills, weights, tmp_path):
    save_image(tmp_path / "render.png", stills.small[0, 0].transpose(1, 2, 0))
    assert main(["video-llava", "run", str(tmp_path / "render.png"), "--weights", weights, "--max-tokens", "2",
                 "-q", "what color is the cube?"]) == 0
    assert capsys.readouterr().err == ""


def test_unknown_words_are_said_while_streaming_too(capsys, files, weights):
    assert main(["video-llava", "run", files[0], "--weights", weights, "--max-tokens", "3",
                 "-q", "where is the zebra?"]) == 0
    assert "zebra" in capsys.readouterr().err


def test_choices_are_answered_with_one_of_them(capsys, files, weights):
    line = ["video-llava", "run", files[0], "--weights", weights, "-q", "what color is it?", "--choice", "red",
            "--choice", "blue"]
    assert main(line) == 0
    assert capsys.readouterr().out.split()[0] in ("red", "blue")
    assert main([*line, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_evaluate_prints_accuracy_by_kind(capsys, weights):
    assert main(["video-llava", "evaluate", "--weights", weights, "--scenes", "2", "--questions-each", "2",
                 "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["accuracy"]) == {"image", "clip"}
    assert set(found["accuracy"]["clip"]["all"]) == {"mean", "low", "high", "n"}


@pytest.mark.parametrize("line", [
    ["run", "a.png", "-q", "what?"], ["train", "--stage", "align"], ["train", "--stage", "instruct", "--steps", "9"],
    ["evaluate"], ["reproduce"], ["reproduce", "--quick"]])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(capsys, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert main(["video-llava", *line, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would ")
    assert main(["video-llava", *line, "--dry-run", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_looked_at_are_refused(capsys, files, weights, tmp_path):
    words = tmp_path / "words.mp4"
    words.write_text("no clip at all")
    ask = ["--weights", weights, "-q", "what color is the cube?"]
    assert "absent.png" in refused(capsys, "run", str(tmp_path / "absent.png"), *ask)
    assert "words.mp4" in refused(capsys, "run", str(words), *ask)
    assert "9 s to 10 s" in refused(capsys, "run", files[1], *ask, "--start", "9", "--end", "10")
    assert "clip of 9 frames" in refused(capsys, "run", files[1], *ask, "--frames", "9")


def test_wrong_use_is_refused(capsys, files, weights, tmp_path):
    assert "no-such-folder" in refused(capsys, "run", files[0], "-q", "what?", "--weights", "./no-such-folder")
    assert "max_tokens is 0" in refused(capsys, "run", files[0], "-q", "what?", "--max-tokens", "0")
    assert "A question is empty" in refused(capsys, "run", files[0], "-q", " ", "--weights", weights)
    assert "1 different choices" in refused(capsys, "run", files[0], "-q", "what?", "--weights", weights, "--choice",
                                           "red")


def test_training_is_refused_before_anything_is_rendered(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Pass --init" in refused(capsys, "train", "--stage", "project")
    assert "no-such-folder" in refused(capsys, "train", "--stage", "project", "--init", "./no-such-folder")
    assert "starts from nothing" in refused(capsys, "train", "--stage", "all", "--init", "./no-such-folder")
    assert "Name a --stage" in refused(capsys, "train", "--steps", "5")
    assert "steps is 0" in refused(capsys, "train", "--stage", "align", "--steps", "0")
    assert "--media" in refused(capsys, "train", "--data", "mine.json")
    assert "--seeds is 0" in refused(capsys, "reproduce", "--seeds", "0")
    assert not list(tmp_path.iterdir())
