"""Which attention kernel a transformers model uses."""

from torch import nn


def use_eager_attention(module: nn.Module) -> None:
    """Make every transformers attention layer inside `module` use plain matrix products.

    On CPUs the fused kernel's backward pass in bfloat16 is several times slower than that on the short sequences of
    the alignment stage (37 to 110 tokens; `python benchmarks/video_llava.py --attention`), and about as fast on the
    hundreds of tokens that the language model sees. On GPUs leave the fused kernel alone.
    """
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"
