"""The paper's claims in miniature: each arm is trained from the same image base on the same clips, then judged.

Quick: the closed form of the terminal SNR, the exactness of the frozen image model and of the identity at the start,
and, once a miniature is shipped, the guidance scales on it. Full: the arms of claims 1, 2, 4, 5, 6, 7 and 8 as well
(`trials`), about a quarter of an hour a seed on one core; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diorama.checkpoints import miniature_names
from diorama.console import note
from diorama.diffusion.networks import predict
from diorama.diffusion.text import Condition
from diorama.diffusion.text_to_image import build_miniature
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.metrics.claims import Arm, Check, Claim, Published
from diorama.systems.emu_video import arms as world
from diorama.systems.emu_video.contrast import table
from diorama.systems.emu_video.evaluate import AT_ONCE, as_frames, make_clips
from diorama.systems.emu_video.model import VideoModel
from diorama.systems.emu_video.motion import motion_score
from diorama.systems.emu_video.pipeline import DEFAULT, HOW_TO_TRAIN, EmuVideo, Sampling
from diorama.systems.emu_video.train import Lessons, VideoLoss, VideoRecipe, encode_clips
from diorama.systems.emu_video.trials import BASE, Sizes, config_of, trained_arms

CLAIM = ("a clip drawn from an image drawn from text, by a frozen image model with layers over time, beats drawing it "
         "from text alone; the last time of the schedule must be pure noise")
PUBLISHED = (
    Published("factorised preferred to direct, quality / faithfulness", "70.5 / 63.3 %", "table 2a"),
    Published("zero terminal SNR preferred to the stock schedule", "96.8 / 88.3 %", "table 2b"),
    Published("high-quality fine-tuning preferred to none", "65.1 / 79.6 %", "table 2d"),
    Published("frozen image layers preferred to training all", "55.0 / 58.1 %", "table 2e"),
    Published("motion score over text scale 2 / 8 / 16", "1.87 / 2.87 / 3.86", "appendix, table 4"),
    Published("motion score over image scale 1 / 2 / 3", "2.87 / 0.61 / 0.25", "appendix, table 4"),
)


def reproduce(*, quick: bool = False, seeds: Sequence[int] = (0, 1, 2), out: Path = Path("runs/emu-video-claim"),
              progress: Callable[[str], None] = note, sizes: Sizes | None = None, weights: str = DEFAULT) -> Claim:
    """Measure the claims; `quick` takes under a minute, else every arm is trained with each seed.

    weights: the video model of claim 6. Raises CheckpointError for one that is named and not there; the default is left
    out, with a note, as long as it is not shipped.
    """
    began = time.monotonic()
    parts = [closed_form(), exactness()]
    if weights != DEFAULT or DEFAULT in miniature_names():
        parts.append(guidance_of_a_model(weights, 8, steps=8) if quick else guidance_of_a_model(weights, 48))
    else:
        progress(f"the guidance scales of claim 6 are not examined on {DEFAULT}, which is not shipped yet: "
                 f"{HOW_TO_TRAIN}")
    if quick:
        progress("claims 1, 2 (trained), 5, 7 (trained) and 8 train arms of their own: leave --quick out")
    if not quick:
        parts.append(trained_arms(sizes or Sizes(), seeds, out, progress))
    return Claim(system="emu_video", claim=CLAIM, published=PUBLISHED, arms=[arm for arms, _ in parts for arm in arms],
                 checks=[check for _, checks in parts for check in checks], mode="quick" if quick else "full",
                 seconds=time.monotonic() - began)


# ---- without training --------------------------------------------------------------------------------------------


def closed_form() -> tuple[list[Arm], list[Check]]:
    """Claim 2, exactly: the contrast that an exact denoiser keeps."""
    arms, checks = [], []
    for row in table():
        arms += [
            Arm(f"stock schedule, {row.redundancy} values", {f"contrast kept, {n} steps": _exactly(kept)
                                                             for n, kept in row.stock.items()}),
            Arm(f"zero terminal SNR, {row.redundancy} values", {
                **{f"contrast kept, {n} steps": _exactly(kept) for n, kept in row.zero.items()},
                "contrast kept, 25 dense steps": _exactly(row.dense)}),
        ]
        checks += [
            Check(f"the stock schedule keeps what the closed form says, {row.redundancy} values (within 0.01)",
                  _exactly(row.stock[250] - row.limit), bound=0.01, relation="within"),
            Check(f"zero terminal SNR keeps over 90 % at 250 steps, {row.redundancy} values", _exactly(row.zero[250]),
                  bound=0.9),
            Check(f"25 steps dense near noise keep more than 25 even ones, {row.redundancy} values",
                  _exactly(row.dense - row.zero[25])),
        ]
    return arms, checks


def exactness() -> tuple[list[Arm], list[Check]]:
    """Claims 4 and 7, to the bit: the identity at the start, and an image model that training never changes."""
    torch.manual_seed(0)
    base = build_miniature(BASE, words=world.WORDS, device="cpu")
    emu = EmuVideo.new(base, config_of())
    clips = world.draw(world.subjects(8, 1))
    lessons = Lessons(base, encode_clips(base, clips), emu.config, VideoRecipe(batch=4))
    start = _start_difference(emu.video, lessons)
    captions = [captions[0] for captions in clips.captions[:4]]
    before = base.generate(captions, steps=4)
    optimizer = torch.optim.AdamW([p for _, p in emu.video.added()], lr=1e-2)
    for step in range(4):
        _loss(emu.video, lessons, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = (base.generate(captions, steps=4).float() - before.float()).abs().max().item()
    with torch.no_grad():
        learned = (_loss(emu.video, lessons, 0) - _loss(EmuVideo.new(base, config_of()).video, lessons, 0)).abs().item()
    return [Arm("identity at the start", {"loss of the video network minus the image network's": _exactly(start)})], [
        Check("at step 0 the video network's loss is the image network's (within 1e-6)", _exactly(start), bound=1e-6,
              relation="within"),
        Check("pictures are the same to the last bit after video training", _exactly(changed), bound=0.0,
              relation="within"),
        Check("and the layers over time have learned meanwhile", _exactly(learned)),
    ]


@torch.no_grad()
def _start_difference(video: VideoModel, lessons: Lessons) -> float:
    """Loss of the network at its start minus that of its image model on the same frames, each alone."""
    batch = lessons(0)
    clean, eps, index = batch["latents"], batch["eps"], batch["index"]
    own = _loss(video, lessons, 0).item()
    frames = clean.shape[1]
    rows = torch.arange(len(clean)).repeat_interleave(frames)
    noisy = lessons.mode.noised(clean, eps, index).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    text = Condition(batch["tokens"], batch["mask"]).rows(rows)
    answer = predict(video.image, noisy, lessons.mode.times(index)[rows], text)
    wanted = lessons.mode.wanted(clean, eps, index).flatten(0, 1)
    return own - (answer - wanted).pow(2).mean().item()


def _loss(video: VideoModel, lessons: Lessons, step: int) -> torch.Tensor:
    return VideoLoss(video, lessons.mode)(**lessons(step)).mean()


def guidance_of_a_model(weights: str, prompts: int, *, steps: int | None = None) -> tuple[list[Arm], list[Check]]:
    """Claim 6 on trained weights: motion falls with the image scale and rises with the text scale; one set of images.

    steps: of the sampler, the model's own by default.
    """
    emu = EmuVideo.from_pretrained(weights, device="cpu")
    name = "miniature" if weights == DEFAULT else weights
    scales = ((1.0, 8.0), (3.0, 8.0), (2.0, 2.0), (2.0, 8.0))
    first = Sampling(steps=steps, guidance_image=scales[0][0], guidance_text=scales[0][1])
    made = make_clips(emu, prompts, "test", sampling=first)
    scores = {scales[0]: [motion_score(as_frames(one.clip)) for one in made]}
    for image, text in scales[1:]:
        scores[image, text] = []
        for begin in range(0, prompts, AT_ONCE):
            some = made[begin : begin + AT_ONCE]
            own = Sampling(steps=steps, guidance_image=image, guidance_text=text, seed=first.seed + begin)
            clips = emu.animate(torch.stack([one.image for one in some]), [one.caption for one in some], own)
            scores[image, text] += [motion_score(as_frames(clip)) for clip in clips]
    arms = [Arm(f"{name}, w_i {image:g}, w_p {text:g}", {"motion score": bootstrap(found)})
            for (image, text), found in scores.items()]
    return arms, [
        Check(f"motion falls as the image scale rises from 1 to 3 ({name})",
              paired_difference(scores[1, 8], scores[3, 8])),
        Check(f"motion rises as the text scale rises from 2 to 8 ({name})",
              paired_difference(scores[2, 8], scores[2, 2])),
    ]


def _exactly(value: float) -> Interval:
    """A number that is computed, not estimated."""
    return Interval(value, value, value, 1)
