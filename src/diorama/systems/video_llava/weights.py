"""Public checkpoints in and out: the official layout, the transformers port (both namings), and parts of either.

Start at `load_public`. The port has no temporal attention (its converter dropped those tensors), so it is loaded as
what it computes, frame by frame, and never called complete; `temporal_from` grafts the tensors back from
LanguageBind_Video_merge, which rebuilds the original.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from diorama.checkpoints import load_into, read_config, read_tensors, resolve, write_checkpoint
from diorama.errors import CheckpointError, InputError
from diorama.systems.video_llava.config import PUBLIC_7B, Activation, LanguageConfig, TowerConfig, VideoLlavaConfig
from diorama.systems.video_llava.model import LanguageBindAligner, SharedProjector, VideoLlavaModel

PORT_ID = "LanguageBind/Video-LLaVA-7B-hf"
TEMPORAL_PARTS = ("temporal_embedding", "temporal_attn.", "temporal_layer_norm1.")

Layout = Literal["official", "port"]
PortNames = Literal["old", "new", "memory"]

# ours -> official, port up to transformers 4.51, port from 4.52 on
PREFIXES = (
    ("language_model.model.", "model.", "language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head.", "language_model.lm_head.", "lm_head."),
    ("projector.0.", "model.mm_projector.0.", "multi_modal_projector.linear_1.",
     "model.multi_modal_projector.linear_1."),
    ("projector.2.", "model.mm_projector.2.", "multi_modal_projector.linear_2.",
     "model.multi_modal_projector.linear_2."),
    ("image_tower.", "model.image_tower.image_tower.", "image_tower.vision_model.",
     "model.image_tower.vision_model."),
    ("video_tower.", "model.video_tower.video_tower.", "video_tower.vision_model.",
     "model.video_tower.vision_model."),
)


# ---- names ---------------------------------------------------------------------------------------------------


def layout_of(names: Mapping[str, Any]) -> Layout:
    """Which public layout these tensor names are in, told by the projector's; CheckpointError if neither."""
    if any("multi_modal_projector." in name for name in names):
        return "port"
    if any("mm_projector." in name for name in names):
        return "official"
    raise CheckpointError("The checkpoint holds no tensor of a Video-LLaVA projector (mm_projector.* or "
                          "multi_modal_projector.*). Pass a folder in the official or the transformers layout.")


def is_skipped(name: str) -> bool:
    """True for buffers that old files store and that are computed anew: rotary frequencies, position ids."""
    return name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids"))


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names to ours; names outside the map are kept as they are."""
    return _renamed(tensors, [(official, ours) for ours, official, _, _ in PREFIXES])


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to the official ones."""
    return _renamed(tensors, [(ours, official) for ours, official, _, _ in PREFIXES])


def from_port(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's names to ours: old, new, and without `vision_model.` (as transformers 5 saves and holds them)."""
    rules = [(theirs, ours) for ours, _, *both in PREFIXES for theirs in both]
    rules += [(theirs.replace("vision_model.", ""), ours) for theirs, ours in rules if "vision_model." in theirs]
    return _renamed(tensors, rules)


def to_port(tensors: Mapping[str, Tensor], names: PortNames = "new") -> dict[str, Tensor]:
    """Our names to the port's, without the temporal tensors, which it has no place for.

    "old" up to transformers 4.51, "new" from 4.52 on, "memory" as VideoLlavaForConditionalGeneration names them now.
    """
    kept = {name: value for name, value in tensors.items() if not is_temporal(name)}
    column = 2 if names == "old" else 3
    out = _renamed(kept, [(row[0], row[column]) for row in PREFIXES])
    return {k.replace("tower.vision_model.", "tower."): v for k, v in out.items()} if names == "memory" else out


def is_temporal(name: str) -> bool:
    """True for the tensors of temporal attention."""
    return any(part in name for part in TEMPORAL_PARTS)


def _renamed(tensors: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    rules = sorted(rules, key=lambda rule: -len(rule[0]))
    out = {}
    for name, value in tensors.items():
        if is_skipped(name):
            continue
        match = next(((old, new) for old, new in rules if name.startswith(old)), None)
        out[name if match is None else match[1] + name.removeprefix(match[0])] = value
    return out


# ---- configs -------------------------------------------------------------------------------------------------


def config_from_public(values: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: Layout, *,
                       hidden_act: Activation = "gelu", tower: TowerConfig | None = None) -> VideoLlavaConfig:
    """Our config for a public checkpoint, from its config.json and the shapes of its tensors (under our names).

    hidden_act: the towers were trained with exact GELU; the port's config does not say and falls to quick_gelu, so
    pass "quick_gelu" to repeat what the port computes. tower: sizes of the towers if they are not LanguageBind's
    ViT-L/14 (the official config.json does not hold them).
    """
    if layout == "port":
        vision, text = values.get("vision_config") or {}, values.get("text_config") or {}
        tower = tower or TowerConfig(
            image_size=vision.get("image_size", 224), patch_size=vision.get("patch_size", 14),
            hidden_size=vision.get("hidden_size", 1024), num_layers=vision.get("num_hidden_layers", 24),
            num_heads=vision.get("num_attention_heads", 16),
            intermediate_size=vision.get("intermediate_size", 4096),
            layer_norm_eps=vision.get("layer_norm_eps", 1e-5))
        select, pad = values.get("vision_feature_layer", -2), False
    else:
        text, tower = values, tower or PUBLIC_7B.tower
        select, pad = values.get("mm_vision_select_layer", -2), values.get("image_aspect_ratio") == "pad"
    embedding = tensors.get("language_model.model.embed_tokens.weight")
    if embedding is None:
        raise CheckpointError("The checkpoint has no token embedding (embed_tokens.weight), so it holds no language "
                              "model. Pass a whole checkpoint; use load_projector for a projector alone.")
    heads = text.get("num_attention_heads", 32)
    if text.get("num_key_value_heads", heads) not in (None, heads):
        raise CheckpointError(f"This language model has {heads} heads over {text['num_key_value_heads']} key-value "
                              "heads; Video-LLaVA's LLaMA-2 7B shares none. Pass a Vicuna-7B based checkpoint.")
    known = LanguageConfig()
    language = LanguageConfig(
        vocab_size=embedding.shape[0], hidden_size=embedding.shape[1],
        num_layers=text.get("num_hidden_layers", known.num_layers), num_heads=heads,
        intermediate_size=text.get("intermediate_size", known.intermediate_size),
        max_positions=text.get("max_position_embeddings", known.max_positions),
        rms_norm_eps=text.get("rms_norm_eps", 1e-6 if layout == "port" else known.rms_norm_eps))
    return replace(PUBLIC_7B, tower=replace(tower, hidden_act=hidden_act), language=language, select_layer=select,
                   pixels="port" if layout == "port" else "official", pad_square=pad,
                   frame_sampling="intervals" if layout == "port" else "ends",
                   prompt=replace(PUBLIC_7B.prompt, tokens="port" if layout == "port" else "original"))


# ---- loading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublicReport:
    """What a public checkpoint gave: `absent` tensors of the original, `unexpected` ones, buffers `skipped`, and
    temporal tensors `grafted` from another checkpoint."""

    layout: Layout
    absent: tuple[str, ...]
    unexpected: tuple[str, ...]
    skipped: tuple[str, ...]
    grafted: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """True only if every tensor of the original model is there."""
        return not self.absent

    def __str__(self) -> str:
        lines = [f"layout: {self.layout}, {'complete' if self.is_complete else 'NOT complete'}"]
        temporal = [name for name in self.absent if is_temporal(name)]
        if temporal:
            lines.append(f"{_some(temporal, 'temporal tensors absent')}; without temporal attention a clip is seen as "
                         "separate images (the transformers port dropped these tensors; graft them with "
                         "temporal_from=LanguageBind/LanguageBind_Video_merge)")
        rest = [name for name in self.absent if not is_temporal(name)]
        lines += [_some(names, what) for names, what in (
            (rest, "absent"), (self.unexpected, "unexpected"), (self.skipped, "skipped"), (self.grafted, "grafted"))
            if names]
        return "\n".join(lines)


def _some(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def load_public(name_or_path: str | Path, *, temporal_from: str | Path | None = None, onto_fine_tune: bool = False,
                towers_from: tuple[str | Path, str | Path] | None = None, hidden_act: Activation = "gelu",
                tower: TowerConfig | None = None, lora: str | Path | None = None, dtype: torch.dtype | None = None,
                strict: bool = True) -> tuple[VideoLlavaModel, PublicReport]:
    """A model from a public checkpoint in either layout, and a report of what was absent.

    temporal_from: LanguageBind_Video_merge (name or folder); its temporal tensors complete the port. Fine-tunes of the
    port were trained without temporal attention, so anything but the port itself is refused unless `onto_fine_tune`.
    towers_from: image and video tower checkpoints of LanguageBind, for official fine-tunes saved without towers.
    lora: a LoRA output folder to merge (official layout). hidden_act, tower: see `config_from_public`.
    Raises CheckpointError; with strict=False what is absent keeps its random start, and the report lists it.
    """
    folder = resolve(name_or_path)
    raw = read_tensors(folder)
    layout = layout_of(raw)
    if lora is not None:
        if layout != "official":
            raise CheckpointError("LoRA outputs of the official code name the official layout's tensors, and this "
                                  "checkpoint is in the port's. Pass the official base checkpoint.")
        raw = merge_lora(raw, resolve(lora))
    tensors = from_official(raw) if layout == "official" else from_port(raw)
    for part, source in zip(("image_tower.", "video_tower."), towers_from or (), strict=False):
        tensors |= {part + name: value for name, value in read_languagebind_tower(source).items()}
    grafted: dict[str, Tensor] = {}
    if temporal_from is not None:
        is_port = str(name_or_path).partition("@")[0] == PORT_ID
        if not is_port and not onto_fine_tune:
            raise CheckpointError(f"{name_or_path} is not known to be the unmodified port ({PORT_ID}), and fine-tunes "
                                  "of it were trained without temporal attention, which grafting would disturb. "
                                  "Pass onto_fine_tune=True if it is a copy of the port or you want it anyway.")
        grafted = graft_temporal(tensors, temporal_from)
        tensors |= grafted
    temporal = any(is_temporal(name) for name in tensors)
    config = config_from_public(read_config(folder), tensors, layout, hidden_act=hidden_act, tower=tower)
    expected = set(_on_meta(config).state_dict())
    report = PublicReport(layout, tuple(sorted(expected - set(tensors))), tuple(sorted(set(tensors) - expected)),
                          tuple(name for name in raw if is_skipped(name)), tuple(grafted))
    lost = [name for name in report.absent if temporal or not is_temporal(name)]
    if strict and (lost or report.unexpected):
        found = "; ".join(_some(names, what) for names, what in ((lost, "absent"), (report.unexpected, "unexpected"))
                          if names)
        raise CheckpointError(f"{name_or_path} does not hold the whole model ({found}). Download it again, pass "
                              "towers_from if the towers are absent, or ask for strict=False.")
    config = replace(config, temporal_attention=temporal)
    model = _on_meta(config) if strict else VideoLlavaModel.from_config(config)
    load_into(model, tensors, strict=strict)
    _fill_buffers(model)
    return (model if dtype is None else model.to(dtype)).eval(), report


def graft_temporal(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The temporal tensors of a LanguageBind video checkpoint, named for our video tower.

    CheckpointError if it has none, or if its spatial weights are not those of the video tower in `tensors`: temporal
    attention only fits the tower it was trained with.
    """
    donor = {f"video_tower.{name}": value for name, value in read_languagebind_tower(source).items()}
    temporal = {name: value for name, value in donor.items() if is_temporal(name)}
    if not temporal:
        raise CheckpointError(f"{source} has no temporal tensors. Pass LanguageBind/LanguageBind_Video_merge or a "
                              "folder with it.")
    spatial = [name for name in donor if not is_temporal(name) and name in tensors]
    other = [name for name in spatial if not _nearly_equal(donor[name], tensors[name])]
    if other or not spatial:
        raise CheckpointError(f"The spatial weights of {source} differ from the video tower's ({len(other)} of "
                              f"{len(spatial)} tensors, e.g. {(other or ['none shared'])[0]}), so its temporal weights "
                              "do not belong to this tower. Pass the LanguageBind checkpoint the tower came from.")
    return temporal


def _nearly_equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    first, second = first.float(), second.float()
    return bool((first - second).abs().max() <= 0.01 * second.abs().max() + 1e-6)


def read_languagebind(source: str | Path) -> dict[str, Tensor]:
    """A LanguageBind hub checkpoint under LanguageBindAligner's names (they are the same), buffers left out."""
    return {name: value for name, value in read_tensors(resolve(source)).items() if not is_skipped(name)}


def read_languagebind_tower(source: str | Path) -> dict[str, Tensor]:
    """The vision tower of a LanguageBind hub checkpoint, without its `vision_model.` prefix."""
    tensors = read_tensors(resolve(source), prefix="vision_model.")
    return {name: value for name, value in tensors.items() if not is_skipped(name)}


def load_languagebind(aligner: LanguageBindAligner, source: str | Path) -> None:
    """Fill an aligner (tower, text tower, projections, temperature) from a LanguageBind hub checkpoint."""
    load_into(aligner, read_languagebind(source))


def load_projector(projector: SharedProjector, file: str | Path) -> None:
    """Fill a projector from a projector-only file (`mm_projector.bin`), whatever stands before `mm_projector.`."""
    tensors = {name.partition("mm_projector.")[2]: value for name, value in read_tensors(file).items()
               if "mm_projector." in name}
    if not tensors:
        raise CheckpointError(f"{file} has no tensor with mm_projector. in its name. Pass the projector-only file that "
                              "stage 1 of the official code writes.")
    load_into(projector, tensors)


def merge_lora(tensors: Mapping[str, Tensor], folder: str | Path) -> dict[str, Tensor]:
    """Official-layout tensors with a LoRA output merged in: W + (alpha / r) B A, and the fully trained tensors.

    folder: holds adapter_config.json, adapter_model.safetensors (or .bin) and non_lora_trainables.bin.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} has no readable adapter_config.json with r and lora_alpha ({error}). Pass the "
                              "output folder of a LoRA training.") from error
    odd = [key for key in ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")
           if settings.get(key)]
    if odd:
        raise CheckpointError(f"{folder} was trained with {', '.join(odd)}, and only plain LoRA can be merged here. "
                              "Merge it with peft and load the merged checkpoint.")
    file = next((folder / name for name in ("adapter_model.safetensors", "adapter_model.bin")
                 if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} has no adapter_model.safetensors or adapter_model.bin. Pass the output folder "
                              "of a LoRA training.")
    adapter = read_tensors(file)
    merged = dict(tensors)
    extra = folder / "non_lora_trainables.bin"
    if extra.is_file():
        merged |= _non_lora_names(read_tensors(extra))
    used = set()
    for name, down in adapter.items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_A(?:\.default)?\.weight", name)
        if not found:
            continue
        target, up_name = f"{found[1]}.weight", name.replace(".lora_A", ".lora_B")
        if target not in merged or up_name not in adapter or down.shape[0] != rank:
            raise CheckpointError(f"The adapter's {name} does not fit the checkpoint (target {target}, rank {rank}). "
                                  "Pass the base checkpoint that the adapter was trained on.")
        change = adapter[up_name].float() @ down.float() * (alpha / rank)
        merged[target] = (merged[target].float() + change).to(merged[target].dtype)
        used |= {name, up_name}
    if not used or used != set(adapter):
        raise CheckpointError(f"The adapter holds {len(set(adapter) - used)} tensors that are no LoRA pair and "
                              f"{len(used)} that are. Merge it with peft and load the merged checkpoint.")
    return merged


def _non_lora_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {name.removeprefix("base_model."): value for name, value in tensors.items()}
    if any(name.startswith("model.model.") for name in out):
        out = {name.removeprefix("model."): value for name, value in out.items()}
    return out


def _on_meta(config: VideoLlavaConfig) -> VideoLlavaModel:
    with torch.device("meta"):
        return VideoLlavaModel.from_config(config)


def _fill_buffers(model: VideoLlavaModel) -> None:
    """Give a model built on the meta device the buffers that no checkpoint stores."""
    llama = model.language_model.model
    llama.rotary_emb = LlamaRotaryEmbedding(config=llama.config)
    for tower in (model.image_tower, model.video_tower):
        positions = torch.arange(tower.config.num_patches + 1).expand(1, -1)
        tower.embeddings.register_buffer("position_ids", positions, persistent=False)


# ---- our own layout ------------------------------------------------------------------------------------------


def save(model: VideoLlavaModel, folder: str | Path, card: str, *, dtype: torch.dtype | None = None) -> Path:
    """Write config.json, model.safetensors and the card as one folder; dtype None keeps every bit."""
    return write_checkpoint(folder, model.config.to_dict(), model.state_dict(), card, dtype)


def load(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32) -> VideoLlavaModel:
    """A model that `save` wrote: a shipped miniature, a folder, or a hub id. Raises CheckpointError."""
    folder = resolve(name_or_path)
    try:
        config = VideoLlavaConfig.from_dict(read_config(folder))
    except (TypeError, InputError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a model that can be built ({error}). "
                              "Pass a folder that diorama's training wrote.") from error
    model = VideoLlavaModel.from_config(config)
    load_into(model, read_tensors(folder))
    return model.to(dtype).eval()
