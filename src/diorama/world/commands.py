"""`diorama world`: render and sample scenes with exact truth, train the oracle and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from diorama.console import Common, counting, emit, note
from diorama.errors import InputError

app = App(name="world", help="Pictures, clips, captions, questions and meshes with exact truth; and the oracle.")

SplitName = Literal["train", "test", "novel"]
Range = Annotated[tuple[int, int], Parameter(help="Least and greatest number of objects, for example 2 4.")]


@app.command
def render(
    *,
    size: int = 256,
    samples: int = 2,
    split: SplitName = "train",
    objects: Range = (1, 5),
    moving: bool = False,
    frames: int = 16,
    fps: float | None = None,
    scene: Path | None = None,
    truth: bool = False,
    common: Common | None = None,
) -> None:
    """Render one scene: a picture and a mesh, or with --moving a clip; the truth beside it as JSON.

    Parameters
    ----------
    size
        Side of the picture in pixels.
    samples
        Rays a pixel along each side; 1 leaves hard edges.
    moving
        A clip of 2 to 4 seconds in which one or two objects do something.
    frames
        Frames of a clip.
    fps
        Frames a second in the file; by default those that play the clip in its own time.
    scene
        A JSON file with a scene of your own instead of a sampled one; a duration makes it a clip.
    truth
        Also write depth, normals and masks as NPY and PNG.
    """
    common = common or Common()
    out = common.folder("out/world-render")
    if moving and not 2 <= frames <= 256:
        raise InputError(f"--frames {frames} makes no clip; pass 2 to 256, or leave out --moving.")
    if fps is not None and not 0 < fps <= 240:
        raise InputError(f"--fps {fps:g} plays no clip; pass a number above 0 and up to 240.")
    if scene is not None:
        from diorama.world.scene_files import read_scene

        shown = read_scene(scene)
    else:
        from diorama.world.sampling import sample_scene

        shown = sample_scene(common.seed, split=split, objects=objects, moving=moving)
    count = frames if shown.duration > 0 else 1
    rate = fps or (max(count - 1, 1) / shown.duration if shown.duration else 1.0)
    if common.dry_run:
        names = ", ".join(o.name for o in shown.objects)
        return emit({"out": str(out), "scene": shown.to_dict()}, f"would write {names} to {out}", common)
    from diorama.world.exporting import write_scene

    files = write_scene(shown, out, size=size, samples=samples, frames=count, fps=rate, truth=truth)
    result = {"out": str(out), "files": files, "objects": [o.name for o in shown.objects], "seed": shown.seed}
    emit(result, f"{', '.join(o.name for o in shown.objects)}\n{out}: {', '.join(files)}", common)


@app.command
def sample(
    *,
    n: int = 1000,
    kind: Literal["image", "clip", "vqa", "caption"] = "image",
    split: SplitName = "train",
    objects: Range = (1, 5),
    size: int = 64,
    samples: int = 2,
    frames: int = 8,
    fps: float = 4.0,
    tars: bool = False,
    common: Common | None = None,
) -> None:
    """Write a data set: LLaVA-style JSON (captions: JSON lines) and media. The same line finishes a stopped run.

    Parameters
    ----------
    n
        Number of items.
    kind
        image and clip: described; vqa: up to six questions each; caption: with paraphrases and contrast captions.
    frames
        Frames of a clip.
    tars
        WebDataset shards instead of single media files.
    """
    from diorama.world.datasets import SampleConfig, write_samples

    common = common or Common()
    out = common.folder(f"out/world-{kind}")
    config = SampleConfig(n=n, kind=kind, split=split, size=size, samples=samples, frames=frames, fps=fps,
                          objects=objects, seed=common.seed, tars=tars)
    if common.dry_run:
        return emit({"out": str(out), "n": n, "kind": kind}, f"would write {n} items ({kind}) to {out}", common)
    with counting("items", n) as advance:
        files = write_samples(out, config, progress=advance)
    emit({"out": str(out), "n": n, "kind": kind, "files": files}, f"{n} items in {out}: {', '.join(files)}", common)


@app.command
def oracle(
    *,
    n: int = 1000,
    clips: int = 200,
    split: Literal["test", "novel", "both"] = "both",
    size: int = 64,
    samples: int = 1,
    small: bool = True,
    frames: int = 16,
    checkpoint: str = "world-oracle",
    card: bool = False,
    common: Common | None = None,
) -> int:
    """Measure the oracle on scenes it has not seen: each attribute with an interval; exit 1 if one misses 99 %.

    Parameters
    ----------
    n
        Still scenes of each table.
    clips
        Moving scenes of each table; 0 leaves them out.
    split
        The scenes of unseen digests, those of the novel pairs, or a table for each.
    small
        Also read the pictures at 32 pixels, one ray each and the mean of four; no goal is set for these.
    frames
        Frames of a clip.
    checkpoint
        The shipped network, or the folder of another.
    card
        Write the numbers into the card of the checkpoint.
    """
    common = common or Common()
    from diorama.world.oracle_measurement import GOAL, Conditions, measure, write_measured

    splits: list[SplitName] = ["test", "novel"] if split == "both" else [split]
    planned = [Conditions(n=n, clips=clips, size=size, samples=samples, split=name, frames=frames, seed=common.seed)
               for name in splits]
    if small and n:
        planned += [Conditions(n=n, clips=0, size=32, samples=rays, split=splits[0], seed=common.seed)
                    for rays in (1, 2)]
    if common.dry_run:
        plan = "; ".join(f"{c.title()}: {c.n} pictures, {c.clips} clips" for c in planned)
        emit({"plan": plan}, f"would read {plan}", common)
        return 0
    from diorama.checkpoints import resolve
    from diorama.world.detector import load_detector

    folder = resolve(checkpoint)
    detector = load_detector(folder)
    measured = []
    for conditions in planned:
        with counting(conditions.title(), conditions.n + conditions.clips) as advance:
            measured.append(measure(conditions, detector, progress=advance))
    if card:
        write_measured(folder, measured, f"diorama world oracle --n {n} --clips {clips} --seed {common.seed}")
    emit({"measurements": [m.to_dict() for m in measured]}, "\n\n".join(m.table() for m in measured), common)
    for m in measured:
        if m.misses:
            note(f"{m.conditions.title()}: below {GOAL:.0%}: {', '.join(m.misses)}")
    return 1 if any(m.misses for m in measured) else 0


@app.command(name="train-oracle")
def train_oracle(*, steps: int = 6000, common: Common | None = None) -> None:
    """Render scenes and train the oracle's network on them; the checkpoint is in --out.

    Parameters
    ----------
    steps
        Optimizer steps of 64 frames.
    """
    from diorama.world.detector_training import RecipeConfig, train_detector

    common = common or Common()
    out = common.folder("runs/world-oracle")
    config = RecipeConfig(steps=steps, seed=common.seed)
    if common.dry_run:
        return emit({"out": str(out), "steps": steps}, f"would train {steps} steps into {out}", common)
    rendered = 0
    with counting("frames", config.frames) as advance:
        def count(frames: int) -> None:
            nonlocal rendered
            rendered += frames
            advance(rendered)

        folder = train_detector(out, config, device=common.device, progress=count)
    emit({"checkpoint": str(folder)}, f"{folder}", common)
