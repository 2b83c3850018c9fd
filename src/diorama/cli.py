"""The command line. Thin: names commands by import path and turns exceptions into exit codes.

Exit codes: 0 done; 1 a claim, check or gate does not hold; 2 wrong use or bad input, one sentence on stderr; 70 a
defect of ours, with its traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cyclopts
from cyclopts import App

import diorama
from diorama.errors import InputError

COMMANDS = "diorama.studio.commands"


class System(NamedTuple):
    """One of the eleven: its name on the command line, what it does, and where its commands are (None: not yet)."""

    name: str
    does: str
    commands: str | None = None


SYSTEMS = (
    System("video-llava", "answers questions about images and clips", "diorama.systems.video_llava.commands:app"),
    System("emu-video", "makes an image from text and a clip from both", "diorama.systems.emu_video.commands:app"),
    System("metadreamer", "makes a textured mesh from text or an image"),
    System("videocon", "says whether a caption fits a clip, and if not, why"),
    System("selfeval", "examines a text-to-image model by its own likelihood",
           "diorama.studio.selfeval_commands:app"),
    System("tulu", "tunes language models on instructions and preferences"),
    System("is-vit", "quantises vision transformers to 3-8 bits after training",
           "diorama.systems.is_vit.commands:app"),
    System("shallow-attention", "replaces attention layers by distilled feed-forward nets"),
    System("agent-monitor", "reads each action an agent proposes and stops the unsafe ones",
           "diorama.systems.agent_monitor.commands:app"),
    System("droc", "distils corrections of a robot into a memory and finds them again"),
    System("unified-vision", "plans a request over vision tools chosen by measured quality"),
)


def build() -> App:
    """The whole command tree; no command's module is imported until it is chosen."""
    app = App(
        name="diorama",
        help="Eleven vision, video, 3D, language and agent systems that work as one.",
        version=diorama.__version__,
        result_action="return_value",
    )
    app.command(f"{COMMANDS}:do", name="do", help="Answer a request about files: plan, run, answer.")
    app.command(f"{COMMANDS}:demo", name="demo", help="Make a clip, ask five questions about it, name the files.")
    app.command(f"{COMMANDS}:reproduce", name="reproduce", help="Re-run the headline claims in miniature.")
    app.command("diorama.world.commands:app", name="world", help="Render and sample the world with exact truth.")
    app.command(f"{COMMANDS}:doctor", name="doctor", help="What is installed, what is missing, the line to type.")
    for system in SYSTEMS:
        if system.commands:
            app.command(system.commands, name=system.name, help=f"{system.does[0].upper()}{system.does[1:]}.")
    app.register_install_completion_command(help="Install completions for this shell.")
    app.default(overview)
    return app


def overview() -> None:
    """The eleven systems, a line each."""
    print("diorama, eleven systems that work as one (diorama --help: all commands; diorama SYSTEM --help: its verbs)\n")
    for system in SYSTEMS:
        print(f"  {system.name:18} {system.does}{'' if system.commands else '  (not yet)'}")
    print('\nThe main job:  diorama do "what color is the cube?" image.png')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the installed `diorama` exits with what this returns."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    waiting = {system.name for system in SYSTEMS if system.commands is None}
    if tokens and tokens[0] in waiting:
        return _refuse(f"{tokens[0]} is not built yet in diorama {diorama.__version__}. "
                       "Type `diorama` to see which systems are.")
    app = build()
    try:
        if path := _config_path(tokens):
            app.config = cyclopts.config.Yaml(path, must_exist=True, use_commands_as_keys=False, search_parents=False)
        result = app(tokens, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _refuse(str(error))
    except (InputError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("stopped; what was finished is on disk and the same line goes on from there.", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _config_path(tokens: Sequence[str]) -> Path | None:
    for here, token in enumerate(tokens):
        if token == "--config" and here + 1 < len(tokens):
            return _existing(tokens[here + 1])
        if token.startswith("--config="):
            return _existing(token.removeprefix("--config="))
    return None


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise InputError(f"--config names {name}, and there is no such file. Pass a YAML file of flags.")
    return Path(name)


def _refuse(sentence: str, code: int = 2) -> int:
    print(f"diorama: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def console_main() -> None:
    """What the installed `diorama` calls. A defect of ours shows its traceback and exits with 70."""
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(70)
