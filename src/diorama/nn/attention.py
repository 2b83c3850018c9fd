"""Which attention kernel a transformers model uses."""

from torch import nn


def use_eager_attention(module: nn.Module) -> None:
    """Make every transformers attention layer inside `module` use plain matrix products.

    On CPUs a training step in bfloat16 takes half as long with them on the short sequences of the alignment stage (37
    to 110 tokens), and a third longer on the hundreds of tokens that the language model sees, so only towers use this
    (`python benchmarks/video_llava.py --attention`). On GPUs leave the fused kernel alone.
    """
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"
