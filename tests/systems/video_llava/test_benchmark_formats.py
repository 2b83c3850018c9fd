import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media.images import save_image
from diorama.systems.video_llava.benchmark_formats import (
    LETTER_ANSWER,
    SHORT_ANSWER,
    questions_from,
    read_gqa,
    read_llava_questions,
    read_nextqa,
    read_pope,
    read_predictions,
    read_scienceqa,
    read_video_qa,
    write_predictions,
)
from diorama.systems.video_llava.files import Conversation, MediaFile
from diorama.systems.video_llava.processing import Turn
from diorama.systems.video_llava.scoring import missing_media, score, score_yes_no


def as_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def as_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def qa(tmp_path):
    """Writes test_q.json and test_a.json beside a folder with the clips a.mp4, v_b.mkv; returns what was read."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "v_b.mkv", "7.avi"):
        (videos / name).write_bytes(b"x")

    def read(questions, answers, **options):
        return read_video_qa(as_json(tmp_path / "test_q.json", questions), as_json(tmp_path / "test_a.json", answers),
                             videos, **options)

    return read


def asked(key, video="a", **fields):
    return {"video_name": video, "question_id": key, "question": f"what {key}", **fields}


def answered(key, answer="red", **fields):
    return {"question_id": key, "answer": answer, **fields}


def test_video_qa_joins_on_question_ids_whatever_the_order(qa, tmp_path):
    found = qa([asked("v_1"), asked("v_2", "b"), asked(3, 7), asked("v_4", "gone")],
               [answered("v_4", "4"), answered(3, 5), answered("v_2", "two", type=7), answered("v_1", "one", type=0)])
    assert [(q.id, q.answer, q.kind) for q in found] == [
        ("v_1", "one", "type 0"), ("v_2", "two", "type 7"), ("3", "5", ""), ("v_4", "4", "")]
    assert [q.media[0].path.name for q in found] == ["a.mp4", "v_b.mkv", "7.avi", "gone"]
    assert [q.id for q in missing_media(found)] == ["v_4"]
    scores = score(found, {"v_1": "1", "v_2": "two", "3": "4"})
    assert scores["all"].mean == 0.5 and scores["all"].n == 4 and scores["type 7"].mean == 1.0


def test_a_part_of_the_questions_is_scored_against_its_own_answers(qa):
    """The released script splits the questions over devices but not the answers, and pairs them by position."""
    questions = [asked(str(n)) for n in range(6)]
    answers = [answered(str(n), f"answer {n}") for n in range(6)]
    with pytest.raises(InputError, match=r"3 of 6 answers .* have no question .* such as 0\."):
        qa(questions[3:], answers)
    part = qa(questions[3:], answers, partial=True)
    assert score(part, {q.id: f"answer {q.id}" for q in part})["all"].mean == 1.0


BROKEN_QA = {
    "question without answer": ([asked("1"), asked("2")], [answered("1")],
                                "1 of 2 questions .* no answer .* such as 2"),
    "question twice": ([asked("1"), asked("1")], [answered("1")], r"1 comes twice in test_q\.json \(items 1 and 2\)"),
    "answer twice": ([asked("1")], [answered("1"), answered("1", "x")], r"1 comes twice in test_a\.json"),
    "id as number and text": ([asked("1"), asked(1)], [answered("1")], "comes twice"),
    "no id": ([{"video_name": "a", "question": "x"}], [answered("1")], "field question_id: it is absent"),
    "no question": ([{"video_name": "a", "question_id": "1"}], [answered("1")], "field question: it is absent"),
    "no video": ([{"question": "x", "question_id": "1"}], [answered("1")], "field video_name: it is absent"),
    "no answer field": ([asked("1")], [{"question_id": "1"}], r"test_a\.json, item 1 .*field answer: it is absent"),
    "answer null": ([asked("1")], [answered("1", None)], "field answer: it holds null"),
    "escape": ([asked("1", "../a")], [answered("1")], "field video: .*leaves the media folder"),
    "empty": ([], [], "is an empty list"),
    "one choice": ([asked("1", choices=["a"])], [answered("1")], "field choices: it holds a list of 1"),
    "no such choice": ([asked("1", choices=["a", "b"])], [answered("1", 2)], "none of the 2 choices"),
}


@pytest.mark.parametrize("questions, answers, says", BROKEN_QA.values(), ids=BROKEN_QA.keys())
def test_broken_video_qa_files_are_named(qa, questions, answers, says):
    with pytest.raises(InputError, match=says):
        qa(questions, answers)


@pytest.mark.parametrize("right", [1, "B", "b", "blue"])
def test_video_qa_with_choices_is_multiple_choice(qa, right):
    one, = qa([asked("1", choices=["red", "blue"])], [answered("1", right)])
    assert one.question == f"what 1\nA. red\nB. blue\n{LETTER_ANSWER}" and one.answer == "blue"
    assert [score([one], {"1": reply})["all"].mean for reply in ("B", "blue", "A", "green")] == [1, 1, 0, 0]


def nextqa_row(**fields):
    row = {"video": "a", "question": "why", "answer": "2", "qid": "0", "type": "CW",
           **{f"a{i}": f"because {i}" for i in range(5)}, **fields}
    return ",".join(row) + "\n", ",".join(row.values()) + "\n"


def test_nextqa(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    header, first = nextqa_row()
    path = tmp_path / "val.csv"
    path.write_text(header + first + nextqa_row(video="b", type="TN", answer="0")[1])
    found = read_nextqa(path, tmp_path)
    assert [(q.id, q.kind, q.answer) for q in found] == [("a_0", "CW", "because 2"), ("b_0", "TN", "because 0")]
    assert [q.id for q in missing_media(found)] == ["b_0"]
    assert score(found, {"a_0": "C"})["CW"].mean == 1.0
    for change, says in (({"answer": "5"}, "field answer"), ({"a3": " "}, "field a3: it is blank")):
        path.write_text(header + nextqa_row(**change)[1])
        with pytest.raises(InputError, match=says):
            read_nextqa(path, tmp_path)
    path.write_text(header + first + first)
    with pytest.raises(InputError, match="a_0 comes twice"):
        read_nextqa(path, tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        read_nextqa(path, tmp_path)
    path.write_text("video,question\n")
    with pytest.raises(InputError, match="no rows"):
        read_nextqa(path, tmp_path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="field a0: it is absent; the item has a, b"):
        read_nextqa(path, tmp_path)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("one.png", "1.jpg", "images/test/5/image.png"):
        save_image(folder / name, Image.new("RGB", (8, 8), "red"))
    return folder


@pytest.mark.parametrize("name, kind", [("coco_pope_popular.json", "popular"), ("llava_pope_test.jsonl", "")])
def test_pope(tmp_path, images, name, kind):
    lines = [{"question_id": n, "image": image, "text": "Is there a dog?", "label": label}
             for n, (image, label) in enumerate([("one.png", "yes"), ("one.png", "no"), ("two.png", "no")])]
    found = read_pope(as_lines(tmp_path / name, lines), images)
    assert [(q.id, q.answer, q.kind, q.rule) for q in found[:2]] == [
        ("0", "yes", kind, "yes or no"), ("1", "no", kind, "yes or no")]
    assert score_yes_no(found, {"0": "Yes.", "1": "No, it is not."}).accuracy.mean == pytest.approx(2 / 3)
    lines[1].update(category="adversarial", question_id=0)
    with pytest.raises(InputError, match="0 comes twice"):
        read_pope(as_lines(tmp_path / name, lines), images)
    lines[1].update(question_id=1, label="maybe")
    with pytest.raises(InputError, match=r"item 2 \(id 1\), field label: it holds the text 'maybe'"):
        read_pope(as_lines(tmp_path / name, lines), images)
    lines[1].update(label="no")
    assert read_pope(as_lines(tmp_path / name, lines), images)[1].kind == "adversarial"


def test_gqa(tmp_path, images):
    entries = {"07": {"imageId": "1", "question": "Which side?", "answer": "the left",
                      "types": {"structural": "query"}},
               "08": {"imageId": 2, "question": "Red?", "answer": "yes"}}
    path = as_json(tmp_path / "gqa.json", entries)
    found = read_gqa(path, images, suffix=SHORT_ANSWER)
    assert [(q.id, q.kind, q.rule) for q in found] == [("07", "query", "gqa"), ("08", "", "gqa")]
    assert found[0].question == f"Which side?\n{SHORT_ANSWER}" and found[0].media[0].path == images / "1.jpg"
    assert read_gqa(path, images)[0].question == "Which side?"
    assert [q.id for q in missing_media(found)] == ["08"]
    assert score(found, {"07": "The left."})["all"].mean == 0.5
    for value, says in (([1], "holds a list of 1"), ({}, "empty object"), ({"1": 3}, "entry 1 is the number 3"),
                        ({"1": {"imageId": "1"}}, "field question: it is absent"),
                        ({"1": {**entries["07"], "imageId": "../1"}}, "leaves the media folder")):
        with pytest.raises(InputError, match=says):
            read_gqa(as_json(path, value), images)


def test_scienceqa(images):
    problems = {"5": {"question": "Which?", "choices": ["cat", "dog"], "answer": 1, "hint": "Look.",
                      "image": "image.png"},
                "6": {"question": "And?", "choices": ["x", "y", "z"], "answer": 0, "hint": "", "image": None},
                "9": {"question": "train"}}
    splits = {"test": ["5", "6"], "train": ["9"], "val": []}
    as_json(images / "problems.json", problems), as_json(images / "pid_splits.json", splits)
    found = read_scienceqa(images)
    assert found[0].question == f"Which?\nContext: Look.\nA. cat\nB. dog\n{LETTER_ANSWER}"
    assert [(q.id, q.kind, q.answer, len(q.media)) for q in found] == [("5", "image", "dog", 1), ("6", "text", "x", 0)]
    assert not missing_media(found)
    scores = score(found, {"5": "The answer is B.", "6": "B"})
    assert scores["image"].mean == 1.0 and scores["text"].mean == 0.0
    with pytest.raises(InputError, match=r"split 'val'\. Pass one of test, train, val"):
        read_scienceqa(images, split="val")
    with pytest.raises(InputError, match="field choices"):
        read_scienceqa(images, split="train")
    as_json(images / "pid_splits.json", {"test": ["5", "77"]})
    with pytest.raises(InputError, match=r"1 ids of the split test .* such as 77"):
        read_scienceqa(images)
    as_json(images / "pid_splits.json", {"test": ["5", "5"]})
    with pytest.raises(InputError, match="5 comes twice"):
        read_scienceqa(images)


def test_llava_questions_have_no_answers(tmp_path, images):
    path = as_lines(tmp_path / "q.jsonl", [
        {"question_id": 1, "image": "one.png", "text": "What?", "category": "conv"},
        {"question_id": 2, "text": "Why?"}])
    found = read_llava_questions(path, images)
    assert [(q.id, q.kind, len(q.media), q.answer) for q in found] == [("1", "conv", 1, None), ("2", "", 0, None)]
    with pytest.raises(InputError, match="comes without an answer"):
        score(found, {"1": "a", "2": "b"})
    write_predictions(tmp_path / "p.jsonl", found, {"1": "a", "2": "b"})
    assert read_predictions(tmp_path / "p.jsonl") == {"1": "a", "2": "b"}
    with pytest.raises(InputError, match="field question_id: it is absent"):
        read_llava_questions(as_lines(path, [{"text": "x"}]), images)
    with pytest.raises(MediaError, match="does not exist"):
        read_llava_questions(path, images / "nowhere")


def test_own_conversations_become_questions_without_markers():
    media = (MediaFile("image", Path("a.png")),)
    one = Conversation("x", (Turn("<image>\nColor?", "red"), Turn("Shape?", "cube")), media)
    found = questions_from([one])
    assert [(q.id, q.question, q.answer, q.media) for q in found] == [
        ("x", "Color?", "red", media), ("x#2", "Shape?", "cube", media)]
    with pytest.raises(InputError, match="x comes twice"):
        questions_from([one, one])


def test_predictions_are_written_whole_and_read_back(tmp_path, qa):
    found = qa([asked("1"), asked("2", "gone")], [answered("1"), answered("2")])
    path = tmp_path / "out" / "predictions.jsonl"
    reply = 'né"\n__import__("os")\u2028'
    write_predictions(path, found, {"1": reply})
    lines = path.read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0]) == {"id": "1", "question": "what 1", "answer": "red", "pred": reply}
    assert json.loads(lines[1])["pred"] is None and lines[2:] == [""]
    assert read_predictions(path) == {"1": reply, "2": None}
    assert score(found, read_predictions(path))["all"].n == 2
    before = path.read_bytes()
    with pytest.raises(InputError, match="have no reply"):
        write_predictions(path, found, {})
    with pytest.raises(InputError, match=r"Name the file \*\.jsonl"):
        write_predictions(tmp_path / "p.txt", found, {"1": "x"})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_predictions_of_other_tools_and_broken_ones(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert read_predictions(as_lines(path, [{"question_id": 3, "prompt": "p", "text": "Yes", "model_id": "m"}])) == {
        "3": "Yes"}
    for lines, says in (([{"id": 1, "pred": "a"}, {"id": "1", "pred": "b"}], "1 comes twice"),
                        ([{"id": 1, "pred": 3}], "holds the number 3, not text"),
                        ([{"id": 1}], "field text: it is absent"),
                        ([{"pred": "x"}], "field question_id: it is absent")):
        with pytest.raises(InputError, match=says):
            read_predictions(as_lines(path, lines))


def test_real_activitynet_qa_is_joined_whole(tmp_path, shared_data):
    folder = shared_data / "video_text" / "activitynet_qa"
    found = read_video_qa(folder / "test_q.json", folder / "test_a.json", tmp_path)
    assert len(found) == 2000 == len(missing_media(found)) and len({q.media[0].path for q in found}) == 200
    assert {q.answer for q in found if q.kind == "type 3"} == {"yes", "no"}
    scores = score(found, {})
    assert scores["all"].mean == 0.0 and sum(scores[kind].n for kind in scores if kind != "all") == 2000


def test_real_pope_nextqa_and_the_constant_answer(tmp_path, shared_data):
    found = read_pope(shared_data / "vision_language_text" / "pope" / "coco_pope_random.json", tmp_path)
    assert Counter(q.answer for q in found) == {"yes": 750, "no": 750} and {q.kind for q in found} == {"random"}
    coco = shared_data / "images" / "coco_mini"
    here = read_pope(coco / "pope_questions.jsonl", coco)
    assert len(here) == 36 and not missing_media(here)
    always = score_yes_no(here, {q.id: "Yes" for q in here})
    assert always.accuracy.mean == 0.5 and always.recall.mean == 1.0 and always.f1.mean == pytest.approx(2 / 3)
    nextqa = read_nextqa(shared_data / "video_text" / "nextqa" / "val.csv", tmp_path)
    assert len(nextqa) == 3471 and all(q.answer in q.choices for q in nextqa)
