"""A packed checkpoint for other programs: ONNX with QuantizeLinear and DequantizeLinear, or plain safetensors.

The ONNX file holds the codes: weights as 4-bit or 8-bit integers behind a DequantizeLinear, activations between a
QuantizeLinear and a DequantizeLinear, with a Clip before where a quantiser has fewer levels than a byte. Attention
probabilities of SULQ and the other logarithmic quantisers are no linear codes: they are written as Log, Round, Clip and
a Gather from a table of values, which every runtime computes in floating point.
The safetensors file holds the rounded weights as floats under transformers' own names; activations are not quantised.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diorama.checkpoints import read_tensors, replaced_folder, write_checkpoint
from diorama.errors import CheckpointError, InputError, MissingExtra
from diorama.nn.packing import pack, unpack
from diorama.nn.quantisers import Quantiser, UniformQuantiser
from diorama.systems.is_vit.integer import CodedLinear, CodedPatches, has_one_scale
from diorama.systems.is_vit.packed import FIELD, check_digests, is_packed, load_packed, read_packed_config
from diorama.systems.is_vit.quantised import AttentionQuantisers, QuantisedNorm
from diorama.systems.is_vit.structure import replace_part
from diorama.systems.is_vit.weights import PREPROCESSOR, empty_model

OPSET = 21
"""The first with 4-bit integers."""
ONNX_NAME = "model.onnx"
ATTENTION = "diorama_onnx"


def export(folder: str | Path, out: str | Path, format: Literal["safetensors", "onnx"]) -> Path:
    """Write the network of a packed checkpoint into the folder `out`; the path of the file or folder written.

    Raises CheckpointError if `folder` is no packed checkpoint or damaged, MissingExtra without the packages for ONNX,
    and InputError if `out` exists and holds something else.
    """
    folder, out = Path(folder), Path(out)
    if not is_packed(folder):
        raise CheckpointError(f"{folder} is no packed checkpoint of I&S-ViT, so there are no codes to export. "
                              "Pass a folder that `diorama is-vit quantize` wrote.")
    return export_onnx(folder, out) if format == "onnx" else export_floats(folder, out)


# ---- safetensors ----------------------------------------------------------------------------------------------------


def export_floats(folder: Path, out: Path) -> Path:
    """Write transformers' own checkpoint with the rounded weights, float32, LayerNorms folded as they were."""
    content = read_packed_config(folder)
    quantisation = content[FIELD]
    packed = read_tensors(folder)
    check_digests(folder, packed, quantisation["sha256"])
    plain = {name: value for name, value in content.items() if name not in (FIELD, "system")}
    if "qkv_bias" in plain and any(name.endswith(("q_proj.bias", "query.bias")) for name in packed):
        plain["qkv_bias"] = True  # folding gave the layers one
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in empty_model(plain).state_dict().items()}
    tensors = {}
    for name, shape in wanted.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.codes" not in packed:
            tensors[name] = packed[name]
            continue
        bits = quantisation["bits"][f"{layer}.codes"]
        quantiser = UniformQuantiser(bits, channels=shape[0], axis=0)
        quantiser.set(packed[f"{layer}.weight_quantiser.scale"], packed[f"{layer}.weight_quantiser.zero_point"])
        tensors[name] = quantiser.dequantise(unpack(packed[f"{layer}.codes"], bits, shape.numel()).view(shape))
    settings = quantisation["settings"]
    card = (f"# {folder.name}, as floats\n\nWeights rounded to {settings['weight_bits']} bits by I&S-ViT "
            "(arXiv 2311.10126) and written as float32; activations are not quantised.\n")
    written = write_checkpoint(out, plain, tensors, card)
    _copy_preprocessing(folder, written)
    return written


def _copy_preprocessing(folder: Path, out: Path) -> None:
    if (folder / PREPROCESSOR).is_file():
        (out / PREPROCESSOR).write_bytes((folder / PREPROCESSOR).read_bytes())


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def export_onnx(folder: Path, out: Path) -> Path:
    """Write `out/model.onnx`: pixels (batch, 3, S, S) to logits (batch, classes), or a tower's last hidden state.

    Raises MissingExtra without the packages onnx and onnxscript.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "onnx", "Writing ONNX")
    import onnx

    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / ONNX_NAME).is_file())):
        raise InputError(f"{out} exists and holds no {ONNX_NAME}, so it is not overwritten. Pass another folder.")
    content = read_packed_config(folder)
    model: Any = load_packed(folder, empty_model)
    size = content["image_size"]
    pixels = torch.zeros(2, 3, *((size, size) if isinstance(size, int) else size))
    use_onnx(model)
    with _quiet():
        program: Any = torch.onnx.export(
            _Answer(model).eval(), (pixels,), dynamo=True, opset_version=OPSET, input_names=["pixels"],
            output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=True, verbose=False)
    proto = program.model_proto
    narrow_weights(proto, {f"model.{name}": bits for name, bits in content[FIELD]["bits"].items()})
    strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    with replaced_folder(out) as fresh:
        (fresh / ONNX_NAME).write_bytes(proto.SerializeToString())
        _copy_preprocessing(folder, fresh)
    return out / ONNX_NAME


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of its own deprecated parts, and logs what is not installed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class _Answer(nn.Module):
    """The one tensor that a model is asked for."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.model(pixels)
        return found.logits if "logits" in found else found.last_hidden_state


class Qdq(nn.Module):
    """A uniform quantiser as Clip, QuantizeLinear and DequantizeLinear; one scale a channel as plain arithmetic.

    A zero point outside a byte is moved there by an addition before and after.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, quantiser: Quantiser):
        super().__init__()
        assert isinstance(quantiser, UniformQuantiser)
        self.quantiser = quantiser
        if not has_one_scale(quantiser):
            return
        scale, zero = float(quantiser.scale), int(quantiser.zero_point)
        self.low, self.high = -zero * scale, (quantiser.levels - 1 - zero) * scale
        self.move = 0.0 if 0 <= zero <= 255 else scale * zero
        self.register_buffer("scale", quantiser.scale.clone())
        self.register_buffer("zero", torch.tensor(0 if self.move else zero, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if not has_one_scale(self.quantiser):
            return self.quantiser.dequantise(self.quantiser.place(x).clamp(0, self.quantiser.levels - 1))
        x = x.clamp(self.low, self.high)
        x = x + self.move if self.move else x
        codes = torch.onnx.ops.symbolic("QuantizeLinear", (x, self.scale, self.zero), dtype=torch.uint8, shape=x.shape,
                                        version=OPSET)
        shown = torch.onnx.ops.symbolic("DequantizeLinear", (codes, self.scale, self.zero), dtype=torch.float32,
                                        shape=x.shape, version=OPSET)
        return shown - self.move if self.move else shown


class Table(nn.Module):
    """A quantiser of probabilities as its code's arithmetic and a look-up."""

    values: Tensor

    def __init__(self, quantiser: Quantiser):
        super().__init__()
        self.quantiser = quantiser
        self.register_buffer("values", quantiser.dequantise(torch.arange(quantiser.code_count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.values[self.quantiser.place(x).clamp(0, self.quantiser.code_count - 1).long()]


class CodedWeight(nn.Module):
    """Codes of weights behind a DequantizeLinear along the output channels; of a linear layer (in, out)."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, layer: CodedLinear | CodedPatches):
        super().__init__()
        quantiser = layer.weight_quantiser
        assert isinstance(quantiser, UniformQuantiser)
        self.axis = 1 if isinstance(layer, CodedLinear) else 0
        self.register_buffer("codes", layer.codes.t().contiguous() if self.axis else layer.codes)
        self.register_buffer("scale", quantiser.scale.clone())
        self.register_buffer("zero", quantiser.zero_point.to(torch.uint8))

    def forward(self) -> Tensor:
        return torch.onnx.ops.symbolic("DequantizeLinear", (self.codes, self.scale, self.zero), {"axis": self.axis},
                                       dtype=torch.float32, shape=self.codes.shape, version=OPSET)


class OnnxLinear(nn.Module):
    """A coded linear layer as floats behind QuantizeLinear and DequantizeLinear.

    The input of each is quantised right before the product, also where layers share a LayerNorm: a float there would
    have onnxruntime replace a product with 4-bit weights by one that rounds its input to 8 bits of its own.
    """

    def __init__(self, layer: CodedLinear):
        super().__init__()
        self.held, self.bias, self.given = CodedWeight(layer), layer.bias, Qdq(layer.source)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.matmul(self.given(x), self.held())
        return out if self.bias is None else out + self.bias


class OnnxPatches(nn.Module):
    """The convolution that embeds patches with coded weights."""

    def __init__(self, layer: CodedPatches):
        super().__init__()
        self.held, self.bias = CodedWeight(layer), layer.bias
        self.stride, self.padding = layer.stride, layer.padding
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)  # transformers asks for its type

    def forward(self, pixels: Tensor) -> Tensor:
        return F.conv2d(pixels, self.held(), self.bias, self.stride, self.padding)


def onnx_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                   scaling: float | None = None, **unused: Any) -> tuple[Tensor, Tensor]:
    """`quantised.quantised_attention` in the operators of ONNX."""
    sites = module.onnx_sites
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(sites["query"](query), sites["key"](key).transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probability = F.softmax(scores, dim=-1)
    context = torch.matmul(sites["probability"](probability), sites["value"](value))
    return context.transpose(1, 2).contiguous(), probability


def use_onnx(model: nn.Module) -> None:
    """Turn a network that holds codes into one of ONNX's operators, in place."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, onnx_attention)
    for name, module in list(model.named_modules()):
        if isinstance(module, CodedLinear):
            replace_part(model, name, OnnxLinear(module))
        elif isinstance(module, CodedPatches):
            replace_part(model, name, OnnxPatches(module))
        elif isinstance(module, QuantisedNorm):
            module.output_quantiser = nn.Identity()  # its readers quantise
        elif isinstance(getattr(module, "quantisers", None), AttentionQuantisers):
            _turn_attention(module)


def _turn_attention(attention: Any) -> None:
    quantisers = attention.quantisers
    probability = quantisers.probability
    attention.onnx_sites = nn.ModuleDict({
        "query": Qdq(quantisers.query), "key": Qdq(quantisers.key), "value": Qdq(quantisers.value),
        "probability": Qdq(probability) if isinstance(probability, UniformQuantiser) else Table(probability)})
    attention.config._attn_implementation = ATTENTION


def narrow_weights(proto: Any, bits: Mapping[str, int]) -> None:
    """Store codes of at most 4 bits, and their zero points, as ONNX's 4-bit integers; `bits` by the codes' names."""
    import onnx

    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    shown = {value.name: value for value in proto.graph.value_info}
    names = {name.removesuffix("codes") + "held.codes": count for name, count in bits.items()}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and names.get(node.input[0], 8) <= 4:
            for place in (0, 2):
                name = node.input[place]
                tensor = held[name]
                if tensor.data_type == onnx.TensorProto.UINT8:
                    codes = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
                    tensor.ClearField("int32_data")
                    tensor.data_type = onnx.TensorProto.UINT4
                    tensor.raw_data = pack(codes, 4).numpy().tobytes()
                    if name in shown:
                        shown[name].type.tensor_type.elem_type = onnx.TensorProto.UINT4


def strip(proto: Any) -> None:
    """Drop the exporter's notes on where in the source each node comes from; they are larger than small networks."""
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output,
                 *proto.graph.initializer, proto.graph, proto):
        part.ClearField("doc_string")
        del part.metadata_props[:]
