"""Item files of the public sets, and the world's own items."""

import json
from pathlib import Path

import numpy as np
import pytest

from diorama.errors import InputError, MediaError
from diorama.media.images import save_image
from diorama.systems.selfeval.items import by_task, is_pairs, pixels_of, read_items, read_pairs
from diorama.systems.selfeval.world_items import world_items, world_pairs
from diorama.world.options import OPTIONS
from diorama.world.vocabulary import split_words


def picture(path: Path, width: int = 20, height: int = 10) -> Path:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = (200, 0, 0)
    save_image(path, pixels)
    return path


def written(path: Path, content) -> Path:
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)
    return path


def test_own_json_lines(tmp_path: Path) -> None:
    file = written(tmp_path / "items.jsonl", '{"image": "a.png", "options": ["x", "y"], "answer": 1, "task": "color", '
                   '"chance": 0.25}\n\n{"image": "b", "options": ["x", "y", "z"], "answer": 0}\n')
    picture(tmp_path / "b.png")
    first, second = read_items(file)
    assert (first.options, first.answer, first.task, first.chance) == (("x", "y"), 1, "color", 0.25)
    assert second.image == tmp_path / "b.png" and second.chance == pytest.approx(1 / 3)
    assert by_task([first, second], ["color"]) == [first]
    with pytest.raises(InputError, match="No item is of the task count"):
        by_task([first, second], ["count"])


def test_aro_is_cropped_to_its_box(tmp_path: Path) -> None:
    entry = {"image_path": "a.png", "true_caption": "the red left", "false_caption": "the black left", "bbox_x": 0,
             "bbox_y": 0, "bbox_w": 10, "bbox_h": 10}
    picture(tmp_path / "a.png")
    item = read_items(written(tmp_path / "visual_genome_attribution.json", [entry]))[0]
    assert item.task == "attribute" and item.answer == 0 and item.chance == 0.5
    cropped, whole = pixels_of(item.image, 8, item.box), pixels_of(item.image, 8)
    assert (cropped[0] == 200).all() and not (whole[0] == 200).all()
    assert read_items(written(tmp_path / "visual_genome_relation.json", [entry]))[0].task == "spatial"
    with pytest.raises(InputError, match="holds nothing of a"):
        pixels_of(item.image, 8, (30.0, 0.0, 5.0, 5.0))
    del entry["false_caption"]
    with pytest.raises(InputError, match=r"Entry 1 of .* is no ARO entry"):
        read_items(written(tmp_path / "visual_genome_relation.json", [entry]))


def test_aro_order_clevr_and_tifa(tmp_path: Path) -> None:
    order = written(tmp_path / "coco_order.json", [{"image_path": "a.jpg", "caption_options": list("abcde")}])
    assert read_items(order)[0].chance == pytest.approx(0.2) and read_items(order)[0].task == "corruption"
    clevr = written(tmp_path / "pair_binding_color.json", {"c.png": [["true", "false"], ["t", "f"]]})
    assert [(i.task, i.options, i.answer) for i in read_items(clevr)] == [
        ("attribute", ("true", "false"), 0), ("attribute", ("t", "f"), 0)]
    with pytest.raises(InputError, match="names no CLEVR task"):
        read_items(written(tmp_path / "unknown.json", {"c.png": [["true", "false"]]}))
    base = {"caption": "A red bus near two dogs", "id": "coco_1"}
    tifa = written(tmp_path / "tifa.json", [
        {**base, "element_type": "color", "choices": ["blue", "red"], "answer": "red"},
        {**base, "element_type": "counting", "choices": ["one", "two"], "answer": "two"},
        {**base, "element_type": "animal", "choices": ["dogs", "cats"], "answer": "dogs"},
        {**base, "element_type": "color", "choices": ["yes", "no"], "answer": "yes"},
    ])
    with pytest.raises(InputError, match="no text inputs lie beside it"):
        read_items(tifa)
    written(tmp_path / "tifa_v1.0_text_inputs.json", [{"id": "coco_1", "caption": "A", "coco_val_id": "42"},
                                                      {"id": "drawbench_1", "caption": "B"}])
    found = read_items(tifa)
    assert [(i.task, i.options[i.answer]) for i in found] == [("color", base["caption"]), ("count", base["caption"])]
    assert found[0].options[0] == "A blue bus near two dogs" and found[0].image.name == "000000000042.jpg"


def test_pairs_and_winoground(tmp_path: Path) -> None:
    own = written(tmp_path / "pairs.jsonl", '{"images": ["a.png", "b.png"], "captions": ["p", "q"]}')
    assert is_pairs(own) and read_pairs(own)[0].captions == ("p", "q")
    picture(tmp_path / "ex_0_img_0.png")
    wino = written(tmp_path / "examples.jsonl", json.dumps({
        "id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "p", "caption_1": "q",
        "tag": "Adjective", "collapsed_tag": "Object"}))
    pair = read_pairs(wino)[0]
    assert is_pairs(wino) and pair.tag == "Object" and pair.images[0] == tmp_path / "ex_0_img_0.png"
    with pytest.raises(InputError, match="1 pictures and 2 captions"):
        read_pairs(written(tmp_path / "bad.jsonl", '{"images": ["a.png"], "captions": ["p", "q"]}'))


@pytest.mark.parametrize("content, words", [
    ("{broken", "Line 1"), ('"text"\n[1', "Line 1|Line 2"), ("", "holds no item"),
    ('{"image": "a"}', "lacks options, answer"), ('{"image": "a", "options": ["x", "y"], "answer": 2}', "answer 2"),
    ('{"image": "a", "options": ["x"], "answer": 0}', "among 1 options"),
])
def test_broken_files_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_items(written(tmp_path / "items.jsonl", content))


def test_a_missing_picture_is_named_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone.png"):
        pixels_of(tmp_path / "gone.png", 8)


def test_the_worlds_items_have_the_papers_options_and_are_repeatable() -> None:
    items = world_items(2, size=16)
    assert [item.task for item in items[::2]] == ["attribute", "color", "count", "shape", "spatial", "corruption"]
    for item in items:
        assert len(item.options) == OPTIONS[item.task] == round(1 / item.chance)
        assert item.image.shape == (3, 16, 16)
    again = world_items(2, size=16)
    assert all(a.options == b.options and np.array_equal(a.image, b.image) for a, b in zip(items, again, strict=True))
    assert world_items(1, tasks=("color",), seed=1, size=16)[0].options != items[2].options


def test_the_worlds_pairs_have_the_same_words_in_both_captions() -> None:
    for pair in world_pairs(6, size=16):
        first, second = (sorted(w for w in split_words(c) if w not in ("a", "an")) for c in pair.captions)
        assert first == second and pair.captions[0] != pair.captions[1]
        assert not np.array_equal(*pair.images)


def test_tifas_own_sample_is_read(shared_data: Path) -> None:
    """Its only COCO caption has one question whose answer is a word of it: "gray", "white" or the like."""
    found = read_items(shared_data / "t2i_t2v_prompts" / "tifa" / "sample" / "sample_question_answers.json")
    assert found and all(item.image.name == "000000380711.jpg" for item in found)
    assert all(len(item.options) > 1 and "surfer" in item.options[item.answer] for item in found)
