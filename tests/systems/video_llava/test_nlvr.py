import importlib.util
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.systems.video_llava.benchmark_formats import read_predictions
from diorama.systems.video_llava.files import read_conversations
from diorama.systems.video_llava.nlvr import convert_nlvr, cut, question_of, read_nlvr

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_data_nlvr.py"


def statement(number, *, label="true", sentence=None, image=0, directory="0"):
    return {"sentence": sentence or f"There are {number} black items.", "label": label, "directory": directory,
            "identifier": f"{number}-{image}", "structured_rep": []}


@pytest.fixture
def nlvr(tmp_path):
    """Forty sentences about two images each, one true and one false, in two orders of the boxes, as an archive."""
    folder = tmp_path / "nlvr"
    folder.mkdir()
    items = [statement(n, image=i, label=str(i == 0).lower()) for n in range(40) for i in range(2)]
    (folder / "dev.json").write_text("".join(json.dumps(item) + "\n" for item in items))
    with zipfile.ZipFile(folder / "dev_images.zip", "w") as packed:
        for item in items:
            for k in (1, 4):
                packed.writestr(f"images/0/dev-{item['identifier']}-{k}.png", picture(tmp_path, item["identifier"], k))
    return folder


def picture(folder: Path, identifier: str, k: int) -> bytes:
    path = folder / "one.png"
    Image.new("RGBA", (40, 10), (int(identifier.split("-")[0]), k, 0, 255)).save(path)
    return path.read_bytes()


def test_a_statement_becomes_a_question_with_its_image(tmp_path, nlvr):
    made = convert_nlvr(nlvr, tmp_path / "out", held_out=0)
    assert made.held_out is None and made.media == tmp_path / "out" and made.left_out == ()
    found = read_conversations(made.train, made.media)
    assert len(found.usable) == 160 and not found.incomplete
    first = found.usable[0]
    assert first.id == "dev-0-0-1" and first.media[0].path == made.media / "boxes" / "dev-0-0-1-left.png"
    assert first.turns[0].question == "<image><image><image>\nTrue or false: There are 0 black items."
    assert first.turns[0].answer == "true" and found.usable[2].turns[0].answer == "false"
    assert str(made.train_balance) == ("160 items (80 true, 80 false; always saying the more frequent one is right in "
                                       "50.0%), 40 sentences")


def test_a_sentence_is_on_one_side_only_and_the_sides_do_not_depend_on_the_order(tmp_path, nlvr):
    lines = (nlvr / "dev.json").read_text().splitlines()
    twin = statement(99, sentence="THERE are 3  black items", directory="0")
    (nlvr / "dev.json").write_text("\n".join([*reversed(lines), json.dumps(twin)]))
    with zipfile.ZipFile(nlvr / "dev_images.zip", "a") as packed:
        packed.writestr("images/0/dev-99-0-0.png", picture(tmp_path, "99-0", 0))
    made = convert_nlvr(nlvr, tmp_path / "out", held_out=0.3)

    def sentences(path):
        found = read_conversations(path, made.media).usable
        return {item.turns[0].question.lower().replace("  ", " ") for item in found}

    train, test = sentences(made.train), sentences(made.held_out)
    assert not train & test and len(train | test) == 40 and 5 <= len(test) <= 20
    (nlvr / "dev.json").write_text("\n".join([*lines, json.dumps(twin)]))
    again = convert_nlvr(nlvr, tmp_path / "again", held_out=0.3)
    assert sentences(again.held_out) == test
    assert again.held_out_balance == made.held_out_balance and made.held_out_balance.sentences == len(test)


def test_held_out_items_take_one_order_of_the_boxes_and_training_as_many_as_asked(tmp_path, nlvr):
    made = convert_nlvr(nlvr, tmp_path / "out", held_out=0.3)
    asked = read_conversations(made.held_out, made.media).usable
    assert len(asked) == 2 * made.held_out_balance.sentences == made.held_out_balance.items
    assert made.train_balance.items == 4 * made.train_balance.sentences
    one = convert_nlvr(nlvr, tmp_path / "out", held_out=0.3, permutations=1)
    assert one.train_balance.items == 2 * one.train_balance.sentences


def test_an_unpacked_folder_is_read_where_it_is(tmp_path, nlvr):
    with zipfile.ZipFile(nlvr / "dev_images.zip") as packed:
        packed.extractall(nlvr / "dev")
    (nlvr / "dev.json").rename(nlvr / "dev" / "dev.json")
    (nlvr / "dev_images.zip").unlink()
    made = convert_nlvr(nlvr, tmp_path / "out", held_out=0)
    assert made.media == tmp_path / "out" and not (tmp_path / "out" / "images").exists()
    assert len(read_conversations(made.train, made.media).usable) == 160


def test_a_row_is_cut_into_its_three_boxes(tmp_path):
    row = Image.new("RGBA", (400, 100), (90, 90, 90, 255))
    for place, color in enumerate(("red", "green", "blue")):
        row.paste(color, (150 * place, 0, 150 * place + 100, 100))
    row.save(tmp_path / "row.png")
    boxes = [Image.open(file.path) for file in cut(tmp_path / "row.png", tmp_path / "boxes")]
    assert [box.size for box in boxes] == [(100, 100)] * 3
    assert [box.getcolors()[0][1] for box in boxes] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    Image.new("RGB", (200, 100)).save(tmp_path / "short.png")
    with pytest.raises(MediaError, match="does not hold 3 square boxes"):
        cut(tmp_path / "short.png", tmp_path / "boxes")


def test_statements_without_images_are_left_out_and_named(tmp_path, nlvr):
    with (nlvr / "dev.json").open("a") as file:
        file.write(json.dumps(statement(50)) + "\n")
    made = convert_nlvr(nlvr, tmp_path / "out", held_out=0)
    assert made.left_out == ("50-0",) and made.train_balance.items == 160


def test_unpacking_writes_the_split_s_images_only_and_once(tmp_path, nlvr):
    with zipfile.ZipFile(nlvr / "dev_images.zip", "a") as packed:
        for name in ("../evil.png", "/tmp/evil.png", "images/../../dev-1-1-1.png", "images/0/notes.txt",
                     "images/0/test-1-0-0.png"):
            packed.writestr(name, b"x")
    out = tmp_path / "out"
    convert_nlvr(nlvr, out)
    names = {path.name for path in out.rglob("*") if path.is_file() and path.parent.name != "boxes"}
    assert len(names) == 162 and all(name.startswith(("dev-", "nlvr_dev_")) for name in names)
    assert not (tmp_path / "evil.png").exists() and not (tmp_path / "dev-1-1-1.png").exists()
    before = (out / "images" / "0" / "dev-0-0-1.png").stat().st_mtime_ns
    convert_nlvr(nlvr, out)
    assert (out / "images" / "0" / "dev-0-0-1.png").stat().st_mtime_ns == before


BROKEN = {
    "label": ({"label": "maybe"}, "field label: it holds the text 'maybe'"),
    "no label": ({"label": None}, "field label: it holds null"),
    "identifier": ({"identifier": "../../x"}, "field identifier"),
    "directory": ({"directory": "../.."}, "field directory"),
    "sentence": ({"sentence": " "}, "field sentence: it is blank"),
    "twice": ({"identifier": "0-0"}, "identifier 0-0 comes twice"),
}


@pytest.mark.parametrize("change, says", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_statement_is_named(tmp_path, nlvr, change, says):
    with (nlvr / "dev.json").open("a") as file:
        file.write(json.dumps({**statement(50), **change}) + "\n")
    with pytest.raises(InputError, match=says):
        convert_nlvr(nlvr, tmp_path / "out")


def test_missing_and_damaged_archives_and_impossible_shares_get_one_sentence(tmp_path, nlvr):
    for share in (1.0, -0.1):
        with pytest.raises(InputError, match="leaves nothing to train on"):
            convert_nlvr(nlvr, tmp_path / "out", held_out=share)
    with pytest.raises(InputError, match="cannot be split"):
        convert_nlvr(nlvr, tmp_path / "out", held_out=1e-9)
    with pytest.raises(InputError, match="split '\\.\\./dev' is not a name"):
        convert_nlvr(nlvr, tmp_path / "out", split="../dev")
    archive = nlvr / "dev_images.zip"
    whole = archive.read_bytes()
    damaged = bytearray(whole)
    damaged[60:80] = bytes(20)
    for data in (b"no archive", whole[:2000], bytes(damaged)):
        archive.write_bytes(data)
        with pytest.raises(MediaError, match=r"dev_images\.zip cannot be unpacked"):
            convert_nlvr(nlvr, tmp_path / "damaged")
    archive.unlink()
    with pytest.raises(MediaError, match=r"Neither images nor dev_images\.zip"):
        convert_nlvr(nlvr, tmp_path / "out")
    (nlvr / "images").mkdir()
    with pytest.raises(MediaError, match="None of the 80 statements"):
        convert_nlvr(nlvr, tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        convert_nlvr(nlvr, tmp_path / "out", split="test")


def test_the_real_release_converts_whole(tmp_path, shared_data):
    folder = shared_data / "images" / "nlvr"
    made = convert_nlvr(folder, tmp_path, permutations=1)
    statements = read_nlvr(folder, made.media)
    assert Counter(item.is_true for item in statements) == {True: 547, False: 442}
    assert all(len(item.images) == 4 for item in statements) and made.left_out == ()
    assert made.train_balance.items + made.held_out_balance.items == 989
    assert made.train_balance.true + made.held_out_balance.true == 547
    assert all(question_of(item).startswith("True or false: ") and ".." not in question_of(item) for item in statements)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_data_nlvr", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_says_the_command_it_would_run(tmp_path, nlvr, example, capsys):
    assert example.main([str(nlvr), "--out", str(tmp_path / "run"), "--steps", "3", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "diorama video-llava train --stage instruct --data" in said and "--steps 3" in said
    assert "always saying the more frequent one is right in 50.0%" in said
    assert example.main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_example_trains_asks_and_scores(tmp_path, nlvr, example, monkeypatch, capsys):
    """The training and the model are stand-ins: one exits with 0, the other always answers "true"."""

    class Model:
        @classmethod
        def from_pretrained(cls, folder):
            assert folder == tmp_path / "run" / "train" / "model"
            return cls()

        def show(self, sources):
            assert len(sources) == 3 and all(source.is_file() for source in sources)
            return self

        def ask(self, question):
            assert question.startswith("True or false: ")
            return [SimpleNamespace(text="True.")]

    lines = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(example.subprocess, "run", lambda line, check: lines.append(line) or done)
    monkeypatch.setitem(sys.modules, "diorama.systems.video_llava.pipeline", SimpleNamespace(VideoLlava=Model))
    assert example.main([str(nlvr), "--out", str(tmp_path / "run")]) == 0
    assert lines[0][:5] == ["diorama", "video-llava", "train", "--stage", "instruct"]
    assert "held out: 0.5 [" in capsys.readouterr().out
    assert set(read_predictions(tmp_path / "run" / "predictions.jsonl").values()) == {"True."}
