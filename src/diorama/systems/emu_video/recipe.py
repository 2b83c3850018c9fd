"""The stages in order, each from a folder to the next: image, video, hq, interpolate.

    image        autoencoder, then text-to-image network       -> OUT/model, a text-to-image model
    video        layers over time around it, the image frozen  -> OUT/model; with `low_steps` first at half the size
    hq           a short fine-tuning on the clips that move most (section 3.2, high-quality fine-tuning)
    interpolate  the same layers, given keyframes, from the video stage (section 3.1, interpolation model)

Every stage resumes exactly from its own checkpoints and is a pure function of its settings and seed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from diorama.checkpoints import read_config, resolve
from diorama.diffusion.image_data import Pictures, WorldConfig, folder_pictures, world_pictures
from diorama.diffusion.image_training import Recipe, load_autoencoder, train_autoencoder, train_text_to_image
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import InputError
from diorama.systems.emu_video.config import SYSTEM, EmuVideoConfig, ModeConfig, TemporalConfig
from diorama.systems.emu_video.data import Clips, WorldClipsConfig, world_clips
from diorama.systems.emu_video.files import ClipFile, FileClips, read_clip_list, read_frames, usable
from diorama.systems.emu_video.interpolation import FACTOR, interpolated_length
from diorama.systems.emu_video.motion import least_windowed_motion, motion_scores
from diorama.systems.emu_video.pipeline import EmuVideo
from diorama.systems.emu_video.train import ClipsOnDisk, Lessons, Source, VideoRecipe, at_size, encode_clips, learn
from diorama.training import Run

Stage = Literal["image", "video", "hq", "interpolate"]
Say = Callable[[str], None]
LEAST_MOTION = 0.5
"""Bar of the least windowed motion score for high quality, on clips of one's own (appendix)."""
FASTEST = 0.05
"""Share of the world's clips that the high-quality stage keeps."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a stage; None takes the stage's own number."""

    stage: Stage
    data: str = "world"
    media: Path | None = None
    init: str | None = None
    frames: int = 8
    fps: float = 4.0
    pixels: int | None = None
    clips: int = 6000
    """Clips of the world that are rendered."""
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    low_steps: int = 0
    """Steps at half the size before the others (multi-resolution training, section 3.2)."""
    read_captions: bool = True
    """Whether new layers over time read the caption themselves; in the paper only the frozen layers do."""
    seed: int = 0
    device: str = "auto"


def train_stage(plan: Plan, out: Path, say: Say) -> Path:
    """Run a stage into `out`; the folder of what it leaves. Raises InputError without what it goes on from."""
    if plan.stage == "image":
        return _image(plan, out, say)
    model = _start(plan)
    config, recipe = settings(plan, model)
    source = clips_for(plan, model, config, out, say)
    if plan.stage == "video" and plan.low_steps:
        low = at_size(model.base, model.base.image_size // 2)
        first = replace(recipe, run=replace(recipe.run, steps=plan.low_steps))
        half = clips_for(replace(plan, pixels=low.image_size), EmuVideo(low, model.video, config), config, out, say)
        learn(model.video, Lessons(low, half, config, first, plan.seed), out / "low", device=plan.device)
    run = learn(model.video, Lessons(model.base, source, config, recipe, plan.seed), out, device=plan.device)
    trained = EmuVideo(model.base, model.video, config)
    if run.is_main:
        with run.ema_weights():
            trained.save_pretrained(out / "model", card=card(plan, run), dtype=torch.float16)
    run.wait()
    return out / "model"


def settings(plan: Plan, model: EmuVideo) -> tuple[EmuVideoConfig, VideoRecipe]:
    """The config of what a stage trains, and how: table 3 at the miniature's size."""
    recipe = VideoRecipe()
    run = replace(recipe.run, seed=plan.seed)
    config = replace(model.config, temporal=replace(model.config.temporal, frames=plan.frames), fps=plan.fps)
    batch = recipe.batch
    if plan.stage == "hq":
        run = replace(run, steps=200, learning_rate=run.learning_rate / 4, weight_decay=1e-4)
    if plan.stage == "interpolate":
        config = replace(config, role="interpolator")
        run, batch = replace(run, learning_rate=1.5 * run.learning_rate), batch // 4
    run = replace(run, steps=plan.steps or run.steps, learning_rate=plan.learning_rate or run.learning_rate)
    return config, replace(recipe, run=run, batch=plan.batch or batch)


def _start(plan: Plan) -> EmuVideo:
    """The model that a stage goes on from: an image base for `video`, a video model for the others."""
    if plan.init is None:
        before = {"video": "image", "hq": "video", "interpolate": "video"}[plan.stage]
        raise InputError(f"The stage {plan.stage} goes on from a model, and none was given. Pass --init with the "
                         f"folder that the stage {before} left (OUT/model); video also takes any text-to-image model.")
    folder = resolve(plan.init)
    is_video = not (folder / "model_index.json").is_file() and read_config(folder).get("system") == SYSTEM
    if is_video:
        return EmuVideo.from_pretrained(plan.init, device=plan.device)
    if plan.stage != "video":
        raise InputError(f"{plan.init} is a text-to-image model, and the stage {plan.stage} goes on from a video "
                         "model. Run --stage video first.")
    torch.manual_seed(plan.seed)
    base = TextToImage.from_pretrained(plan.init, device=plan.device)
    text_width = base.encode_text([""]).tokens.shape[-1] if plan.read_captions else 0
    temporal = TemporalConfig(frames=plan.frames, text_width=text_width)
    return EmuVideo.new(base, EmuVideoConfig(temporal=temporal, mode=video_mode(base), fps=plan.fps))


def video_mode(base: TextToImage) -> ModeConfig:
    """The video pass's mode: v with zero terminal SNR, or a flow where the base is one, whose layers know no other."""
    if base.schedule.is_flow:
        return ModeConfig(target="flow", schedule="flow", zero_snr=False, times=len(base.schedule))
    return ModeConfig()


# ---- what is learned from ----------------------------------------------------------------------------------------


def clips_for(plan: Plan, model: EmuVideo, config: EmuVideoConfig, out: Path, say: Say) -> Source:
    """The clips of a stage: the world's, encoded once, or the user's, decoded when needed."""
    pixels = plan.pixels or model.base.image_size
    between = config.role == "interpolator"
    if plan.data == "world":
        wanted = WorldClipsConfig(clips=plan.clips, frames=config.temporal.frames, fps=config.fps, size=pixels,
                                  between=between)
        folder = out / f"clips-{pixels}{'-between' * between}"
        clips = world_clips(folder, wanted, progress=lambda done, of: say(f"rendering clips {done}/{of}")
                            if done == of or done % 640 == 0 else None)
        if plan.stage == "hq":
            clips = fastest(clips, FASTEST)
            say(f"{len(clips)} clips that move most")
        return encode_clips(model.base, clips)
    frames = interpolated_length(config.temporal.frames) if between else config.temporal.frames
    fps = config.fps * (FACTOR if between else 1)
    files = usable(read_clip_list(Path(plan.data), plan.media), frames, fps)
    if plan.stage == "hq":
        files = lively(files, frames, fps, pixels)
        say(f"{len(files)} clips whose least windowed motion score is above {LEAST_MOTION}")
    _note_unknown(model.base, files, say)
    return ClipsOnDisk(model.base, FileClips(tuple(files), frames, fps, pixels))


def fastest(clips: Clips, share: float) -> Clips:
    """The share of clips with the highest motion score, at least one."""
    scores = [float(motion_scores(clip.transpose(0, 2, 3, 1).copy()).mean()) for clip in np.asarray(clips.pixels)]
    kept = np.argsort(scores)[::-1][: max(1, round(share * len(scores)))]
    return clips.only(sorted(int(row) for row in kept))


def lively(files: Sequence[ClipFile], frames: int, fps: float, pixels: int) -> list[ClipFile]:
    """The clips whose least windowed motion score passes the paper's bar; InputError when none does."""
    kept = []
    for file in files:
        shown = read_frames(file, frames, fps, pixels).permute(0, 2, 3, 1).contiguous()
        if least_windowed_motion(motion_scores(shown)) > LEAST_MOTION:
            kept.append(file)
    if not kept:
        raise InputError(f"None of the {len(files)} clips moves enough for the high-quality stage (a least windowed "
                         f"motion score above {LEAST_MOTION}). Pass livelier clips.")
    return kept


def _note_unknown(base: TextToImage, files: Sequence[ClipFile], say: Say) -> None:
    captions = [caption for file in files for caption in file.captions]
    words = dict.fromkeys(word for caption in captions for word in base.text.unknown_words(caption))
    if words:
        shown = ", ".join(list(words)[:8])
        say(f"the image base does not know {len(words)} words of the captions ({shown}); it reads each as unknown")
    cut = sum(base.text.cut(caption) for caption in captions)
    if cut:
        say(f"{cut} captions are longer than the {base.text.limits.length} tokens that are read; their ends are lost")


# ---- the image base ----------------------------------------------------------------------------------------------


def _image(plan: Plan, out: Path, say: Say) -> Path:
    recipe = Recipe()
    if plan.pixels:
        recipe = replace(recipe, miniature=replace(recipe.miniature, image_size=plan.pixels))
    run = replace(recipe.network, steps=plan.steps or recipe.network.steps,
                  learning_rate=plan.learning_rate or recipe.network.learning_rate)
    recipe = replace(recipe, network=run, batch=plan.batch or recipe.batch)
    pictures = pictures_for(plan, recipe.miniature.image_size, out, say)
    folder = out / "autoencoder" / "model"
    trained = load_autoencoder(folder) if folder.is_dir() else \
        train_autoencoder(pictures, recipe, out / "autoencoder", seed=plan.seed, device=plan.device)
    init = TextToImage.from_pretrained(plan.init, device=plan.device) if plan.init else None
    train_text_to_image(pictures, recipe, out, autoencoder=trained, init=init, seed=plan.seed, device=plan.device,
                        progress=say)
    return out / "model"


def pictures_for(plan: Plan, size: int, out: Path, say: Say) -> Pictures:
    """The pictures that the image stage learns from: the world's or a folder's."""
    if plan.data != "world":
        return folder_pictures(Path(plan.data), size)
    return world_pictures(out / f"pictures-{size}", WorldConfig(size=size), progress=lambda done, of: say(
        f"rendering pictures {done}/{of}") if done == of or done % 5120 == 0 else None)


def card(plan: Plan, run: Run) -> str:
    """How a video model was trained: steps, seconds, seed, device and the line that starts such a run."""
    line = f"diorama emu-video train --stage {plan.stage} --data {plan.data} --seed {plan.seed}"
    return "\n".join([
        f"# Emu Video, after the stage {plan.stage}", "",
        f"Trained for {run.step_number} steps in {run.seconds:.0f} seconds, seed {plan.seed}, device {run.device} "
        f"({platform.machine()}), averaged weights.", "", "```bash", line, "```", "",
        f"{cast(int, sum(p.numel() for p in run.model.parameters() if p.requires_grad)):,} weights were trained; the "
        "image base was frozen.",
    ])
