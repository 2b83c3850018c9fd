"""Draw the shipped miniature's accuracy by kind of question, and put its table into the system's page.

Type: .venv/bin/python docs/figures/video_llava.py
(reads measured.json of video-llava-mini; writes docs/figures/video_llava_accuracy.svg and the table between the
markers of src/diorama/systems/video_llava/README.md)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "src/diorama/miniatures/video-llava-mini/measured.json"
PAGE = ROOT / "src/diorama/systems/video_llava/README.md"
FIGURE = Path(__file__).with_name("video_llava_accuracy.svg")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LEFT, BAR, ROW, TOP = 190, 520, 22, 46
FILL = {"image": "#2563eb", "clip": "#ea580c"}


def draw(measured: Mapping[str, Any]) -> str:
    """Bars of the share of right answers with their intervals, images above clips."""
    rows = [(medium, kind, value) for medium, kinds in measured["accuracy"].items() for kind, value in kinds.items()]
    height = TOP + ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {height}" width="820" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="Exact match by kind of question">',
        f'<rect width="820" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-weight="600">Exact match on unseen scenes, 95 % intervals</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + BAR * share
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 26}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{x}" y="{height - 10}" text-anchor="middle" fill="#475569">{share:.0%}</text>')
    for number, (medium, kind, value) in enumerate(rows):
        y = TOP + ROW * number
        low, high = LEFT + BAR * value["low"], LEFT + BAR * value["high"]
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{medium}: {kind}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{BAR * value["mean"]:.1f}" height="14" fill="{FILL[medium]}" '
            'fill-opacity="0.75"/>',
            f'<path d="M{low:.1f} {y + 7}H{high:.1f}M{low:.1f} {y + 3}v8M{high:.1f} {y + 3}v8" stroke="#0f172a" '
            'fill="none"/>',
            f'<text x="{LEFT + BAR + 12}" y="{y + 11}">{value["mean"]:.1%}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(measured: Mapping[str, Any]) -> str:
    """Unseen scenes beside pairs never seen in training, by kind."""
    lines = [f"{measured['scenes']} scenes of each kind and split, exact match, 95 % Wilson intervals.", "",
             "| medium | kind of question | unseen scenes | novel pairs |", "|---|---|---|---|"]
    for medium, kinds in measured["accuracy"].items():
        for kind, value in kinds.items():
            other = measured["novel"][medium].get(kind)
            lines.append(f"| {medium} | {kind} | {_cell(value)} | {_cell(other) if other else '-'} |")
    return "\n".join(lines)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1%} ({value['low']:.1%} - {value['high']:.1%}, n {value['n']})"


def page_with(text: str, block: str) -> str:
    """The page with what stands between its markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    measured = json.loads(MEASURED.read_text())
    FIGURE.write_text(draw(measured))
    PAGE.write_text(page_with(PAGE.read_text(), table(measured)))


if __name__ == "__main__":
    main()
