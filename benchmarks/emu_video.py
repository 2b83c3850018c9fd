"""Emu Video against diffusers' video U-Nets: the same widths, frames and steps; time of a clip and of a training step.

    python benchmarks/emu_video.py [--quick] [--json]

Clips: guidance by image and text over 25 steps. The peer is the loop one would write first, three network calls a step
over `UNet3DConditionModel`. One row is the very same network on both sides (its weights taken apart into ours), checked
to draw the same clip before it is timed; the other has the paper's layers over time at the same widths. Sides are timed
in turn and rows show medians of processor time, which a busy machine does not change much. Memory is counted tensor by
tensor: what a training step keeps beyond the weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from diffusers.utils import logging
from torch import Tensor

from diorama.diffusion import schedules
from diorama.diffusion.parametrisations import denoised
from diorama.diffusion.samplers import sample_ddim
from diorama.diffusion.text import Condition
from diorama.diffusion.text_once import text_once
from diorama.metrics.claims import package_versions
from diorama.systems.emu_video.conditioning import Conditions, first_frame, guided
from diorama.systems.emu_video.config import ModeConfig, TemporalConfig
from diorama.systems.emu_video.model import VideoModel, inflate
from diorama.systems.emu_video.modes import Mode
from diorama.systems.emu_video.weights import from_motion_adapter, from_unet3d, image_config_of_unet3d

UNET3D: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (64, 96), "layers_per_block": 1, "norm_num_groups": 8,
    "cross_attention_dim": 128, "attention_head_dim": 32, "in_channels": 8, "out_channels": 8,
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
    "up_block_types": ("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
}
ADAPTER: dict[str, Any] = {"block_out_channels": (64, 96), "motion_layers_per_block": 1, "motion_norm_num_groups": 8,
                           "motion_num_attention_heads": 4, "motion_max_seq_length": 8}
FRAMES, TOKENS, SIDE = 8, 16, 8
SCALES = (2.0, 7.5)
STEPS = 25


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


def timed(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median processor seconds of each side, in turn, after one call that does not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for _ in range(repeats):
        for name, call in sides.items():
            began = time.process_time()
            call()
            found[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


# ---- a guided clip -----------------------------------------------------------------------------------------------


def inputs() -> tuple[Tensor, Conditions]:
    """Noise (1, T, C, S, S), a caption, the empty one, and a given first frame."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, FRAMES, UNET3D["in_channels"], SIDE, SIDE, generator=generator)
    text, nothing = (Condition(torch.randn(1, TOKENS, 128, generator=generator)) for _ in range(2))
    return noise, Conditions(text, nothing, first_frame(noise[:, 0], FRAMES))


@torch.no_grad()
def our_clip(video: VideoModel, mode: Mode) -> Tensor:
    """What the pipeline does: one batch a step, text looked at once."""
    noise, conditions = inputs()
    with text_once(video.image) as memory:
        return sample_ddim(guided(video, mode, conditions, SCALES, memory=memory), noise, mode.schedule,
                           schedules.dense_near_noise(len(mode.schedule), STEPS))


@torch.no_grad()
def naive_clip(unet: UNet3DConditionModel, mode: Mode) -> Tensor:
    """The loop one would write first: three calls a step. A 3D U-Net takes no image, so X(0) and X(I) are both asked
    without text; their work is the same whatever they are given."""
    noise, conditions = inputs()
    x = noise.transpose(1, 2)
    for now, after in zip(steps := schedules.dense_near_noise(len(mode.schedule), STEPS), [*steps[1:], None],
                          strict=True):
        at = torch.tensor([now])
        nothing = unet(x, at, conditions.no_text.tokens).sample
        image = unet(x, at, conditions.no_text.tokens).sample
        both = unet(x, at, conditions.text.tokens).sample
        answer = nothing + SCALES[0] * (image - nothing) + SCALES[1] * (both - image)
        said = denoised(answer, x, *mode.schedule.at(now, x), "v")
        if after is None:
            return said.clean.transpose(1, 2)
        signal, noise_left = mode.schedule.at(after, x)
        x = signal * said.clean + noise_left * said.eps
    raise AssertionError("the last step returns")


def clip_rows(repeats: int) -> list[Row]:
    """A guided clip with the same network, and with the paper's layers, against the naive loop."""
    torch.manual_seed(0)
    mode = Mode.of(ModeConfig())
    theirs = UNet3DConditionModel(**UNET3D).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    same = from_unet3d(UNET3D, theirs.state_dict()).eval()
    torch.testing.assert_close(our_clip(same, mode), naive_clip(theirs, mode), rtol=1e-2, atol=1e-3)
    image = UNet2DConditionModel(**image_config_of_unet3d(UNET3D)).eval()
    paper = inflate(image, TemporalConfig(head_dim=32)).eval()
    found = timed({"same": lambda: our_clip(same, mode), "paper": lambda: our_clip(paper, mode),
                   "naive": lambda: naive_clip(theirs, mode)}, repeats)
    peer = "three calls a step over diffusers.UNet3DConditionModel"
    return [
        Row("guided clip, 25 steps, the paper's layers at the same widths", found["paper"], found["naive"], "s",
            found["naive"] / found["paper"], 2.0, peer),
        Row("guided clip, 25 steps, the same network and weights", found["same"], found["naive"], "s",
            found["naive"] / found["same"], None, peer),
    ]


def forward_rows(repeats: int) -> list[Row]:
    """One pass of a batch of three clips through an imported motion adapter, against diffusers' own class."""
    torch.manual_seed(0)
    config = image_config_of_unet3d(UNET3D)
    # UNetMotionModel knows the number of heads by another name and has no tuple of them.
    image = UNet2DConditionModel(**{**config, "attention_head_dim": 4, "use_linear_projection": False}).eval()
    adapter = MotionAdapter(**ADAPTER).eval()
    logging.set_verbosity_error()                    # it warns of a cast that is none
    theirs = UNetMotionModel.from_unet2d(image, adapter).eval()
    theirs.mid_block.motion_modules.load_state_dict(adapter.mid_block.motion_modules.state_dict())
    ours = from_motion_adapter(image, ADAPTER, adapter.state_dict()).eval()
    noise, conditions = inputs()
    x, times = noise.repeat(3, 1, 1, 1, 1), torch.tensor([500] * 3)
    text = Condition(conditions.text.tokens.repeat(3, 1, 1))
    frames = text.tokens.repeat_interleave(FRAMES, 0)
    with torch.no_grad():
        wanted = theirs(x.transpose(1, 2), times, frames).sample.transpose(1, 2)
        torch.testing.assert_close(ours(x, times, text), wanted, rtol=1e-3, atol=1e-4)
        found = timed({"ours": lambda: ours(x, times, text),
                       "theirs": lambda: theirs(x.transpose(1, 2), times, frames).sample}, repeats)
    return [Row("one pass of three clips through a motion adapter, same weights", found["ours"], found["theirs"], "s",
                found["theirs"] / found["ours"], None, "diffusers.UNetMotionModel")]


# ---- a training step ---------------------------------------------------------------------------------------------


class Step:
    """A training step of the paper's network on two clips, with the image layers frozen or not."""

    def __init__(self, frozen: bool):
        torch.manual_seed(0)
        image = UNet2DConditionModel(**image_config_of_unet3d(UNET3D)).train()
        self.video = inflate(image, TemporalConfig(head_dim=32))
        image.requires_grad_(not frozen)
        self.optimizer = torch.optim.AdamW([p for p in self.video.parameters() if p.requires_grad], lr=1e-4)
        noise, conditions = inputs()
        self.batch = (noise.repeat(2, 1, 1, 1, 1), torch.tensor([500, 100]),
                      Condition(conditions.text.tokens.repeat(2, 1, 1)))

    def __call__(self) -> None:
        self.video(*self.batch).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def memory_of(step: Step) -> float:
    """Megabytes of a step beyond the weights: activations kept for the backward pass, gradients, optimizer state."""
    weights = {p.untyped_storage().data_ptr() for p in step.video.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    alive: list[Tensor] = []                         # so that no memory is used, and counted, twice
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (alive.append(tensor), note(tensor))[1], lambda t: t):
        step.video(*step.batch).square().mean().backward()
    gradients = sum(p.grad.nbytes for p in step.video.parameters() if p.grad is not None)
    step.optimizer.step()
    state = sum(value.nbytes for entry in step.optimizer.state.values() for value in entry.values())
    step.optimizer.zero_grad(set_to_none=True)
    return (sum(kept.values()) + gradients + state) / 1e6


def step_rows(repeats: int) -> list[Row]:
    """Time and memory of a step with frozen image layers against training all of them."""
    frozen, every = Step(True), Step(False)
    found = timed({"frozen": frozen, "all": every}, repeats)
    memory = {"frozen": memory_of(frozen), "all": memory_of(every)}
    peer = "the same network, all layers trained"
    return [
        Row("training step, image layers frozen", found["frozen"], found["all"], "s", found["all"] / found["frozen"],
            None, peer),
        Row("memory of a training step beyond the model", memory["frozen"], memory["all"], "MB",
            memory["all"] / memory["frozen"], None, peer),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three repeats instead of nine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    repeats = 3 if arguments.quick else 9
    rows = [*clip_rows(repeats), *forward_rows(repeats), *step_rows(repeats)]
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    result = {"system": "emu_video", "rows": [asdict(row) for row in rows], "machine": machine,
              "versions": package_versions()}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{'what':66} {'ours':>9} {'theirs':>9} unit   ratio  goal  peer")
    for row in rows:
        goal = f"{row.goal:.1f}" if row.goal else "-"
        print(f"{row.what:66} {row.ours:9.3f} {row.theirs:9.3f} {row.unit:4} {row.ratio:6.2f}x  {goal:4}  {row.peer}")


if __name__ == "__main__":
    main()
