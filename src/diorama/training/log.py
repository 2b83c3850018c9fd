"""The log of a run: metrics.jsonl, metrics.csv, and a progress bar or plain lines on stderr."""

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diorama.checkpoints import write_text

Row = dict[str, float | int]

SECONDS_BETWEEN_LINES = 5.0
NOT_ON_THE_BAR = ("step", "learning_rate", "gradient_norm", "tokens", "seconds")


class MetricsLog:
    """Appends a row to both files; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, folder: Path, *, last_step: int):
        self.jsonl = folder / "metrics.jsonl"
        self.csv = folder / "metrics.csv"
        rows = [row for row in read_rows(self.jsonl) if row["step"] <= last_step]
        write_text(self.jsonl, "".join(json.dumps(row) + "\n" for row in rows))
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        write_text(self.csv, self._table(rows))

    def append(self, row: Row) -> None:
        """Write one row; a metric that was not there before becomes a new column of the CSV."""
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            write_text(self.csv, self._table(read_rows(self.jsonl)))
        else:
            with self.csv.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def _table(self, rows: list[Row]) -> str:
        text = io.StringIO()
        if self.columns:
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return text.getvalue()


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, without the half line that a killed run may leave at its end."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class ProgressLine:
    """Progress on stderr: a rich bar on a terminal, else a plain line every few seconds."""

    def __init__(self, steps: int, done: int, style: Literal["auto", "plain", "silent"]):
        self.steps = steps
        self.style = style
        self.bar: Progress | None = None
        self.shown_at = 0.0
        console = Console(stderr=True)
        if style == "auto" and console.is_terminal:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=console,
            )
            self.task = self.bar.add_task("training", total=steps, completed=done, numbers="")
            self.bar.start()

    def say(self, text: str) -> None:
        """Print one line that stays."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        elif self.style != "silent":
            print(text, file=sys.stderr, flush=True)

    def update(self, row: Row) -> None:
        """Show where the run is."""
        if self.style == "silent":
            return
        step = int(row["step"])
        if self.bar is not None:
            shown = [f"{name} {value:.3g}" for name, value in row.items() if name not in NOT_ON_THE_BAR]
            self.bar.update(self.task, completed=step, numbers="  ".join(shown[:3]))
        elif step == self.steps or time.monotonic() - self.shown_at >= SECONDS_BETWEEN_LINES:
            self.shown_at = time.monotonic()
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            self.say(f"step {step}/{self.steps}  {numbers}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
