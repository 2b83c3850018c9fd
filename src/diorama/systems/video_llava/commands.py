"""`diorama video-llava ...`: a function a verb. Torch is imported when a verb runs, not before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from diorama.console import Common, counting, emit, note
from diorama.errors import InputError

app = App(name="video-llava", help="Answers questions about images and clips (Video-LLaVA, arXiv 2311.10122).")

DEFAULT = "video-llava-mini"
COMMON = Common()
Questions = Annotated[list[str], Parameter(name=("--question", "-q"), help="What to ask; may be given several times.")]


@app.command
def run(
    *files: Path,
    question: Questions,
    weights: str = DEFAULT,
    temporal_from: str | None = None,
    frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    choice: Annotated[list[str] | None, Parameter(help="Answer with the likeliest of these instead.")] = None,
    stream: bool = True,
    common: Common = COMMON,
) -> int:
    """Ask about images and clips; files are named in the prompt in the order given.

    Parameters
    ----------
    weights
        A shipped miniature, a folder, or a hub id (owner/name@revision).
    temporal_from
        LanguageBind checkpoint whose temporal attention completes the transformers port.
    frames
        Frames sampled from each clip; by default as many as the checkpoint was trained on.
    start
        Seconds at which to start looking.
    end
        Seconds at which to stop looking.
    temperature
        0 is greedy.
    stream
        Print the answer as it is made (one question, no --json).
    """
    from diorama.systems.video_llava.generation import Decoding
    from diorama.systems.video_llava.pipeline import VideoLlava
    from diorama.systems.video_llava.processing import unknown_words

    decoding = Decoding(max_tokens=max_tokens, temperature=temperature, seed=common.seed)
    if not all(asked.strip() for asked in question):
        raise InputError("A question is empty. Ask something about the files.")
    if common.dry_run:
        emit({"weights": weights, "files": [str(f) for f in files], "questions": question},
             f"would load {weights} and ask {len(question)} question(s) about {len(files)} file(s)", common)
        return 0
    llava = VideoLlava.from_pretrained(weights, device=common.device, temporal_from=temporal_from)
    began = time.perf_counter()
    shown = llava.show(files, llava.sampler(frames=frames, start=start, end=end))
    looking = time.perf_counter() - began
    for looked in shown.looked:
        if looked.strangeness is not None and looked.strangeness > 1:
            note(f"{looked.name} is unlike anything {weights} was trained on (strangeness {looked.strangeness:.2f}, "
                 "familiar is below 1); do not trust the answer. A public checkpoint knows the real world: "
                 "--weights LanguageBind/Video-LLaVA-7B")
    result: dict[str, Any] = {"weights": weights, "looking_seconds": looking,
                              "media": [looked.to_dict() for looked in shown.looked]}
    if choice:
        chosen = [shown.choose(asked, choice) for asked in question]
        result["answers"] = [{"question": c.question, "answer": c.text, "probabilities": c.probabilities}
                             for c in chosen]
        emit(result, "\n".join(f"{c.text}  ({c.probabilities[c.text]:.0%})" for c in chosen), common)
        return 0
    if stream and len(question) == 1 and not common.json:
        note_unknown(weights, unknown_words(llava.tokenizer, question[0]))
        for piece in shown.stream(question[0], decoding):
            print(piece, end="", flush=True)
        print()
        return 0
    answers = shown.ask(question, decoding)
    for answer in answers:
        note_unknown(weights, answer.unknown_words)
    result["answers"] = [{"question": a.question, "answer": a.text, "tokens": a.tokens, "seconds": a.seconds,
                          "unknown_words": list(a.unknown_words)} for a in answers]
    emit(result, "\n".join(a.text if len(answers) == 1 else f"{a.question}  {a.text}" for a in answers), common)
    return 0


def note_unknown(weights: str, words: Sequence[str]) -> None:
    """Say on stderr which words of a question the checkpoint's tokenizer lacks."""
    if words:
        note(f"{weights} does not know the words {', '.join(words)}; it read each as unknown.")


@app.command
def train(
    *,
    stage: Literal["read", "align", "project", "instruct", "all"] = "all",
    data: str = "world",
    media: Path | None = None,
    init: str | None = None,
    steps: int | None = None,
    batch: int = 16,
    learning_rate: float | None = None,
    pools: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Train the miniature on the world, or any checkpoint on your own LLaVA-style JSON; resumes where it stopped.

    Parameters
    ----------
    stage
        read: the language model on the world in words. align: towers with text. project: the projector. instruct:
        projector and language model. all: the four in turn (world only).
    data
        "world", or a JSON file of conversations; its pictures and clips lie in --media.
    init
        The model to go on from: a folder, a miniature's name or a hub id. read starts from nothing or goes on from
        an earlier reading; align takes over the language model of the model named, if any.
    steps
        Optimizer steps; by default the recipe's.
    batch
        Conversations a step, for one's own data.
    pools
        Where the world's rendered pools are kept (about 3 GB); by default OUT/pools.
    """
    from diorama.checkpoints import resolve
    from diorama.systems.video_llava import recipe as recipes

    out = common.folder("runs/video-llava")
    recipe = recipes.adjusted(recipes.Recipe(seed=common.seed), stage, steps, learning_rate)
    if common.dry_run:
        emit({"stage": stage, "data": data, "out": str(out), "recipe": asdict(recipe)},
             f"would train {stage} on {data} into {out}", common)
        return 0
    if data != "world":
        if stage not in ("project", "instruct") or init is None or media is None:
            raise InputError(f"Training on {data} needs --stage project or instruct, --init with a trained model and "
                             "--media with the folder of its files.")
        from diorama.systems.video_llava.own_data import train_on_file

        trained = train_on_file(
            Path(data), media, init, stage, out, batch_size=batch, steps=500 if steps is None else steps,
            learning_rate=3e-4 if learning_rate is None else learning_rate, seed=common.seed, device=common.device)
        emit({"model": str(trained)}, f"the model is in {trained}", common)
        return 0
    if init is not None and stage == "all":
        raise InputError(f"The stage {stage} starts from nothing, and --init names {init}. Leave --init out.")
    if init is None and stage not in ("read", "align", "all"):
        raise InputError(f"The stage {stage} goes on from a model, and none was given. Pass --init with the folder "
                         "that the stage before left.")
    if init is not None:
        resolve(init)
    world = recipes.World.open(pools or out / "pools", recipe,
                               lambda what, done, of: note(f"rendering {what} {done}/{of}")
                               if done == of or done % 5120 == 0 else None)
    model: str | Path | None = init
    for one in recipes.STAGES if stage == "all" else (stage,):
        model = recipes.train_stage(one, recipe, world, out / one, init=model, device=common.device)
        note(f"{one}: {model}")
    emit({"model": str(model)}, f"the model is in {model}", common)
    return 0


@app.command
def evaluate(
    *,
    weights: str = DEFAULT,
    scenes: int = 300,
    split: Literal["test", "novel"] = "test",
    questions_each: int = 6,
    data: Path | None = None,
    media: Path | None = None,
    layout: Literal["conversations", "video-qa", "pope", "gqa", "scienceqa", "llava"] = "conversations",
    answers: Path | None = None,
    familiarity: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Exact-match accuracy with intervals: on fresh scenes of the world, or on a benchmark's files.

    Parameters
    ----------
    scenes
        Still scenes and clips to examine, each.
    data
        Question file of a benchmark in --layout; media lie in --media.
    answers
        Answer file, for layouts that keep it apart (video-qa).
    familiarity
        A folder of real photographs: prints how many the model takes for its own world, and how many renders it
        takes for strange ones.
    """
    if common.dry_run:
        subject = familiarity or data or f"{scenes} stills and {scenes} clips of the {split} split"
        emit({"weights": weights, "on": str(subject)}, f"would examine {weights} on {subject}", common)
        return 0
    from diorama.systems.video_llava.pipeline import VideoLlava

    llava = VideoLlava.from_pretrained(weights, device=common.device)
    if familiarity is not None:
        from diorama.systems.video_llava.evaluate import examine_familiarity

        result = examine_familiarity(llava, familiarity, scenes=scenes)
        emit(result, "\n".join(f"{name}: {value}" for name, value in result.items()), common)
        return 0
    if data is not None:
        from diorama.systems.video_llava.own_data import examine_file

        result = examine_file(llava, data, media, layout, answers, out=common.folder("predictions"))
        emit(result, "\n".join(f"{name}: {value}" for name, value in result.items()), common)
        return 0
    from diorama.systems.video_llava.evaluate import accuracy_table, examine_world

    found = {}
    for kind, moving in (("image", False), ("clip", True)):
        with counting(f"{kind}s", scenes) as progress:
            found[kind] = examine_world(llava, split, moving=moving, scenes=scenes, questions_each=questions_each,
                                        seed=9_000_000 + common.seed, progress=progress)
    values = {kind: {name: {"mean": i.mean, "low": i.low, "high": i.high, "n": i.n} for name, i in rows.items()}
              for kind, rows in found.items()}
    emit({"weights": weights, "split": split, "accuracy": values}, accuracy_table(found), common)
    return 0


@app.command
def finish(
    source: Path,
    *,
    runs: Path,
    calibration: Path,
    held_out: Path,
    scenes: int = 400,
    trained_with: str | None = None,
    common: Common = COMMON,
) -> int:
    """Make a trained model ready to ship: half precision, threshold of the familiar, measured numbers, card.

    Parameters
    ----------
    source
        The model folder that the stage instruct left.
    runs
        The --out folder of the training, for the steps and seconds of every stage.
    calibration
        Photographs that set the threshold between the world and everything else.
    held_out
        Other photographs, on which its errors are reported.
    scenes
        Still scenes and clips to examine, each, in both splits.
    trained_with
        The line that trained it, for the card; by default the recipe's.
    """
    from diorama.systems.video_llava.finish import finish as write

    out = common.folder("video-llava-mini")
    command = trained_with or f"diorama video-llava train --stage all --seed {common.seed} --out runs/video-llava"
    measured = write(source, out, runs=runs, calibration=calibration, held_out=held_out, scenes=scenes,
                     command=command, progress=note)
    emit(measured, (out / "README.md").read_text(encoding="utf-8"), common)
    return 0


@app.command
def reproduce(*, quick: bool = False, seeds: int = 3, common: Common = COMMON) -> int:
    """Re-run the headline claim in miniature: joint training, alignment, the shared projector, temporal attention.

    Parameters
    ----------
    quick
        Only what the shipped miniature shows without training, in a minute.
    seeds
        Trainings of every arm.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, seeds)
    out = common.folder("runs/video-llava-claim")
    if common.dry_run:
        emit({"quick": quick, "seeds": seeds, "out": str(out)}, f"would re-run the claim into {out}", common)
        return 0
    from diorama.systems.video_llava.reproduce import reproduce as run_claim

    return report(run_claim(quick=quick, seeds=drawn, out=out), common)
