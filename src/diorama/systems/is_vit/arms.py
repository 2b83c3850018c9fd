"""The arms of the claim: how each network that is compared is made, and how much of everything they get."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from diorama.errors import InputError
from diorama.nn.quantisers import Quantiser
from diorama.systems.is_vit import sos
from diorama.systems.is_vit.config import PRESETS, QuantiseConfig, parse_bits
from diorama.systems.is_vit.evaluate import inject_outliers
from diorama.systems.is_vit.fast import use_int8
from diorama.systems.is_vit.integer import hold_codes
from diorama.systems.is_vit.quantised import is_quantised, norm_readers, round_weights, weight_layers
from diorama.systems.is_vit.reparameterise import reparameterise
from diorama.systems.is_vit.structure import Structure, find_structure

OUTLIERS = 16.0
"""Factor by which the injected channels are wider, at most; 3 channels of every LayerNorm."""
FLOAT, INJECTED = "fp32", "injected"
Made = tuple[str, nn.Module, float]
"""An arm's name, its network, and the seconds it took to make."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is calibrated and examined."""

    bits: tuple[str, ...] = ("w2a2", "w3a3", "w4a4", "w6a6")
    """The paper's three, and before them 2: networks of this size do not collapse at 3, and at 2 they do."""
    images: int = 512
    range_images: int = 64
    batch: int = 32
    iterations: int = 60
    examined: int = 1000
    ablations: bool = True
    """Also one stage and QDrop, the arms that are run at the fewest bits alone, and the injected outliers."""

    @property
    def low(self) -> tuple[str, ...]:
        """Those of at most 3 bits, about which the claim is."""
        return tuple(bits for bits in self.bits if parse_bits(bits)[1] <= 3)


QUICK = Sizes(bits=("w2a2", "w3a3"), images=256, iterations=30, examined=500, ablations=False)


CALIBRATED = {"uniform": "uniform", "log2 clamped": "log2", "log2 masked": "log2-masked", "sulq": "sulq",
              "reparameterisation only": "repq"}
TUNED: Mapping[str, QuantiseConfig] = {
    "SOS 1": replace(PRESETS["is-vit"], stages=1),
    "SOS 1+2+3": PRESETS["is-vit"],
    "one stage": replace(PRESETS["is-vit"], method="one_stage"),
    "QDrop": PRESETS["qdrop"],
}
ABLATIONS: Mapping[str, QuantiseConfig] = {
    "BRECQ": PRESETS["brecq"],
    "SOS with log2": replace(PRESETS["is-vit"], softmax="log2"),
    "SOS with log2 masked": replace(PRESETS["is-vit"], softmax="log2_masked"),
    "SOS with uniform": replace(PRESETS["is-vit"], softmax="uniform"),
    "SOS, eta a power of two": replace(PRESETS["is-vit"], eta="powers"),
}


def settings_of(arm: str, bits: str, sizes: Sizes, seed: int) -> QuantiseConfig:
    """An arm's settings: fewer steps than the paper at a rate that keeps the published product of rate and steps."""
    base = PRESETS[CALIBRATED[arm]] if arm in CALIBRATED else {**TUNED, **ABLATIONS}[arm]
    rate = base.learning_rate * base.iterations / sizes.iterations
    return replace(base.with_bits(bits), images=sizes.images, range_images=sizes.range_images, batch=sizes.batch,
                   iterations=sizes.iterations, learning_rate=rate, seed=seed)


def groups(sizes: Sizes) -> tuple[str, ...]:
    """What is made and measured together: the float network, all arms at some bits, all with injected outliers."""
    return (FLOAT, *sizes.bits, *([INJECTED] if sizes.ablations else []))


def arms_of(group: str, model: nn.Module, pixels: Tensor, sizes: Sizes, seed: int) -> Iterator[Made]:
    """Every arm of a group, made from a float model and calibration pixels."""
    if group == FLOAT:
        yield FLOAT, model, 0.0
    elif group == INJECTED:
        yield from _injected(model, pixels, sizes, seed)
    else:
        for arm, small, seconds in _at(group, model, pixels, sizes, seed):
            yield f"{group} {arm}", small, seconds


def _injected(model: nn.Module, pixels: Tensor, sizes: Sizes, seed: int) -> Iterator[Made]:
    changed = copy.deepcopy(model)
    inject_outliers(changed, factor=OUTLIERS, channels=3, seed=seed)
    yield f"{INJECTED} {FLOAT}", changed, 0.0
    for bits in sizes.low:
        for arm in ("uniform", "sulq", "reparameterisation only", "SOS 1+2+3"):
            yield f"{INJECTED} {bits} {arm}", *_timed(changed, pixels, settings_of(arm, bits, sizes, seed))


def _at(bits: str, model: nn.Module, pixels: Tensor, sizes: Sizes, seed: int) -> Iterator[Made]:
    for arm in CALIBRATED:
        yield arm, *_timed(model, pixels, settings_of(arm, bits, sizes, seed))
    for arm in TUNED if sizes.ablations else ("SOS 1", "SOS 1+2+3"):
        small, seconds = _timed(model, pixels, settings_of(arm, bits, sizes, seed))
        yield arm, small, seconds
        if arm == "SOS 1":
            both = folded(small, find_structure(model))
            yield "SOS 1+2", both, seconds
            for name, one in (("SOS 1", small), ("SOS 1+2", both)):
                yield f"{name}, weights float", with_float_weights(one), seconds
    if sizes.ablations and bits == sizes.bits[0]:
        for arm in ABLATIONS:
            yield arm, *_timed(model, pixels, settings_of(arm, bits, sizes, seed))


def _timed(model: nn.Module, pixels: Tensor, config: QuantiseConfig) -> tuple[nn.Module, float]:
    began = time.perf_counter()
    small, _ = sos.quantise(model, pixels, config)
    return small, time.perf_counter() - began


def folded(small: nn.Module, structure: Structure) -> nn.Module:
    """A network after stage 1 taken through stage 2: scales folded, weights rounded again, nothing tuned."""
    after = copy.deepcopy(small)
    for norm, readers in norm_readers(after, structure):
        reparameterise(norm, readers)
    round_weights(after)
    return after


def as_deployed(model: Any) -> Any:
    """What would be run: the float network itself, a quantised one on bytes; None where the processor or the arm (a
    channel-wise scale) does not allow that."""
    if not is_quantised(model):
        return model
    if not all(getattr(layer.weight_quantiser, "enabled", False) for layer in weight_layers(model)):
        return None
    fast = copy.deepcopy(model)
    try:
        hold_codes(fast)
        use_int8(fast)
    except InputError:
        return None
    return fast


def with_float_weights(model: nn.Module) -> nn.Module:
    """A copy whose weights are not rounded."""
    plain = copy.deepcopy(model)
    for layer in weight_layers(plain):
        assert isinstance(layer.weight_quantiser, Quantiser)
        layer.weight_quantiser.enabled = False
    return plain
