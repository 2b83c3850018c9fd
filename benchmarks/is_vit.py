"""I&S-ViT's int8 path against fp32, bf16 and torchao's int8 on a network of ViT-S's size, and its calibration.

Forward: 197 tokens of width 384, 12 blocks, random weights; one network, quantised once, all sides in turn, medians.
torchao quantises the inputs of linear layers token by token while it runs and leaves attention and the patch embedding
in fp32; ours has static scales and quantises the products of attention too. Calibration: one block of that width, ours
against the published loop, written here from its description: earlier blocks run again for each unit, ranges searched
channel by channel, every quantiser made of separate operations.

    python benchmarks/is_vit.py [--quick] [--json] [--threads N] [--compile]

With one thread (the default) times are of the processor, which other work on the machine disturbs little; with more
they are of the clock. torchao is measured where it is installed; keep it out of your working environment, since
transformers imports it everywhere: pip install --no-deps --target DIR torchao, then PYTHONPATH=DIR.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from diorama.metrics.claims import package_versions
from diorama.systems.is_vit.config import QuantiseConfig, preset
from diorama.systems.is_vit.fast import use_int8
from diorama.systems.is_vit.integer import hold_codes
from diorama.systems.is_vit.packed import packed_size
from diorama.systems.is_vit.quantised import calibrating, insert
from diorama.systems.is_vit.sos import Work, quantise, three_stages
from diorama.systems.is_vit.units import in_batches, units_of

PUBLISHED = "the published loop, written here"
VIT_S = ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536,
                  layer_norm_eps=1e-6, num_labels=1000)
BLOCK = 3
"""The block that is calibrated; those before it are what the published loop runs again."""
Network = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` above 1 means that ours is better; `goal` is what it should reach, if it has one."""

    what: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    goal: float | None
    peer: str


def random_pixels(images: int, seed: int = 0) -> Tensor:
    """(images, 3, 224, 224)."""
    return torch.randn(images, 3, VIT_S.image_size, VIT_S.image_size, generator=torch.Generator().manual_seed(seed))


def random_vit(blocks: int) -> Any:
    """A ViT-S with so many blocks, weights moved away from their small start."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**{**VIT_S.to_dict(), "num_hidden_layers": blocks})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.requires_grad_(False)


# ---- measuring ------------------------------------------------------------------------------------------------------


def seconds() -> float:
    """Seconds of the processor with one thread, of the clock with more."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(sides: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each side, run in turn `repeats` times after one unmeasured round, every other one reversed."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for number in range(repeats):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for index in order:
            began = seconds()
            sides[index]()
            times[index].append(seconds() - began)
    return [statistics.median(values) for values in times]


# ---- forward --------------------------------------------------------------------------------------------------------


def int8_network(model: Any, bits: str) -> Any:
    """The network quantised without tuning, on our int8 path; RuntimeError unless it follows the integer reference.

    Block by block, on the same inputs: through twelve blocks of random weights one code that differs becomes many.
    """
    config = replace(preset("is-vit", bits), method="none", images=2, range_images=2)
    pixels = random_pixels(2)
    coded, _ = quantise(model, pixels, config)
    hold_codes(coded)
    fast = copy.deepcopy(coded)
    use_int8(fast)
    with torch.no_grad():
        hidden = coded.vit.embeddings(pixels[:1])
        for slow_block, fast_block in zip(coded.vit.layers, fast.vit.layers, strict=True):
            found, hidden = fast_block(hidden), slow_block(hidden)
            gap = float((found - hidden).norm() / hidden.norm())
            if gap > 0.05:
                raise RuntimeError(f"A block on int8 is {gap:.1%} away from the integer reference at {bits}; "
                                   "nothing was timed.")
    return fast


def torchao_network(model: Any) -> Any:
    """A copy under torchao's int8 dynamic quantisation, or None where torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        return None
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    other = copy.deepcopy(model)
    quantize_(other, Int8DynamicActivationInt8WeightConfig())
    return other


def peers_of(model: Any, *, compiled: bool) -> dict[str, tuple[Network, torch.dtype, float | None]]:
    """The other sides by name: network, type of its pixels, and what our ratio to it should be."""
    peers: dict[str, tuple[Network, torch.dtype, float | None]] = {
        "fp32": (model, torch.float32, 1.5), "bf16": (copy.deepcopy(model).bfloat16(), torch.bfloat16, None)}
    other = torchao_network(model)
    if other is not None:
        name = f"torchao {version('torchao')} int8 dynamic"
        peers[name] = (other, torch.float32, 1.0)
        if compiled:
            peers[f"{name}, compiled"] = (torch.compile(copy.deepcopy(other)), torch.float32, 1.0)
    if compiled:
        peers["fp32, compiled"] = (torch.compile(copy.deepcopy(model)), torch.float32, None)
    return peers


@torch.inference_mode()
def forward_rows(batches: Sequence[tuple[int, int]], *, compiled: bool) -> list[Row]:
    """Ours against every peer at each (batch, repeats)."""
    model = random_vit(VIT_S.num_hidden_layers)
    with torch.inference_mode(False):
        ours, wide = int8_network(model, "w3a3"), int8_network(model, "w8a8")
        peers = peers_of(model, compiled=compiled)
    rows = []
    for batch, repeats in batches:
        pixels = random_pixels(batch)
        typed = [(network, pixels.to(kind)) for network, kind, _ in peers.values()]
        sides = [partial(ours, pixels), partial(wide, pixels), *(partial(network, x) for network, x in typed)]
        mine, mine_wide, *others = in_turn(sides, repeats)
        images = "1 image" if batch == 1 else f"{batch} images"
        for (name, (_, _, goal)), other in zip(peers.items(), others, strict=True):
            for bits, found in (("w3a3", mine), ("w8a8", mine_wide)):
                rows.append(Row(f"forward of {images}, {bits} on int8", 1e3 * found, 1e3 * other, "ms", other / found,
                                goal, name))
    return rows


def size_rows() -> list[Row]:
    """Bytes of the tensors of packed files against float32, from the shapes alone."""
    rows = []
    for name, width, most in (("ViT-S", 384, None), ("ViT-B", 768, 36e6)):
        with init_empty_weights(include_buffers=False):
            model = ViTForImageClassification(ViTConfig(hidden_size=width, num_attention_heads=width // 64,
                                                        intermediate_size=4 * width, num_labels=1000))
        theirs = sum(parameter.numel() * 4 for parameter in model.parameters())
        insert(model, preset("is-vit", "w3a3"), norm="tensor")
        ours = packed_size(model)
        rows.append(Row(f"file of {name}, w3a3", ours / 1e6, theirs / 1e6, "MB", theirs / ours,
                        None if most is None else theirs / most, "float32"))
    return rows


# ---- calibration: the published loop --------------------------------------------------------------------------------


def rounded(x: Tensor) -> Tensor:
    """round(x), straight through for gradients."""
    return (x.round() - x).detach() + x


class LoopUniform(nn.Module):
    """Uniform quantiser as separate operations; scales are searched for one channel after another, by percentiles."""

    def __init__(self, levels: int, percentiles: Sequence[float], axis: int | None = None):
        super().__init__()
        self.levels, self.percentiles, self.axis = levels, percentiles, axis
        self.scale, self.zero = torch.ones(()), torch.zeros(())

    def search(self, x: Tensor) -> None:
        rows = x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1)
        found = [self._search_one(row) for row in rows]
        scale, zero = (torch.stack(part) for part in zip(*found, strict=True))
        if self.axis is None:
            self.scale, self.zero = scale[0], zero[0]
        else:
            shape = [1] * x.ndim
            shape[self.axis] = -1
            self.scale, self.zero = scale.view(shape), zero.view(shape)

    def _search_one(self, x: Tensor) -> tuple[Tensor, Tensor]:
        best, chosen = math.inf, (x.new_ones(()), x.new_zeros(()))
        small = x if x.numel() <= 2**24 else x[:: x.numel() // 2**24 + 1]      # torch.quantile takes no more
        for p in self.percentiles:
            high, low = torch.quantile(small, p), torch.quantile(small, 1 - p)
            scale = ((high - low) / (self.levels - 1)).clamp(min=1e-8)
            zero = (-low / scale).round()
            error = float((self._apply(x, scale, zero) - x).square().mean())
            if error < best:
                best, chosen = error, (scale, zero)
        return chosen

    def _apply(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (torch.clamp(rounded(x / scale) + zero, 0, self.levels - 1) - zero) * scale

    def forward(self, x: Tensor) -> Tensor:
        return self._apply(x, self.scale, self.zero)


class LoopSulq(nn.Module):
    """SULQ as separate operations, eta searched over the released grid."""

    ETAS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)

    def __init__(self, levels: int):
        super().__init__()
        self.levels, self.eta, self.scale, self.zero = levels, 0.0, torch.ones(()), torch.zeros(())

    def search(self, x: Tensor) -> None:
        best, chosen = math.inf, (0.0, self.scale, self.zero)
        for eta in self.ETAS:
            y = -torch.log2(x + eta)
            self.eta, self.scale = eta, (y.max() - y.min()) / (self.levels - 1)
            self.zero = (-y.min() / self.scale).round()
            error = float((self(x) - x).square().mean())
            if error < best:
                best, chosen = error, (self.eta, self.scale, self.zero)
        self.eta, self.scale, self.zero = chosen

    def forward(self, x: Tensor) -> Tensor:
        code = torch.clamp(rounded(-torch.log2(x + self.eta) / self.scale) + self.zero, 0, self.levels - 1)
        return 2.0 ** -rounded((code - self.zero) * self.scale) - self.eta


class LoopBlock(nn.Module):
    """A pre-norm block with quantisers; `searching` names those that fit themselves to what passes."""

    def __init__(self, layer: Any, config: QuantiseConfig):
        super().__init__()
        self.layer = copy.deepcopy(layer)
        levels, weights = 2**config.activation_bits, 2**config.weight_bits
        attention, mlp = self.layer.attention, self.layer.mlp
        self.linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.fc1, mlp.fc2]
        self.norms = [LoopUniform(levels, config.activation_percentiles, axis=2) for _ in range(2)]
        self.sites = [LoopUniform(levels, config.activation_percentiles) for _ in range(5)]    # q, k, v, proj, fc2
        self.softmax = LoopSulq(levels)
        self.weights = [LoopUniform(weights, config.weight_percentiles, axis=0) for _ in self.linears]
        self.round_weights = self.searching = False

    def site(self, quantiser: Any, x: Tensor) -> Tensor:
        if self.searching:
            quantiser.search(x)
        return quantiser(x)

    def linear(self, index: int, x: Tensor) -> Tensor:
        layer = self.linears[index]
        return F.linear(x, self.weights[index](layer.weight) if self.round_weights else layer.weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, context, hidden = self.sites
        y = self.site(self.norms[0], self.layer.layernorm_before(x))
        width = self.layer.attention.head_dim
        heads = [self.site(place, self.linear(index, y).unflatten(-1, (-1, width)).transpose(1, 2))
                 for index, place in ((0, q), (1, k), (2, v))]
        scores = heads[0] @ heads[1].transpose(2, 3) * width**-0.5
        mixed = self.site(self.softmax, scores.softmax(-1)) @ heads[2]
        x = x + self.linear(3, self.site(context, mixed.transpose(1, 2).flatten(2)))
        y = self.site(self.norms[1], self.layer.layernorm_after(x))
        return x + self.linear(5, self.site(hidden, F.gelu(self.linear(4, y))))

    @torch.no_grad()
    def fold(self) -> None:
        """Stage 2: one scale for each LayerNorm's output."""
        readers = [(self.layer.layernorm_before, self.linears[:3]), (self.layer.layernorm_after, self.linears[4:5])]
        for quantiser, (norm, layers) in zip(self.norms, readers, strict=True):
            scale, zero = quantiser.scale.flatten(), quantiser.zero.flatten()
            common, middle = scale.mean(), zero.mean().round()
            ratio, shift = scale / common, scale * (zero - middle)
            norm.weight.div_(ratio)
            norm.bias.add_(shift).div_(ratio)
            for layer in layers:
                layer.bias.sub_(layer.weight @ shift)
                layer.weight.mul_(ratio)
            quantiser.scale, quantiser.zero, quantiser.axis = common, middle, None


def loop_stage(block: LoopBlock, inputs: Tensor, target: Tensor, config: QuantiseConfig) -> list[float]:
    """The published steps of one stage; the loss of each."""
    parameters = [p for layer in block.linears for p in layer.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations)
    generator = torch.Generator().manual_seed(BLOCK)
    losses = []
    for _ in range(config.iterations):
        rows = torch.randperm(len(inputs), generator=generator)[: config.batch]
        optimizer.zero_grad()
        loss = (block(inputs[rows]) - target[rows]).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    for parameter in parameters:
        parameter.requires_grad_(False)
    return losses


def published(model: Any, earlier: nn.Module, pixels: Tensor, config: QuantiseConfig) -> list[float]:
    """One block by the published loop: both networks run from the pixels, ranges one channel after another."""
    block = LoopBlock(model.vit.layers[BLOCK], config)
    with torch.no_grad():
        exact = through(model, pixels, config.batch, BLOCK)
        target = through(model, pixels, config.batch, BLOCK + 1)
        given = through(earlier, pixels, config.batch, BLOCK)
        block.searching = True
        block(exact[: config.range_images])
        block.searching = False
    losses = loop_stage(block, exact, target, config)
    block.fold()
    for quantiser, layer in zip(block.weights, block.linears, strict=True):
        quantiser.search(layer.weight.detach())
    block.round_weights = True
    return losses + loop_stage(block, given, target, config)


def through(model: Any, pixels: Tensor, batch: int, blocks: int) -> Tensor:
    """Tokens (N, 197, 384) after the embeddings and so many blocks."""
    units = units_of(model)[: 1 + blocks]

    def run(rows: Tensor) -> Tensor:
        for unit in units:
            rows = unit.run(rows)
        return rows

    return in_batches(run, pixels, batch)


def ours_for(model: Any, exact: Tensor, given: Tensor, config: QuantiseConfig) -> list[float]:
    """One block by ours, from the carried inputs of it in both networks; also what it hands on to the next."""
    student = copy.deepcopy(model)
    structure = insert(student, config)
    unit, float_unit = units_of(student)[1 + BLOCK], units_of(model)[1 + BLOCK]
    with torch.no_grad(), calibrating(student):
        unit.run(exact[: config.range_images])
    target = in_batches(float_unit.run, exact, config.batch)
    work = Work(student, structure, unit, exact, given, target, config, seed=BLOCK)
    tuned = list(three_stages(work))
    in_batches(unit.run, given, config.batch)
    return [one.first for one in tuned]


def calibration_rows(images: int, batch: int, iterations: int, repeats: int) -> list[Row]:
    """One block calibrated, and of that one step; RuntimeError if the two sides do not begin alike."""
    config = QuantiseConfig(images=images, range_images=min(images, 64), batch=batch, iterations=iterations)
    model = random_vit(BLOCK + 1)
    pixels = random_pixels(images, seed=1)
    exact = through(model, pixels, batch, BLOCK)
    given = exact + 0.01 * exact.std() * torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    found = ours_for(model, exact, given, config)[0]
    losses = published(model, model, pixels, config)
    wanted = statistics.mean(losses[: max(iterations // 4, 1)])
    if not math.isclose(found, wanted, rel_tol=0.1):
        raise RuntimeError(f"Stage 1 begins at the loss {found:.4g} in ours, {wanted:.4g} in the published loop; "
                           "nothing was timed.")
    mine, theirs = in_turn([partial(ours_for, model, exact, given, config),
                            partial(published, model, model, pixels, config)], repeats)
    what = f"one block of ViT-S calibrated, {images} images, {iterations} steps of {batch} a stage"
    return [Row(what, mine, theirs, "s", theirs / mine, 1.0, PUBLISHED)]


# ---- the command ----------------------------------------------------------------------------------------------------


def measure(*, quick: bool, compiled: bool) -> list[Row]:
    """All rows."""
    warnings.filterwarnings("ignore", module="torchao")
    if quick:
        return [*forward_rows([(1, 5)], compiled=compiled), *calibration_rows(4, 2, 2, 1), *size_rows()]
    return [*forward_rows([(1, 15), (8, 5), (32, 3)], compiled=compiled), *calibration_rows(32, 8, 10, 2),
            *size_rows()]


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """The object that --json prints."""
    threads = torch.get_num_threads()
    machine = {"processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
               "system": platform.platform(), "cores": os.cpu_count(), "threads": threads,
               "clock": "processor time" if threads == 1 else "wall clock"}
    return {"system": "is_vit", "rows": [asdict(row) for row in rows], "machine": machine,
            "versions": package_versions()}


def table(rows: Sequence[Row]) -> str:
    """The rows as plain lines."""
    lines = []
    for row in rows:
        goal = "" if row.goal is None else f"  goal {row.goal:.3g}{'' if row.ratio >= row.goal else ', MISSED'}"
        lines.append(f"{row.what}: ours {row.ours:.1f} {row.unit}, {row.peer} {row.theirs:.1f} {row.unit}: "
                     f"{row.ratio:.2f}x{goal}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one image, few repeats, short calibration")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--compile", action="store_true", help="also torchao and fp32 under torch.compile (minutes)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = measure(quick=options.quick, compiled=options.compile)
    print(json.dumps(report(rows)) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
