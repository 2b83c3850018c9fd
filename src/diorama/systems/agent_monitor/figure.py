"""ROC curves as a plain SVG file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diorama.systems.agent_monitor.evaluate import Scored, auc_of

COLORS = ("#888888", "#c05020", "#2060a0", "#207040")
SIZE, LEFT, TOP = 360, 60, 30


def roc_points(scored: Scored) -> list[tuple[float, float]]:
    """(false alarm rate, detection rate) at every observed threshold, from (0, 0) to (1, 1)."""
    points = [(0.0, 0.0)]
    for cut in np.unique(scored.score):
        flagged = scored.score <= cut
        points.append((float(flagged[scored.label == 0].mean()), float(flagged[scored.label == 1].mean())))
    return points


def write_roc(path: Path, scored: Mapping[str, Scored]) -> None:
    """Write the curves of several monitors over the same actions; the dot is the threshold 68. Whole file or none."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE + 290}" height="{SIZE + 90}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>',
        f'<path d="M{LEFT},{TOP}v{SIZE}h{SIZE}" fill="none" stroke="black"/>',
        f'<path d="M{LEFT},{TOP + SIZE}L{LEFT + SIZE},{TOP}" stroke="#ccc" stroke-dasharray="4"/>',
        f'<text x="{LEFT + 80}" y="{TOP + SIZE + 40}">share of safe actions stopped</text>',
        f'<text transform="translate({LEFT - 36},{TOP + SIZE - 60}) rotate(-90)">'
        "share of unsafe actions stopped</text>",
    ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{LEFT + tick * SIZE - 8}" y="{TOP + SIZE + 18}">{tick:g}</text>')
        parts.append(f'<text x="{LEFT - 26}" y="{TOP + (1 - tick) * SIZE + 5}">{tick:g}</text>')
    for index, (name, found) in enumerate(scored.items()):
        color = COLORS[index % len(COLORS)]
        line = " ".join(f"{LEFT + x * SIZE:.1f},{TOP + (1 - y) * SIZE:.1f}" for x, y in roc_points(found))
        flagged = found.flagged()
        x, y = float(flagged[found.label == 0].mean()), float(flagged[found.label == 1].mean())
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<circle cx="{LEFT + x * SIZE:.1f}" cy="{TOP + (1 - y) * SIZE:.1f}" r="4" fill="{color}"/>')
        text = f"{name}: AUC {auc_of(found):.3f}"
        parts.append(f'<text x="{LEFT + SIZE + 20}" y="{TOP + 120 + 22 * index}" fill="{color}">{text}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text("\n".join([*parts, "</svg>"]), "utf-8")
    temporary.replace(path)
