"""The command line of the world: files that open, sentences for mistakes, nothing half-written."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from diorama.cli import main
from diorama.media.images import load_image
from diorama.media.meshes import load_mesh
from diorama.media.videos import read_video
from diorama.world.rendering import render
from diorama.world.scene import Scene


def run(capsys, *tokens):
    code = main(["world", *map(str, tokens)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_picture_with_its_truth(tmp_path, capsys):
    out = tmp_path / "scene"
    flags = ("--out", out, "--seed", 5, "--size", 64, "--objects", 3, 3, "--truth", "--json")
    code, said, _ = run(capsys, "render", *flags)
    assert code == 0 and json.loads(said)["objects"]
    record = json.loads((out / "scene.json").read_text())
    scene = Scene.from_dict(record["scene"])
    truth = render([scene], size=64, samples=2)
    np.testing.assert_array_equal(np.asarray(load_image(out / "scene.png")), truth.rgb[0, 0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(np.load(out / "mask.npy"), truth.mask[0].numpy())
    np.testing.assert_array_equal(np.load(out / "depth.npy"), truth.depth[0].numpy())
    assert np.load(out / "normals.npy").shape == (1, 3, 64, 64)
    assert [o["frames"][0]["box"] for o in record["objects"]] == truth.boxes()[0, 0].tolist()
    assert record["captions"] and record["questions"] and load_mesh(out / "scene.glb").faces.size


def test_a_clip_plays_in_its_own_time(tmp_path, capsys):
    out = tmp_path / "clip"
    assert run(capsys, "render", "--out", out, "--seed", 5, "--size", 48, "--moving", "--frames", 9)[0] == 0
    clip = read_video(out / "scene.mp4")
    record = json.loads((out / "scene.json").read_text())
    assert clip.total_frames == 9
    assert 8 / clip.fps == pytest.approx(record["scene"]["duration"], rel=0.02)
    assert len(record["objects"][0]["frames"]) == 9


def test_a_scene_file_of_ones_own(tmp_path, capsys):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"objects": [{"shape": "cone", "color": "cyan", "size": "large"}]}))
    assert run(capsys, "render", "--scene", mine, "--out", tmp_path / "a", "--size", 32)[0] == 0
    again = tmp_path / "a" / "scene.json"
    assert run(capsys, "render", "--scene", again, "--out", tmp_path / "b", "--size", 32)[0] == 0
    assert (tmp_path / "a" / "scene.png").read_bytes() == (tmp_path / "b" / "scene.png").read_bytes()


OBJECT = {"shape": "cone", "color": "cyan", "size": "large"}


@pytest.mark.parametrize(("content", "says"), [
    ("not json", "is not JSON"),
    ("[]", "'objects' is missing"),
    (json.dumps({"objects": []}), "holds 0 objects"),
    (json.dumps({"objects": [OBJECT] * 6}), "holds 6 objects"),
    (json.dumps({"objects": [{**OBJECT, "shape": "cubes"}]}), "objects.0.shape is 'cubes'"),
    (json.dumps({"objects": [{**OBJECT, "colour": "red"}]}), "objects.0.colour is no part"),
    (json.dumps({"objects": [{**OBJECT, "position": [0, 0]}]}), "objects.0.position"),
    (json.dumps({"objects": [{**OBJECT, "motions": [{"kind": "left", "start": 0, "end": 9}]}], "duration": 2.0}),
     "not within the clip's 2 s"),
    (json.dumps({"objects": [{**OBJECT, "on": 0}]}), "no other object"),
    (json.dumps({"objects": [OBJECT], "camera": {"distance": 500.0}}), "distance is 500"),
    ('{"objects": [{"shape": "cone", "color": "cyan", "size": "large", "yaw": NaN}]}', "yaw nan"),
])
def test_a_wrong_scene_file_gets_one_sentence(tmp_path, capsys, content, says):
    path = tmp_path / "mine.json"
    path.write_text(content)
    code, out, err = run(capsys, "render", "--scene", path, "--out", tmp_path / "out")
    assert code == 2 and not out and says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("flags", "says"), [
    (["render", "--size", "2"], "sizes are 4 to 4096"),
    (["render", "--samples", "9"], "samples 1 to 8"),
    (["render", "--objects", "3", "9"], "within 1..5"),
    (["render", "--moving", "--frames", "1"], "makes no clip"),
    (["render", "--fps", "0"], "plays no clip"),
    (["render", "--scene", "nowhere.json"], "There is no scene file"),
    (["sample", "--n", "0"], "pass 1 to"),
    (["sample", "--kind", "poem"], "poem"),
    (["oracle", "--n", "0", "--clips", "0"], "nothing to measure"),
])
def test_wrong_use_gets_a_sentence_and_leaves_nothing(tmp_path, capsys, flags, says):
    code, out, err = run(capsys, *flags, "--out", tmp_path / "out")
    assert code == 2 and not out and says in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("kept")
    for verb in (["render"], ["sample", "--n", "2"]):
        code, _, err = run(capsys, *verb, "--size", 32, "--out", tmp_path)
        assert code == 2 and "exists" in err
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("kind", ["image", "clip", "vqa"])
def test_llava_style_json(tmp_path, capsys, kind):
    out = tmp_path / kind
    assert run(capsys, "sample", "--n", 4, "--kind", kind, "--size", 32, "--samples", 1, "--out", out)[0] == 0
    rows = json.loads((out / "annotations.json").read_text())
    assert [r["id"] for r in rows] == ["000000", "000001", "000002", "000003"]
    for row in rows:
        medium = "image" if "image" in row else "video"
        assert (out / row[medium]).is_file()
        turns = row["conversations"]
        assert turns[0]["value"].startswith(f"<{medium}>\n") and len(turns) % 2 == 0 and len(turns) >= 2
        assert [t["from"] for t in turns[:2]] == ["human", "gpt"]
    assert len((out / "scenes.jsonl").read_text().splitlines()) == 4
    assert not (out / ".parts").exists()


def test_captions_as_lines_and_the_same_again(tmp_path, capsys):
    for name in ("a", "b"):
        run(capsys, "sample", "--n", 4, "--kind", "caption", "--size", 32, "--samples", 1, "--out", tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    rows = [json.loads(line) for line in (tmp_path / "a" / "captions.jsonl").read_text().splitlines()]
    assert all(r["caption"] and r["paraphrases"] and r["contrasts"][0]["explanation"] for r in rows)


def test_a_stopped_run_goes_on_and_other_settings_are_refused(tmp_path, capsys, monkeypatch):
    from diorama.world import datasets

    monkeypatch.setattr(datasets, "SHARD", 2)
    config = datasets.SampleConfig(n=6, kind="image", size=32, samples=1)

    def stop(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.write_samples(tmp_path / "a", config, progress=stop)
    assert not (tmp_path / "a" / "annotations.json").exists()
    first = (tmp_path / "a" / "media" / "000000.png").stat().st_mtime_ns
    datasets.write_samples(tmp_path / "a", config)
    datasets.write_samples(tmp_path / "b", config)
    assert (tmp_path / "a" / "media" / "000000.png").stat().st_mtime_ns == first
    assert (tmp_path / "a" / "annotations.json").read_text() == (tmp_path / "b" / "annotations.json").read_text()
    code, _, err = run(capsys, "sample", "--n", 6, "--size", 64, "--out", tmp_path / "a")
    assert code == 2 and "other settings" in err


def test_webdataset_shards(tmp_path, capsys):
    assert run(capsys, "sample", "--n", 3, "--kind", "vqa", "--size", 32, "--samples", 1, "--tars",
               "--out", tmp_path / "w")[0] == 0
    with tarfile.open(tmp_path / "w" / "shard-000000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["000000.png", "000000.json", "000000.scene.json"] and "000001.mp4" in names
        assert all(member.mtime == 0 for member in tar.getmembers())
        assert json.load(tar.extractfile("000000.json"))["conversations"]
    assert not (tmp_path / "w" / "media").exists()


def test_dry_run_writes_nothing(tmp_path, capsys):
    for verb in ("render", "sample", "train-oracle"):
        code, said, _ = run(capsys, verb, "--dry-run", "--out", tmp_path / "x")
        assert code == 0 and "would" in said and not (tmp_path / "x").exists()


def test_importing_the_commands_loads_nothing_heavy():
    check = ("import sys, diorama.world.commands;"
             "print(sorted({'torch', 'numpy', 'trimesh', 'PIL', 'av'} & set(sys.modules)))")
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
