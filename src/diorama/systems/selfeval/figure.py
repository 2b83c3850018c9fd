"""Accuracy against network calls as a plain SVG file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from diorama.checkpoints import write_text

COLORS = ("#c05020", "#2060a0", "#207040", "#888888", "#a020a0")
WIDTH, HEIGHT, LEFT, TOP = 420, 280, 60, 30
FEWEST, MOST = 4.0, 125.0
LOWEST = 0.2


def write_accuracy(path: Path, lines: Mapping[str, Mapping[float, float]], exact: float) -> None:
    """Write one line an estimator, {calls a caption: accuracy}; a line of one point is a dot. `exact` is dashed."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 260}" height="{HEIGHT + 80}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>',
        f'<path d="M{LEFT},{TOP}v{HEIGHT}h{WIDTH}" fill="none" stroke="black"/>',
        f'<path d="M{LEFT},{_down(exact):.1f}h{WIDTH}" stroke="#ccc" stroke-dasharray="4"/>',
        f'<text x="{LEFT + WIDTH + 12}" y="{_down(exact) + 4:.1f}" fill="#888">exact Bayes {exact:.3f}</text>',
        f'<text x="{LEFT + 120}" y="{TOP + HEIGHT + 42}">network calls a caption</text>',
        f'<text transform="translate({LEFT - 40},{TOP + 170}) rotate(-90)">accuracy</text>',
    ]
    for calls in (5, 10, 25, 100):
        parts.append(f'<text x="{_right(calls) - 8:.1f}" y="{TOP + HEIGHT + 18}">{calls}</text>')
    for share in (0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{LEFT - 36}" y="{_down(share) + 5:.1f}">{share:g}</text>')
    for number, (name, points) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        places = [(_right(calls), _down(share)) for calls, share in sorted(points.items())]
        parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" '
                     f'stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in places]
        parts.append(f'<text x="{LEFT + WIDTH + 12}" y="{TOP + 120 + 22 * number}" fill="{color}">{name}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join([*parts, "</svg>"]))


def _right(calls: float) -> float:
    return LEFT + WIDTH * math.log(calls / FEWEST) / math.log(MOST / FEWEST)


def _down(share: float) -> float:
    return TOP + HEIGHT * (1 - share) / (1 - LOWEST)
