"""Ask about your own images and clips from Python, the way `diorama do` does.

    python examples/ask_about_files.py "how many cubes are there?" image.png
    python examples/ask_about_files.py "when does the red cube move?" clip.mp4
"""

import sys
from pathlib import Path

from diorama.studio.report import make_plan, run_plan


def main(request: str, *names: str) -> None:
    plan = make_plan(request, [Path(name) for name in names])
    print(plan.describe())
    report = run_plan(plan)                          # weights="LanguageBind/Video-LLaVA-7B" for the public checkpoint
    print(report.text)
    for warning in report.warnings:
        print(warning, file=sys.stderr)
    for path in report.write(Path("out") / "ask_about_files"):
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
