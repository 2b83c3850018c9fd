import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media.images import load_image, save_image
from diorama.media.videos import FrameSampler, read_video, write_video
from diorama.systems.video_llava.config import PromptConfig
from diorama.systems.video_llava.files import (
    Conversation,
    MediaFile,
    find_video,
    inside,
    read_conversations,
    write_conversations,
)
from diorama.systems.video_llava.processing import Turn, write_prompt


@pytest.fixture
def media(tmp_path):
    """A folder with two images and two clips, one of them without a suffix in the lists that name it."""
    folder = tmp_path / "media"
    (folder / "clips").mkdir(parents=True)
    for name, color in (("red.png", "red"), ("blue.png", "blue")):
        save_image(folder / name, Image.new("RGB", (16, 16), color))
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    write_video(folder / "clips" / "run.mp4", frames, fps=4)
    (folder / "clips" / "v.1.MOV").write_bytes((folder / "clips" / "run.mp4").read_bytes())
    return folder


def said(question, answer="yes", **fields):
    return {"id": "a", **fields, "conversations": [{"from": "human", "value": question},
                                                   {"from": "gpt", "value": answer}]}


def written(folder: Path, items, name="data.json"):
    path = folder / name
    lines = name.endswith(".jsonl")
    path.write_text("".join(json.dumps(i) + "\n" for i in items) if lines else json.dumps(items), encoding="utf-8")
    return path


def read(tmp_path, media, *items):
    return read_conversations(written(tmp_path, list(items)), media)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "lines.json"])
def test_a_file_is_read_by_its_content_and_not_by_its_suffix(tmp_path, media, name):
    items = [said("<image>\nIs it red?", image="red.png"), said("<video>\nDoes it move?", "no", video="clips/run")]
    path = written(tmp_path, items, name)
    if name == "lines.json":
        path.write_text("\n\n".join(json.dumps(item) for item in items), encoding="utf-8")
    found = read_conversations(path, media)
    image, video = found.usable
    assert image == Conversation("a", (Turn("<image>\nIs it red?", "yes"),),
                                 (MediaFile("image", media / "red.png"),))
    assert video.media == (MediaFile("video", media / "clips" / "run.mp4"),)
    assert load_image(image.media[0].path).getpixel((0, 0)) == (255, 0, 0)
    assert read_video(video.media[0].path, FrameSampler(frames=2)).frames.shape == (2, 32, 32, 3)
    assert "1 image" in found.summary() and "1 video" in found.summary() and "missing" not in found.summary()


def test_a_byte_order_mark_and_letters_of_any_script_are_kept(tmp_path, media):
    path = tmp_path / "data.json"
    item = said("Какого цвета? 🟥", "красного")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([item], ensure_ascii=False).encode())
    assert read_conversations(path, media).usable[0].turns == (Turn("Какого цвета? 🟥", "красного"),)


def test_media_stand_in_the_order_of_their_markers(tmp_path, media):
    item = said("<video>\n<image><image>\nWhich image is in the clip?", "the second",
                image=["red.png", "blue.png"], video="clips/run.mp4")
    found = read(tmp_path, media, item).usable[0]
    assert found.kinds == ("video", "image", "image")
    assert [m.path.name for m in found.media] == ["run.mp4", "red.png", "blue.png"]
    mixed = said("Is <image> in <video> or <image>?", "no", image=["red.png", "blue.png"], video="clips/run.mp4")
    found = read(tmp_path, media, mixed).usable[0]
    assert [m.path.name for m in found.media] == ["red.png", "run.mp4", "blue.png"]
    assert found.turns[0].question == "Is <image> in <video> or <image>?"


def test_markers_over_several_turns_are_counted_together(tmp_path, media):
    item = {"id": 7, "image": ["red.png", "blue.png"], "conversations": [
        {"from": "human", "value": "<image>\nColor?"}, {"from": "gpt", "value": "red"},
        {"from": "human", "value": "And this?\n<image>"}, {"from": "gpt", "value": "blue"}]}
    found = read(tmp_path, media, item).usable[0]
    assert found.id == "7" and [m.path.name for m in found.media] == ["red.png", "blue.png"]
    assert found.turns[1] == Turn("<image>\nAnd this?", "blue"), "markers that close a question move to its front"
    write_prompt(found.turns, found.kinds, PromptConfig())


def test_left_out_markers_put_clips_first_and_fit_the_prompt(tmp_path, media):
    found = read(tmp_path, media, said("Same?", image="red.png", video="clips/run")).usable[0]
    assert found.kinds == ("video", "image")
    assert "USER: <video><image>\nSame?" in write_prompt(found.turns, found.kinds, PromptConfig())[0]


def test_an_opening_gpt_turn_is_dropped_as_in_the_released_code(tmp_path, media):
    item = {"id": "s", "conversations": [{"from": "gpt", "value": "(earlier)"}, {"from": "human", "value": "Hi"},
                                         {"from": "gpt", "value": "Hello"}]}
    found = read(tmp_path, media, item).usable[0]
    assert found.turns == (Turn("Hi", "Hello"),) and found.media == ()


def test_missing_media_are_counted_and_never_replaced(tmp_path, media):
    items = [said("<image>\nA?", image="red.png"), {**said("<video>\nB?", video="gone/clip"), "id": "b"},
             {**said("<image><image>\nC?", image=["blue.png", "gone.png"]), "id": "c"},
             {**said("<image>\nD?", image="gone.png"), "id": "d"}]
    found = read(tmp_path, media, *items)
    assert [item.id for item in found.usable] == ["a"]
    assert [item.id for item in found.incomplete] == ["b", "c", "d"]
    assert found.incomplete[1].missing == (media / "gone.png",)
    assert "3 left out because 2 media files are missing" in found.summary()


def test_nothing_usable_is_an_error_that_names_the_folder(tmp_path, media):
    with pytest.raises(MediaError, match=r"None of the 1 items .*gone\.png"):
        read(tmp_path, media, said("<image>\nA?", image="gone.png"))
    with pytest.raises(MediaError, match="does not exist"):
        read(tmp_path, tmp_path / "nowhere", said("A?"))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "clips/../../secret.png", "..", ".", "a\0b",
                                  "clips/../../media2/red.png"])
def test_paths_stay_in_the_media_folder(tmp_path, media, name):
    save_image(tmp_path / "secret.png", Image.new("RGB", (8, 8)))
    save_image(tmp_path / "media2" / "red.png", Image.new("RGB", (8, 8)))
    for field in ("image", "video"):
        with pytest.raises(InputError, match=rf"data\.json, item 1 \(id a\), field {field}: .*leaves the media folder"):
            read(tmp_path, media, said(f"<{field}>\nA?", **{field: name}))


def test_absolute_paths_and_dots_inside_the_folder_are_fine(tmp_path, media, monkeypatch):
    found = read(tmp_path, media, said("<image>\nA?", image=str(media / "red.png")),
                 said("<image>\nA?", image="clips/../red.png"))
    assert [item.media[0].path for item in found.usable] == [media / "red.png"] * 2
    monkeypatch.chdir(tmp_path)
    assert inside(Path("media"), "red.png") == Path("media/red.png")
    assert inside(Path(), "red.png").exists() is False
    assert inside(Path("/"), "/etc/x") == Path("/etc/x")


def test_names_no_disk_can_hold_are_missing_and_not_a_crash(tmp_path, media):
    found = read(tmp_path, media, said("A?"), said("<video>\nA?", video="x" * 400))
    assert len(found.incomplete) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif", ".MP4", ".Gif"])
def test_clips_are_found_by_any_video_suffix(tmp_path, suffix):
    (tmp_path / f"a.b{suffix}").write_bytes(b"x")
    found = find_video(tmp_path, "a.b")
    assert found.exists == (suffix != ".Gif")
    if found.exists:
        assert found.path.name == f"a.b{suffix}"
        assert find_video(tmp_path, "a.b.mkv") == found, "another suffix in the list than on disk"
    assert find_video(tmp_path, "other") == MediaFile("video", tmp_path / "other", exists=False)


def test_an_exact_name_wins_and_the_order_of_suffixes_decides(tmp_path):
    for name in ("c", "c.avi", "c.mp4", "c.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert find_video(tmp_path, "c").path.name == "c"
    (tmp_path / "c").unlink()
    assert find_video(tmp_path, "c").path.name == "c.mp4"
    assert find_video(tmp_path, "v_c", "c").path.name == "c.mp4"


BROKEN = {
    "no conversations": ({"id": "a", "image": "red.png"}, "field conversations: it is absent"),
    "empty conversations": ({"id": "a", "conversations": []}, "field conversations: it holds a list of 0"),
    "conversations no list": ({"id": "a", "conversations": "x"}, "field conversations: it holds the text 'x'"),
    "turn no object": ({"id": "a", "conversations": ["x", "y"]}, r"conversations\[0\]: it holds the text"),
    "no from": ({"id": "a", "conversations": [{"value": "x"}]}, r"conversations\[0\]\.from: it is absent"),
    "no value": ({"id": "a", "conversations": [{"from": "human"}]}, r"conversations\[0\]\.value: it is absent"),
    "unknown speaker": ({"id": "a", "conversations": [{"from": "bot", "value": "x"}]}, "holds the text 'bot'"),
    "speaker no text": ({"id": "a", "conversations": [{"from": ["human"], "value": "x"}]}, "a list of 1"),
    "value a number": (said(3), r"conversations\[0\]\.value: it holds the number 3"),
    "value null": (said("x", None), r"conversations\[1\]\.value: it holds null"),
    "blank answer": (said("x", " \n"), r"conversations\[1\]\.value: it is blank"),
    "only a marker": (said("<image>\n", image="red.png"), "nothing but markers"),
    "two human turns": ({"id": "a", "conversations": [{"from": "human", "value": "x"}] * 2},
                        "human speaks where gpt should"),
    "no answer": ({"id": "a", "conversations": [{"from": "human", "value": "x"}]}, "last question has no answer"),
    "only gpt": ({"id": "a", "conversations": [{"from": "gpt", "value": "x"}]}, "last question has no answer"),
    "marker in answer": (said("<image>\nx", "see <image>", image="red.png"), "an answer holds a media marker"),
    "marker without image": (said("<image>\nx"), "hold 1 <image>, but the field image names 0 files"),
    "too few markers": (said("<image>\nx", image=["red.png", "blue.png"]), "hold 1 <image>, .* names 2 files"),
    "too many markers": (said("<image><image>\nx", image="red.png"), "hold 2 <image>, .* names 1 file"),
    "other marker": (said("<image>\nx", video="clips/run"), "hold 1 <image>, .* image names 0"),
    "unmarked clip": (said("<image>\nx", image="red.png", video="clips/run"), "hold 0 <video>, .* video names 1"),
    "empty list of images": (said("x", image=[]), "field image: it is an empty list"),
    "image a number": (said("x", image=3), "field image: it holds the number 3"),
    "image list of numbers": (said("<image>x", image=["red.png", 3]), r"field image\[1\]: it holds the number 3"),
    "blank image": (said("x", image=""), "field image: it is blank"),
    "half a character": (said("x \ud800"), "half of a surrogate pair"),
    "no object": (["x"], "item 1 is a list of 1, not an object"),
}


@pytest.mark.parametrize("item, says", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_item_is_named_with_file_item_and_field(tmp_path, media, item, says):
    with pytest.raises(InputError, match=says) as error:
        read(tmp_path, media, item)
    assert str(error.value).startswith("data.json, item 1") and str(error.value).endswith(".")


def test_the_first_of_several_broken_items_is_told_with_the_number_of_the_others(tmp_path, media):
    with pytest.raises(InputError, match=r"item 2 \(id q\).*2 other items have problems too\.$"):
        read(tmp_path, media, said("fine"), {**said(3), "id": "q"}, said(4), said(5))


FILES = {
    "nothing": (b"", "is empty"),
    "spaces": (b" \n ", "is an empty list"),
    "empty list": (b"[]", "is an empty list"),
    "no JSON": (b"id,image\n1,2\n", "line 1 is not JSON"),
    "cut off": (b'[{"id": 1', "data.json is not JSON"),
    "cut off lines": (b'{"id": 1, "conversations": []}\n{"id"', "line 2 is not JSON"),
    "one object over lines": (b'{\n "id": 1,\n "conversations": []\n}\n', "one JSON object over several lines"),
    "a number": (b"3", "is the number 3, not an object"),
    "latin-1": ('[{"id": "caf\xe9"}]'.encode("latin-1"), "is not UTF-8"),
    "utf-16": ('[{"id": 1}]'.encode("utf-16"), "it is UTF-16"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8"),
    "deep": (b"[" * 200_000, "data.json"),
    "endless number": (b"[" + b"1" * 5000 + b"]", "cannot be parsed as JSON"),
}


@pytest.mark.parametrize("data, says", FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_list_of_items_gets_one_sentence(tmp_path, media, data, says):
    path = tmp_path / "data.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_conversations(path, media)


def test_an_absent_file_or_a_folder_gets_one_sentence(tmp_path, media):
    with pytest.raises(InputError, match="does not exist"):
        read_conversations(tmp_path / "no.json", media)
    with pytest.raises(InputError, match="is a folder"):
        read_conversations(tmp_path, media)


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_what_is_written_reads_back_equal(tmp_path, media, name):
    items = [said("<image>\nIs it red?", image="red.png"), said("no media, née", "oui"),
             said("<video>\n<image>\nBoth?", image="red.png", video="clips/v.1"),
             said("<image><image>\nBoth?", image=["red.png", "blue.png"])]
    first = read(tmp_path, media, *items).usable
    write_conversations(tmp_path / name, first, media)
    assert read_conversations(tmp_path / name, media).usable == first


def test_left_out_markers_are_written_so_that_the_order_of_the_media_stays(tmp_path, media):
    one = Conversation("x", (Turn("Same?", "no"),),
                       (MediaFile("image", media / "red.png"), MediaFile("video", media / "clips" / "run.mp4")))
    write_conversations(tmp_path / "out.json", [one], media)
    item = json.loads((tmp_path / "out.json").read_text())[0]
    assert item["image"] == "red.png" and item["video"] == "clips/run.mp4"
    assert item["conversations"][0]["value"] == "<image><video>\nSame?"
    assert read_conversations(tmp_path / "out.json", media).usable[0].media == one.media


def test_a_failed_write_leaves_the_older_file_and_no_other(tmp_path, media):
    out = tmp_path / "out" / "data.json"
    good = Conversation("x", (Turn("Q?", "A"),), (MediaFile("image", media / "red.png"),))
    write_conversations(out, [good], media)
    before = out.read_bytes()
    outside = Conversation("y", (Turn("Q?", "A"),), (MediaFile("image", tmp_path / "other.png"),))
    open_end = Conversation("z", (Turn("Q?"),))
    wrong = Conversation("w", (Turn("<video>\nQ?", "A"),), good.media)
    surrogate = Conversation("v", (Turn("\ud800", "A"),))
    for bad, says in ((outside, "Conversation y: .*leaves the media folder"), (open_end, "z has a question without"),
                      (wrong, "w marks video, but its media are image")):
        with pytest.raises(InputError, match=says):
            write_conversations(out, [good, bad], media)
    with pytest.raises(UnicodeEncodeError):
        write_conversations(out, [good, surrogate], media)
    with pytest.raises(InputError, match="no conversations to write"):
        write_conversations(out, [], media)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]
