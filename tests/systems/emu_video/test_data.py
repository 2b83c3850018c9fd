"""Clips of the world and of users' files, and the sentence for each file that cannot be used."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from diorama.errors import InputError, MediaError
from diorama.media.videos import write_video
from diorama.systems.emu_video.data import Clips, WorldClipsConfig, draw_clips, moments, moving_scene, world_clips
from diorama.systems.emu_video.files import FileClips, class_words, read_clip_list, read_frames, usable
from diorama.world.scene import state_at
from diorama.world.vocabulary import WORDS

SMALL = WorldClipsConfig(clips=6, frames=4, size=16, samples=1)


def test_the_same_config_gives_the_same_clips_and_only_known_words(tmp_path: Path) -> None:
    clips, again = draw_clips(SMALL), world_clips(tmp_path / "clips", SMALL)
    assert clips.pixels.shape == (6, 4, 3, 16, 16) and clips.fps == 4
    assert np.array_equal(clips.pixels, again.pixels) and clips.captions == again.captions
    assert np.array_equal(world_clips(tmp_path / "clips", SMALL).pixels, clips.pixels), "read back, not drawn again"
    assert set(clips.words()) <= set(WORDS)
    with pytest.raises(InputError, match="frames differ"):
        world_clips(tmp_path / "clips", WorldClipsConfig(clips=6, frames=5, size=16, samples=1))
    with pytest.raises(InputError, match="no clips of the world"):
        world_clips(tmp_path, SMALL)


def test_one_object_moves_and_the_window_is_around_it() -> None:
    stills = 0
    for number in range(60):
        scene = moving_scene(SMALL, number)
        movers = [i for i, thing in enumerate(scene.objects) if thing.motions]
        assert len(movers) <= 1
        stills += not movers
        times = moments(scene, SMALL)
        assert np.allclose(np.diff(times), 0.25) and times[0] >= 0 and times[-1] <= scene.duration
        if movers and len(scene.objects[movers[0]].motions) == 1:
            first, last = state_at(scene, movers[0], times[0]), state_at(scene, movers[0], times[-1])
            assert first != last, "what happens is seen"
    assert 1 <= stills <= 15


def test_the_frames_between_hold_the_keyframes() -> None:
    between = draw_clips(WorldClipsConfig(clips=3, frames=4, size=16, samples=1, between=True))
    assert between.pixels.shape[1] == 21 and between.fps == 16
    alone = draw_clips(WorldClipsConfig(clips=3, frames=4, size=16, samples=1))
    assert np.array_equal(between.keyframes().pixels, alone.pixels) and between.keyframes().fps == 4


def test_rows_can_be_chosen() -> None:
    clips = Clips(np.arange(24, dtype=np.uint8).reshape(4, 1, 3, 2, 1), [[str(k)] for k in range(4)], 8.0)
    chosen = clips.only([3, 1])
    assert chosen.captions == [["3"], ["1"]] and np.array_equal(chosen.pixels, clips.pixels[[3, 1]])


# ---- users' files ------------------------------------------------------------------------------------------------


def ramp(path: Path, frames: int = 24, fps: float = 12, width: int = 48, height: int = 32) -> Path:
    """A clip whose frame k is grey of level 10 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10
    write_video(path, np.broadcast_to(levels, (frames, height, width, 3)).copy(), fps, crf=0)
    return path


def test_a_folder_of_clips_with_text_files(tmp_path: Path) -> None:
    ramp(tmp_path / "sub" / "a.mp4").with_suffix(".txt").write_text("a ramp\n\nfrom dark to light\n")
    ramp(tmp_path / "b.mp4")
    (found,) = read_clip_list(tmp_path)
    assert found.path.name == "a.mp4" and found.captions == ("a ramp", "from dark to light")


def test_webvid_rows_with_and_without_page_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp(tmp_path / "media" / "p1" / "7.mp4")
    ramp(tmp_path / "media" / "8.mp4")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["videoid", "page_dir", "name"], ["7", "p1", "seven, with a comma"], ["8", "p2", "eight"],
                        ["9", "p2", "nine"]])
    found = read_clip_list(tmp_path / "list.csv", tmp_path / "media")
    assert [file.captions for file in found] == [("seven, with a comma",), ("eight",)]
    assert "1 of 3 clips are missing" in capsys.readouterr().err


def test_json_lines_with_a_part_of_a_clip(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4")
    (tmp_path / "list.jsonl").write_text(json.dumps(
        {"video": "a.mp4", "caption": "the middle", "fps": 12, "start": 0.5, "end": 1.5}) + "\n")
    (found,) = read_clip_list(tmp_path / "list.jsonl")
    assert (found.start, found.end) == (0.5, 1.5)
    pixels = read_frames(found, 4, 4.0, 16)
    levels = pixels.float().mean((1, 2, 3)) / 10
    assert levels.tolist() == pytest.approx([6, 9, 12, 15], abs=0.3), "every third frame from 0.5 s on"


def test_class_folders_become_captions(tmp_path: Path) -> None:
    ramp(tmp_path / "ApplyEyeMakeup" / "v.avi".replace("avi", "mp4"))
    (found,) = read_clip_list(tmp_path)
    assert found.captions == ("apply eye makeup",)
    assert class_words("YoYo") == "yo yo" and class_words("TaiChi") == "tai chi" and class_words("x") == "x"


def test_frames_are_cropped_in_the_middle_and_begin_where_the_generator_says(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4").with_suffix(".txt").write_text("a ramp")
    clips = FileClips(tuple(usable(read_clip_list(tmp_path), 4, 4.0)), 4, 4.0, 16)
    starts = set()
    for seed in range(6):
        pixels, told = clips.take([0, 0], np.random.default_rng(seed))
        assert pixels.shape == (2, 4, 3, 16, 16) and told == ["a ramp"] * 2
        levels = pixels.float().mean((2, 3, 4)) / 10
        assert np.allclose(np.diff(levels, axis=1), 3, atol=0.4)
        starts |= set(levels[:, 0].round().int().tolist())
    assert len(starts) > 3
    assert clips.words() == ["a", "ramp"]


def test_clips_that_are_too_short_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp(tmp_path / "short.mp4", frames=6).with_suffix(".txt").write_text("short")
    ramp(tmp_path / "long.mp4").with_suffix(".txt").write_text("long")
    found = read_clip_list(tmp_path)
    assert [file.captions for file in usable(found, 8, 4.0)] == [("long",)]
    assert "short.mp4 has 0.50 s" in capsys.readouterr().err
    with pytest.raises(InputError, match="Leave it out"):
        read_frames(next(f for f in found if f.captions == ("short",)), 8, 4.0, 16)
    with pytest.raises(MediaError, match="None of the 2 clips can be used"):
        usable(found, 80, 4.0)


@pytest.mark.parametrize("name, text, message", [
    ("list.csv", "videoid,name\n1,a\n", "lacks the column page_dir"),
    ("list.csv", "videoid,page_dir,name\n1,,\n", "line 2 has no videoid or no name"),
    ("list.jsonl", '{"video": "a.mp4"}\n', "line 1 names no clip"),
    ("list.jsonl", '{"video": "a.mp4", "caption": " "}\n', "empty caption"),
    ("list.jsonl", "not json\n", "line 1 names no clip"),
    ("list.jsonl", '{"video": "gone.mp4", "caption": "x"}\n', "None of the 1 clips"),
    ("list.tar", "x", "neither a folder nor"),
])
def test_lists_that_cannot_be_read_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_clip_list(tmp_path / name)


def test_folders_without_captions_are_refused(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="no text file of the same name"):
        read_clip_list(tmp_path)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_clip_list(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_clip_list(tmp_path / "nowhere")
