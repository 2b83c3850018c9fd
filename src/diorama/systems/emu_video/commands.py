"""`diorama emu-video ...`: a function a verb. Torch is imported when a verb runs, not before."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from diorama.console import Common, counting, emit, note
from diorama.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diorama.systems.emu_video.pipeline import EmuVideo, Sampling

app = App(name="emu-video", help="Makes an image from text and a clip from both (Emu Video, arXiv 2311.10709).")

DEFAULT = "emu-video-mini"
INTERPOLATOR = "emu-video-interpolator-mini"
COMMON = Common()


@app.command
def run(
    prompt: str,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("clip.mp4"),
    image: Path | None = None,
    weights: str = DEFAULT,
    interpolate: bool = False,
    interpolator: str = INTERPOLATOR,
    frames: int | None = None,
    fps: float | None = None,
    steps: int | None = None,
    guidance_image: float | None = None,
    guidance_text: float | None = None,
    candidates: int = 1,
    common: Common = COMMON,
) -> int:
    """Make a clip from a prompt: an image is drawn first, or --image is taken, and the clip begins with it.

    Parameters
    ----------
    output
        The clip, .mp4, .mov or .gif.
    image
        A picture of one's own to animate; another size is scaled, with a note.
    weights
        A shipped miniature, a folder that `train` left, or a hub id.
    interpolate
        Put three frames into every gap: 4T + 5 frames at four times the rate.
    interpolator
        The checkpoint that does it.
    frames
        Keep only the first frames.
    fps
        Frames a second of the file; by default the checkpoint's, four times it when interpolated.
    steps
        Sampling steps; by default the checkpoint's.
    guidance_image
        w_i of equation 1: larger stays nearer to the image and moves less.
    guidance_text
        w_p of equation 1: larger follows the prompt more and moves more.
    candidates
        Make several with seeds in a row, and keep the one that fits its prompt best by the model's own likelihood.
    """
    if not prompt.strip():
        raise InputError("The prompt is empty, so there is nothing to draw. Say what the clip shows and what moves.")
    if candidates < 1:
        raise InputError(f"--candidates is {candidates}, and a clip needs at least one. Pass 1 or more.")
    if common.dry_run:
        what = f"an image and {candidates} clip(s)" if image is None else f"{candidates} clip(s) from {image.name}"
        emit({"prompt": prompt, "weights": weights, "output": str(output)},
             f"would make {what} with {weights} into {output}", common)
        return 0
    from diorama.systems.emu_video.pipeline import EmuVideo, Sampling

    emu = EmuVideo.from_pretrained(weights, device=common.device, interpolator=interpolator if interpolate else None)
    _check_length(emu, interpolate, frames, weights)
    _note_words(emu, prompt)
    sampling = Sampling(steps, guidance_image, guidance_text, common.seed)
    if image is not None and not emu.takes_image:
        raise InputError(f"{weights} was never trained to begin with a given image, so {image.name} would change "
                         "nothing. Leave --image out, or train it with --stage video.")
    first = None if image is None else _opened(image, emu.base.image_size)
    best, made = _best(emu, prompt, first, sampling, candidates)
    emit(*_written(emu, prompt, best, made, output, sampling, interpolate, frames, fps, weights), common)
    return 0


def _best(emu: EmuVideo, prompt: str, image: Tensor | None, sampling: Sampling,
          candidates: int) -> tuple[Tensor, list[dict[str, float]]]:
    """The clip (1, T, 3, S, S) that fits the prompt best, and what was measured of every candidate."""
    captions = [prompt] * candidates
    images = image.expand(candidates, -1, -1, -1) if image is not None else None
    if images is None and emu.takes_image:
        images = emu.draw(captions, steps=sampling.steps, seed=sampling.seed)
    clips = emu.animate(images, captions, sampling)
    from diorama.systems.emu_video.evaluate import as_frames
    from diorama.systems.emu_video.motion import motion_score

    gains = emu.text_gain(clips, captions).tolist() if candidates > 1 else [0.0]
    made = [{"seed": sampling.seed + k, "text gain": gain, "motion score": motion_score(as_frames(clip))}
            for k, (gain, clip) in enumerate(zip(gains, clips, strict=True))]
    chosen = max(range(candidates), key=lambda k: gains[k])
    return clips[chosen : chosen + 1], [made[chosen], *(one for k, one in enumerate(made) if k != chosen)]


def _written(emu: EmuVideo, prompt: str, clip: Tensor, made: list[dict[str, float]], output: Path, sampling: Sampling,
             interpolate: bool, frames: int | None, fps: float | None, weights: str) -> tuple[dict[str, Any], str]:
    """Write the clip; the result as plain values and in words."""
    from diorama.media.videos import write_video
    from diorama.systems.emu_video.evaluate import as_frames
    from diorama.systems.emu_video.interpolation import FACTOR
    from diorama.systems.emu_video.motion import STILL

    if interpolate:
        clip = emu.interpolate(clip, [prompt], sampling)
    rate = fps if fps is not None else emu.config.fps * (FACTOR if interpolate else 1)
    shown = as_frames(clip[0])[:frames]
    write_video(output, shown, rate)
    moving = made[0]["motion score"]
    if moving < STILL:
        note(f"nothing moves in this clip (motion score {moving:.2f}); raise --guidance-text, lower --guidance-image, "
             "or try another --seed")
    result = {"output": str(output), "prompt": prompt, "weights": weights, "frames": len(shown), "fps": rate,
              "seed": int(made[0]["seed"]), "motion score": moving, "candidates": made}
    return result, f"{output}: {len(shown)} frames at {rate:g} a second, motion score {moving:.2f}"


def _check_length(emu: EmuVideo, interpolate: bool, frames: int | None, weights: str) -> None:
    from diorama.systems.emu_video.interpolation import interpolated_length

    own = emu.config.temporal.frames
    made = interpolated_length(own) if interpolate else own
    if frames is not None and not 1 <= frames <= made:
        raise InputError(f"--frames is {frames}, and {weights} makes {made} frames"
                         f"{'' if interpolate else ' (more with --interpolate)'}; its layers over time know no other "
                         f"length. Pass 1 to {made}, or train with --frames {frames}.")


def _opened(path: Path, size: int) -> Tensor:
    """A picture as uint8 (1, 3, size, size): scaled on its shorter side and cropped in the middle."""
    import numpy as np
    import torch

    from diorama.media.images import load_image
    from diorama.media.resizing import center_crop, resize_shortest

    picture = load_image(path)
    if (picture.width, picture.height) != (size, size):
        note(f"{path.name} is {picture.width} x {picture.height} and the model draws {size} x {size}: it is scaled and "
             "cropped in the middle")
    pixels = np.array(center_crop(resize_shortest(picture, size), size))
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).contiguous()


def _note_words(emu: EmuVideo, prompt: str) -> None:
    unknown = emu.base.text.unknown_words(prompt)
    if unknown:
        note(f"{emu.name} does not know the words {', '.join(unknown)}; it read each as unknown.")
    if emu.base.text.cut(prompt):
        note(f"the prompt is longer than the {emu.base.text.limits.length} tokens that are read; its end is lost")


@app.command
def train(
    *,
    stage: Literal["image", "video", "hq", "interpolate"],
    data: str = "world",
    media: Path | None = None,
    init: str | None = None,
    frames: int = 8,
    fps: float = 4.0,
    pixels: int | None = None,
    clips: int = 6000,
    steps: int | None = None,
    low_steps: int = 0,
    read_captions: bool = True,
    batch: int | None = None,
    learning_rate: float | None = None,
    common: Common = COMMON,
) -> int:
    """Train a stage on the world or on clips of one's own; the same line resumes where it stopped.

    Parameters
    ----------
    stage
        image: text to picture. video: layers over time around a frozen image model. hq: a short fine-tuning on the
        clips that move most. interpolate: frames between keyframes.
    data
        "world"; a folder of clips (or pictures, for image) with text files of their names, or of folders named for
        classes; a WebVid-style CSV; JSON lines.
    media
        The folder that paths in a CSV or in JSON lines start from.
    init
        The model to go on from: what the stage before left, or, for video, any text-to-image checkpoint (the
        miniature, or a folder or hub id in diffusers' layout such as Stable Diffusion 1.5).
    frames
        T: frames of a clip, keyframes of the interpolator.
    fps
        Frames (keyframes) a second.
    pixels
        Side of the frames; by default the image base's.
    clips
        Clips of the world that are rendered.
    steps
        Optimizer steps; by default the stage's own.
    low_steps
        For video: steps at half the size before the others.
    read_captions
        For video: let the layers over time read the caption themselves, since an image base that learned from stills
        passes no verbs on; without it only the frozen layers read, as in the paper.
    """
    from diorama.systems.emu_video import recipe

    out = common.folder(f"runs/emu-video/{stage}")
    plan = recipe.Plan(stage=stage, data=data, media=media, init=init, frames=frames, fps=fps, pixels=pixels,
                       clips=clips, steps=steps, low_steps=low_steps, read_captions=read_captions, batch=batch,
                       learning_rate=learning_rate, seed=common.seed, device=common.device)
    if common.dry_run:
        emit({"out": str(out), "plan": asdict(plan)}, f"would train {stage} on {data} into {out}", common)
        return 0
    model = recipe.train_stage(plan, out, note)
    emit({"model": str(model)}, f"the model is in {model}", common)
    return 0


@app.command
def evaluate(
    *,
    weights: str = DEFAULT,
    prompts: int = 100,
    split: Literal["test", "novel"] = "test",
    data: str = "world",
    media: Path | None = None,
    encoder: str | None = None,
    steps: int | None = None,
    common: Common = COMMON,
) -> int:
    """Examine a model on captions it was not trained on, by the world's oracle; or animate clips of one's own.

    Parameters
    ----------
    prompts
        Captions of unseen scenes, or clips of --data whose first frames are animated.
    data
        "world", or clips with captions as for `train`: consistency and motion, no oracle.
    encoder
        A CLIP checkpoint whose features measure consistency (the paper: openai/clip-vit-base-patch32); by default the
        pixels themselves.
    """
    if prompts < 1:
        raise InputError(f"--prompts is {prompts}, and an examination needs at least one. Pass 1 or more.")
    if common.dry_run:
        emit({"weights": weights, "on": data}, f"would examine {weights} on {prompts} prompts of {data}", common)
        return 0
    from diorama.systems.emu_video import evaluate as examination
    from diorama.systems.emu_video.pipeline import EmuVideo, Sampling
    from diorama.world.detector import load_detector

    emu = EmuVideo.from_pretrained(weights, device=common.device)
    if data == "world":
        load_detector()                             # without the oracle nothing need be drawn
    features = examination.clip_features(encoder) if encoder else examination.pixel_features
    sampling = Sampling(steps=steps, seed=common.seed)
    if data == "world":
        with counting("prompts", prompts) as progress:
            made = examination.make_clips(emu, prompts, split, sampling=sampling, progress=progress)
        found = {**examination.judged(made, emu.config.fps), **examination.moved([one.clip for one in made], features)}
    else:
        clips = examination.animated_files(emu, Path(data), media, prompts, sampling)
        found = examination.moved(clips, features)
    values = {name: asdict(interval) for name, interval in found.items()}
    emit({"weights": weights, "on": data, "measured": values}, examination.table(found), common)
    return 0


@app.command
def finish(
    model: Path,
    *,
    prompts: int = 100,
    image_base: str | None = None,
    common: Common = COMMON,
) -> int:
    """Make a trained model ready to ship: half precision, examined on held-out captions, with a card; into OUT.

    Parameters
    ----------
    model
        The folder that `train` left, of a video model or an interpolator.
    prompts
        Held-out captions; for an interpolator, clips.
    image_base
        The name of an image model with the weights of this one's base, which is then not stored again.
    """
    if prompts < 1:
        raise InputError(f"--prompts is {prompts}, and an examination needs at least one. Pass 1 or more.")
    out = common.folder("runs/emu-video/finished")
    if common.dry_run:
        emit({"model": str(model), "out": str(out)}, f"would finish {model} into {out}", common)
        return 0
    from diorama.systems.emu_video.finish import finish as make_ready

    with counting("prompts", prompts) as progress:
        found = make_ready(model, out, prompts=prompts, image_base=image_base, seed=common.seed, device=common.device,
                           progress=progress)
    emit(found, f"the model is in {out}\n{(out / 'README.md').read_text()}", common)
    return 0


@app.command(name="import")
def import_weights(
    folder: str,
    *,
    layout: Literal["motion-adapter", "modelscope"],
    base: str | None = None,
    common: Common = COMMON,
) -> int:
    """Turn public video weights into a checkpoint that `run` and `train` take: OUT, by default imported/NAME.

    Parameters
    ----------
    folder
        A folder or hub id: a motion adapter (AnimateDiff, PIA), or ModelScope's text-to-video in diffusers' layout.
    base
        For a motion adapter, the image model it goes around, such as a Stable Diffusion 1.5 checkpoint.
    """
    out = common.folder(f"imported/{Path(folder).name.partition('@')[0]}")
    if layout == "motion-adapter" and base is None:
        raise InputError("A motion adapter goes around an image model, and none was named. Pass --base with a folder "
                         "or hub id, such as stable-diffusion-v1-5/stable-diffusion-v1-5.")
    if common.dry_run:
        emit({"folder": folder, "out": str(out)}, f"would turn {folder} into {out}", common)
        return 0
    from diorama.systems.emu_video.pipeline import import_checkpoint

    written = import_checkpoint(folder, layout, base, out, device=common.device)
    emit({"model": str(written)}, f"the model is in {written}", common)
    return 0


@app.command
def juice(records: Path, *, reasons_required: bool = True, common: Common = COMMON) -> int:
    """Win rates, agreement and Fleiss' kappa of a file of pairwise votes (JSON lines, the paper's protocol JUICE).

    Parameters
    ----------
    records
        One record a line: prompt, question (quality or faithfulness), left, right, votes.
    reasons_required
        Refuse votes without a reason, as JUICE does.
    """
    from diorama.systems.emu_video.juice import read_comparisons, summary

    found = summary(read_comparisons(records, reasons_required=reasons_required), seed=common.seed)
    emit(found, json.dumps(found, indent=1), common)
    return 0


@app.command
def reproduce(*, quick: bool = False, seeds: int = 3, weights: str = DEFAULT, common: Common = COMMON) -> int:
    """Re-run the headline claims in miniature: factorisation, zero terminal SNR, frozen image layers, and the rest.

    Parameters
    ----------
    quick
        Only what needs no long training, in a minute.
    seeds
        Trainings of every arm.
    weights
        The video model on which the guidance scales are examined: a shipped miniature, or a folder that `train` left.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, seeds)
    out = common.folder("runs/emu-video-claim")
    if common.dry_run:
        emit({"quick": quick, "seeds": seeds, "out": str(out)}, f"would re-run the claims into {out}", common)
        return 0
    from diorama.systems.emu_video.reproduce import reproduce as run_claims

    return report(run_claims(quick=quick, seeds=drawn, out=out, weights=weights), common)
