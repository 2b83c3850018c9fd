import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diorama import checkpoints
from diorama.checkpoints import (
    describe,
    load_into,
    miniature_names,
    read_config,
    read_tensors,
    resolve,
    write_checkpoint,
)
from diorama.errors import CheckpointError


@dataclass
class Config:
    system: str = "toy"
    width: int = 4
    sizes: tuple = (1, 2)
    dtype: torch.dtype = torch.float16


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    tower = {"tower.a": torch.randn(3, 4), "tower.b": torch.randn(4)}
    return {**tower, "head.weight": torch.randn(2, 3), "n": torch.tensor(7)}


@pytest.fixture
def shipped(tmp_path, monkeypatch, tensors):
    folder = tmp_path / "miniatures"
    monkeypatch.setattr(checkpoints, "miniatures_folder", lambda: folder)
    for name in ("video-llava-tiny", "tulu-tiny"):
        write_checkpoint(folder / name, Config(), tensors, "# card")
    return folder


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def sharded(folder, tensors, suffix, save):
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, name in enumerate(tensors, 1):
        file = f"{stem}-{number:05d}-of-{len(tensors):05d}.{suffix}"
        save({name: tensors[name]}, folder / file)
        weight_map[name] = file
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# ---- finding ----


def test_the_miniatures_are_those_of_the_package(shipped):
    assert miniature_names() == ["tulu-tiny", "video-llava-tiny"]
    assert resolve("tulu-tiny") == shipped / "tulu-tiny"


def test_a_folder_is_found_by_path_even_with_an_at_sign(tmp_path):
    folder = tmp_path / "run@home"
    folder.mkdir()
    assert resolve(str(folder)) == resolve(folder) == folder


def test_a_near_name_is_suggested_without_a_network(shipped):
    with pytest.raises(CheckpointError, match=r"'video-lava-tiny' is neither .* Pass the miniature 'video-llava-tiny'"):
        resolve("video-lava-tiny")


@pytest.mark.parametrize("name", ["./absent", "/absent/deep/folder", "a/b/c", "~/absent-folder", "two words"])
def test_what_looks_like_a_path_is_never_looked_up_on_the_hub(name):
    with pytest.raises(CheckpointError, match="is no folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name):
    with pytest.raises(CheckpointError, match="empty"):
        resolve(name)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(tmp_path / "model.bin")


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main", "gpt2"])
def test_offline_a_hub_id_that_is_not_cached_says_so(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"not in the local cache, and the network may not be used"):
        resolve(name, cache_dir=tmp_path)


def test_offline_a_cached_hub_id_and_revision_are_found(tmp_path, tensors):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    write_checkpoint(snapshot, Config(), tensors, "# card")
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    for found in (
        resolve("owner/name@v2", cache_dir=tmp_path),
        resolve("owner/name", revision="v2", cache_dir=tmp_path),
        resolve(f"owner/name@{commit}", cache_dir=tmp_path, local_files_only=True),
    ):
        assert found == snapshot
    assert describe(found).source == f"the hub cache of owner/name@{commit[:12]}"
    with pytest.raises(CheckpointError, match="not in the local cache"):
        resolve("owner/name@main", cache_dir=tmp_path)


def test_two_different_revisions_are_refused():
    with pytest.raises(CheckpointError, match="Pass one of them"):
        resolve("owner/name@a", revision="b")


def test_a_revision_of_what_has_none_is_refused(tmp_path, shipped):
    for name in (str(tmp_path), "tulu-tiny"):
        with pytest.raises(CheckpointError, match="has no revision 'v1'"):
            resolve(name, revision="v1")


# ---- reading ----


def test_a_written_checkpoint_reads_back(tmp_path, tensors):
    folder = write_checkpoint(tmp_path / "toy", Config(), tensors, "# Toy\n")
    assert read_config(folder) == {"system": "toy", "width": 4, "sizes": [1, 2], "dtype": "float16"}
    assert_same(read_tensors(folder), tensors)
    assert (folder / "README.md").read_text() == "# Toy\n"


def test_a_prefix_selects_and_is_cut_off(tmp_path, tensors):
    folder = write_checkpoint(tmp_path / "toy", {}, tensors, "")
    assert_same(read_tensors(folder, "tower."), {"a": tensors["tower.a"], "b": tensors["tower.b"]})
    with pytest.raises(CheckpointError, match="starts with 'towr'"):
        read_tensors(folder, "towr")


def test_sharded_safetensors_are_joined(tmp_path, tensors):
    sharded(tmp_path, tensors, "safetensors", save_file)
    assert_same(read_tensors(tmp_path), tensors)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_old_files_are_read_and_converted_once(tmp_path, tensors, is_sharded):
    if is_sharded:
        sharded(tmp_path, tensors, "bin", torch.save)
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert_same(read_tensors(tmp_path), tensors)
    assert not list(tmp_path.glob("*.safetensors"))
    assert_same(read_tensors(tmp_path, convert_once=True), tensors)
    for old in tmp_path.glob("pytorch_model*"):
        old.unlink()
    assert_same(read_tensors(tmp_path), tensors)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="would run code"):
        read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_one_file_can_be_read_by_itself(tmp_path, tensors):
    torch.save({"state_dict": tensors}, tmp_path / "mm_projector.bin")
    assert_same(read_tensors(tmp_path / "mm_projector.bin"), tensors)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        read_tensors(tmp_path / "list.pt")


def test_shards_outside_the_folder_are_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": dict.fromkeys(tensors, "../secret.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="shards in its own folder"):
        read_tensors(folder)


def test_missing_shards_are_named(tmp_path, tensors):
    sharded(tmp_path, tensors, "safetensors", save_file)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 4 shards: model-00002-of-00004\.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_files_are_named(tmp_path, tensors, name, keep):
    save = save_file if name.endswith("safetensors") else torch.save
    save(tensors, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=name):
        read_tensors(tmp_path)


def test_a_folder_without_weights_or_config_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="has no weights"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not an object"):
        read_config(tmp_path)


# ---- loading ----


def test_loading_names_everything_that_does_not_fit_and_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(3), "1.weight": torch.ones(2, 2)}
    given["extra"] = torch.ones(1)
    with pytest.raises(CheckpointError) as error:
        load_into(module, given)
    for part in ("1 missing: 1.bias", "1 unexpected: extra", "0.bias [3] in the file, [2] here", "strict=False"):
        assert part in str(error.value)
    assert_same(module.state_dict(), before)

    report = load_into(module, given, strict=False)

    assert report.missing == ("1.bias",) and report.unexpected == ("extra",)
    assert report.mismatched == (("0.bias", (3,), (2,)),)
    assert module[0].weight.eq(1).all() and torch.equal(module[0].bias, before["0.bias"])


def test_long_lists_are_shortened():
    with pytest.raises(CheckpointError, match=r"40 unexpected: .* and 32 more"):
        load_into(nn.Identity(), {f"layer.{i}": torch.zeros(1) for i in range(40)})


def test_a_complete_load_says_so_and_casts():
    module = nn.Linear(3, 2)
    report = load_into(module, {name: t.half() for name, t in nn.Linear(3, 2).state_dict().items()})
    assert report.is_complete and str(report) == "all tensors loaded" and module.weight.dtype == torch.float32


def test_tied_weights_are_stored_once_and_load(tmp_path):
    module = Tied()
    folder = write_checkpoint(tmp_path / "tied", {}, module.state_dict(), "")
    assert len(read_tensors(folder)) == 1
    again = Tied()
    assert load_into(again, read_tensors(folder)).is_complete
    assert torch.equal(again.head.weight, module.embed.weight) and again.head.weight is again.embed.weight


def test_a_module_on_the_meta_device_takes_the_tensors():
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_into(module, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert module(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]


# ---- writing ----


def test_half_precision_leaves_integers_alone(tmp_path, tensors):
    folder = write_checkpoint(tmp_path / "half", {}, tensors, "", dtype=torch.float16)
    stored = load_file(folder / "model.safetensors")
    assert stored["tower.a"].dtype == torch.float16 and stored["n"].dtype == torch.int64


def test_views_are_stored_at_their_own_size(tmp_path):
    whole = torch.arange(1000.0).reshape(10, 100)
    folder = write_checkpoint(tmp_path / "views", {}, {"row": whole[2], "columns": whole[:, :3], "turned": whole.T}, "")
    assert_same(read_tensors(folder), {"row": whole[2], "columns": whole[:, :3], "turned": whole.T})


def test_two_shapes_of_one_memory_are_both_stored(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    folder = write_checkpoint(tmp_path / "views", {}, {"whole": whole, "flat": whole.view(-1)}, "")
    assert_same(read_tensors(folder), {"whole": whole, "flat": whole.view(-1)})


def test_a_folder_that_is_no_checkpoint_is_not_overwritten(tmp_path, tensors):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        write_checkpoint(tmp_path, {}, tensors, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_earlier_checkpoint_is_replaced_and_its_tokenizer_kept(tmp_path, tensors):
    folder = write_checkpoint(tmp_path / "toy", {"a": 1}, tensors, "old")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"stale")
    write_checkpoint(folder, {"a": 2}, {"only": torch.ones(1)}, "new")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert read_config(folder) == {"a": 2} and list(read_tensors(folder)) == ["only"]


def test_a_failed_write_leaves_the_former_checkpoint_and_nothing_else(tmp_path, tensors):
    folder = write_checkpoint(tmp_path / "toy", {"a": 1}, tensors, "old")
    with pytest.raises(CheckpointError, match="JSON cannot"):
        write_checkpoint(folder, {"a": object()}, tensors, "new")
    assert read_config(folder) == {"a": 1} and [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_no_tensors_are_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no tensors"):
        write_checkpoint(tmp_path / "toy", {}, {}, "")


# ---- describing ----


def test_a_description_says_which_file_where_dtype_and_size(shipped, tensors):
    summary = describe(resolve("tulu-tiny"))
    assert summary.source == "the shipped miniatures" and summary.files == ("model.safetensors",)
    assert summary.parameters == sum(t.numel() for t in tensors.values()) and set(summary.dtypes) == {"F32", "I64"}
    assert "model.safetensors from the shipped miniatures" in str(summary) and "MB" in str(summary)


def test_an_old_file_is_described_too(tmp_path):
    torch.save({"a": torch.zeros(3, dtype=torch.float16)}, tmp_path / "pytorch_model.bin")
    summary = describe(tmp_path)
    assert (summary.dtypes, summary.parameters, summary.source) == (("float16",), 3, "a local folder")


def test_a_damaged_file_is_not_described(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        describe(tmp_path)
