"""Train Video-LLaVA on data of one's own and measure it on the part that was held out. The data here are NLVR.

1. Convert to LLaVA-style JSON beside a folder of images (`nlvr.convert_nlvr`; your own converter takes its place).
2. Train with the command line: diorama video-llava train --stage instruct --data nlvr.json --media FOLDER.
3. Ask the held-out questions and score the replies with an interval.

python examples/own_data_nlvr.py FOLDER --out runs/nlvr --steps 2000      (FOLDER holds dev.json, dev_images.zip)
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from diorama.errors import InputError
from diorama.metrics import Interval
from diorama.systems.video_llava.benchmark_formats import questions_from, write_predictions
from diorama.systems.video_llava.files import read_conversations
from diorama.systems.video_llava.nlvr import Converted, convert_nlvr
from diorama.systems.video_llava.scoring import missing_media, score


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, train, evaluate; 2 for a mistake of the user, with one sentence."""
    flags = parse(arguments)
    try:
        converted = convert_nlvr(flags.folder, flags.out / "data", split=flags.split, held_out=flags.held_out)
        print(f"train:    {converted.train_balance}\nheld out: {converted.held_out_balance}")
        line = training_line(flags, converted)
        print(shlex.join(line), flush=True)
        if flags.dry_run:
            return 0
        status = subprocess.run(line, check=False).returncode
        if status == 0:
            evaluate(flags.checkpoint or flags.out / "train" / "model", converted, flags.out / "predictions.jsonl")
        return status
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of this example; --steps and --seed go to the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="NLVR's folder, with <split>.json and <split>_images.zip or images")
    parser.add_argument("--split", default="dev", help="the list that is converted")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the sentences kept for the evaluation")
    parser.add_argument("--init", default="video-llava-mini", help="the checkpoint the training starts from")
    parser.add_argument("--out", type=Path, default=Path("runs/nlvr"), help="folder for everything that is written")
    parser.add_argument("--checkpoint", type=Path, help="folder of the trained checkpoint, if not OUT/train/model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="convert, print the training's command line and stop")
    return parser.parse_args(arguments)


def training_line(flags: argparse.Namespace, converted: Converted) -> list[str]:
    """The command that trains on the converted file."""
    return ["diorama", "video-llava", "train", "--stage", "instruct", "--data", str(converted.train),
            "--media", str(converted.media), "--init", flags.init, "--out", str(flags.out / "train"),
            "--steps", str(flags.steps), "--seed", str(flags.seed)]


def evaluate(checkpoint: Path, converted: Converted, predictions: Path) -> Interval:
    """Ask every held-out question, write the replies, and print how many are right beside the constant answer."""
    from diorama.systems.video_llava.pipeline import VideoLlava

    if converted.held_out is None:
        raise InputError("Nothing was held out, so there is nothing to measure. Pass --held-out 0.2.")
    held_out = read_conversations(converted.held_out, converted.media)
    questions = questions_from([*held_out.usable, *held_out.incomplete])
    llava = VideoLlava.from_pretrained(checkpoint)
    gone = {question.id for question in missing_media(questions)}
    replies = {question.id: llava.show([item.path for item in question.media]).ask(question.question)[0].text
               for question in questions if question.id not in gone}
    write_predictions(predictions, questions, replies)
    accuracy = score(questions, replies)["all"]
    print(f"held out: {accuracy}; {len(gone)} with missing images\n{converted.held_out_balance}\n{predictions}")
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
