"""Where the parts of a vision transformer are: ViT, DeiT, Swin and CLIP towers, in both layouts of transformers.

Nothing here is imported from a model's file: a block is recognised by the names of its parts, so a layout of an older
transformers, or a block that another package derives, is found as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from diorama.errors import InputError

SUPPORTED = ("ViTForImageClassification, DeiTForImageClassification (with or without teacher), "
             "SwinForImageClassification, CLIP vision towers")


@dataclass(frozen=True)
class AttentionNames:
    """Names, inside a block, of one attention: the LayerNorm before it, the module that attends, its four layers."""

    norm: str
    module: str
    query: str
    key: str
    value: str
    output: str
    inline: bool = False
    """Whether the module multiplies matrices in its own forward instead of through transformers' attention functions
    (Swin before transformers 5.9)."""

    @property
    def inputs(self) -> tuple[str, str, str]:
        """The layers that read the LayerNorm."""
        return self.query, self.key, self.value


@dataclass(frozen=True)
class BlockNames:
    """Names inside a block: its attentions, the LayerNorm before the MLP, and the MLP's two layers."""

    attentions: tuple[AttentionNames, ...]
    norm: str
    fc1: str
    fc2: str

    def __iter__(self) -> Iterator[str]:
        for attention in self.attentions:
            yield from (attention.norm, attention.module, *attention.inputs, attention.output)
        yield from (self.norm, self.fc1, self.fc2)

    @property
    def norms(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every LayerNorm with the layers that read it."""
        return (*((a.norm, a.inputs) for a in self.attentions), (self.norm, (self.fc1,)))


def _attention(norm: str, module: str, layers: str = "q_proj k_proj v_proj", output: str = "o_proj", *,
               inline: bool = False) -> AttentionNames:
    query, key, value = (f"{module}.{layer}" for layer in layers.split())
    return AttentionNames(norm, module, query, key, value, output, inline)


_OLD = "query key value"
_CLIP = _attention("layer_norm1", "self_attn", output="self_attn.out_proj")
LAYOUTS: tuple[BlockNames, ...] = (
    BlockNames((_attention("layernorm_before", "attention", output="attention.o_proj"),),
               "layernorm_after", "mlp.fc1", "mlp.fc2"),
    BlockNames((_attention("layernorm_before", "attention.attention", _OLD, "attention.output.dense"),),
               "layernorm_after", "intermediate.dense", "output.dense"),
    BlockNames((_attention("layernorm_before", "attention.self", _OLD, "attention.output.dense", inline=True),),
               "layernorm_after", "intermediate.dense", "output.dense"),
    BlockNames((_attention("temporal_layer_norm1", "temporal_attn", output="temporal_attn.out_proj"), _CLIP),
               "layer_norm2", "mlp.fc1", "mlp.fc2"),
    BlockNames((_CLIP,), "layer_norm2", "mlp.fc1", "mlp.fc2"),
)
"""transformers from 5.9: ViT, DeiT, Swin; before: ViT and DeiT, Swin; CLIP with attention over time, CLIP."""


@dataclass(frozen=True)
class Structure:
    """Full names of what is quantised in a model."""

    patches: tuple[str, ...]
    """Convolutions that embed patches."""
    blocks: tuple[tuple[str, BlockNames], ...]
    reductions: tuple[str, ...]
    """Swin's patch merging layers."""
    heads: tuple[str, ...]

    def norms(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every LayerNorm inside a block, with the layers that read it."""
        for name, parts in self.blocks:
            for norm, readers in parts.norms:
                yield f"{name}.{norm}", tuple(f"{name}.{reader}" for reader in readers)

    def reads_norm(self) -> set[str]:
        """The layers whose input is the quantised output of a LayerNorm."""
        return {reader for _, readers in self.norms() for reader in readers}

    def layers(self) -> tuple[str, ...]:
        """Every layer with weights to quantise, in the order of the forward pass within a block."""
        inside = []
        for name, parts in self.blocks:
            for attention in parts.attentions:
                inside += [f"{name}.{layer}" for layer in (*attention.inputs, attention.output)]
            inside += [f"{name}.{parts.fc1}", f"{name}.{parts.fc2}"]
        return (*self.patches, *inside, *self.reductions, *self.heads)


HEADS = ("classifier", "cls_classifier", "distillation_classifier")


def find_structure(model: nn.Module) -> Structure:
    """The parts of a model to quantise.

    Raises InputError, naming the module, if the model has no transformer block that is known here or holds another
    layer with weights, such as a convolutional stage.
    """
    modules = dict(model.named_modules())
    blocks = tuple((name, layout) for name, module in modules.items() if (layout := layout_of(module)))
    if not blocks:
        raise InputError(f"{type(model).__name__} has no block of a vision transformer that is known here. "
                         f"Pass one of: {SUPPORTED}.")
    patches, reductions, heads, others = [], [], [], []
    inside = {f"{name}.{part}" for name, parts in blocks for part in parts}
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or name in inside:
            continue
        if isinstance(module, nn.Conv2d) and last in ("projection", "patch_embedding"):
            patches.append(name)
        elif last == "reduction":
            reductions.append(name)
        elif name in HEADS:
            heads.append(name)
        else:
            others.append(f"{name} ({type(module).__name__})")
    if others:
        raise InputError(f"{type(model).__name__} holds {', '.join(others[:4])}, which no quantiser here covers. "
                         f"Pass one of: {SUPPORTED}.")
    return Structure(tuple(patches), blocks, tuple(reductions), tuple(heads))


def layout_of(module: nn.Module) -> BlockNames | None:
    """The layout of a block, or None if the module is none."""
    return next((layout for layout in LAYOUTS if all(part_of(module, name) is not None for name in layout)), None)


def part_of(module: nn.Module, name: str) -> nn.Module | None:
    """A part by its dotted name, or None."""
    part: object = module
    for step in name.split("."):
        part = getattr(part, step, None)
    return part if isinstance(part, nn.Module) else None


def replace_part(module: nn.Module, name: str, part: nn.Module) -> None:
    """Put another module in the place of a dotted name."""
    where, _, last = name.rpartition(".")
    setattr(module.get_submodule(where), last, part)
