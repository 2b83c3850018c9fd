"""Packed files: a quantised vision transformer as codes of 2 to 8 bits without gaps, in safetensors.

A folder holds config.json (transformers' own fields, and `quantization_config` with the format, the settings, and the
digest of every tensor), model.safetensors and README.md. In the tensors a layer X has `X.codes` (uint8, packed as
`nn.packing` says) in place of `X.weight`; all else has the names and values of the quantised network in memory:
scales, zero points, ranges of activations, biases, LayerNorms and embeddings, in float32 and int32.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from diorama.checkpoints import CONFIG, load_into, read_config, read_tensors, write_checkpoint
from diorama.errors import CheckpointError, InputError
from diorama.nn.packing import pack, packed_bytes, unpack
from diorama.nn.quantisers import Quantiser, UniformQuantiser
from diorama.systems.is_vit.config import QuantiseConfig
from diorama.systems.is_vit.integer import CodedLinear, CodedPatches, Sums, codes_of, hold_codes
from diorama.systems.is_vit.quantised import QuantisedConv, QuantisedLinear, insert

FORMAT = 1
METHOD = "is_vit"
FIELD = "quantization_config"
"""Where transformers' own configs say how a checkpoint is quantised."""


# ---- writing --------------------------------------------------------------------------------------------------------


def save_packed(folder: str | Path, model: nn.Module, settings: QuantiseConfig, card: str, *,
                record: Mapping[str, Any] | None = None) -> Path:
    """Write a quantised network as a packed checkpoint, whole or not at all.

    record: JSON values kept beside the settings (what it was calibrated on, names of classes). Raises InputError if a
    quantiser was not fitted, if the settings are the released code's fractional ones, or if the model is not float32.
    """
    tensors, bits = packed_tensors(model, settings)
    quantisation: dict[str, Any] = {
        "quant_method": METHOD, "format": FORMAT, "settings": settings.to_dict(), "record": dict(record or {}),
        "bits": bits, "sha256": {name: digest(tensor) for name, tensor in tensors.items()},
    }
    config: Any = model.config
    content = {**config.to_dict(), "architectures": [type(model).__name__], "system": METHOD, FIELD: quantisation}
    content = json.loads(json.dumps(content, default=str))
    quantisation = content[FIELD]
    quantisation["config_sha256"] = config_digest(content)
    return write_checkpoint(folder, content, tensors, card)


def packed_tensors(model: nn.Module, settings: QuantiseConfig) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors of a packed file, and the bits of every packed one. Raises InputError as `save_packed`."""
    if settings.compatibility == "official":
        raise InputError("Settings with compatibility 'official' have fractional zero points and 2^bits + 1 levels, "
                         "which no packed file can hold. Quantise with compatibility 'paper'.")
    for name, module in model.named_modules():
        if isinstance(module, Quantiser) and not module.enabled:
            raise InputError(f"The quantiser {name} was not fitted, so there are no codes to pack. "
                             "Calibrate the model first.")
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    bits = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear | QuantisedConv):
            del tensors[f"{name}.weight"]
            codes = codes_of(module)
        elif isinstance(module, CodedLinear | CodedPatches):
            codes = module.codes
        else:
            continue
        assert isinstance(module.weight_quantiser, UniformQuantiser)
        bits[f"{name}.codes"] = int(module.weight_quantiser.bits)
        tensors[f"{name}.codes"] = pack(codes, bits[f"{name}.codes"])
    if not bits:
        raise InputError(f"This {type(model).__name__} is not quantised, so there is nothing to pack. Quantise it.")
    wide = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dtype != torch.float32]
    if wide:
        raise InputError(f"{wide[0]} is {tensors[wide[0]].dtype}, and a packed file holds float32, bit for bit. "
                         "Quantise the model in float32.")
    return tensors, bits


def packed_size(model: nn.Module) -> int:
    """Bytes that the tensors of a quantised network take in a packed file; the model may lie on the meta device."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear | QuantisedConv | CodedLinear | CodedPatches):
            held = "codes" if isinstance(module, CodedLinear | CodedPatches) else "weight"
            count = module.get_buffer(held).numel() if held == "codes" else module.get_parameter(held).numel()
            sizes.pop(f"{name}.{held}")
            quantiser = module.weight_quantiser
            assert isinstance(quantiser, UniformQuantiser)
            sizes[f"{name}.packed"] = packed_bytes(count, quantiser.levels.bit_length() - 1)
    return sum(sizes.values())


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype}{list(plain.shape)}".encode())
    found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def config_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a packed config.json without this digest itself."""
    quantisation = {key: value for key, value in content[FIELD].items() if key != "config_sha256"}
    text = json.dumps({**content, FIELD: quantisation}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- reading --------------------------------------------------------------------------------------------------------


def is_packed(folder: str | Path) -> bool:
    """Whether a folder holds a packed checkpoint of this system."""
    if not (Path(folder) / CONFIG).is_file():
        return False
    found = read_config(folder).get(FIELD)
    return isinstance(found, dict) and found.get("quant_method") == METHOD


def read_packed_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a packed checkpoint. Raises CheckpointError if it is none, of another format, or was changed."""
    content = read_config(folder)
    found = content.get(FIELD)
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        raise CheckpointError(f"{folder} is no packed checkpoint of I&S-ViT. Pass a folder that "
                              "`diorama is-vit quantize` wrote.")
    if found.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has the packed format {found.get('format')!r}, and this version reads "
                              f"{FORMAT}. Load it with the version that wrote it, or quantise the model again.")
    if found.get("config_sha256") != config_digest(content):
        raise CheckpointError(f"{Path(folder) / CONFIG} was changed after it was written, so how to read the codes is "
                              "not certain. Restore the file, or quantise the model again.")
    return content


def load_packed(folder: str | Path, skeleton: Callable[[Mapping[str, Any]], nn.Module], *,
                sums: Sums = "integer") -> nn.Module:
    """The network of a packed checkpoint, holding codes; no float weight is ever made.

    skeleton: makes the float model from config.json; it is called where parameters get no memory. sums: as for
    `hold_codes`. Raises CheckpointError for a file that was changed (each tensor is checked against its digest).
    """
    content = read_packed_config(folder)
    quantisation = content[FIELD]
    tensors = read_tensors(folder)
    check_digests(folder, tensors, quantisation["sha256"])
    settings = QuantiseConfig.from_dict(quantisation["settings"])
    with init_empty_weights(include_buffers=False):
        model = skeleton(content).eval()
    insert(model, settings, norm="channel" if settings.deployed_norm == "channel" else "tensor")
    hold_codes(model, sums)
    for name, module in model.named_modules():
        if isinstance(module, CodedLinear | CodedPatches):
            codes = tensors.get(f"{name}.codes")
            if codes is not None:
                tensors[f"{name}.codes"] = unpack(codes, quantisation["bits"][f"{name}.codes"],
                                                  module.codes.numel()).view(module.codes.shape)
            if module.bias is None and f"{name}.bias" in tensors:  # folding a LayerNorm gives its readers a bias
                module.bias = nn.Parameter(torch.empty_like(tensors[f"{name}.bias"], device="meta"))
    load_into(model, tensors)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def check_digests(folder: str | Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, str]) -> None:
    """Raises CheckpointError, naming the tensor, if one is absent, added or not what was written."""
    for name in sorted({*tensors, *wanted}):
        if name not in tensors or name not in wanted or digest(tensors[name]) != wanted[name]:
            raise CheckpointError(f"The tensor {name} of {folder} is not the one that was written (its digest "
                                  "differs), so the file is damaged. Copy or download it again.")
