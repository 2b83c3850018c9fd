from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from diorama.cli import main
from diorama.media.videos import write_video
from diorama.studio.demo import run_demo
from diorama.studio.execution import to_number, to_truth
from diorama.studio.moments import Activity, slid
from diorama.studio.report import make_plan, run_plan
from diorama.studio.sheet import MAX_LINES, wrap
from diorama.world.scene import Motion, Scene, SceneObject


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("three", 3),
        ("There are two cubes.", 2),
        ("12 people", 12),
        ("no cubes", 0),
        ("None.", 0),
        ("a cube", 1),
        ("I cannot tell", None),
        ("", None),
        ("twenty", 20),
    ],
)
def test_numbers_are_read_from_answers(text: str, number: int | None) -> None:
    assert to_number(text) == number


def test_yes_and_no_are_read_from_answers() -> None:
    assert [to_truth(t) for t in ("Yes, it does.", "no", "perhaps", "")] == [True, False, None, None]


def moving(*motions: tuple[str, str, float, float]) -> Scene:
    """Objects (color, motion kind, start, end), side by side, in a clip of four seconds."""
    return Scene(
        tuple(
            SceneObject("cube", color, "large", (1.6 * i - 0.8, 0.0, 0.0), motions=(Motion(kind, start, end),))
            for i, (color, kind, start, end) in enumerate(motions)
        ),
        duration=4.0,
    )


@pytest.mark.parametrize(
    ("request_", "span"),
    [
        ("when does the red cube grow?", (0.5, 1.5)),
        ("find when the blue cube vanishes", (2.75, 2.75)),
        ("when does the green cube spin?", None),
    ],
)
def test_events_are_located(
    request_: str, span: tuple[float, float] | None, truthful: object, save_scene: Callable[..., Path]
) -> None:
    path = save_scene(moving(("red", "grow", 0.5, 1.5), ("blue", "vanish", 2.75, 2.75)), "clip.mp4")
    (outcome,) = run_plan(make_plan(request_, [path])).outcomes
    if span is None:
        assert outcome.value is None and outcome.text == "not seen in this clip"
    else:
        assert (outcome.value["start"], outcome.value["end"]) == pytest.approx(span, abs=0.25)
        assert outcome.value["resolution"] < 0.25
    for exchange in outcome.exchanges:
        assert exchange.timestamps and exchange.probability == pytest.approx(0.9)


def test_files_are_compared_by_typed_values(truthful: object, save_scene: Callable[..., Path]) -> None:
    red, blue = SceneObject("cube", "red", "large"), SceneObject("sphere", "blue", "small", (1.5, 0.0, 0.0))
    paths = [save_scene(Scene((red,)), "a.png"), save_scene(Scene((red, blue)), "b.png")]

    def value(request: str) -> list[int]:
        return run_plan(make_plan(request, paths)).outcomes[0].value["files"]

    assert value("which image shows more objects?") == [1]
    assert value("which image shows fewer objects?") == [0]
    assert value("which image shows more cubes?") == [0, 1]
    assert value("which image shows a sphere?") == [1]
    assert value("which image shows a cone?") == []
    assert value("is the cube the same color in both images?") == [0, 1]
    (changed,) = run_plan(make_plan("what changed between the two images?", paths)).outcomes
    assert "0 spheres in the first, 1 in the second" in changed.text
    (same,) = run_plan(
        make_plan("are a.png and b.png the same?", [paths[0], save_scene(Scene((red,)), "b.png")])
    ).outcomes
    assert same.value["changes"] == [] and same.text.startswith("no change")


def test_activity_finds_slow_and_quick_changes(tmp_path: Path) -> None:
    frames = np.full((48, 64, 64, 3), 128, np.uint8)
    frames[24:, 20:30, 20:30] = 200  # at 1 s
    for step in range(12):  # from 1.5 s to 2 s, a little a frame
        frames[36 + step :, 40:60, 40:60] += 2
    write_video(tmp_path / "c.mp4", frames, 24)
    first, second = Activity.of(tmp_path / "c.mp4").stretches()
    assert first == pytest.approx((23 / 24, 1.0), abs=0.05)
    assert second[0] == pytest.approx(1.5, abs=0.2) and second[1] == pytest.approx(2.0, abs=0.2)


def test_a_still_clip_has_no_activity_and_windows_cover_it(tmp_path: Path) -> None:
    write_video(tmp_path / "c.mp4", np.full((48, 32, 32, 3), 99, np.uint8), 24)
    activity = Activity.of(tmp_path / "c.mp4")
    assert activity.stretches() == []
    windows = slid(0.0, activity.duration, activity.duration)
    assert windows[0][0] == 0 and windows[-1][1] == pytest.approx(activity.duration)
    assert all(after[0] < before[1] for before, after in pairwise(windows))


def test_texts_on_the_sheet_fit() -> None:
    font = ImageFont.load_default(size=20)
    for text in ("word " * 400, "w" * 3000, "a"):
        lines = wrap(text, font, 300)
        assert len(lines) <= MAX_LINES and all(font.getlength(line) <= 300 or "answer.json" in line for line in lines)


@pytest.mark.parametrize("seed", [0, 1])
def test_demo_is_all_right_with_a_model_that_knows_the_truth(
    seed: int, truthful: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diorama.studio import demo

    monkeypatch.setattr(demo, "SIZE", 64)
    monkeypatch.setattr(demo, "SAMPLES", 1)
    result, text = run_demo(tmp_path / "demo", "truthful", seed, "cpu")
    assert [row["kind"] for row in result["questions"]] == ["answer", "count", "answer", "locate", "compare"]
    assert result["right"] == 5, text
    with Image.open(tmp_path / "demo" / "question-4" / "contact_sheet.png") as sheet:
        assert sheet.width == 1080
    assert "5 of 5 right" in text and "WRONG" not in text


def test_demo_says_what_it_would_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from diorama.console import Common
    from diorama.studio.commands import demo

    assert demo(common=Common(dry_run=True, out=tmp_path / "demo")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5 and not (tmp_path / "demo").exists()
    assert main(["doctor"]) == 0
