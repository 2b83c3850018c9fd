"""`diorama selfeval ...` with the verb that needs two systems: Emu Video's clips under SelfEval's examination."""

from __future__ import annotations

from pathlib import Path

from diorama.console import Common, emit, note
from diorama.systems.selfeval.commands import HOW, How, app, judged, need_two

DEFAULT = "emu-video-mini"
COMMON = Common()


@app.command
def score_clip(
    clip: Path,
    *captions: str,
    weights: str = DEFAULT,
    first_frame: bool = True,
    how: How = HOW,
    common: Common = COMMON,
) -> int:
    """Which of some captions a video generator holds likeliest for a clip, for instance which motion word.

    Parameters
    ----------
    weights
        A shipped video model, or a folder that `diorama emu-video train` or `import` left.
    first_frame
        Show the model the clip's first frame, so that what the captions share is settled and the motion decides.
    """
    settings = how.settings()
    need_two(captions, "clip")
    if common.dry_run:
        emit({"weights": weights, "clip": str(clip), "captions": list(captions)},
             f"would load {weights} and score {len(captions)} captions for {clip}", common)
        return 0
    from diorama.studio.clip_exam import score_clip as score
    from diorama.systems.emu_video.files import ClipFile, read_frames
    from diorama.systems.emu_video.pipeline import EmuVideo

    emu = EmuVideo.from_pretrained(weights, device=common.device)
    if first_frame and not emu.takes_image:
        note(f"{weights} was never trained to begin with a given image, so the first frame changes nothing")
    shown = read_frames(ClipFile(clip, ()), emu.config.temporal.frames, emu.config.fps, emu.base.image_size)
    verdict = score(emu, shown, captions, settings, give_first=first_frame, seed=common.seed)
    for said in verdict.notes:
        note(said)
    emit({"weights": weights, **verdict.to_json()}, judged(verdict), common)
    return 0
