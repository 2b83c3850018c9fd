"""Which attention kernel a transformers model uses."""

from torch import nn


def use_eager_attention(module: nn.Module) -> None:
    """Make every transformers attention layer inside `module` use plain matrix products.

    On CPUs the backward pass of the fused kernel is several times slower than that for sequences of some hundred
    tokens (measure with `benchmarks/video_llava.py --attention`); on GPUs leave the fused kernel alone.
    """
    for part in module.modules():
        config = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"
