"""Weights on disk: find them by name, read them without executing anything, load them and say what did not fit.

A checkpoint is a folder with config.json, model.safetensors (whole or sharded) and README.md. Old `.bin` files are
read with `weights_only=True`. Start at `resolve`, `read_tensors`, `load_into` and `write_checkpoint`.
"""

import dataclasses
import json
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import diorama.miniatures
from diorama.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
SAFE_NAMES = (WEIGHTS, "diffusion_pytorch_model.safetensors")
OLD_NAMES = ("pytorch_model.bin", "diffusion_pytorch_model.bin")
MAX_NAMES_IN_MESSAGE = 8

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)


# ---- finding -------------------------------------------------------------------------------------------------


def miniature_names() -> list[str]:
    """The names of the checkpoints that the package ships."""
    return sorted(folder.parent.name for folder in miniatures_folder().glob(f"*/{CONFIG}"))


def miniatures_folder() -> Path:
    """Where the shipped checkpoints lie."""
    return Path(diorama.miniatures.__path__[0])


def resolve(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The local folder of a checkpoint: a shipped miniature, else an existing folder, else a hub id.

    A hub id may be `owner/name` or `owner/name@revision`; it is downloaded once into the hub's cache, or only looked
    up there when `local_files_only` or the environment variable HF_HUB_OFFLINE says so. Raises CheckpointError.
    """
    name = str(name_or_path)
    if not name.strip():
        raise CheckpointError(f"The checkpoint name is empty, so nothing can be found. Pass {_ways()}.")
    if isinstance(name_or_path, str) and name in miniature_names():
        _refuse_revision(name, revision, "is a miniature that comes with the package")
        return miniatures_folder() / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse_revision(name, revision, "is a local folder")
        return folder
    if folder.is_file():
        raise CheckpointError(
            f"{name} is a file, and a checkpoint is a folder with {CONFIG} and weights. Pass {folder.parent}."
        )
    looks_local = isinstance(name_or_path, Path) or not HUB_ID.fullmatch(name) or name.startswith(".")
    near = get_close_matches(name, miniature_names(), n=1, cutoff=0.75)
    if looks_local or ("/" not in name and near):
        kind = "no folder" if looks_local else "neither a shipped miniature nor a folder"
        raise CheckpointError(f"{name!r} is {kind}, so no weights can be read from it. Pass {_ways(name)}.")
    return _from_hub(name, revision, token, bool(local_files_only), cache_dir)


def _from_hub(
    name: str, revision: str | None, token: str | None, local_files_only: bool, cache_dir: str | Path | None
) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, inline = name.partition("@")
    if inline and revision and inline != revision:
        raise CheckpointError(f"{name!r} names revision {inline!r} and `revision` says {revision!r}. Pass one of them.")
    revision = inline or revision
    offline = local_files_only or constants.is_offline_mode()
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.md", "*.safetensors"]

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                token=token,
                local_files_only=offline,
                cache_dir=cache_dir,
                allow_patterns=patterns,
            )
        )

    at = f" at revision {revision!r}" if revision else ""
    try:
        folder = download(wanted)
        if not offline and not any(folder.rglob("*.safetensors")):
            folder = download([*wanted, "*.bin"])
        return folder
    except GatedRepoError as error:
        problem = "asks for access that this token does not have. Request it on its page, then pass `token`"
        raise CheckpointError(f"The hub repository {repository!r} {problem}.") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The hub repository {repository!r} has no revision {revision!r}. Pass a branch, tag or commit it has."
        ) from error
    except LocalEntryNotFoundError as error:
        why = "the network may not be used" if offline else "the hub could not be reached"
        raise CheckpointError(
            f"{repository!r}{at} is not in the local cache, and {why}. "
            f"Download it once with `hf download {repository}` on a machine with a network, or pass {_ways(name)}."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{name!r} is no shipped miniature, no folder and no hub repository that can be seen from here. "
            f"Pass {_ways(name)}."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{repository!r}{at} could not be downloaded ({_first_line(error)}). "
            f"Try again, set HF_HUB_OFFLINE=1 to use only the cache, or pass {_ways(name)}."
        ) from error


def _ways(name: str = "") -> str:
    names = miniature_names()
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    shipped = f"the miniature {near[0]!r}" if near else f"a miniature ({', '.join(names) or 'none is shipped yet'})"
    return f"{shipped}, a folder with {CONFIG}, or a hub id such as owner/name@revision"


def _refuse_revision(name: str, revision: str | None, why: str) -> None:
    if revision is not None:
        raise CheckpointError(f"{name!r} {why}, which has no revision {revision!r}. Leave `revision` out.")


# ---- reading -------------------------------------------------------------------------------------------------


def read_config(folder: str | Path) -> dict[str, Any]:
    """The object in config.json; CheckpointError if it is absent or no JSON object."""
    return _read_json(Path(folder) / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path.parent} has no {path.name}, so what it holds cannot be known. Pass a folder that has one."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({_first_line(error)}). Restore it, or download the checkpoint again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, not an object. Restore the file.")
    return content


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a checkpoint's tensors, safetensors before old `.bin`; CheckpointError if there are none.

    `folder` may also be one such file itself.
    """
    folder = Path(folder)
    if folder.is_file():
        if folder.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
            raise CheckpointError(f"{folder} is no weights file. Pass a .safetensors, .bin, .pt or .pth file.")
        return [folder]
    for names in (SAFE_NAMES, OLD_NAMES):
        for name in names:
            if (folder / f"{name}.index.json").is_file():
                return _shards(folder / f"{name}.index.json")
            if (folder / name).is_file():
                return [folder / name]
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1:
        return lone
    raise CheckpointError(
        f"{folder} has no weights: {', '.join((*SAFE_NAMES, *OLD_NAMES))} (or an index of shards) was looked for. "
        "Pass the folder that holds them, or one weights file."
    )


def _shards(index: Path) -> list[Path]:
    weight_map = _read_json(index).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} does not list shards in its own folder. Download the checkpoint again.")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of {len(names)} shards: {_some(absent)}. Download it again."
        )
    return [index.parent / name for name in names]


def read_tensors(
    folder: str | Path, prefix: str | None = None, *, convert_once: bool = False
) -> dict[str, Tensor]:
    """Every tensor of a checkpoint on the CPU, by name, in the dtype of the file.

    With `prefix`, only the tensors whose names start with it, and the prefix is cut off. Reads safetensors (whole,
    sharded, or one file), and old `.bin` files with `weights_only=True`, which `convert_once` also writes beside as
    safetensors so that the next read is safe and lazy. Raises CheckpointError.
    """
    files = weight_files(folder)
    if convert_once and files[0].suffix != ".safetensors":
        files = convert_to_safetensors(folder)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(_read_file(file, prefix or ""))
    if prefix and not tensors:
        raise CheckpointError(f"{folder} has no tensor whose name starts with {prefix!r}. Check the prefix.")
    return tensors


def _read_file(file: Path, prefix: str) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return {k.removeprefix(prefix): v for k, v in _read_old(file).items() if k.startswith(prefix)}
    with _opened(file) as content:
        names = [name for name in content.keys() if name.startswith(prefix)]
        return {name.removeprefix(prefix): content.get_tensor(name) for name in names}


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({_first_line(error)}). Download or save it again."
        ) from error


def _read_old(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file, read by torch's restricted unpickler, which runs no code from the file."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors, and reading it would run code from the file. "
            "Ask for it as safetensors, or convert it on a machine that may run it."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{file} cannot be read as a torch file ({_first_line(error)}). Download it again."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} is no dictionary of tensors. Pass the file that holds only weights.")
    return content


def convert_to_safetensors(folder: str | Path) -> list[Path]:
    """Write the old `.bin` weights of a folder beside themselves as safetensors, shard by shard; the new files."""
    old = weight_files(folder)
    if old[0].suffix == ".safetensors":
        return old
    new = []
    weight_map: dict[str, str] = {}
    for file in old:
        stem = file.stem.replace("pytorch_model", "model") if file.stem.startswith("pytorch_model") else file.stem
        target = file.with_name(stem + ".safetensors")
        tensors = _read_old(file)
        write_tensors(target, {name: tensor.clone() for name, tensor in tensors.items()})
        weight_map |= dict.fromkeys(tensors, target.name)
        new.append(target)
    if len(new) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        write_text(new[0].parent / f"{WEIGHTS}.index.json", json.dumps(index, indent=2))
    return new


# ---- loading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadReport:
    """What did not fit when tensors were loaded into a module."""

    missing: tuple[str, ...]
    """Names the module has and the tensors lack."""
    unexpected: tuple[str, ...]
    """Names the tensors have and the module lacks."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Name, shape in the file, shape in the module."""

    @property
    def is_complete(self) -> bool:
        """True if every tensor found its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        if self.is_complete:
            return "all tensors loaded"
        shapes = [f"{name} {list(found)} in the file, {list(wanted)} here" for name, found, wanted in self.mismatched]
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", shapes))
        return "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in parts if names)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], strict: bool = True) -> LoadReport:
    """Copy tensors into a module's parameters and buffers of the same names, cast to the module's dtypes.

    Tied parameters need one of their names. Parameters on the meta device become the given tensors. With `strict`
    anything missing, unexpected or of another shape raises CheckpointError before the module is touched; with
    `strict=False` what fits is loaded and the report says what did not.
    """
    state = module.state_dict(keep_vars=True)
    given = {id(state[name]) for name in tensors if name in state}
    report = LoadReport(
        missing=tuple(name for name in state if name not in tensors and id(state[name]) not in given),
        unexpected=tuple(name for name in tensors if name not in state),
        mismatched=tuple(
            (name, tuple(tensor.shape), tuple(state[name].shape))
            for name, tensor in tensors.items()
            if name in state and tensor.shape != state[name].shape
        ),
    )
    if strict and not report.is_complete:
        raise CheckpointError(
            f"The weights do not fit {type(module).__name__}: {report}. "
            "Load the checkpoint this model was saved to, or ask for strict=False to load what fits."
        )
    bad = {name for name, _, _ in report.mismatched}
    fitting = {name: tensor for name, tensor in tensors.items() if name in state and name not in bad}
    on_meta = any(tensor.is_meta for tensor in state.values())
    module.load_state_dict(fitting, strict=False, assign=on_meta)
    return report


# ---- writing -------------------------------------------------------------------------------------------------


def write_checkpoint(
    folder: str | Path,
    config: Any,
    tensors: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write config.json, model.safetensors and README.md as one folder that is there whole or not at all.

    `config` is a dataclass or a dict; `dtype` is what floating-point tensors are stored in (None keeps theirs).
    Tensors that share memory are stored once. An earlier checkpoint in `folder` is replaced, its other files (a
    tokenizer, figures) kept; a folder that is no checkpoint is refused. Raises CheckpointError.
    """
    folder = Path(folder)
    if not tensors:
        raise CheckpointError(f"There are no tensors to write to {folder}. Pass a module's state_dict().")
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / CONFIG).is_file())):
        raise CheckpointError(
            f"{folder} exists and is no checkpoint (it has no {CONFIG}), so it is not overwritten. "
            "Pass another folder, or empty this one."
        )
    content = dict(config) if isinstance(config, Mapping) else dataclasses.asdict(config)
    with replaced_folder(folder) as fresh:
        for old in folder.iterdir() if folder.is_dir() else ():
            if old.suffix not in (".safetensors", ".bin") and not old.name.endswith(".index.json"):
                (shutil.copytree if old.is_dir() else shutil.copy2)(old, fresh / old.name)
        text = json.dumps(content, indent=2, default=_plain) + "\n"
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        write_tensors(fresh / WEIGHTS, tensors, dtype)
        (fresh / CARD).write_text(card.rstrip() + "\n", encoding="utf-8")
    return folder


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write one safetensors file atomically; of tensors that are the same memory only the first name is kept."""
    stored: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    memories: set[int] = set()
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        kept = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        memory = kept.untyped_storage()
        is_shared = memory.nbytes() != kept.numel() * kept.element_size() or memory.data_ptr() in memories
        memories.add(memory.data_ptr())
        stored[name] = kept.clone(memory_format=torch.contiguous_format) if is_shared else kept.contiguous()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(stored, partial, metadata={"format": "pt"})
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old content or the new one, never half."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        if folder.exists():
            former = fresh.with_suffix(".former")
            folder.replace(former)
            fresh.replace(folder)
            shutil.rmtree(former)
        else:
            fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


# ---- describing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointSummary:
    """Which files a checkpoint is read from, where they came from, and what they hold."""

    folder: Path
    source: str
    files: tuple[str, ...]
    dtypes: tuple[str, ...]
    parameters: int
    megabytes: float

    def __str__(self) -> str:
        return (
            f"{', '.join(self.files[:3])}{' ...' if len(self.files) > 3 else ''} from {self.source} ({self.folder}), "
            f"{' and '.join(self.dtypes)}, {self.parameters:,} numbers, {self.megabytes:.1f} MB"
        )


def describe(folder: str | Path) -> CheckpointSummary:
    """Say which files would be loaded, from where, in which dtype and size; reads only headers of safetensors."""
    folder = Path(folder)
    files = weight_files(folder)
    dtypes: dict[str, None] = {}
    count = 0
    for file in files:
        if file.suffix == ".safetensors":
            with _opened(file) as content:
                for name in content.keys():
                    part = content.get_slice(name)
                    dtypes[part.get_dtype()] = None
                    count += torch.Size(part.get_shape()).numel()
        else:
            for tensor in _read_old(file).values():
                dtypes[str(tensor.dtype).removeprefix("torch.")] = None
                count += tensor.numel()
    size = sum(file.stat().st_size for file in files) / 1e6
    return CheckpointSummary(folder, _source(folder), tuple(f.name for f in files), tuple(dtypes), count, size)


def _source(folder: Path) -> str:
    if folder.resolve().parent == miniatures_folder().resolve():
        return "the shipped miniatures"
    cached = next((part for part in folder.parts if part.startswith("models--")), None)
    if cached and folder.parent.name == "snapshots":
        return f"the hub cache of {'/'.join(cached.split('--')[1:])}@{folder.name[:12]}"
    return "a local folder"


def _some(names: Any) -> str:
    names = list(names)
    rest = len(names) - MAX_NAMES_IN_MESSAGE
    return ", ".join(names[:MAX_NAMES_IN_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200].rstrip(".") or type(error).__name__


def _plain(value: Any) -> Any:
    """A JSON value for what dataclasses hold besides JSON: paths, dtypes, sets."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path | torch.dtype):
        return str(value).removeprefix("torch.")
    raise CheckpointError(f"A config holds a {type(value).__name__}, which JSON cannot. Convert it to plain values.")
