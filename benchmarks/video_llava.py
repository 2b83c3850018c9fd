"""Video-LLaVA against transformers' VideoLlavaForConditionalGeneration: same weights, same tokens, same answers.

Our temporal attention is off, because the port has none. Every pair of sides is checked to agree before it is timed,
and timed in turn (ours, theirs, ours, ...); a row shows medians. Memory is what each side, alone in a process of its
own, takes beyond its loaded weights.

    python benchmarks/video_llava.py [--quick] [--json] [--attention]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionModel, VideoLlavaForConditionalGeneration
from transformers import VideoLlavaConfig as PortConfig

from diorama.metrics.claims import package_versions
from diorama.nn.attention import use_eager_attention
from diorama.systems.video_llava.config import MINIATURE, LanguageConfig, TowerConfig, VideoLlavaConfig
from diorama.systems.video_llava.generation import Decoding, Prefix
from diorama.systems.video_llava.model import (
    ImageTower,
    VideoLlavaModel,
    VideoTower,
    clip_vision_config,
    llama_config,
)
from diorama.systems.video_llava.processing import Turn, build_word_tokenizer, encode_conversation
from diorama.systems.video_llava.splice import VIDEO_MARKER, Media, Sample, pack_questions
from diorama.systems.video_llava.weights import to_port
from diorama.world.vocabulary import WORDS

PORT = "transformers.VideoLlavaForConditionalGeneration"
NEW_TOKENS = 6
"""Length of an answer; no row ends early, so that both sides always do the same work."""
QUESTIONS = (
    "what color is the cube?",
    "which way does the red sphere move?",
    "how many objects are there?",
    "what moves first?",
    "is there a small green cone?",
    "what shape is the object left of the torus?",
    "does the large blue cylinder move?",
    "where is the yellow pyramid?",
)
MEDIUM = replace(
    MINIATURE,
    tower=TowerConfig(image_size=112, patch_size=14, hidden_size=384, num_layers=8, num_heads=6,
                      intermediate_size=1536),
    language=LanguageConfig(vocab_size=8000, hidden_size=384, num_layers=8, num_heads=6, intermediate_size=1024,
                            max_positions=4096, pad_token_id=0),
)
SIZES = {"shipped size": MINIATURE, "50M weights": MEDIUM}


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


# ---- the same work for both sides --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A clip with questions on it, as our samples and as the port's ids."""

    config: VideoLlavaConfig
    clip: Tensor
    samples: tuple[Sample, ...]

    @classmethod
    def make(cls, config: VideoLlavaConfig) -> Work:
        """Random pixels (3, T, S, S) and the questions in template v1."""
        torch.manual_seed(0)
        size = config.tower.image_size
        clip = torch.randn(3, config.tower.frames, size, size)
        media = [Media("video", clip)]
        tokenizer = build_word_tokenizer(WORDS)
        return cls(config, clip, tuple(encode_conversation([Turn(question)], media, tokenizer, config)
                                       for question in QUESTIONS))

    def port_ids(self, index: int) -> Tensor:
        """(1, L) with the marker written out as one video token a feature."""
        video = self.config.language.vocab_size - 1
        ids: list[int] = []
        for token in self.samples[index].input_ids.tolist():
            ids += [video] * self.config.video_tokens(self.config.tower.frames) if token == VIDEO_MARKER else [token]
        return torch.tensor([ids])

    def port_batch(self) -> tuple[Tensor, Tensor]:
        """All questions (Q, L), left padded, and which positions are real."""
        rows = [self.port_ids(index)[0] for index in range(len(self.samples))]
        longest = max(map(len, rows))
        ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
        valid = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long()
        return ids, valid


def build_ours(config: VideoLlavaConfig) -> VideoLlavaModel:
    """Our model with random weights, temporal attention off, and no token that ends an answer."""
    torch.manual_seed(1)
    model = VideoLlavaModel.from_config(replace(config, temporal_attention=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.config = replace(model.config, language=replace(model.config.language, eos_token_id=-1))
    return model


def build_theirs(config: VideoLlavaConfig, ours: VideoLlavaModel | None = None) -> VideoLlavaForConditionalGeneration:
    """The port at the same shape, with our weights if our model is given."""
    vocabulary = config.language.vocab_size
    port = VideoLlavaForConditionalGeneration(PortConfig(
        text_config=llama_config(config.language), vision_config=clip_vision_config(config.tower),
        image_token_index=vocabulary - 2, video_token_index=vocabulary - 1,
        vision_feature_layer=config.select_layer)).eval()
    if ours is not None:
        port.load_state_dict(to_port(ours.state_dict(), "memory"))
    port.generation_config.eos_token_id = None
    port.generation_config.pad_token_id = 0
    return port


def ask_ours(model: VideoLlavaModel, work: Work, count: int) -> list[list[int]]:
    """What the pipeline does: towers and media once, then all questions in one batch behind them."""
    features = model.tower_features([Media("video", work.clip)])[0]
    seen = (Media("video", features=features),)
    samples = [replace(sample, media=seen) for sample in work.samples[:count]]
    decoding = Decoding(max_tokens=NEW_TOKENS)
    if count == 1:
        return [list(Prefix.begin(model, samples[0], decoding)[1])]
    return Prefix.encode(model, samples[0]).answer(samples, decoding)


def ask_theirs(port: VideoLlavaForConditionalGeneration, work: Work, count: int) -> list[list[int]]:
    """What a user of the port does: one call of `generate` a question."""
    pixels = work.clip.transpose(0, 1)[None]
    answers = []
    for index in range(count):
        ids = work.port_ids(index)
        out = port.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=pixels,
                            do_sample=False, max_new_tokens=NEW_TOKENS)
        answers.append(out[0, ids.shape[1]:].tolist())
    return answers


def ask_theirs_batched(port: VideoLlavaForConditionalGeneration, work: Work) -> list[list[int]]:
    """All questions in one call of `generate`; the port wants the clip once a question."""
    ids, valid = work.port_batch()
    pixels = work.clip.transpose(0, 1)[None].expand(len(ids), -1, -1, -1, -1)
    out = port.generate(input_ids=ids, attention_mask=valid, pixel_values_videos=pixels, do_sample=False,
                        max_new_tokens=NEW_TOKENS)
    return out[:, ids.shape[1]:].tolist()


@torch.no_grad()
def check_agreement(ours: VideoLlavaModel, port: VideoLlavaForConditionalGeneration, work: Work) -> None:
    """RuntimeError unless the logits of a question agree to 1e-3 of their spread, and the answers token by token."""
    ids = work.port_ids(0)
    found = ours([work.samples[0]], with_logits=True).logits[0]
    wanted = port(input_ids=ids, pixel_values_videos=work.clip.transpose(0, 1)[None]).logits[0]
    gap = float((found - wanted).abs().max() / wanted.std())
    if gap > 1e-3:
        raise RuntimeError(f"The logits of the two sides differ by {gap:.1e} of their spread; nothing was timed.")
    count = len(work.samples)
    mine = ask_ours(ours, work, count)
    if mine != ask_theirs(port, work, count):
        raise RuntimeError("The two sides give different answers; nothing was timed.")


# ---- measuring ---------------------------------------------------------------------------------------------------


def in_turn(sides: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each side, run in turn `repeats` times after one unmeasured round, every other one reversed."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for number in range(repeats):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for index in order:
            began = time.perf_counter()
            sides[index]()
            times[index].append(time.perf_counter() - began)
    return [statistics.median(values) for values in times]


def timed(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, *, goal: float | None,
          peer: str) -> Row:
    """A row in milliseconds."""
    mine, other = in_turn([ours, theirs], repeats)
    return Row(what, 1e3 * mine, 1e3 * other, "ms", other / mine, goal, peer)


def question_rows(name: str, config: VideoLlavaConfig, repeats: int) -> list[Row]:
    """One question, and all questions on one clip."""
    work, ours = Work.make(config), build_ours(config)
    theirs = build_theirs(config, ours)
    check_agreement(ours, theirs, work)
    count = len(work.samples)
    one, several, one_by_one, batched = in_turn(
        [partial(ask_ours, ours, work, 1), partial(ask_ours, ours, work, count), partial(ask_theirs, theirs, work, 1),
         partial(ask_theirs_batched, theirs, work)], repeats)
    all_in_turn = in_turn([partial(ask_ours, ours, work, count), partial(ask_theirs, theirs, work, count)],
                          max(3, repeats // 2))
    return [
        Row(f"one question on one clip, {name}", 1e3 * one, 1e3 * one_by_one, "ms", one_by_one / one, 1.0, PORT),
        Row(f"{count} questions on one clip, {name}", 1e3 * all_in_turn[0], 1e3 * all_in_turn[1], "ms",
            all_in_turn[1] / all_in_turn[0], 3.0, f"{PORT}, question by question"),
        Row(f"{count} questions on one clip, {name}", 1e3 * several, 1e3 * batched, "ms", batched / several, None,
            f"{PORT}, one batch"),
    ]


@torch.no_grad()
def tower_rows(name: str, config: VideoLlavaConfig, repeats: int) -> list[Row]:
    """hidden_states[-2] of one clip's frames: our image tower, and our video tower with its temporal attention."""
    torch.manual_seed(2)
    tower = config.tower
    clip_tower = CLIPVisionModel(clip_vision_config(tower)).eval()
    image, video = ImageTower(tower).eval(), VideoTower(tower).eval()
    image.load_state_dict(clip_tower.state_dict())
    frames = torch.randn(tower.frames, 3, tower.image_size, tower.image_size)

    def theirs() -> Tensor:
        return clip_tower(frames, output_hidden_states=True).hidden_states[config.select_layer]

    gap = float((image.hidden_state(frames, config.select_layer) - theirs()).abs().max())
    if gap > 1e-4:
        raise RuntimeError(f"The towers differ by {gap:.1e}; nothing was timed.")
    clip = frames.transpose(0, 1)[None]
    peer = "transformers.CLIPVisionModel"
    return [
        timed(f"image tower on {tower.frames} frames, {name}", partial(image.hidden_state, frames, config.select_layer),
              theirs, repeats, goal=1.0, peer=peer),
        timed(f"video tower (temporal attention added) on {tower.frames} frames, {name}",
              partial(video.hidden_state, clip, config.select_layer), theirs, repeats, goal=None, peer=peer),
    ]


def answered(work: Work, model: VideoLlavaModel) -> list[Sample]:
    """The questions with answers, on features that were computed once, as in training."""
    tokenizer = build_word_tokenizer(WORDS)
    seen = [Media("video", features=model.tower_features([Media("video", work.clip)])[0])]
    return [encode_conversation([Turn(question, "the red cube")], seen, tokenizer, work.config)
            for question in QUESTIONS]


def training_step(model: VideoLlavaModel, samples: Sequence[Sample], *, bf16: bool = False) -> float:
    """Forward and backward of projector and language model; the loss a token."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model(samples)
    loss = out.loss / out.tokens
    loss.backward()
    return float(loss.detach())


def training_row(name: str, config: VideoLlavaConfig, repeats: int) -> Row:
    """One clip with all questions packed behind it, against the questions as samples of their own."""
    work, model = Work.make(config), build_ours(config)
    model.set_stage("instruct")
    separate = answered(work, model)
    packed = [pack_questions(separate)]
    first, second = training_step(model, packed), training_step(model, separate)
    if abs(first - second) > 1e-3 * abs(second):
        raise RuntimeError(f"Packed questions have the loss {first:.5f}, separate ones {second:.5f}.")
    return timed(f"training step on {len(separate)} questions of one clip, packed, {name}",
                 partial(training_step, model, packed), partial(training_step, model, separate), repeats, goal=1.0,
                 peer="the same questions as separate samples")


def attention_rows(config: VideoLlavaConfig, repeats: int, clips: int) -> list[Row]:
    """Forward and backward of packed clips in bf16 with either attention kernel, at the miniature's language model."""
    work = Work.make(config)
    eager, fused = build_ours(config), build_ours(config)
    fused.load_state_dict(eager.state_dict())
    use_eager_attention(eager.language_model)
    for model in (eager, fused):
        model.set_stage("instruct")
    batch = [pack_questions(answered(work, eager))] * clips
    first, second = (training_step(model, batch, bf16=True) for model in (eager, fused))
    if abs(first - second) > 0.02 * abs(second):
        raise RuntimeError(f"Eager attention has the loss {first:.4f}, the fused kernel {second:.4f}.")
    length = eager.splice(batch).embeddings.shape[1]
    return [timed(f"training step, {clips} clips of {length} packed positions, bf16 on the CPU, eager attention",
                  partial(training_step, eager, batch, bf16=True), partial(training_step, fused, batch, bf16=True),
                  repeats, goal=None, peer="the fused kernel (sdpa)")]


def tower_attention_row(config: VideoLlavaConfig, repeats: int, images: int) -> Row:
    """Forward and backward of the image tower in bf16, as the alignment stage trains it, with either kernel."""
    eager, fused = ImageTower(config.tower), ImageTower(config.tower)
    fused.load_state_dict(eager.state_dict())
    use_eager_attention(eager)
    pixels = torch.randn(images, 3, config.tower.image_size, config.tower.image_size)

    def step(tower: ImageTower) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = tower.pooled(pixels).square().sum()
        loss.backward()

    return timed(f"alignment step, image tower, {images} images of {config.tower.num_patches + 1} tokens, bf16 on the "
                 "CPU, eager attention", partial(step, eager), partial(step, fused), repeats, goal=None,
                 peer="the fused kernel (sdpa)")


# ---- memory: each side alone in a process ------------------------------------------------------------------------


def memory_row(name: str, count: int) -> Row:
    """Peak memory beyond the loaded weights while `count` questions are answered."""
    found = []
    for side in ("ours", "theirs"):
        line = [sys.executable, str(Path(__file__).resolve()), "--memory", side, name, str(count)]
        done = subprocess.run(line, capture_output=True, text=True, check=True,
                              env={**os.environ, "HF_HUB_OFFLINE": "1"})
        found.append(float(done.stdout.splitlines()[-1]))
    ours, theirs = found
    plural = "s" if count > 1 else ""
    return Row(f"peak memory of {count} question{plural} on one clip, {name}", ours, theirs, "MB", theirs / ours, None,
               f"{PORT}, question by question")


def memory_growth(side: str, config: VideoLlavaConfig, count: int) -> float:
    """Megabytes by which the process's largest size grows while `side` answers; run in a fresh process."""
    work = Work.make(config)
    ask: Callable[[], Any]
    if side == "ours":
        ask = partial(ask_ours, build_ours(config), work, count)
    else:
        ask = partial(ask_theirs, build_theirs(config), work, count)
    torch.nn.functional.conv2d(torch.randn(1, 3, 28, 28), torch.randn(4, 3, 14, 14)).flatten(1) @ torch.randn(900, 4)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")       # makes VmHWM start again from the present size
    ask()
    return max(resident("VmHWM") - before, 0.1)


def resident(field: str) -> float:
    """A size of this process in megabytes, from /proc (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}.")


# ---- the command -------------------------------------------------------------------------------------------------


def measure(*, quick: bool, attention: bool) -> list[Row]:
    """All rows; `quick` takes about a minute on two cores."""
    repeats = 5 if quick else 15
    if attention:
        rows = [row for clips in ((2,) if quick else (2, 8)) for row in attention_rows(MINIATURE, repeats, clips)]
        return [*rows, tower_attention_row(MINIATURE, repeats, 16 if quick else 64)]
    rows = []
    for name, config in SIZES.items():
        rows += question_rows(name, config, repeats)
        rows += tower_rows(name, config, repeats)
        rows.append(training_row(name, config, repeats))
        if Path("/proc/self/clear_refs").exists():
            rows += [memory_row(name, count) for count in (1, len(QUESTIONS))]
    return rows


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """The object that --json prints."""
    machine = {"processor": platform.processor() or platform.machine(), "system": platform.platform(),
               "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"system": "video_llava", "rows": [asdict(row) for row in rows], "machine": machine,
            "versions": package_versions()}


def table(rows: Sequence[Row]) -> str:
    """The rows as plain lines."""
    lines = []
    for row in rows:
        goal = "" if row.goal is None else f"  goal {row.goal:g}{'' if row.ratio >= row.goal else ', MISSED'}"
        lines.append(f"{row.what}\n    ours {row.ours:.1f} {row.unit}, {row.peer} {row.theirs:.1f} {row.unit}: "
                     f"{row.ratio:.2f}x{goal}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five repeats instead of fifteen")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--attention", action="store_true", help="only: eager against fused attention in training")
    parser.add_argument("--memory", nargs=3, metavar=("SIDE", "SIZE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory:
        side, name, count = options.memory
        print(memory_growth(side, SIZES[name], int(count)))
        return 0
    rows = measure(quick=options.quick, attention=options.attention)
    print(json.dumps(report(rows)) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
