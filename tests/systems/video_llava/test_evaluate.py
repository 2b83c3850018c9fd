import numpy as np
import pytest
from PIL import Image

from diorama.errors import InputError
from diorama.systems.video_llava import evaluate
from diorama.systems.video_llava.evaluate import (
    Reply,
    accuracy_table,
    by_kind,
    examination,
    examine,
    examine_familiarity,
    examine_world,
)
from diorama.world.questions import Question


def reply(kind: str, said: str, row: int = 0) -> Reply:
    return Reply(row, Question(kind, "what color is the cube?", "red", ("red", "blue")), said, False)


def test_only_the_exact_answer_is_right():
    assert reply("color", "red").is_right
    assert not any(reply("color", said).is_right for said in ("Red", "red.", "the red", "", "blue"))


def test_accuracy_is_counted_by_kind_and_over_all():
    found = by_kind([reply("color", "red"), reply("color", "blue"), reply("shape", "red")])
    assert {kind: (i.mean, i.n) for kind, i in found.items()} == {
        "all": (pytest.approx(2 / 3), 3), "color": (0.5, 2), "shape": (1.0, 1)}
    assert 0 < found["color"].low < 0.5 < found["color"].high < 1
    lines = accuracy_table({"image": found}).splitlines()
    assert len(lines) == 4 and "66.7%" in lines[1]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_every_question_is_answered_and_scored_alike_each_time(llava, seen, kind):
    rows: list[int] = []
    found = examine(llava, seen[kind], questions_each=4, progress=rows.append)
    assert found == examine(llava, seen[kind], questions_each=4)
    assert rows == list(range(1, len(seen[kind].pool) + 1))
    assert {r.row for r in found} == set(range(len(seen[kind].pool)))
    assert {r.is_clip for r in found} == {kind == "video"}
    assert len(found) <= 4 * len(seen[kind].pool)


def test_a_model_that_says_the_truth_scores_everything(llava, seen, monkeypatch):
    truth = iter([r.question.answer for r in examine(llava, seen["video"], questions_each=5)])
    monkeypatch.setattr(evaluate, "decode_answer", lambda tokenizer, ids: next(truth))
    assert all(i.mean == 1 for i in by_kind(examine(llava, seen["video"], questions_each=5)).values())


def test_fresh_scenes_are_of_the_split_and_repeat(llava):
    pool = examination("test", scenes=2, moving=True, frames=3)
    assert pool.pixels.shape[:2] == (2, 3) and len(pool) == 2
    assert np.array_equal(pool.pixels, examination("test", scenes=2, moving=True, frames=3).pixels)
    found = examine_world(llava, "novel", moving=False, scenes=2, questions_each=3)
    assert 0 < found["all"].n <= 6


def test_photographs_and_renders_are_told_apart(llava, tmp_path):
    with pytest.raises(InputError, match="no picture"):
        examine_familiarity(llava, tmp_path, scenes=1)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "notes.txt").write_text("not looked at")
    found = examine_familiarity(llava, tmp_path, scenes=2)
    assert (found["renders"], found["photographs"], found["unreadable"]) == (2, 2, 1)
    assert 0 <= found["renders called strange"] <= 1
    llava.familiarity = None
    with pytest.raises(InputError, match="no measure"):
        examine_familiarity(llava, tmp_path, scenes=1)
