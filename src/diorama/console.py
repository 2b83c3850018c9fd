"""What all commands share: the common flags, the two output streams, and progress.

Results go to stdout, either as text or, with --json, as one JSON object and nothing else; everything said on the way
goes to stderr.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags that mean the same in every command."""

    config: Path | None = None
    """A YAML file that sets these flags by name; flags on the line win."""
    out: Path | None = None
    """Folder for everything that is written."""
    seed: int = 0
    """Makes the run repeatable."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print one JSON object on stdout; progress stays on stderr."""
    dry_run: bool = False
    """Say what would be done and stop."""

    def folder(self, default: str) -> Path:
        """The output folder, `default` under the working folder where none was given; not created here."""
        return self.out if self.out is not None else Path(default)


def emit(result: Mapping[str, Any], text: str, common: Common) -> None:
    """Print the result: `text` for people, or the mapping as one JSON object with --json."""
    if common.json:
        print(json_format.dumps(result, ensure_ascii=False, default=str), flush=True)
    else:
        print(text, flush=True)


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def counting(label: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr (plain lines where it is not a terminal); yields `advance(done)`."""
    if not sys.stderr.isatty():
        said = 0

        def advance_plain(done: int) -> None:
            nonlocal said
            if done >= total or done - said >= max(total // 10, 1):
                said = done
                note(f"{label} {done}/{total}")

        yield advance_plain
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
